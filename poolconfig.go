package tenantdb

import (
	"cmp"
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb/internal/keyedpool"
	"github.com/tenantdb/tenantdb/internal/pgdb"
	"github.com/tenantdb/tenantdb/internal/sqlitedb"
)

// PoolConfig describes a [Pool]. The zero value of every field is safe.
type PoolConfig struct {
	// SQLiteDir is the folder of the tenants' SQLite files, to which relative db_urls ("sqlite:NAME.db")
	// refer. It is created when it is first needed. The default is "tenants".
	SQLiteDir string
	// MaxOpenSQLite is how many SQLite tenants may be open at once. To make room, the pool closes one without
	// a running statement, an open transaction or unread rows. Each takes up to 2·(1+SQLiteReaders)+1 file
	// handles. [NewPool] fails if the process may not have that many (RLIMIT_NOFILE). The default is 256, or
	// fewer if these would take more than two thirds of the process's file handles.
	MaxOpenSQLite int
	// SQLiteReaders is how many connections [ReadDB] may open for each tenant. The default is 2.
	SQLiteReaders int
	// MaxConns is the budget of connections to each PostgreSQL server (host:port), however many tenants it
	// has. Connections that are being opened or closed count. Requests to cancel a query don't. The default
	// is 40.
	//
	// Each name of a server has a budget. If db_urls name one server in two ways, such as by name and by
	// address, it has two. The command tenantdb doctor finds such names. Compute the budget from the server:
	//
	//	  max_connections                                                        100
	//	- superuser_reserved_connections, reserved_connections                     3
	//	- what others use: the host database if it is on this server (its
	//	  own pool), the fleet's command line and migrations, psql, monitoring    17
	//	= MaxConns, for all processes together                                    80
	//
	// Set Processes to how many processes there may be at once. In a rolling deployment these are the old and
	// the new ones.
	//
	// If the db_url names a pooler such as PgBouncer, its clients are counted: keep the budget below its
	// max_client_conn. The pooler decides how many connections the server has (default_pool_size for each
	// role and database, max_db_connections) and who waits for them.
	//
	// A db_url that names several hosts, of which one serves, is one server with one budget, in whatever
	// order it names them. No host gets more connections than the budget, even while one takes over from
	// another. Name the same hosts in each db_url of a server, since each list of hosts has a budget.
	MaxConns int
	// Budgets overrides MaxConns for single servers. The keys are host:port, or host:port,host:port with all
	// hosts.
	Budgets map[string]int
	// MaxConnsPerTenant is how many connections one tenant may have, however many requests it makes. A
	// connection that is being closed counts for MaxConns only. The default is a quarter of the budget, at
	// least 2.
	MaxConnsPerTenant int
	// Processes is how many processes with this configuration share the servers. Each gets the budget divided
	// by Processes, rounded down. The default is 1.
	Processes int
	// AcquireTimeout is how long a query waits for a connection. Then it fails with [ErrBusy], or with
	// [ErrTenantUnavailable] if it waits only for the server's answer. The query's context may end the wait
	// sooner. The default is 5 s.
	AcquireTimeout time.Duration
	// ConnectTimeout is how long opening a PostgreSQL connection may take, including the TLS handshake and
	// the sign-in. Then the queries that wait for it fail with [ErrTenantUnavailable]. Give less than
	// AcquireTimeout. A db_url's connect_timeout can only shorten it. The default is 2 s.
	ConnectTimeout time.Duration
	// ApplicationName is the product's name in PostgreSQL's application_name, which is ApplicationName, a
	// slash and the tenant's id. So pg_stat_activity and the server's log tell whose a query is. It has at
	// most 30 printable ASCII characters. An application_name in the db_url or in PGAPPNAME replaces all of
	// it. The default is the name of the program's file.
	ApplicationName string
	// BeforeConnect is called before each attempt to open a PostgreSQL connection, with a copy of the
	// configuration that the db_url gives, as in pgxpool. It may change the copy: the password, the user,
	// TLS, the tracer, runtime parameters, the dialer. It is an error to change the host, the port, the
	// database, or the set of hosts, to set BuildFrontend, BuildContextWatcherHandler, AfterNetConnect or
	// pgconn's AfterConnect, or to remove DialFunc, LookupFunc or OnPgError. A DialFunc also serves requests
	// to cancel a query; it must lead to the host that it is given.
	//
	// The tracer is told of what requests send, with the context of each call. Of its interfaces those for
	// queries, batches, COPY, prepared statements and connecting count. It is also told of statements that
	// the pool refuses, but not of the pool's own.
	//
	// Both hooks run within ConnectTimeout, and AcquireTimeout bounds the wait of the queries. A hook that
	// returns an error, panics, or doesn't return in time fails its tenant's attempt: the queries that wait
	// for it get [ErrTenantUnavailable], and the log has the error's text or the panic's value. So don't put
	// a secret there. The pause before the next attempt is the tenant's alone. A hook should return when its
	// context ends. One that doesn't is left running, without a connection, and the tenant's further
	// attempts fail until it returns. No place of the budget is held for it. Hooks are called for several
	// tenants at once.
	//
	// The pool's connections have the hooks, whoever uses them: requests, [Lease] and package fleet's
	// migrations. Connections by which fleet creates and drops databases and roles don't.
	BeforeConnect func(ctx context.Context, tenantID string, config *pgx.ConnConfig) error
	// AfterConnect is called with each new PostgreSQL connection before it is used, as in pgxpool, to
	// register types and to set the session: with SET, SET ROLE or search_path. Don't keep the connection.
	// Close rows and end transactions. Migrations run in the session as the hook sets it, too.
	//
	// It is called again on the same connection after each reset (see [PGX]), so that the next borrower
	// finds the session as the hook sets it. So it must be repeatable. With ResetAlways that is after each
	// use.
	//
	// A new tenant's database has no types of the product's own until its migrations have run. Ignore
	// undefined types (42704) there. After the migrations AfterConnect is called again.
	//
	// Behind a pooler that lends sessions for a transaction, a hook that changes its session is an error;
	// see SessionPooler. Registering types works. Set parameters in BeforeConnect, or with ALTER ROLE … SET.
	AfterConnect func(ctx context.Context, tenantID string, conn *pgx.Conn) error
	// AfterConnectSQLite is called with each new SQLite connection before it is used, those of [ReadDB]
	// included, to set pragmas such as cache_size or synchronous. Each borrower finds them as the hook sets
	// them: a connection that was changed since is closed, and the hook called with the next. The connection
	// is confined to the tenant's file as those of requests are (see [DB]), and ReadDB's can't write. Don't
	// keep it. For errors, panics and time the same holds as for BeforeConnect, but that a hook that doesn't
	// return in time keeps the connection and its place, since nobody else may touch it.
	//
	// Functions and collations are not the hook's: register them for the process, with package
	// modernc.org/sqlite (RegisterScalarFunction and its like), before the first connection. All tenants have
	// them.
	AfterConnectSQLite func(ctx context.Context, tenantID string, conn driver.ExecerContext) error
	// ServerRetry is the longest pause before the pool tries again, with one connection, a PostgreSQL server
	// that doesn't answer or has no free connection. When the server is back, service is back within
	// ServerRetry + ConnectTimeout. Give more if many processes share a server that is slow to start. The
	// default is 1 s.
	ServerRetry time.Duration
	// QueryTimeout is how long a statement may take, including the reading of its rows. Each statement of a
	// transaction has that time. A statement that takes longer is cancelled. [Middleware.WriteError] answers
	// it with 500 without Retry-After, as it does for PostgreSQL's statement_timeout. On PostgreSQL the error
	// is the server's own (57014). An earlier deadline of the context counts instead. The timeout doesn't
	// apply to [Lease.Session], to COPY and to the wait for a notification. On SQLite the time is checked
	// until the first row and between rows. The default 0 means no timeout.
	QueryTimeout time.Duration
	// ResetAlways resets every PostgreSQL connection between borrowers (see [PGX]), not only those whose
	// session is known to have changed. It costs a round trip for each query outside a transaction.
	ResetAlways bool
	// SessionPooler declares that a pooler in front of a PostgreSQL server keeps a session of the server for
	// each connection, as PgBouncer does with pool_mode=session. Connections are then used like the server's
	// own.
	//
	// Without it, a pooler is detected and assumed to lend a session for one transaction at a time
	// (pool_mode=transaction). Then nothing is prepared by name, unless the db_url asks for it with
	// default_query_exec_mode. Statements that change their session beyond the transaction are refused: SET
	// without LOCAL, LISTEN, advisory locks that a transaction doesn't end, temporary tables. See also
	// MaxConns.
	SessionPooler bool
	// RequireScope refuses a query whose context has no scope, with [ErrNoScope], if its handle is a
	// request's (from [DB], [ReadDB], [PG] or [Cached]). Such a query could be another tenant's request,
	// using a handle that was kept by mistake. A [Lease] still serves any context.
	//
	// Functions that close what [Cached] kept can't query then. If a handle is limited by SetMaxOpenConns,
	// queries may be refused too, since database/sql opens connections for waiting callers without their
	// context.
	RequireScope bool
	// Forgotten, if set, is called for each connection that a program didn't give back, when the pool
	// reclaims it: rows that weren't closed, a transaction that wasn't ended. frames is where the connection
	// was checked out, for [runtime.CallersFrames]. Forgotten must be safe for concurrent use and return
	// soon. If it is set, each checkout records its callers, so it is meant for tests. The default is none.
	Forgotten func(tenantID string, frames []uintptr)
	// MaxIdleTenants is how many tenants without a request are remembered. One without a connection takes
	// about 500 bytes. The default is 10,000.
	MaxIdleTenants int
	// Observer is told what happens to connections. The default is none, which costs nothing.
	Observer *PoolObserver
}

// withDefaults returns the configuration with its zero fields set to the defaults.
func (c PoolConfig) withDefaults() PoolConfig {
	c.SQLiteDir = cmp.Or(c.SQLiteDir, "tenants")
	c.SQLiteReaders = cmp.Or(c.SQLiteReaders, 2)
	c.MaxOpenSQLite = cmp.Or(c.MaxOpenSQLite, c.affordableSQLite())
	c.MaxConns = cmp.Or(c.MaxConns, 40)
	c.Processes = cmp.Or(c.Processes, 1)
	c.MaxIdleTenants = cmp.Or(c.MaxIdleTenants, 10_000)
	c.AcquireTimeout = cmp.Or(c.AcquireTimeout, 5*time.Second)
	c.ConnectTimeout = cmp.Or(c.ConnectTimeout, 2*time.Second)
	c.ServerRetry = cmp.Or(c.ServerRetry, time.Second)
	c.ApplicationName = cmp.Or(c.ApplicationName, programName())
	return c
}

// maxApplicationName leaves room for the tenant's id within the 63 bytes that a server keeps.
const maxApplicationName = 30

// programName returns the default of ApplicationName.
func programName() string {
	name := strings.Map(func(c rune) rune {
		if !isPrintableASCII(c) {
			return -1
		}
		return c
	}, strings.TrimSuffix(filepath.Base(os.Args[0]), ".exe"))
	return name[:min(len(name), maxApplicationName)]
}

// isPrintableASCII reports whether a server keeps a character of application_name as it is.
func isPrintableASCII(c rune) bool { return c >= ' ' && c <= '~' }

// validate checks the configuration after withDefaults. Its errors begin with the name of the field, and say
// how to correct it.
func (c PoolConfig) validate() error {
	for field, v := range map[string]int{
		"MaxOpenSQLite": c.MaxOpenSQLite, "SQLiteReaders": c.SQLiteReaders, "MaxConns": c.MaxConns,
		"Processes": c.Processes, "MaxIdleTenants": c.MaxIdleTenants, "AcquireTimeout": int(c.AcquireTimeout),
		"ConnectTimeout": int(c.ConnectTimeout), "ServerRetry": int(c.ServerRetry),
	} {
		if v < 1 {
			return fmt.Errorf("%s: can't be negative", field)
		}
	}
	switch {
	case c.QueryTimeout < 0:
		return errors.New("QueryTimeout: can't be negative")
	case len(c.ApplicationName) > maxApplicationName,
		strings.ContainsFunc(c.ApplicationName, func(c rune) bool { return !isPrintableASCII(c) }):
		return fmt.Errorf("ApplicationName: %q: give at most %d printable ASCII characters",
			c.ApplicationName, maxApplicationName)
	case c.MaxConns < c.Processes:
		return fmt.Errorf("MaxConns: %d connections for %d processes leave some without one",
			c.MaxConns, c.Processes)
	}
	for server, budget := range c.Budgets {
		if !isServer(server) || budget < c.Processes {
			return fmt.Errorf("Budgets: %q: %d: give a host:port and at least a connection for each process",
				server, budget)
		}
	}
	return c.checkFileHandles()
}

// isServer reports whether a key of Budgets names a server.
func isServer(name string) bool {
	for host := range strings.SplitSeq(name, ",") {
		if _, port, err := net.SplitHostPort(host); err != nil || port == "" {
			return false
		}
	}
	return true
}

// affordableSQLite returns the default of MaxOpenSQLite.
func (c PoolConfig) affordableSQLite() int {
	const enough = 256
	limit := sqlitedb.FileHandleLimit()
	if limit == 0 || c.SQLiteReaders < 1 {
		return enough
	}
	return min(enough, max(1, int(limit)*2/3/sqlitedb.HandlesPerTenant(c.SQLiteReaders)))
}

// checkFileHandles returns an error if the process may not have the file handles for MaxOpenSQLite.
func (c PoolConfig) checkFileHandles() error {
	limit, per := sqlitedb.FileHandleLimit(), uint64(sqlitedb.HandlesPerTenant(c.SQLiteReaders))
	if limit == 0 || uint64(c.MaxOpenSQLite) <= limit/per || c.MaxOpenSQLite == c.affordableSQLite() {
		return nil
	}
	return fmt.Errorf("MaxOpenSQLite: %d tenants take up to %d file handles each, and the process may have "+
		"%d: lower it, or raise the limit (ulimit -n)", c.MaxOpenSQLite, per, limit)
}

// sqlite returns the configuration of the SQLite files.
func (c PoolConfig) sqlite(onEvicted func(tenantID string), o *keyedpool.Observer) sqlitedb.Config {
	dir := c.SQLiteDir
	if absolute, err := filepath.Abs(dir); err == nil { // the working directory may change
		dir = absolute
	}
	return sqlitedb.Config{Dir: dir, MaxOpen: c.MaxOpenSQLite, Readers: c.SQLiteReaders,
		AcquireTimeout: c.AcquireTimeout, QueryTimeout: c.QueryTimeout, OnEvicted: onEvicted,
		AfterConnect: c.AfterConnectSQLite, ConnectTimeout: c.ConnectTimeout, Observer: o}
}

// postgres returns the configuration of the PostgreSQL connections.
func (c PoolConfig) postgres(onIdle func(tenantID string), o *keyedpool.Observer) pgdb.Config {
	budgets := make(map[string]int, len(c.Budgets))
	for server, budget := range c.Budgets {
		budgets[pgdb.ServerName(server)] = budget / c.Processes
	}
	return pgdb.Config{MaxConns: c.MaxConns / c.Processes, MaxConnsPerTenant: c.MaxConnsPerTenant,
		Budgets: budgets, AcquireTimeout: c.AcquireTimeout, ConnectTimeout: c.ConnectTimeout,
		ServerRetry: c.ServerRetry, QueryTimeout: c.QueryTimeout, ResetAlways: c.ResetAlways,
		SessionPooler: c.SessionPooler, ApplicationName: c.ApplicationName, BeforeConnect: c.BeforeConnect,
		AfterConnect: c.AfterConnect, OnIdle: onIdle, Observer: o}
}
