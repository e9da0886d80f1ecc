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

// session is one run of the program, with what its command has opened.
type session struct {
	env     environment
	flags   globals
	given   map[string]string // the flags of the command line, as text
	others  time.Duration     // fleet.Config.WaitForOthers
	closers []func() error    // called in reverse order
}

// close closes what was opened.
func (s *session) close() error {
	var failed error
	for i := len(s.closers) - 1; i >= 0; i-- {
		failed = errors.Join(failed, s.closers[i]())
	}
	return failed
}

// hostURL returns the host database's URL, from the flag, TENANTDB_HOST_URL, or the variables of
// [hostdb.FromEnv].
func (s *session) hostURL() (hostdb.Secret, error) {
	if s.flags.Host != "" {
		return hostdb.Secret(s.flags.Host), refusePassword(s.flags.Host)
	}
	if given := s.env.getenv("TENANTDB_HOST_URL"); given != "" {
		return hostdb.Secret(given), nil
	}
	given, err := hostdb.URLFromEnv(s.env.getenv)
	if err != nil {
		return "", fmt.Errorf("host database: give --host sqlite:FILE, or set TENANTDB_HOST_URL, "+
			"or DB_TYPE and the other DB_ variables: %w", err)
	}
	return given, nil
}

// refusePassword refuses a URL with a password, since every user of the machine can read arguments.
func refusePassword(given string) error {
	switch secrets, ok := dburl.Secrets(given); {
	case !ok:
		return errors.New("--host: the URL is malformed; write sqlite:FILE, or a URL without a password, " +
			"and put one with a password into TENANTDB_HOST_URL")
	case len(secrets) > 0:
		return errors.New("--host: other users can read arguments: put a URL with a password into " +
			"TENANTDB_HOST_URL")
	}
	return nil
}

// open opens the host database. It neither creates nor upgrades the schema; init does.
func (s *session) open(ctx context.Context) (*hostdb.DB, error) {
	given, err := s.hostURL()
	if err != nil {
		return nil, err
	}
	cfg := hostdb.Config{URL: given, MaxConns: hostConns, NoUpgrade: true, Now: s.env.now}
	host, err := hostdb.OpenConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("host database: %w", err)
	}
	s.closers = append(s.closers, host.Close)
	return host, nil
}

// connectTo opens a connection to the host database's PostgreSQL server.
func connectTo(ctx context.Context, host *hostdb.DB) (*pgx.Conn, error) {
	address, err := dburl.Parse(host.URI())
	if err != nil {
		return nil, err
	}
	return pghosts.New().Open(ctx, address.Config())
}

// openPool makes the pool of tenants' databases.
func (s *session) openPool() (*tenantdb.Pool, error) {
	cfg := tenantdb.PoolConfig{SQLiteDir: s.flags.TenantsDir, MaxConns: s.flags.MaxConns}
	pool, err := tenantdb.NewPool(cfg)
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

// reservation sets which slugs are reserved.
type reservation struct {
	ReservedSlugs []string `env:"TENANTDB_RESERVED_SLUGS" placeholder:"SLUG,…" help:"${reserved_slugs}"`
}

// provisioning sets how databases are created, like [fleet.Config].
type provisioning struct {
	reservation
	SharedRole bool `env:"TENANTDB_SHARED_ROLE" help:"${shared_role}"`
	NoTemplate bool `env:"TENANTDB_NO_TEMPLATE" help:"${no_template}"`
}

// noProvisioning is for commands that create no tenant. With it fleet.New doesn't ask the server whether its
// role may create roles.
var noProvisioning = provisioning{SharedRole: true}

// openFleet makes a fleet with the migrations of a directory; "" is none.
func (s *session) openFleet(host *hostdb.DB, migrations string, how provisioning) (*fleet.Fleet, error) {
	pool, err := s.openPool()
	if err != nil {
		return nil, err
	}
	return s.fleetOn(host, pool, migrations, how)
}

// fleetOn makes a fleet with an open pool.
func (s *session) fleetOn(host *hostdb.DB, pool *tenantdb.Pool, migrations string,
	how provisioning) (*fleet.Fleet, error) {
	cfg := fleet.Config{Host: host, Pool: pool, Server: hostdb.Secret(s.env.getenv("TENANTDB_SERVER_URL")),
		SharedRole: how.SharedRole, NoTemplate: how.NoTemplate, ReservedSlugs: how.ReservedSlugs,
		WaitForOthers: s.others}
	if slices.Equal(how.ReservedSlugs, []string{"none"}) {
		cfg.ReservedSlugs = []string{}
	}
	if migrations != "" {
		if info, err := os.Stat(migrations); err != nil || !info.IsDir() {
			return nil, fmt.Errorf("--migrations: %s is not a directory", migrations)
		}
		cfg.Migrations = os.DirFS(migrations)
	}
	f, err := fleet.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("TENANTDB_SERVER_URL, or --migrations: %w", err)
	}
	return f, nil
}
