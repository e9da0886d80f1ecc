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

// Tables are the tables of the host database. A DB and a Tx both embed them.
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

// DB is an open host database. Its methods, and those of its tables, are safe for concurrent use. A read
// sees every transaction that was committed before the read began. In "sqlite::memory:" a read outside a
// transaction waits for the transaction in progress.
type DB struct {
	Tables
	engine      engine
	origin      *origin
	pooled      bool // a pooler stands before the PostgreSQL server
	config      *Config
	write       *sql.DB        // SQLite: a single connection
	read        *sql.DB        // PostgreSQL: the same pool as write
	lookups     *sql.DB        // for access lookups only
	hosts       *pghosts.Hosts // PostgreSQL: which of the URL's hosts serves
	feed        *feed
	sweep       *sweeper
	access      preparedAccess
	writeGrants atomic.Uint64 // how often SQLite's only write connection was handed out

	feedConns atomic.Int32 // connections opened by the change feed

	// SQLite: the file at the path isn't the one that was opened. Connections would go on with the old one.
	replaced atomic.Bool

	started      chan struct{}         // closed once the database is open
	startErr     atomic.Pointer[error] // why it isn't open yet
	stopStarting func()                // ends the attempts in the background; nil if there are none

	closing   sync.Once
	closed    chan struct{}
	closeErr  error
	onClosing []func() error // run in order by Close
}

// session is where a table's statements run: in a DB or in one of its transactions.
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

// Close ends the change feeds and closes every connection. Calls in progress fail with ErrUnavailable. A
// second Close returns the first one's error.
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

// Ping checks that the database answers. Errors: ErrUnavailable.
func (db *DB) Ping(ctx context.Context) error {
	return session{db: db}.queryRow(ctx, "SELECT 1", nil, new(int))
}

// The engines of a host database, as [DB.Engine] returns them.
const (
	EngineSQLite   = string(sqlite)
	EnginePostgres = string(postgres)
)

// Engine returns the engine of the host database: EngineSQLite or EnginePostgres.
func (db *DB) Engine() string { return string(db.engine) }

// URI returns the URL that the database was opened with, including the password. Don't log it.
func (db *DB) URI() string {
	return db.origin.url.Reveal()
}

// String returns the URL with the password masked.
func (db *DB) String() string {
	return db.origin.masked
}

// Format implements fmt.Formatter. Every verb writes the masked URL.
func (db *DB) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, db.String())
}

// MarshalJSON implements json.Marshaler with the masked URL.
func (db *DB) MarshalJSON() ([]byte, error) {
	return json.Marshal(db.String())
}

// LogValue implements slog.LogValuer with the masked URL.
func (db *DB) LogValue() slog.Value {
	return slog.StringValue(db.String())
}

// now returns the configured clock's time as the database stores it.
func (db *DB) now() time.Time {
	return canonical(db.config.Now())
}

// usable returns an error if no statement may run.
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
