// Package fleet creates the tenants' databases, migrates their schema, operates and removes them.
package fleet

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"time"

	"github.com/pressly/goose/v3"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/dburl"
)

// Config describes a Fleet. Host and Pool are needed.
type Config struct {
	// Host is the host database, which holds the catalog of tenants.
	Host *hostdb.DB
	// Pool is the pool that serves the tenants: the fleet drains it before it removes a database.
	Pool *tenantdb.Pool
	// Migrations are the tenants' schema: goose SQL files at the root of the file system, read by New.
	// Without these and GoMigrations, databases stay empty.
	Migrations fs.FS
	// GoMigrations are further migrations, made with goose.NewGoMigration, whose versions order them among
	// the files. RunTx may run again after a lock was waited for; on SQLite it runs with foreign keys off,
	// which are checked before its end. RunDB has one connection: it must give back what it takes before it
	// asks for more.
	GoMigrations []*goose.Migration
	// Server is where new databases are created: "sqlite:" (files in PoolConfig.SQLiteDir), or the URL of a
	// PostgreSQL server with a role that may create databases and roles (CREATEDB, CREATEROLE; it needn't be
	// a superuser). Default: like Host, on the same server with the same role, or as SQLite files.
	Server hostdb.Secret
	// Seed fills a new tenant's database, after its schema and before it opens. After a crash it may run
	// again on the same database. Nil: nothing is added.
	Seed func(ctx context.Context, tenant *hostdb.TenantCatalog, db *sql.DB) error
	// SharedRole has new tenants on PostgreSQL connect as the role of Server, which can read every tenant's
	// database. By default each new tenant has a role of its own, whose generated password is in its db_url,
	// and a database that no other role may connect to. Server's role must be allowed to create roles
	// (CREATEROLE) for that; it has a tenant's rights only while it makes or drops the database. Tenants keep
	// what they have, whatever this says later.
	SharedRole bool
	// NoTemplate has each new database migrated by itself. By default the migrations run once, on a template
	// that new databases are copies of: on PostgreSQL a closed database beside them, tenantdb_template_…,
	// made anew when the migrations change.
	NoTemplate bool
	// ReservedSlugs are the slugs that no new tenant gets, and no tenant is renamed to; tenants that have one
	// keep it. Nil: DefaultReservedSlugs. Empty and not nil: none.
	ReservedSlugs []string
	// Lease is how long work on a tenant stays a process's own without a sign of life in the host database,
	// at least 100 ms. Default 1 min: after a crash others wait that long.
	Lease time.Duration
	// WaitForOthers is how long Suspend, Maintenance and Drop wait for other processes, beside the wait for
	// this one's requests. Give the others' CacheConfig.MaxStaleness, within which they notice the change,
	// and the time that their longest request takes. A process that can't reach the host database notices
	// later, within its CacheConfig.MaxStaleIfDown. Default 0: they don't wait.
	WaitForOthers time.Duration
	// Logger receives what happens to tenants. Default: none.
	Logger *slog.Logger
}

// Fleet creates, migrates, operates and removes tenants. Make one with New; it is safe for use by many
// goroutines.
type Fleet struct {
	host   *hostdb.DB
	pool   *tenantdb.Pool
	schema schema
	server server
	seed   func(context.Context, *hostdb.TenantCatalog, *sql.DB) error
	name   string // by which this process's claims of jobs are known
	lease  time.Duration
	others time.Duration // Config.WaitForOthers
	logger *slog.Logger

	refusedSlugs []string
}

// New checks the configuration and makes a Fleet. Unless Config.SharedRole is set it asks a PostgreSQL server
// whether its role may create roles, for at most 10 s, and fails if not, or if the server doesn't answer;
// otherwise it connects to nothing. While Host itself is still waited for (hostdb.Config.StartLater) it asks
// nothing: Provision fails then where a right is missing.
func New(cfg Config) (*Fleet, error) {
	switch {
	case cfg.Host == nil:
		return nil, errors.New("fleet: Config.Host: give the host database")
	case cfg.Pool == nil:
		return nil, errors.New("fleet: Config.Pool: give the pool that serves the tenants")
	case cfg.Lease != 0 && cfg.Lease < 100*time.Millisecond:
		return nil, errors.New("fleet: Config.Lease: give at least 100ms")
	case cfg.WaitForOthers < 0:
		return nil, errors.New("fleet: Config.WaitForOthers: can't be negative")
	case cfg.Server == "":
		cfg.Server = hostdb.Secret(cfg.Host.URI())
	}
	cfg.Lease = cmp.Or(cfg.Lease, time.Minute)
	schema, err := readSchema(cfg.Migrations, cfg.GoMigrations)
	if err != nil {
		return nil, fmt.Errorf("fleet: Config.Migrations: %w", err)
	}
	if cfg.ReservedSlugs == nil {
		cfg.ReservedSlugs = DefaultReservedSlugs()
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	f := &Fleet{host: cfg.Host, pool: cfg.Pool, schema: schema, seed: cfg.Seed, name: hostdb.NewID(), lease: cfg.Lease, others: cfg.WaitForOthers,
		logger: cfg.Logger, refusedSlugs: slices.Clone(cfg.ReservedSlugs)}
	withTemplate := len(schema.migrations) > 0 && !cfg.NoTemplate
	if _, ok := dburl.File(cfg.Server.Reveal()); ok {
		f.server = &sqliteServer{pool: cfg.Pool, schema: schema, template: withTemplate}
		return f, nil
	}
	base, err := dburl.Parse(cfg.Server.Reveal())
	if err != nil {
		return nil, fmt.Errorf("fleet: Config.Server: %w", err)
	}
	server := &postgresServer{base: base, admins: newAdmins(base.Config()), roles: !cfg.SharedRole, logger: cfg.Logger}
	if withTemplate {
		server.template = &template{base: base, hosts: server.admins.hosts, schema: schema, roles: server.roles, logger: cfg.Logger}
	}
	if server.roles && started(cfg.Host) {
		if err := server.check(); err != nil {
			return nil, fmt.Errorf("fleet: %w", err)
		}
	}
	f.server = server
	return f, nil
}

// started reports whether the host database was opened.
func started(host *hostdb.DB) bool {
	select {
	case <-host.Started():
		return true
	default:
		return false
	}
}
