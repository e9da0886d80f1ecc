package tenantdb_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"modernc.org/sqlite"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
)

// A function is registered for the process, before the first connection.
var _ = func() (none struct{}) {
	sqlite.MustRegisterDeterministicScalarFunction("twice", 1,
		func(_ *sqlite.FunctionContext, args []driver.Value) (driver.Value, error) {
			return args[0].(int64) * 2, nil
		})
	return
}()

// pragmas returns the hook's pragmas of a connection, and what may be left beside them.
func pragmas(t *testing.T, db *sql.DB) string {
	t.Helper()
	conn, err := db.Conn(t.Context())
	must(t, err)
	defer conn.Close()
	var cache, triggers, keys, left int
	for query, to := range map[string]*int{
		"PRAGMA cache_size": &cache, "PRAGMA recursive_triggers": &triggers, "PRAGMA foreign_keys": &keys,
		"SELECT count(*) FROM sqlite_temp_schema": &left,
	} {
		must(t, conn.QueryRowContext(t.Context(), query).Scan(to))
	}
	return fmt.Sprint(cache, triggers, keys, left)
}

// TestAfterConnectSQLite_pragmasHoldForEachBorrower, for those of DB, of ReadDB, and of sessions.
func TestAfterConnectSQLite_pragmasHoldForEachBorrower(t *testing.T) {
	var calls atomic.Int32
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{
		AfterConnectSQLite: func(ctx context.Context, _ string, conn driver.ExecerContext) error {
			calls.Add(1)
			_, err := conn.ExecContext(ctx, "PRAGMA cache_size = -7000; PRAGMA recursive_triggers = 1", nil)
			return err
		},
	})
	lease := sqliteLease(t, w, "acme")
	const want = "-7000 1 1 0"
	must(t, lease.DB().PingContext(t.Context()))
	called := calls.Load()
	for range 3 { // what the hook itself sets doesn't cost the connection
		must(t, lease.DB().PingContext(t.Context()))
	}
	if n := calls.Load(); n != called {
		t.Errorf("%d calls for one connection", n-called+1)
	}
	for _, text := range []string{
		"SELECT 1", "PRAGMA cache_size = 10", "PRAGMA recursive_triggers = 0; PRAGMA foreign_keys = 0",
		"PRAGMA cache_size = -7000; PRAGMA cache_size = 20", "BEGIN", "CREATE TEMP TABLE left_behind (n)",
		"SELECT 1/0", "PRAGMA cache_size(30)",
	} {
		for name, db := range map[string]*sql.DB{"DB": lease.DB(), "ReadDB": lease.ReadDB()} {
			_, _ = db.ExecContext(t.Context(), text)
			if got := pragmas(t, db); got != want {
				t.Errorf("%s after %s: %s, want %s", name, text, got, want)
			}
		}
	}
	session := lease.Session()
	defer session.Close()
	if got := pragmas(t, session); got != want {
		t.Errorf("a session: %s", got)
	}
	must(t, session.Close())
	var four int
	must(t, lease.DB().QueryRowContext(t.Context(), "SELECT twice(2)").Scan(&four))
	if four != 4 {
		t.Error("the function isn't there")
	}
}

// TestAfterConnectSQLite_staysConfined: a hook can't do what a borrower can't, and not give readers the right
// to write.
func TestAfterConnectSQLite_staysConfined(t *testing.T) {
	var text atomic.Value
	text.Store("SELECT 1")
	var kept atomic.Value
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{
		AfterConnectSQLite: func(ctx context.Context, _ string, conn driver.ExecerContext) error {
			kept.Store(conn)
			_, err := conn.ExecContext(ctx, text.Load().(string), nil)
			return err
		},
	})
	lease := sqliteLease(t, w, "acme")
	renew := func() { // a connection that is in a transaction is closed
		_, _ = lease.DB().ExecContext(t.Context(), "BEGIN")
	}
	for statement, why := range map[string]string{
		"ATTACH ':memory:' AS other":             "ATTACH is refused",
		"VACUUM":                                 "VACUUM is refused",
		"PRAGMA journal_mode = DELETE":           "PRAGMA is refused",
		"PRAGMA temp_store_directory = '/'":      "PRAGMA is refused",
		"PRAGMA locking_mode = EXCLUSIVE":        "PRAGMA is refused",
		"BEGIN":                                  "left a transaction open",
		"SELECT * FROM a_table_that_nobody_made": "no such table",
	} {
		renew()
		text.Store(statement)
		_, err := lease.DB().ExecContext(t.Context(), "SELECT 1")
		refusedBy(t, err, "AfterConnectSQLite", why)
		text.Store("SELECT 1")
	}
	must(t, lease.DB().PingContext(t.Context()))
	conn := kept.Load().(driver.ExecerContext)
	if _, err := conn.ExecContext(t.Context(), "SELECT 1", nil); !errors.Is(err, driver.ErrBadConn) {
		t.Errorf("after its return a hook's connection answers %v", err)
	}
	text.Store("PRAGMA query_only = 0")
	reader := sqliteLease(t, w, "other").ReadDB()
	var only int
	must(t, reader.QueryRowContext(t.Context(), "PRAGMA query_only").Scan(&only))
	if _, err := reader.ExecContext(t.Context(), "DELETE FROM me"); err == nil || only != 1 {
		t.Errorf("query_only is %d, and a reader's write returns %v", only, err)
	}
}

// TestAfterConnectSQLite_failureIsItsTenants: the tenant is refused in time, others are served, and the
// tenant too once its hook works.
func TestAfterConnectSQLite_failureIsItsTenants(t *testing.T) {
	for fault, c := range map[string]struct {
		why string
		do  func(ctx context.Context, repaired <-chan struct{}) error
	}{
		"error": {"sealed", func(context.Context, <-chan struct{}) error { return errors.New("sealed") }},
		"panic": {"panicked", func(context.Context, <-chan struct{}) error { panic("no vault") }},
		"hang": {"in time", func(_ context.Context, repaired <-chan struct{}) error {
			<-repaired
			return nil
		}},
	} {
		t.Run(fault, func(t *testing.T) {
			var bad atomic.Value
			bad.Store("")
			repaired := make(chan struct{})
			w := newWorld(t, "sqlite", tenantdb.PoolConfig{
				ConnectTimeout: 500 * time.Millisecond, AcquireTimeout: time.Second,
				AfterConnectSQLite: func(ctx context.Context, tenantID string, _ driver.ExecerContext) error {
					if tenantID != bad.Load() {
						return nil
					}
					return c.do(ctx, repaired)
				},
			})
			acme, other := w.tenant("acme", w.user("ann")), w.tenant("other", w.user("bob"))
			must(t, w.pool.Drain(t.Context(), acme.ID))
			use := func(tenant *hostdb.TenantCatalog) error { return readName(t.Context(), w.pool, tenant) }
			must(t, use(other))
			before := runtime.NumGoroutine()
			bad.Store(acme.ID)
			refused := make(chan error)
			go func() { refused <- use(acme) }()
			var err error
			for waiting := true; waiting; {
				must(t, use(other))
				select {
				case err = <-refused:
					waiting = false
				default:
				}
			}
			refusedBy(t, err, "AfterConnectSQLite", c.why)
			if fault == "hang" { // the hook has the tenant's one connection
				if err := use(acme); !errors.Is(err, tenantdb.ErrBusy) {
					t.Errorf("while the hook hangs: %v", err)
				}
			}
			bad.Store("")
			close(repaired)
			eventually(t, func() bool { return use(acme) == nil })
			eventually(t, func() bool { return runtime.NumGoroutine() <= before+10 })
			if strings.Contains(fmt.Sprint(w.pool.Stats().SQLite), "-") {
				t.Errorf("%+v", w.pool.Stats().SQLite)
			}
		})
	}
}
