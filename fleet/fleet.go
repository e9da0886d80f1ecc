// Package fleet creates tenants and their databases, migrates the databases' schema, and closes, renames and
// removes tenants.
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
	"github.com/tenantdb/tenantdb/internal/observe"
	"github.com/tenantdb/tenantdb/internal/sqliteimage"
)

// Config configures a Fleet. Host and Pool are required.
type Config struct {
	// Host is the host database, which holds the catalog of tenants.
	Host *hostdb.DB
	// Pool is the pool that serves the tenants. The fleet drains it before it removes a database.
	Pool *tenantdb.Pool
	// Migrations are the tenants' schema: goose SQL files at the root of the file system. New reads them.
	// Without Migrations and GoMigrations, databases stay empty.
	Migrations fs.FS
	// GoMigrations are migrations made with [goose.NewGoMigration]. Their versions order them among the
	// files. RunTx may run more than once, if it waited for a lock. On SQLite it runs with foreign keys off,
	// and the keys are checked before it is committed. RunDB gets one connection, and must return it before
	// it takes another.
	GoMigrations []*goose.Migration
	// Server is where new databases are created: "sqlite:" for files in PoolConfig.SQLiteDir, or the URL of a
	// PostgreSQL server with a role that may create databases and roles (CREATEDB and CREATEROLE; a superuser
	// isn't needed). The default is the server and role of Host, or SQLite files if Host is SQLite.
	Server hostdb.Secret
	// Seed fills a new tenant's database after its migrations, before the tenant opens. After a crash it may
	// run again on the same database. If it is nil, nothing is added.
	Seed func(ctx context.Context, tenant *hostdb.TenantCatalog, db *sql.DB) error
	// SharedRole has new tenants on PostgreSQL connect as the role of Server, which can read every tenant's
	// database. By default each new tenant gets its own role, with a generated password in its db_url, and a
	// database to which no other role may connect. For that, Server's role needs CREATEROLE. It has a
	// tenant's rights only while it creates or drops the tenant's database. The setting doesn't affect
	// existing tenants.
	SharedRole bool
	// NoTemplate runs the migrations on each new database. By default they run once, on a template, and new
	// databases are copies of it. On PostgreSQL the template is a database named tenantdb_template_…, which
	// is made again when the migrations change.
	NoTemplate bool
	// ReservedSlugs are slugs that no tenant may be given. Tenants that have one keep it. Nil means
	// [DefaultReservedSlugs], an empty slice none.
	ReservedSlugs []string
	// Lease is how long a process keeps its claim on a tenant without a heartbeat in the host database, at
	// least 100 ms. After a crash other processes wait that long. The default is 1 min.
	Lease time.Duration
	// WaitForOthers is how long Suspend, Maintenance and Drop wait for other processes, while they wait for
	// this one's requests. Set it to the other processes' CacheConfig.MaxStaleness, within which they notice
	// the change, plus the duration of their longest request. A process that can't reach the host database
	// notices the change within its CacheConfig.MaxStaleIfDown. The default is 0: they don't wait.
	WaitForOthers time.Duration
	// Logger receives events about tenants. The default is no log.
	Logger *slog.Logger
	// Observer is told what happens to tenants. The default is none.
	Observer *Observer
}

// Fleet creates, migrates, operates and removes tenants. It is safe for concurrent use.
type Fleet struct {
	host   *hostdb.DB
	pool   *tenantdb.Pool
	schema schema
	server server
	seed   func(context.Context, *hostdb.TenantCatalog, *sql.DB) error
	name   string // identifies this process's claims of jobs
	lease  time.Duration
	others time.Duration // Config.WaitForOthers
	logger *slog.Logger
	watch  Observer // without functions if there is none
	panics observe.Panics

	reservedSlugs []string
}

// New checks the configuration and returns a Fleet.
//
// Unless [Config.SharedRole] is set, it asks a PostgreSQL server whether its role may create roles. It fails
// if the role may not, or if the server doesn't answer within 10 s. If Host isn't open yet
// ([hostdb.Config.StartLater]), New asks nothing, and a missing right fails [Fleet.Provision].
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
	f := &Fleet{host: cfg.Host, pool: cfg.Pool, schema: schema, seed: cfg.Seed, name: hostdb.NewID(),
		lease: cfg.Lease, others: cfg.WaitForOthers, logger: cfg.Logger,
		reservedSlugs: slices.Clone(cfg.ReservedSlugs)}
	f.panics.Logger = cfg.Logger
	if cfg.Observer != nil {
		f.watch = *cfg.Observer
	}
	withTemplate := len(schema.migrations) > 0 && !cfg.NoTemplate
	if _, ok := dburl.File(cfg.Server.Reveal()); ok {
		server := &sqliteServer{pool: cfg.Pool, schema: schema, template: withTemplate,
			images: new(sqliteimage.Images)}
		// A hash of Go migrations doesn't tell what they do.
		if shared, ok := cfg.Migrations.(sqliteimage.Migrations); ok && len(cfg.GoMigrations) == 0 {
			server.images = shared.Images
		}
		f.server = server
		return f, nil
	}
	base, err := dburl.Parse(cfg.Server.Reveal())
	if err != nil {
		return nil, fmt.Errorf("fleet: Config.Server: %w", err)
	}
	server := &postgresServer{base: base, admins: newAdminPool(base.Config()), roles: !cfg.SharedRole,
		logger: cfg.Logger}
	if withTemplate {
		server.template = &template{base: base, hosts: server.admins.hosts, schema: schema,
			roles: server.roles, logger: cfg.Logger}
	}
	if server.roles && started(cfg.Host) {
		if err := server.check(); err != nil {
			return nil, fmt.Errorf("fleet: %w", err)
		}
	}
	f.server = server
	return f, nil
}

// started reports whether the host database is open.
func started(host *hostdb.DB) bool {
	select {
	case <-host.Started():
		return true
	default:
		return false
	}
}
