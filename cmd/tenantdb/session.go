package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/fleet"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/dburl"
	"github.com/tenantdb/tenantdb/internal/pghosts"
)

// hostConns is how many connections a command may have to the host database.
const hostConns = 4

// session is one run of the program: what its command has opened, closed at the end.
type session struct {
	env     environment
	flags   globals
	given   map[string]string // the flags that stood on the command line, as text
	others  time.Duration     // how long a fleet waits for other processes once it has closed a tenant
	closers []func() error    // run in reverse order
}

// close closes what was opened.
func (s *session) close() error {
	var failed error
	for i := len(s.closers) - 1; i >= 0; i-- {
		failed = errors.Join(failed, s.closers[i]())
	}
	return failed
}

// hostURL is where the host database is: the flag, the variable, or the variables of hostdb.FromEnv.
func (s *session) hostURL() (hostdb.Secret, error) {
	if s.flags.Host != "" {
		return hostdb.Secret(s.flags.Host), refusePassword(s.flags.Host)
	}
	if given := s.env.getenv("TENANTDB_HOST_URL"); given != "" {
		return hostdb.Secret(given), nil
	}
	given, err := hostdb.URLFromEnv(s.env.getenv)
	if err != nil {
		return "", fmt.Errorf("host database: give --host sqlite:FILE, or set TENANTDB_HOST_URL, or DB_TYPE and its fellows: %w", err)
	}
	return given, nil
}

// refusePassword refuses a URL that every user of the machine could read a password from.
func refusePassword(given string) error {
	switch secrets, ok := dburl.Secrets(given); {
	case !ok:
		return errors.New("--host: it can't be read; write sqlite:FILE, or a URL without a password: one with a password goes into TENANTDB_HOST_URL")
	case len(secrets) > 0:
		return errors.New("--host: whoever can list processes reads arguments: put a URL with a password into TENANTDB_HOST_URL")
	}
	return nil
}

// open opens the host database, for the commands that ask for one. It neither creates nor upgrades a schema:
// that is for init.
func (s *session) open(ctx context.Context) (*hostdb.DB, error) {
	given, err := s.hostURL()
	if err != nil {
		return nil, err
	}
	host, err := hostdb.OpenConfig(ctx, hostdb.Config{URL: given, MaxConns: hostConns, NoUpgrade: true, Now: s.env.now})
	if err != nil {
		return nil, fmt.Errorf("host database: %w", err)
	}
	s.closers = append(s.closers, host.Close)
	return host, nil
}

// connectTo opens a connection of its own to the host database's PostgreSQL server.
func connectTo(ctx context.Context, host *hostdb.DB) (*pgx.Conn, error) {
	address, err := dburl.Parse(host.URI())
	if err != nil {
		return nil, err
	}
	return pghosts.New().Open(ctx, address.Config())
}

// openPool makes the pool of tenants' databases.
func (s *session) openPool() (*tenantdb.Pool, error) {
	pool, err := tenantdb.NewPool(tenantdb.PoolConfig{SQLiteDir: s.flags.TenantsDir, MaxConns: s.flags.MaxConns})
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		return pool.Close(ctx)
	})
	return pool, nil
}

// naming says which slugs a tenant may have.
type naming struct {
	ReservedSlugs []string `env:"TENANTDB_RESERVED_SLUGS" placeholder:"SLUG,…" help:"Slugs that no tenant gets, instead of the library's own list (www, api, login, …). none: any may be had."`
}

// provisioning says how databases are made. A program of the product's own that provisions has the same in
// its fleet.Config.
type provisioning struct {
	naming
	SharedRole bool `env:"TENANTDB_SHARED_ROLE" help:"On PostgreSQL new tenants connect as the server's own role, instead of each as a role of its own."`
	NoTemplate bool `env:"TENANTDB_NO_TEMPLATE" help:"Migrate the new database by itself, instead of copying a template."`
}

// nothingNew is for commands that create no tenant, and don't ask the server whether its role may create
// roles.
var nothingNew = provisioning{SharedRole: true}

// openFleet makes the fleet with the migrations of a folder; "" is none.
func (s *session) openFleet(host *hostdb.DB, migrations string, how provisioning) (*fleet.Fleet, error) {
	pool, err := s.openPool()
	if err != nil {
		return nil, err
	}
	return s.fleetOn(host, pool, migrations, how)
}

// fleetOn is openFleet with a pool that is there.
func (s *session) fleetOn(host *hostdb.DB, pool *tenantdb.Pool, migrations string, how provisioning) (*fleet.Fleet, error) {
	cfg := fleet.Config{Host: host, Pool: pool, Server: hostdb.Secret(s.env.getenv("TENANTDB_SERVER_URL")), SharedRole: how.SharedRole,
		NoTemplate: how.NoTemplate, ReservedSlugs: how.ReservedSlugs, WaitForOthers: s.others}
	if slices.Equal(how.ReservedSlugs, []string{"none"}) {
		cfg.ReservedSlugs = []string{}
	}
	if migrations != "" {
		if info, err := os.Stat(migrations); err != nil || !info.IsDir() {
			return nil, fmt.Errorf("--migrations: %s is not a folder", migrations)
		}
		cfg.Migrations = os.DirFS(migrations)
	}
	f, err := fleet.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("TENANTDB_SERVER_URL, or --migrations: %w", err)
	}
	return f, nil
}
