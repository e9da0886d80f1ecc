package pgdb

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"net/url"
	"testing"
	"time"
	"unsafe"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/checkout"
	"github.com/tenantdb/tenantdb/internal/pgtest"
)

// openDB opens a database of its own with at most one connection. The tenant has a lease until the test ends.
func openDB(t *testing.T, cfg Config) (*DB, *Pool) {
	t.Helper()
	cfg.MaxConns, cfg.MaxConnsPerTenant = 1, 1
	cfg.AcquireTimeout, cfg.ConnectTimeout = 5*time.Second, 2*time.Second
	p, err := New(cfg)
	must(t, err)
	tenant := &checkout.Tenant{ID: "acme", Pool: new(checkout.Pool)}
	phase, _ := tenant.Leases.Retain()
	db, err := p.Open(tenant, hostdb.Secret(pgtest.Shared(t).Database(t)))
	must(t, err)
	t.Cleanup(func() {
		tenant.Release(phase)
		tenant.Close()
		db.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		must(t, p.Close(ctx))
	})
	return db, p
}

// backend returns the process of the server that a connection has.
func backend(t *testing.T, db *DB) (pid int) {
	t.Helper()
	row := db.QueryRow(t.Context(), checkout.ForLeases, "SELECT pg_backend_pid()")
	must(t, row.Scan(&pid))
	return pid
}

func TestDB_isSmall(t *testing.T) {
	if size := unsafe.Sizeof(DB{}); size > 32 {
		t.Errorf("%d bytes", size)
	}
}

// TestDB_releasesAfterEachUse has one connection serve all kinds of callers, one after the other.
func TestDB_releasesAfterEachUse(t *testing.T) {
	db, p := openDB(t, Config{})
	ctx, use := t.Context(), checkout.ForLeases
	first := backend(t, db)
	_, err := db.Exec(ctx, use, "CREATE TABLE n (i int)")
	must(t, err)
	two := pgx.CopyFromRows([][]any{{1}, {2}})
	if n, err := db.CopyFrom(ctx, use, pgx.Identifier{"n"}, []string{"i"}, two); n != 2 || err != nil {
		t.Errorf("%d rows copied, %v", n, err)
	}
	rows, err := db.Query(ctx, use, "SELECT i FROM n ORDER BY i")
	must(t, err)
	if got, err := pgx.CollectRows(rows, pgx.RowTo[int]); len(got) != 2 || err != nil {
		t.Errorf("got %v, %v", got, err)
	}
	batch := new(pgx.Batch)
	batch.Queue("SELECT 1")
	must(t, db.SendBatch(ctx, use, batch).Close())
	tx, err := db.Begin(ctx, use)
	must(t, err)
	savepoint, err := tx.Begin(ctx)
	must(t, err)
	must(t, savepoint.Rollback(ctx))
	must(t, tx.Commit(ctx))
	std := sql.OpenDB(connector{db, use})
	defer std.Close()
	var count int
	must(t, std.QueryRowContext(ctx, "SELECT count(*) FROM n WHERE i > $1", 1).Scan(&count))
	if last := backend(t, db); last != first || count != 1 {
		t.Errorf("process %d, then %d; %d rows", first, last, count)
	}
	if stats := db.Stats(); stats.Opens != 1 || stats.Idle != 1 || p.Servers()[0].Leased != 0 {
		t.Errorf("%+v", stats)
	}
}

// connector is what a handle for database/sql asks for connections.
type connector struct {
	db  *DB
	use checkout.Use
}

func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	return c.db.CheckOut(ctx, c.use)
}
func (c connector) Driver() driver.Driver { return c.db.Driver() }

func TestDB_nextBorrowerFindsACleanSession(t *testing.T) {
	db, _ := openDB(t, Config{})
	first := backend(t, db)
	for text, kept := range map[string]bool{
		"SET work_mem = '3MB'":        true,
		"SELECT pg_advisory_lock(7)":  true,
		"CREATE TEMP TABLE x (n int)": true,
		"LISTEN ears":                 false,
	} {
		_, err := db.Exec(t.Context(), checkout.ForLeases, text)
		must(t, err)
		next := backend(t, db)
		if (next == first) != kept {
			t.Errorf("after %s: process %d, then %d", text, first, next)
		}
		first = next
		var left bool
		must(t, db.QueryRow(t.Context(), checkout.ForLeases, `SELECT current_setting('work_mem') = '3MB'
			OR EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())
			OR to_regclass('x') IS NOT NULL OR EXISTS (SELECT FROM pg_listening_channels())`).Scan(&left))
		if left {
			t.Errorf("%s is left", text)
		}
	}
}

func TestDB_cancelsAtTheLimitAndKeepsTheConnection(t *testing.T) {
	db, _ := openDB(t, Config{QueryTimeout: 200 * time.Millisecond})
	first := backend(t, db)
	if _, err := db.Exec(t.Context(), checkout.ForLeases, "SELECT pg_sleep(60)"); err == nil {
		t.Error("a statement had no limit")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := db.Exec(ctx, checkout.ForLeases, "SELECT pg_sleep(60)")
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	_, err = db.Exec(t.Context(), checkout.ForSessions, "SELECT pg_sleep(0.4)")
	must(t, err)
	if last := backend(t, db); last != first {
		t.Errorf("process %d, then %d", first, last)
	}
}

func TestDB_reclaimsWhatIsForgotten(t *testing.T) {
	db, _ := openDB(t, Config{})
	phase, _ := db.tenant.Leases.Retain()
	c, err := db.Acquire(t.Context(), checkout.ForLeases)
	must(t, err)
	db.tenant.Release(phase) // the first lease goes on: it began before the checkout
	if c.checkout.Returned() {
		t.Fatal("a lease that began before the checkout goes on")
	}
	db.tenant.Close()
	eventually(t, func() bool { return db.Idle() })
	c.Release()
	if stats := db.Stats(); stats.Leased != 0 {
		t.Errorf("%+v", stats)
	}
}

// TestPool_PasswordRefused_mayRenewTheAddress has a waiter go on with the address that the callback opens.
func TestPool_PasswordRefused_mayRenewTheAddress(t *testing.T) {
	good := pgtest.Shared(t).Database(t)
	bad, err := url.Parse(good)
	must(t, err)
	bad.User = url.UserPassword(bad.User.Username(), "wrong")
	tenant := &checkout.Tenant{ID: "acme", Pool: new(checkout.Pool)}
	tenant.Leases.Retain()
	var p *Pool
	calls := 0
	p, err = New(Config{MaxConns: 1, PasswordRefused: func(_ context.Context, id string) {
		calls++
		db, err := p.Open(tenant, hostdb.Secret(good))
		if err != nil || id != tenant.ID {
			t.Errorf("tenant %q: %v", id, err)
			return
		}
		db.Close()
	}})
	must(t, err)
	db, err := p.Open(tenant, hostdb.Secret(bad.String()))
	must(t, err)
	c, err := db.Acquire(t.Context(), checkout.ForLeases)
	must(t, err)
	c.Release()
	db.Close()
	must(t, p.Close(t.Context()))
	if calls != 1 || db.Target() != hostdb.Secret(good) {
		t.Errorf("the callback was called %d times", calls)
	}
}
