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

// Config says how to open a host database. The zero value of everything but URL is a good choice.
type Config struct {
	// URL: "sqlite:path/to/host.db", "sqlite::memory:" (a database of its own, gone at Close), or
	// "postgres://…" with the parameters that pgx knows (pkg.go.dev/github.com/jackc/pgx/v5#ParseConfig).
	//
	// A URL may name several hosts of which one serves, postgres://user:password@a,b/database: the one that
	// served last is tried first, and another within a quarter of a second, so that a server that hangs holds
	// up nobody. target_session_attrs is obeyed; without it only a primary will do. A primary on an older
	// timeline than one that was seen before is refused, since a standby has taken over from it. After a
	// restore to an older timeline on purpose, start the processes again. Where the server doesn't tell its
	// timeline, as at some providers, target_session_attrs decides alone.
	//
	// A pooler such as PgBouncer may stand before the server. Open notices it and keeps no prepared
	// statements then; where the pooler bears them (PgBouncer's max_prepared_statements),
	// default_query_exec_mode=cache_statement has them kept. In transaction mode NOTIFY doesn't arrive, and
	// changes are found by polling alone.
	URL Secret
	// MaxConns bounds the connections. PostgreSQL: default 10; beside them there are LookupConns, and one
	// while somebody listens to Changes. SQLite: one writer and as many readers as this says, default 4.
	MaxConns int
	// LookupConns is how many more connections Access and AccessAll may have, which nothing else uses: a
	// product's slow queries and long transactions don't hold them up. Default 4, as many as tenantdb's
	// CacheConfig.MaxLoads. Each is opened when it is first needed. A PostgreSQL server sees up to MaxConns +
	// LookupConns + 1 connections of a process: 15 by default.
	LookupConns int
	// ConnectTimeout bounds the making of one connection to PostgreSQL, default 5 s. The URL's
	// connect_timeout goes first.
	ConnectTimeout time.Duration
	// StartTimeout is how long Open waits for a PostgreSQL server that can't be reached or is starting up, as
	// one that is started together with the program may be. Default 0: Open tries once.
	StartTimeout time.Duration
	// StartLater has Open return a DB, and no error, where no PostgreSQL server can be reached by then, or
	// where it isn't ready. The DB goes on trying until Close, and [DB.Started] tells when it is open. Until
	// then every call fails with ErrUnavailable, so that nobody is let in: a middleware answers 503,
	// host_unavailable. Whatever keeps it from being opened is logged and tried again, also what Open would
	// return, such as a refused password.
	//
	// It says nothing about SQLite, which has no server: Open fails where the file's folder isn't there.
	// Mount a folder before: in a mount point that is still empty Open makes a new host database, unless
	// NoUpgrade is set.
	StartLater bool
	// PollInterval is how often Changes polls, default 1 s.
	PollInterval time.Duration
	// NoNotify has Changes rely on polling alone, and spares this process's transactions the cost of NOTIFY,
	// a lock that all notifying transactions of a PostgreSQL server share. Behind a pooler it doesn't reach
	// this process's transactions: have the database say it, ALTER DATABASE … SET hostdb.notify = off.
	NoNotify bool
	// Retention is how long changes are kept for processes that can't poll, default 1 h. Who comes later gets
	// a Reset.
	Retention time.Duration
	// NoUpgrade refuses a database whose schema is older than this library's, with ErrInvalid on "url", where
	// Open creates or upgrades it: for programs that only look, such as an operator's.
	NoUpgrade bool
	// VerifyInterval is how often Changes verifies what it rests on (DB.Verify), default 30 s. A trigger that
	// is disabled and enabled again between two looks goes unnoticed, and so do the changes meanwhile.
	VerifyInterval time.Duration
	// Logger receives what Verify finds, and what is waited for while the database can't be opened. Default
	// none.
	Logger *slog.Logger
	// Now is the clock, default time.Now. Tests set it.
	Now func() time.Time
}

// Format implements fmt.Formatter: whatever the verb, it writes the URL's mask, and nothing else.
func (c Config) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, "hostdb.Config{"+c.URL.String()+"}")
}

// withDefaults returns a checked copy.
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

// Open opens a host database and creates or upgrades its schema. Close it in the end.
//
// A schema that a newer version of this library has upgraded is used as it is: until the next major version
// upgrades only add. So processes of two versions may run side by side, start again, and a deployment may be
// rolled back.
//
// Errors: ErrInvalid (*FieldError "url…") for a malformed URL, a schema of a newer major version of this
// library, or core_ tables that this library didn't make; ErrUnavailable (*FieldError "url…") where the
// server or the file can't be used. They say how to mend it and never hold the password. Nothing is left
// behind then.
func Open(ctx context.Context, url string) (*DB, error) {
	return OpenConfig(ctx, Config{URL: Secret(url)})
}

// OpenConfig is Open with more choices. Errors: as for Open; ErrInvalid for a Config out of range.
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
