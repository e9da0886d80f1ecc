package tenantdb_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"modernc.org/sqlite"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
)

// forgotten are ways to begin something and never end it, each with what its forgetful holder does next.
var forgotten = map[string]func(ctx context.Context, db *sql.DB) (later func() error, err error){
	"Begin": func(ctx context.Context, db *sql.DB) (func() error, error) {
		tx, err := db.Begin()
		if err != nil {
			return nil, err
		}
		_, err = tx.Exec("INSERT INTO me (name) VALUES ('lost')")
		return tx.Commit, err
	},
	"BeginTx": func(ctx context.Context, db *sql.DB) (func() error, error) {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return nil, err
		}
		_, err = tx.ExecContext(ctx, "INSERT INTO me (name) VALUES ('lost')")
		return tx.Commit, err
	},
	"a BEGIN of its own": func(ctx context.Context, db *sql.DB) (func() error, error) {
		conn, err := db.Conn(context.WithoutCancel(ctx))
		if err != nil {
			return nil, err
		}
		_, err = conn.ExecContext(ctx, "BEGIN; INSERT INTO me (name) VALUES ('lost')")
		return func() error {
			_, err := conn.ExecContext(context.Background(), "COMMIT")
			return err
		}, err
	},
	"Query": func(ctx context.Context, db *sql.DB) (func() error, error) {
		rows, err := db.Query("SELECT name FROM me UNION ALL SELECT name FROM me")
		if err != nil || !rows.Next() {
			return nil, errors.Join(err, errors.New("no rows"))
		}
		return func() error {
			if types, err := rows.ColumnTypes(); err == nil {
				types[0].ScanType()
			}
			for rows.Next() {
				return errors.New("read on")
			}
			return rows.Err()
		}, nil
	},
	"rows of a closed statement": func(ctx context.Context, db *sql.DB) (func() error, error) {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return nil, err
		}
		stmt, err := tx.PrepareContext(ctx, "INSERT INTO me (name) VALUES ($1), ($1) RETURNING name")
		if err != nil {
			return nil, err
		}
		rows, err := stmt.QueryContext(ctx, "lost")
		if err != nil || !rows.Next() {
			return nil, errors.Join(err, errors.New("no rows"))
		}
		_ = stmt.Close() // refused by pgx
		return tx.Commit, nil
	},
	"a statement in a transaction": func(ctx context.Context, db *sql.DB) (func() error, error) {
		tx, err := db.Begin()
		if err != nil {
			return nil, err
		}
		stmt, err := tx.Prepare("INSERT INTO me (name) VALUES ('lost') RETURNING name")
		if err != nil {
			return nil, err
		}
		rows, err := stmt.Query()
		if err != nil || !rows.Next() {
			return nil, errors.Join(err, errors.New("no rows"))
		}
		return func() error {
			_, err := stmt.Exec()
			return err
		}, nil
	},
}

func TestWhatAHandlerForgetsIsTakenBackAtItsEnd(t *testing.T) {
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) {
			w := newWorld(t, engine, tenantdb.PoolConfig{MaxConnsPerTenant: 1, AcquireTimeout: 10 * time.Second})
			acme := w.tenant("acme", w.user("ann"))
			mw := w.middleware(w.config())
			for name, begin := range forgotten {
				t.Run(name, func(t *testing.T) {
					ctx, leave, err := mw.Enter(context.Background(), acme.ID)
					must(t, err)
					later, err := begin(ctx, tenantdb.DB(ctx))
					must(t, err)
					leave()
					next, leave, err := mw.Enter(t.Context(), acme.ID)
					must(t, err)
					defer leave()
					_, err = tenantdb.DB(next).ExecContext(next, "UPDATE me SET name = name")
					must(t, err)
					if err := later(); err == nil { // its connection has closed: there may be one only
						t.Error("what was taken back goes on")
					}
					var names int
					must(t, tenantdb.DB(next).QueryRowContext(next, "SELECT count(*) FROM me WHERE name = 'lost'").Scan(&names))
					if names != 0 {
						t.Errorf("%d of its rows are there", names)
					}
				})
			}
		})
	}
}

func TestWhatIsTakenOutsideAScopeLastsAsLongAsTheLeasesThatThereWere(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		acme := w.tenant("acme", w.user("ann"))
		mw := w.middleware(w.config())
		enter := func() (context.Context, func()) {
			ctx, leave, err := mw.Enter(context.Background(), acme.ID)
			must(t, err)
			return ctx, leave
		}
		for _, order := range [][]int{{0, 1, 2}, {2, 1, 0}, {1, 2, 0}} {
			var leave [4]func()
			var first context.Context
			first, leave[0] = enter()
			_, leave[1] = enter()
			tx, err := tenantdb.DB(first).Begin()
			must(t, err)
			scope, _ := tenantdb.FromContext(first)
			_, leave[2] = scope.Detach() // its holder may go on with the transaction
			_, leave[3] = enter()        // never had it
			for _, i := range order {
				if _, err := tx.Exec("UPDATE me SET name = name"); err != nil {
					t.Fatalf("taken back while a lease that there was is held: %v", err)
				}
				leave[i]()
			}
			eventually(t, func() bool { // PostgreSQL's connections close in the background
				_, err := tx.Exec("UPDATE me SET name = name")
				return err != nil
			})
			leave[3]()
		}
	})
}

func TestWhatComesAfterTheLastLeaseIsRefused(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		acme := w.tenant("acme", w.user("ann"))
		mw := w.middleware(w.config())
		ctx, leave, err := mw.Enter(context.Background(), acme.ID)
		must(t, err)
		db := tenantdb.DB(ctx)
		_, err = tenantdb.Cached(ctx, "flushes", func(*tenantdb.Scope) (int, func(), error) {
			return 0, func() {
				if _, err := db.Exec("UPDATE me SET name = 'flushed'"); err != nil {
					t.Errorf("what Cached kept can't be flushed when it is dropped: %v", err)
				}
			}, nil
		})
		must(t, err)
		leave()
		if tx, err := db.Begin(); !errors.Is(err, tenantdb.ErrTenantUnavailable) {
			t.Errorf("Begin without any lease = %v, %v", tx, err)
		}
		w.pool.Retire(acme.ID)
		ctx, leave, err = mw.Enter(context.Background(), acme.ID)
		must(t, err)
		defer leave()
		var name string
		must(t, tenantdb.DB(ctx).QueryRowContext(ctx, "SELECT name FROM me").Scan(&name))
		if name != "flushed" {
			t.Errorf("it was not flushed: %q", name)
		}
	})
}

func TestAScopeWithoutATenantEndsWhatItBegan(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		acme := w.tenant("acme", w.user("ann"))
		lease, err := w.pool.Lease(acme)
		must(t, err)
		defer lease.Release()
		var conn *sql.Conn
		h := w.middleware(w.config()).Authenticated(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			conn, err = lease.DB().Conn(r.Context())
			must(t, err)
		}))
		if rec := do(h, request("ann", "")); rec.Code != 200 {
			t.Fatalf("%d %s", rec.Code, rec.Body)
		}
		eventually(t, func() bool { return conn.PingContext(t.Context()) != nil })
	})
}

// TestRowsEndWithTheirStatement whose memory the driver's rows read.
func TestRowsEndWithTheirStatement(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	ctx, leave, err := w.middleware(w.config()).Enter(t.Context(), w.tenant("acme", w.user("ann")).ID)
	must(t, err)
	defer leave()
	tx, err := tenantdb.DB(ctx).BeginTx(ctx, nil)
	must(t, err)
	stmt, err := tx.PrepareContext(ctx, "SELECT name FROM me UNION ALL SELECT $1")
	must(t, err)
	closed, err := stmt.QueryContext(ctx, "closed before it")
	must(t, err)
	must(t, closed.Close())
	open, err := stmt.QueryContext(ctx, "open")
	must(t, err)
	other, err := tx.QueryContext(ctx, "SELECT 'another' UNION ALL SELECT 'one'")
	must(t, err)
	if !open.Next() || !other.Next() {
		t.Fatal("no rows")
	}
	must(t, stmt.Close())
	if open.Next() || open.Err() == nil {
		t.Errorf("the rows go on: %v", open.Err())
	}
	must(t, open.Close())
	if !other.Next() {
		t.Errorf("the rows of another query ended too: %v", other.Err())
	}
	must(t, other.Close())
	must(t, tx.Commit())
}

// TestWhoReadsOnWhenTheScopeEndsReadsNothingWrong: pgx and the close of its connection read one socket.
func TestWhoReadsOnWhenTheScopeEndsReadsNothingWrong(t *testing.T) {
	w := newWorld(t, "postgres", tenantdb.PoolConfig{})
	acme := w.tenant("acme", w.user("ann"))
	mw := w.middleware(w.config())
	for round := range 40 {
		ctx, leave, err := mw.Enter(context.Background(), acme.ID)
		must(t, err)
		rows, err := tenantdb.PG(ctx).Query(ctx, "SELECT repeat(lpad(i::text, 8, '0'), 2500) FROM generate_series(1, 20000) i")
		must(t, err)
		read, ended := make(chan struct{}, 20_000), make(chan error, 1)
		go func() {
			for n := 1; rows.Next(); n++ {
				var text string
				if err := rows.Scan(&text); err != nil {
					ended <- err
					return
				}
				if text != strings.Repeat(fmt.Sprintf("%08d", n), 2500) {
					t.Errorf("round %d: row %d is wrong", round, n)
				}
				read <- struct{}{}
			}
			ended <- rows.Err()
		}()
		for range 50 + round*7 {
			<-read
		}
		leave()
		if err := <-ended; err == nil {
			t.Errorf("round %d: it read to the end", round)
		}
	}
}

// TestADeadConnectionAddsNothingToTheWait: who waits in line for a connection on a network that hangs, and
// then for another.
func TestADeadConnectionAddsNothingToTheWait(t *testing.T) {
	w := newWorld(t, "postgres", tenantdb.PoolConfig{MaxConns: 1, AcquireTimeout: 3 * time.Second})
	acme := w.tenant("acme", w.user("ann"))
	base, err := url.Parse(pgtest.Shared(t).URL("postgres"))
	must(t, err)
	p := newProxy(t, base.Host)
	w.moveTo(acme, pgtest.Shared(t), p.listener.Addr().String())
	ctx, leave, err := w.middleware(w.config()).Enter(t.Context(), acme.ID)
	must(t, err)
	defer leave()
	conn, err := tenantdb.PG(ctx).Acquire(ctx)
	must(t, err)
	p.hang()
	began := time.Now()
	time.AfterFunc(2*time.Second, conn.Release)
	_, err = tenantdb.PG(ctx).Exec(t.Context(), "SELECT 1")
	if waited := time.Since(began); !errors.Is(err, tenantdb.ErrTenantUnavailable) || waited > 4*time.Second {
		t.Errorf("AcquireTimeout is 3 s; after %v: %v", waited, err)
	}
	p.mend()
}

func TestADetachedScopeEndsWhatItBegan(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ctx, leave, err := w.middleware(w.config()).Enter(context.Background(), w.tenant("acme", w.user("ann")).ID)
		must(t, err)
		defer leave()
		scope, _ := tenantdb.FromContext(ctx)
		inner, done := scope.Detach()
		tx, err := tenantdb.DB(inner).BeginTx(inner, nil)
		must(t, err)
		done()
		eventually(t, func() bool {
			_, err := tx.ExecContext(ctx, "UPDATE me SET name = name")
			return err != nil
		})
		if _, err := tenantdb.DB(ctx).ExecContext(inner, "SELECT 1"); !errors.Is(err, tenantdb.ErrTenantUnavailable) || !strings.Contains(err.Error(), "Detach") {
			t.Errorf("a query in an ended scope = %v", err)
		}
	})
}

// TestAQueryThatRunsWhenItsScopeEndsKeepsNobodyLong: on PostgreSQL it is cancelled, and the server says that
// it is over; on SQLite, where its own context ends it, the connection is taken as soon as it returns.
func TestAQueryThatRunsWhenItsScopeEndsKeepsNobodyLong(t *testing.T) {
	running := tell()
	for engine, slow := range map[string]string{
		"sqlite":   "WITH RECURSIVE n(i) AS (SELECT tell() UNION ALL SELECT i + 1 FROM n WHERE i < 1000000000) SELECT count(*) FROM n",
		"postgres": "SELECT length(pg_sleep(60)::text)",
	} {
		t.Run(engine, func(t *testing.T) {
			w := newWorld(t, engine, tenantdb.PoolConfig{MaxConns: 1, AcquireTimeout: time.Minute})
			acme := w.tenant("acme", w.user("ann"))
			mw := w.middleware(w.config())
			ctx, leave, err := mw.Enter(context.Background(), acme.ID)
			must(t, err)
			conn, err := tenantdb.DB(ctx).Conn(ctx)
			must(t, err)
			own, end := context.WithCancel(context.Background())
			defer end()
			ended := make(chan error, 1)
			go func() {
				var n int
				ended <- conn.QueryRowContext(own, slow).Scan(&n)
			}()
			if engine == "postgres" {
				awaitQuery(t, acme, "pg_sleep")
			} else {
				<-running
			}
			leave()
			if engine == "sqlite" {
				end()
			}
			began := time.Now()
			next, leave, err := mw.Enter(t.Context(), acme.ID)
			must(t, err)
			defer leave()
			_, err = tenantdb.DB(next).ExecContext(next, "UPDATE me SET name = name")
			must(t, err)
			t.Logf("the next writer waited %v", time.Since(began))
			if err := <-ended; err == nil {
				t.Error("the query went on")
			}
			for _, s := range w.pool.Stats().Servers {
				if s.Unconfirmed != 0 {
					t.Errorf("%d connections whose end the server didn't confirm", s.Unconfirmed)
				}
			}
		})
	}
}

// tell has SQLite's function tell send to the channel that it returns.
var tell = sync.OnceValue(func() <-chan struct{} {
	called := make(chan struct{}, 1)
	sqlite.MustRegisterScalarFunction("tell", 0, func(*sqlite.FunctionContext, []driver.Value) (driver.Value, error) {
		called <- struct{}{}
		return int64(1), nil
	})
	return called
})

// awaitQuery waits until a query with a word in it runs in a tenant's database.
func awaitQuery(t *testing.T, tenant *hostdb.TenantCatalog, word string) {
	conn, err := pgx.Connect(t.Context(), tenant.DBURL.Reveal())
	must(t, err)
	defer conn.Close(context.Background())
	eventually(t, func() bool {
		var n int
		must(t, conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND pid != pg_backend_pid() AND query LIKE '%' || $1 || '%'", word).Scan(&n))
		return n > 0
	})
}

func TestAWriteBesideItsOwnTransactionOnSQLiteIsNamed(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{AcquireTimeout: time.Minute})
	ctx, leave, err := w.middleware(w.config()).Enter(t.Context(), w.tenant("acme", w.user("ann")).ID)
	must(t, err)
	defer leave()
	tx, err := tenantdb.DB(ctx).BeginTx(ctx, nil)
	must(t, err)
	began := time.Now()
	_, err = tenantdb.DB(ctx).ExecContext(ctx, "UPDATE me SET name = name")
	if !errors.Is(err, tenantdb.ErrBusy) || !strings.Contains(err.Error(), "one connection that writes") || time.Since(began) > 30*time.Second {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
	must(t, tx.Rollback())
	rows, err := tenantdb.DB(ctx).QueryContext(ctx, "SELECT name FROM me")
	must(t, err)
	for rows.Next() {
		_, err := tenantdb.DB(ctx).ExecContext(ctx, "UPDATE me SET name = name")
		if !errors.Is(err, tenantdb.ErrBusy) || !strings.Contains(err.Error(), "close the rows") || !strings.Contains(err.Error(), "ReadDB") {
			t.Errorf("inside rows: %v", err)
		}
	}
	must(t, rows.Close())
	_, err = tenantdb.DB(ctx).ExecContext(ctx, "UPDATE me SET name = name")
	must(t, err)
}

// TestAQueryWaitsForAConnectionAndItsFileAsLongAsForOne: two callers of a tenant whose file can't be opened,
// since another's is in use.
func TestAQueryWaitsForAConnectionAndItsFileAsLongAsForOne(t *testing.T) {
	dir := t.TempDir()
	var tenants []*hostdb.TenantCatalog
	for range 2 {
		id := hostdb.NewID()
		must(t, os.WriteFile(filepath.Join(dir, id+".db"), nil, 0o600))
		tenants = append(tenants, &hostdb.TenantCatalog{ID: id, DBURL: hostdb.Secret("sqlite:" + id + ".db")})
	}
	synctest.Test(t, func(t *testing.T) {
		pool, err := tenantdb.NewPool(tenantdb.PoolConfig{SQLiteDir: dir, MaxOpenSQLite: 1, AcquireTimeout: 10 * time.Second})
		must(t, err)
		holder, err := pool.Lease(tenants[0])
		must(t, err)
		tx, err := holder.DB().BeginTx(t.Context(), nil)
		must(t, err)
		waiter, err := pool.Lease(tenants[1])
		must(t, err)
		together(2, func(i int) {
			time.Sleep(time.Duration(i) * time.Second) // the second gets the connection when the first gives up
			began := time.Now()
			if err := waiter.DB().PingContext(t.Context()); !errors.Is(err, tenantdb.ErrBusy) || time.Since(began) != 10*time.Second {
				t.Errorf("after %v: %v", time.Since(began), err)
			}
		})
		must(t, tx.Rollback())
		holder.Release()
		waiter.Release()
		must(t, pool.Close(t.Context()))
	})
}
