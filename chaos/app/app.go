// Package app is a process of the product under test: a few handlers behind tenantdb's middleware, and
// outside it a report of the process's state. A program calls Main if its first argument is Argument. So one
// program is both the product and what tests it.
package app

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/jwtauth"
)

// Argument is the first argument of a process of the product.
const Argument = "app"

// The claims of tokens, and the environment variables with the host database's URL and the secret.
const (
	Issuer, Audience = "https://chaos.example", "chaos"
	HostURLEnv       = "CHAOS_HOST_URL"
	SecretEnv        = "CHAOS_SECRET"
	// CauseHeader tells why a query failed, AcquireHeader and StatementHeader how long /conn waited for a
	// connection and for its statement.
	CauseHeader, AcquireHeader, StatementHeader = "X-Cause", "X-Acquire", "X-Statement"
)

// config has the values of the flags.
type config struct {
	addr  string
	host  hostdb.Config
	pool  tenantdb.PoolConfig
	cache tenantdb.CacheConfig
	drain time.Duration
	clock *clock // nil means time.Now
}

func parse(args []string) (*config, error) {
	c := new(config)
	flags := flag.NewFlagSet(Argument, flag.ContinueOnError)
	flags.StringVar(&c.addr, "addr", "127.0.0.1:0", "listen address")
	flags.IntVar(&c.pool.MaxConns, "max-conns", 24, "PoolConfig.MaxConns")
	flags.IntVar(&c.pool.Processes, "processes", 1, "PoolConfig.Processes")
	flags.IntVar(&c.pool.MaxConnsPerTenant, "tenant-conns", 0, "PoolConfig.MaxConnsPerTenant")
	flags.DurationVar(&c.pool.AcquireTimeout, "acquire", 0, "PoolConfig.AcquireTimeout")
	flags.DurationVar(&c.pool.QueryTimeout, "query", 0, "PoolConfig.QueryTimeout")
	flags.StringVar(&c.pool.SQLiteDir, "sqlite-dir", "", "PoolConfig.SQLiteDir")
	flags.IntVar(&c.pool.MaxOpenSQLite, "open-sqlite", 0, "PoolConfig.MaxOpenSQLite")
	flags.IntVar(&c.cache.Size, "cache", 0, "CacheConfig.Size")
	flags.DurationVar(&c.cache.MaxStaleness, "stale", 0,
		"CacheConfig.MaxStaleness; with -poll as long the product has no feed")
	flags.DurationVar(&c.cache.MaxStaleIfDown, "stale-if-down", 0, "CacheConfig.MaxStaleIfDown")
	flags.DurationVar(&c.cache.MaxAge, "age", 0, "CacheConfig.MaxAge")
	flags.DurationVar(&c.host.PollInterval, "poll", 0, "hostdb.Config.PollInterval")
	flags.BoolVar(&c.host.NoNotify, "no-notify", false, "hostdb.Config.NoNotify")
	flags.DurationVar(&c.host.StartTimeout, "start", 0, "hostdb.Config.StartTimeout")
	flags.DurationVar(&c.drain, "drain", time.Second,
		"how long the process goes on after it has said that it isn't ready")
	steps := flags.Bool("clock", false, "whether the process's clock can be stepped, by /debug/clock")
	err := flags.Parse(args)
	if *steps {
		c.clock = new(clock)
		c.host.Now = c.clock.Now
	}
	c.host.URL = hostdb.Secret(os.Getenv(HostURLEnv))
	return c, err
}

// Main runs a process until SIGTERM, or until its standard input ends, which means that the testing program
// has gone. It returns the exit code.
func Main(args []string) int {
	c, err := parse(args)
	if err == nil {
		err = c.run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "app:", err)
		return 1
	}
	return 0
}

func (c *config) run() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	ctx, orphaned := context.WithCancel(ctx)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		orphaned()
	}()
	host, err := hostdb.OpenConfig(ctx, c.host)
	if err != nil {
		return err
	}
	defer host.Close()
	pool, err := tenantdb.NewPool(c.pool)
	if err != nil {
		return err
	}
	defer pool.Close(context.Background())
	auth, err := jwtauth.New(jwtauth.Config{Issuer: Issuer, Audience: Audience, Algorithms: []string{"HS256"},
		Secret: []byte(os.Getenv(SecretEnv)),
		Now:    c.host.Now})
	if err != nil {
		return err
	}
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	mw, err := tenantdb.New(tenantdb.Config{Host: host, Pool: pool, Authenticator: auth,
		Tenant: tenantdb.FromHeader("X-Tenant"),
		Cache:  c.cache, Logger: logger, Now: c.host.Now})
	if err != nil {
		return err
	}
	s := &service{mw: mw, host: host, began: time.Now(), clock: c.clock}
	server := &http.Server{Handler: s.handler(), ReadHeaderTimeout: 10 * time.Second}
	listener, err := net.Listen("tcp", c.addr)
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	return s.end(server, c.drain)
}

// end ends a process as a rolling deploy does: first not ready, then no new request, then no database.
func (s *service) end(server *http.Server, drain time.Duration) error {
	s.leaving.Store(true)
	<-time.After(drain) // time for the balancer to notice
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return errors.Join(server.Shutdown(ctx), s.mw.Close(ctx))
}
