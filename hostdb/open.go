package hostdb

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/tenantdb/tenantdb/internal/pghosts"
)

// Config says how to open a host database. Only URL is required.
type Config struct {
	// URL is the database's address: "sqlite:path/to/host.db", "sqlite::memory:" (a database of its own,
	// gone at Close), or "postgres://…" with the parameters that pgx knows
	// (pkg.go.dev/github.com/jackc/pgx/v5#ParseConfig).
	//
	// A PostgreSQL URL may name several hosts of which one serves: postgres://user:password@a,b/database.
	// The host that served last is tried first, and another one within a quarter of a second, so that a
	// server that hangs delays nobody. target_session_attrs is obeyed; without it only a primary is used. A
	// primary on an older timeline than one seen before is refused, because a standby has taken over from
	// it. After a deliberate restore to an older timeline, restart the processes. Some providers' servers
	// don't tell their timeline. For them target_session_attrs decides alone.
	//
	// A pooler such as PgBouncer may stand in front of the server. Open detects it and then keeps no
	// prepared statements. If the pooler supports them (PgBouncer's max_prepared_statements),
	// default_query_exec_mode=cache_statement keeps them. In transaction mode NOTIFY doesn't arrive, and
	// changes are found by polling alone.
	URL Secret
	// MaxConns limits the connections. PostgreSQL: the default is 10, and LookupConns and one connection for
	// [DB.Changes] come on top. SQLite: it is the number of readers beside the one writer. The default is 4.
	MaxConns int
	// LookupConns is how many more connections [DB.Access] and [DB.AccessAll] may use. Nothing else uses
	// them, so that slow queries and long transactions of the product don't delay lookups. The default is 4,
	// as many as tenantdb's CacheConfig.MaxLoads. A connection is opened when it is first needed. A
	// PostgreSQL server sees up to MaxConns + LookupConns + 1 connections of a process: 15 by default.
	LookupConns int
	// ConnectTimeout limits how long one connection to PostgreSQL may take to open. The URL's
	// connect_timeout takes precedence. The default is 5 s.
	ConnectTimeout time.Duration
	// StartTimeout is how long Open waits for a PostgreSQL server that can't be reached or is starting up,
	// such as one started together with the program. The default is 0: Open tries once.
	StartTimeout time.Duration
	// StartLater makes Open return a DB and no error if no PostgreSQL server can be reached in time, or if
	// it isn't ready. The DB goes on trying until Close, and [DB.Started] tells when it is open. Until then
	// every call fails with ErrUnavailable, and a middleware answers 503, host_unavailable: nobody is let
	// in. Whatever prevents opening is logged and retried, including what Open would return, such as a
	// refused password.
	//
	// It has no effect on SQLite, which has no server: Open fails if the file's directory doesn't exist.
	// Mount a volume before opening. In a mount point that is still empty Open creates a new host database,
	// unless NoUpgrade is set.
	StartLater bool
	// PollInterval is how often [DB.Changes] polls. The default is 1 s.
	PollInterval time.Duration
	// NoNotify makes [DB.Changes] rely on polling alone. It saves this process's transactions the cost of
	// NOTIFY, which takes a lock that all notifying transactions of a PostgreSQL server share. Behind a
	// pooler it has no effect on this process's transactions: configure the database instead, with ALTER
	// DATABASE … SET hostdb.notify = off.
	NoNotify bool
	// Retention is how long changes are kept for processes that can't poll. A process that comes later gets
	// a Reset. The default is 1 h.
	Retention time.Duration
	// NoUpgrade makes Open refuse a database whose schema is older than this library's, with ErrInvalid on
	// "url", instead of creating or upgrading it. It is for programs that only read, such as an operator's
	// tools.
	NoUpgrade bool
	// VerifyInterval is how often [DB.Changes] runs [DB.Verify]. A trigger that is disabled and enabled
	// again between two runs goes unnoticed, and so do the changes meanwhile. The default is 30 s.
	VerifyInterval time.Duration
	// Logger receives what [DB.Verify] finds, and why the database can't be opened yet. The default discards
	// both.
	Logger *slog.Logger
	// Now is the clock. Tests set it. The default is time.Now.
	Now func() time.Time
}

// Format implements fmt.Formatter. For every verb it writes only the masked URL.
func (c Config) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, "hostdb.Config{"+c.URL.String()+"}")
}

// withDefaults returns a validated copy with the defaults filled in.
func (c Config) withDefaults() (*Config, error) {
	for _, n := range []struct {
		field string
		value int64
	}{{"MaxConns", int64(c.MaxConns)}, {"LookupConns", int64(c.LookupConns)},
		{"ConnectTimeout", int64(c.ConnectTimeout)}, {"StartTimeout", int64(c.StartTimeout)},
		{"PollInterval", int64(c.PollInterval)}, {"Retention", int64(c.Retention)},
		{"VerifyInterval", int64(c.VerifyInterval)}} {
		if n.value < 0 {
			return nil, invalid(n.field, "is negative")
		}
	}
	c.LookupConns = cmp.Or(c.LookupConns, 4)
	c.ConnectTimeout = cmp.Or(c.ConnectTimeout, 5*time.Second)
	c.PollInterval = cmp.Or(c.PollInterval, time.Second)
	c.Retention = cmp.Or(c.Retention, time.Hour)
	c.VerifyInterval = cmp.Or(c.VerifyInterval, 30*time.Second)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &c, nil
}

// Open opens a host database and creates or upgrades its schema. The caller must Close it.
//
// A schema that a newer version of this library has upgraded is used as it is, because upgrades only add
// until the next major version. So processes of two versions may run side by side and restart, and a
// deployment may be rolled back.
//
// Errors: ErrInvalid (*FieldError "url…") for a malformed URL, a schema of a newer major version of this
// library, or core_ tables that this library didn't create; ErrUnavailable (*FieldError "url…") if the
// server or the file can't be used. They say what to do and never contain the password. After an error
// nothing is left behind.
func Open(ctx context.Context, url string) (*DB, error) {
	return OpenConfig(ctx, Config{URL: Secret(url)})
}

// OpenConfig is Open with more options. Errors: as for [Open]; ErrInvalid for a Config out of range.
func OpenConfig(ctx context.Context, config Config) (*DB, error) {
	checked, err := config.withDefaults()
	if err != nil {
		return nil, err
	}
	from, err := parseURL(config.URL.Reveal())
	if err != nil {
		return nil, err
	}
	db := &DB{engine: from.engine, origin: from, config: checked, started: make(chan struct{}),
		closed: make(chan struct{}), hosts: pghosts.New(), sweep: new(sweeper)}
	db.Tables = tablesOn(session{db: db})
	db.feed = newFeed(db)
	err = db.start(ctx)
	if config.StartLater && unreachable(err) {
		db.startLater(err)
		return db, nil
	}
	if err == nil {
		err = db.pruneAndVerify(ctx)
	}
	if err != nil {
		_ = db.Close()
		return nil, err
	}
	return db, nil
}
