package tenantdb_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
)

// faultPool makes a pool that is closed when the test ends.
func faultPool(t *testing.T, cfg tenantdb.PoolConfig) *tenantdb.Pool {
	t.Helper()
	p, err := tenantdb.NewPool(cfg)
	must(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		must(t, p.Close(ctx))
	})
	return p
}

// query runs SELECT 1 in the database of a tenant.
func query(ctx context.Context, p *tenantdb.Pool, tenant *hostdb.TenantCatalog) error {
	lease, err := p.Lease(tenant)
	if err != nil {
		return err
	}
	defer lease.Release()
	_, err = lease.PG().Exec(ctx, "SELECT 1")
	return err
}

// oneConn enters a PostgreSQL tenant that may have one connection.
func oneConn(t testing.TB, cfg tenantdb.PoolConfig) context.Context {
	t.Helper()
	cfg.MaxConns = 1
	w := newWorld(t, "postgres", cfg)
	acme := w.tenant("acme", w.user("ann"))
	admin(t, "GRANT pg_read_all_data TO tenant_"+acme.ID) // so that SET ROLE may be left behind
	ctx, leave, err := w.middleware(w.config()).Enter(t.Context(), acme.ID)
	must(t, err)
	t.Cleanup(leave)
	return ctx
}

// ask returns the single value of a query.
func ask[T any](t *testing.T, ctx context.Context, query string, args ...any) (v T) {
	t.Helper()
	must(t, tenantdb.PG(ctx).QueryRow(ctx, query, args...).Scan(&v))
	return v
}

// pid returns the process id of the connection that serves next.
func pid(t *testing.T, ctx context.Context) int {
	t.Helper()
	return ask[int](t, ctx, "SELECT pg_backend_pid()")
}

// locked asks whether a session holds an advisory lock in the tenant's database. pg_locks covers the whole
// server, where the host database's feed holds a lock while it prunes.
const locked = "SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' " +
	"AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"

// pids opens n connections and leaves them idle. It returns the process ids of their servers.
func pids(t *testing.T, ctx context.Context, n int) (all []int) {
	t.Helper()
	var held []*tenantdb.Conn
	for range n {
		c, err := tenantdb.PG(ctx).Acquire(ctx)
		must(t, err)
		held = append(held, c)
		var id int
		must(t, c.Conn().QueryRow(ctx, "SELECT pg_backend_pid()").Scan(&id))
		all = append(all, id)
	}
	for _, c := range held {
		c.Release()
	}
	return all
}

// drained reads rows to their end.
func drained(rows *sql.Rows) error {
	defer rows.Close()
	for rows.Next() {
	}
	return rows.Err()
}

// admin runs a statement as the superuser of the shared server.
func admin(t testing.TB, statement string) {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, pgtest.Shared(t).URL("postgres"))
	must(t, err)
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, statement)
	must(t, err)
}

// role makes a role that exists as long as the test.
func role(t testing.TB, options string) (name string) {
	t.Helper()
	name = fmt.Sprintf("tenantdb_role_%08x", rand.Uint32())
	admin(t, "CREATE ROLE "+name+" LOGIN "+options)
	t.Cleanup(func() { admin(t, "DROP ROLE "+name) })
	return name
}

// as returns a db_url for another user.
func as(t testing.TB, dbURL hostdb.Secret, user, password string) hostdb.Secret {
	t.Helper()
	u, err := url.Parse(dbURL.Reveal())
	must(t, err)
	u.User = url.UserPassword(user, password)
	return hostdb.Secret(u.String())
}

// elsewhere is the product in another process. w.host learns of its changes at the next poll.
func (w *world) elsewhere() *world {
	w.t.Helper()
	host, err := hostdb.Open(w.t.Context(), w.host.URI())
	must(w.t, err)
	w.t.Cleanup(func() { _ = host.Close() })
	return &world{t: w.t, engine: w.engine, host: host}
}

// readName checks whose database a lease on a tenant reaches.
func readName(ctx context.Context, pool *tenantdb.Pool, tenant *hostdb.TenantCatalog) error {
	lease, err := pool.Lease(tenant)
	if err != nil {
		return err
	}
	defer lease.Release()
	var name string
	if err := lease.DB().QueryRowContext(ctx, "SELECT name FROM me").Scan(&name); err != nil {
		return fmt.Errorf("%s: %w", tenant.Slug, err)
	}
	if name != tenant.Slug {
		return fmt.Errorf("%s reaches %s's database", tenant.Slug, name)
	}
	lease.Release() // a second call does nothing
	return nil
}

// user is what *sql.DB, *sql.Conn and *sql.Tx have in common.
type user interface {
	ExecContext(context.Context, string, ...any) (sql.Result, error)
	QueryContext(context.Context, string, ...any) (*sql.Rows, error)
	PrepareContext(context.Context, string) (*sql.Stmt, error)
}

func execOf(u user) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := u.ExecContext(ctx, "UPDATE me SET name = name")
		return err
	}
}

func queryOf(u user) func(context.Context) error {
	return func(ctx context.Context) error { return readAll(u.QueryContext(ctx, "SELECT name FROM me")) }
}

func prepareOf(u user) func(context.Context) error {
	return func(ctx context.Context) error {
		stmt, err := u.PrepareContext(ctx, "SELECT 1")
		if err == nil {
			return stmt.Close()
		}
		return err
	}
}

func prepared(t *testing.T, own context.Context, u user, query string) *sql.Stmt {
	stmt, err := u.PrepareContext(own, query)
	must(t, err)
	t.Cleanup(func() { must(t, stmt.Close()) })
	return stmt
}

func stmtExec(stmt *sql.Stmt) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := stmt.ExecContext(ctx)
		return err
	}
}

func stmtQuery(stmt *sql.Stmt) func(context.Context) error {
	return func(ctx context.Context) error { return readAll(stmt.QueryContext(ctx)) }
}

func connOf(t *testing.T, own context.Context, db *sql.DB) *sql.Conn {
	conn, err := db.Conn(own)
	must(t, err)
	t.Cleanup(func() { must(t, conn.Close()) })
	return conn
}

func txOf(t *testing.T, own context.Context, db *sql.DB) *sql.Tx {
	tx, err := db.BeginTx(own, nil)
	must(t, err)
	t.Cleanup(func() { must(t, tx.Rollback()) })
	return tx
}

func readAll(rows *sql.Rows, err error) error {
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return err
		}
		if name != "acme" && name != "1" {
			return errors.New("read " + name)
		}
	}
	return rows.Err()
}

// isClosed reports whether a handle is closed. A handle that is open but no longer leased fails with another
// error.
func isClosed(handle *sql.DB) bool {
	err := handle.Ping()
	return err != nil && strings.Contains(err.Error(), "database is closed")
}

// heap returns the bytes in use.
func heap() int64 {
	var stats runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}

// sqliteLease makes a SQLite tenant and returns a lease on it, which is released when the test ends.
func sqliteLease(t *testing.T, w *world, slug string) *tenantdb.Lease {
	t.Helper()
	lease, err := w.pool.Lease(w.tenant(slug, w.user(slug+"-owner")))
	must(t, err)
	t.Cleanup(lease.Release)
	return lease
}

// names reads the rows of a tenant.
func names(ctx context.Context, db *sql.DB) ([]string, error) {
	rows, err := db.QueryContext(ctx, "SELECT name FROM me ORDER BY name")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, err
		}
		list = append(list, name)
	}
	return list, rows.Err()
}

// copyFile copies a file to a new one.
func copyFile(t testing.TB, from, to string) {
	t.Helper()
	content, err := os.ReadFile(from)
	must(t, err)
	must(t, os.WriteFile(to, content, 0o600))
}

// endless is a query that only its context ends.
var endless = map[string]string{
	"postgres": "SELECT pg_sleep(60)",
	"sqlite":   "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) SELECT count(*) FROM n",
}

// insideTx runs a statement in a transaction of its own.
func insideTx(ctx context.Context, statement string) error {
	tx, err := tenantdb.DB(ctx).BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	_, err = tx.ExecContext(ctx, statement)
	return err
}
