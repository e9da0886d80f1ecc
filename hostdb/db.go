package hostdb

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tenantdb/tenantdb/internal/pghosts"
)

// Tables are the tables of the host database, as a DB and a Tx carry them.
type Tables struct {
	Users         Users         // core_users
	Tenants       Tenants       // core_tenants
	Memberships   Memberships   // core_memberships
	Subscriptions Subscriptions // core_subscriptions
	Plans         Plans         // core_pricing_plans
	AuditLogs     AuditLogs     // sys_audit_logs
	Jobs          Jobs          // sys_jobs
	WebhookEvents WebhookEvents // core_stripe_webhook_events

	MigrationRuns    MigrationRuns    // sys_migration_runs
	MigrationTenants MigrationTenants // sys_migration_tenants
	SchemaSets       SchemaSets       // sys_schema_sets
}

// DB is an open host database. Its methods, and those of its tables, may be called from several goroutines. A
// read sees every transaction committed before it began. In "sqlite::memory:" a read that is not part of a
// transaction under way waits for it.
type DB struct {
	Tables
	engine      engine
	origin      *origin
	pooled      bool // a pooler stands before the PostgreSQL server
	config      *Config
	write       *sql.DB        // SQLite: one connection
	read        *sql.DB        // PostgreSQL: the same as write
	lookups     *sql.DB        // for access lookups alone
	hosts       *pghosts.Hosts // PostgreSQL: which of the URL's serves
	feed        *feed
	sweep       *sweeper
	access      preparedAccess
	writeGrants atomic.Uint64 // how often somebody got SQLite's one connection to write on

	feedConns atomic.Int32 // connections of the change feeds

	// SQLite: the feed saw another file at the path, or none; connections would go on with the old one
	replaced atomic.Bool

	started      chan struct{}         // closed once the database is open
	startErr     atomic.Pointer[error] // why it isn't yet
	stopStarting func()                // ends the attempts in the background; nil where there are none

	closing   sync.Once
	closed    chan struct{}
	closeErr  error
	onClosing []func() error // run in order, before the pools close
}

// session is where a table's statements run: a DB, or a Tx of it.
type session struct {
	db *DB
	tx *Tx
}

// tablesOn binds the tables to a session.
func tablesOn(s session) Tables {
	return Tables{
		Users:         Users{Table[GlobalUser]{s, &userRelation}},
		Tenants:       Tenants{Table[TenantCatalog]{s, &tenantRelation}},
		Memberships:   Memberships{Table[Membership]{s, &membershipRelation}},
		Subscriptions: Subscriptions{Table[Subscription]{s, &subscriptionRelation}},
		Plans:         Plans{Table[PricingPlan]{s, &planRelation}},
		AuditLogs:     AuditLogs{Table[HostAuditLog]{s, &auditRelation}},
		Jobs:          Jobs{Table[SystemJob]{s, &jobRelation}},
		WebhookEvents: WebhookEvents{Table[StripeWebhookEvent]{s, &webhookRelation}},

		MigrationRuns:    MigrationRuns{Table[MigrationRun]{s, &runRelation}},
		MigrationTenants: MigrationTenants{Table[MigrationTenant]{s, &ledgerRelation}},
		SchemaSets:       SchemaSets{s},
	}
}

// Close ends the change feeds and closes every connection. Calls under way fail with ErrUnavailable. A second
// Close does nothing.
func (db *DB) Close() error {
	db.closing.Do(func() {
		close(db.closed)
		if db.stopStarting != nil {
			db.stopStarting()
		}
		db.feed.shutdown()
		for _, hook := range db.onClosing {
			if err := hook(); err != nil && db.closeErr == nil {
				db.closeErr = &failure{text: "closing: " + kindOf(err)}
			}
		}
	})
	return db.closeErr
}

// Ping asks the database for an answer. Errors: ErrUnavailable.
func (db *DB) Ping(ctx context.Context) error {
	return session{db: db}.queryRow(ctx, "SELECT 1", nil, new(int))
}

// The engines of a host database, as [DB.Engine] names them.
const (
	EngineSQLite   = string(sqlite)
	EnginePostgres = string(postgres)
)

// Engine returns which engine holds the host database: EngineSQLite or EnginePostgres.
func (db *DB) Engine() string { return string(db.engine) }

// URI returns the URL that the database was opened with, password included. Don't log it.
func (db *DB) URI() string {
	return db.origin.url.Reveal()
}

// String returns the URL with the password masked.
func (db *DB) String() string {
	return db.origin.masked
}

// Format implements fmt.Formatter with String, so that no verb shows the password.
func (db *DB) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, db.String())
}

// MarshalJSON implements json.Marshaler with String.
func (db *DB) MarshalJSON() ([]byte, error) {
	return json.Marshal(db.String())
}

// LogValue implements slog.LogValuer with String.
func (db *DB) LogValue() slog.Value {
	return slog.StringValue(db.String())
}

// now is the configured clock, as the database stores it.
func (db *DB) now() time.Time {
	return canonical(db.config.Now())
}

// usable returns why no statement may run, if none may.
func (db *DB) usable() error {
	switch {
	case db.isClosed():
		return &failure{kind: ErrUnavailable, text: "the database is closed"}
	case !db.isStarted():
		return db.notStarted()
	case db.replaced.Load():
		return errReplaced
	}
	return nil
}

// isClosed reports whether Close has begun.
func (db *DB) isClosed() bool { return isDone(db.closed) }

// isStarted reports whether the database is open.
func (db *DB) isStarted() bool { return isDone(db.started) }

// isDone reports whether a channel is closed.
func isDone(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}
