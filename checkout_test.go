package tenantdb_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"modernc.org/sqlite"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
)

// forgotten are ways to begin something and never end it. Each returns what its holder does later.
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

func TestCheckout_forgottenOneIsReclaimedWhenItsScopeEnds(t *testing.T) {
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) {
			w := newWorld(t, engine, tenantdb.PoolConfig{
				MaxConnsPerTenant: 1, AcquireTimeout: 10 * time.Second,
			})
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
					if err := later(); err == nil { // its connection has closed, as there may be only one
						t.Error("a reclaimed checkout still works")
					}
					var names int
					must(t, tenantdb.DB(next).QueryRowContext(next,
						"SELECT count(*) FROM me WHERE name = 'lost'").Scan(&names))
					if names != 0 {
						t.Errorf("%d of its rows are there", names)
					}
				})
			}
		})
	}
}

func TestCheckout_unscopedOneLastsAsLongAsTheLeasesOpenThen(t *testing.T) {
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
			_, leave[2] = scope.Detach() // its holder may use the transaction
			_, leave[3] = enter()        // this lease is newer than the transaction
			for _, i := range order {
				if _, err := tx.Exec("UPDATE me SET name = name"); err != nil {
					t.Fatalf("reclaimed while a lease of its time is held: %v", err)
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

func TestCheckout_isRefusedAfterTheLastLease(t *testing.T) {
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

func TestCheckout_inAScopeWithoutATenantIsReclaimed(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		acme := w.tenant("acme", w.user("ann"))
		lease, err := w.pool.Lease(acme)
		must(t, err)
		defer lease.Release()
		var conn *sql.Conn
		h := w.middleware(w.config()).Authenticated(
			http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				conn, err = lease.DB().Conn(r.Context())
				must(t, err)
			}))
		if rec := do(h, request("ann", "")); rec.Code != 200 {
			t.Fatalf("%d %s", rec.Code, rec.Body)
		}
		eventually(t, func() bool { return conn.PingContext(t.Context()) != nil })
	})
}

// TestCheckout_readerAtTheScopesEndReadsNothingWrong: pgx and the close of its connection read one socket.
func TestCheckout_readerAtTheScopesEndReadsNothingWrong(t *testing.T) {
	w := newWorld(t, "postgres", tenantdb.PoolConfig{})
	acme := w.tenant("acme", w.user("ann"))
	mw := w.middleware(w.config())
	for round := range 40 {
		ctx, leave, err := mw.Enter(context.Background(), acme.ID)
		must(t, err)
		rows, err := tenantdb.PG(ctx).Query(ctx,
			"SELECT repeat(lpad(i::text, 8, '0'), 2500) FROM generate_series(1, 20000) i")
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

func TestCheckout_inADetachedScopeIsReclaimed(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ctx, leave, err := w.middleware(w.config()).Enter(context.Background(),
			w.tenant("acme", w.user("ann")).ID)
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
		if _, err := tenantdb.DB(ctx).ExecContext(inner, "SELECT 1"); !errors.Is(err,
			tenantdb.ErrTenantUnavailable) || !strings.Contains(err.Error(), "Detach") {
			t.Errorf("a query in an ended scope = %v", err)
		}
	})
}

// TestCheckout_runningQueryIsReclaimedSoon ends a scope while its query runs. On PostgreSQL the query is
// cancelled, and the server confirms it. On SQLite the query's own context ends it, and its connection is
// reclaimed as soon as the call returns.
func TestCheckout_runningQueryIsReclaimedSoon(t *testing.T) {
	running := tell()
	for engine, slow := range map[string]string{
		"sqlite": "WITH RECURSIVE n(i) AS (SELECT tell() UNION ALL SELECT i + 1 FROM n WHERE i < 1e9) " +
			"SELECT count(*) FROM n",
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

// tell registers the SQLite function tell, which sends to the channel that is returned.
var tell = sync.OnceValue(func() <-chan struct{} {
	called := make(chan struct{}, 1)
	sqlite.MustRegisterScalarFunction("tell", 0,
		func(*sqlite.FunctionContext, []driver.Value) (driver.Value, error) {
			called <- struct{}{}
			return int64(1), nil
		})
	return called
})

// awaitQuery waits until a tenant's database runs a query that contains a word.
func awaitQuery(t *testing.T, tenant *hostdb.TenantCatalog, word string) {
	conn, err := pgx.Connect(t.Context(), tenant.DBURL.Reveal())
	must(t, err)
	defer conn.Close(context.Background())
	eventually(t, func() bool {
		var n int
		must(t, conn.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity
			WHERE state = 'active' AND pid != pg_backend_pid() AND query LIKE '%' || $1 || '%'`,
			word).Scan(&n))
		return n > 0
	})
}
