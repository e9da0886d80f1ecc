package tenantdb_test

import (
	"context"
	"database/sql"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb"
)

// entering returns a function that enters a new tenant, and the id of that tenant.
func entering(t *testing.T, w *world) (enter func() (context.Context, func()), tenantID string) {
	acme, mw := w.tenant("acme", w.user("ann")), w.middleware(w.config())
	return func() (context.Context, func()) {
		ctx, leave, err := mw.Enter(context.Background(), acme.ID)
		must(t, err)
		return ctx, leave
	}, acme.ID
}

// promptly limits what must not hang to 20 seconds.
func promptly(t *testing.T, ctx context.Context) context.Context {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestDB_closingAHandleAffectsNobodyElse(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		enter, _ := entering(t, w)
		one, leave := enter()
		other, leaveOther := enter()
		defer leaveOther()
		for name, handle := range map[string]func(context.Context) *sql.DB{
			"DB": tenantdb.DB, "ReadDB": tenantdb.ReadDB,
		} {
			mine, theirs := handle(one), handle(other)
			must(t, readAll(mine.QueryContext(one, "SELECT name FROM me")))
			must(t, mine.Close())
			if !isClosed(mine) {
				t.Errorf("%s: Close closes nothing", name)
			}
			must(t, readAll(theirs.QueryContext(other, "SELECT name FROM me")))
			must(t, readAll(handle(one).QueryContext(one, "SELECT name FROM me")))
		}
		must(t, tenantdb.DB(one).Close())
		leave()
		for range 3 {
			next, leave := enter()
			must(t, readAll(tenantdb.DB(next).QueryContext(next, "SELECT name FROM me")))
			leave()
		}
	})
}

// TestDB_limitOfConnectionsIsTheScopesOwn sets a limit on one scope's handle. With database/sql, callers wait
// for a connection of a limited handle as long as their contexts live.
func TestDB_limitOfConnectionsIsTheScopesOwn(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		enter, _ := entering(t, w)
		one, leave := enter()
		other, leaveOther := enter()
		defer leaveOther()
		mine := tenantdb.ReadDB(one)
		mine.SetMaxOpenConns(1)
		_, err := mine.Conn(one) // never closed
		must(t, err)
		waited := make(chan error, 1)
		go func() { waited <- mine.Ping() }()
		eventually(t, func() bool { return mine.Stats().WaitCount == 1 })
		must(t, readAll(tenantdb.ReadDB(other).QueryContext(promptly(t, other), "SELECT name FROM me")))
		leave()
		if err := <-waited; err == nil {
			t.Error("a query of an ended scope got a connection")
		}
		next, leave := enter()
		defer leave()
		if s := tenantdb.ReadDB(next).Stats(); s.MaxOpenConnections != 0 || s.OpenConnections != 0 {
			t.Errorf("the next scope's handle: %+v", s)
		}
		must(t, readAll(tenantdb.ReadDB(next).QueryContext(promptly(t, next), "SELECT name FROM me")))
	})
}

// TestDB_handleKeepsNoConnection sets every limit for idle connections on a handle. Idle connections still
// belong to the pool, which gives them to any caller.
func TestDB_handleKeepsNoConnection(t *testing.T) {
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) {
			w := newWorld(t, engine, tenantdb.PoolConfig{MaxConnsPerTenant: 1})
			enter, id := entering(t, w)
			one, leave := enter()
			defer leave()
			other, leaveOther := enter()
			defer leaveOther()
			db := tenantdb.DB(one)
			db.SetMaxIdleConns(10)
			db.SetConnMaxLifetime(time.Hour)
			db.SetConnMaxIdleTime(time.Hour)
			must(t, execOf(db)(one))
			opens := w.pool.TenantStats(id)[0].Opens
			for range 5 {
				must(t, execOf(db)(one))
				if s := w.pool.TenantStats(id)[0]; s.Leased != 0 || db.Stats().OpenConnections != 0 {
					t.Fatalf("it kept a connection: %+v, %+v", s, db.Stats())
				}
				tx, err := tenantdb.DB(other).BeginTx(promptly(t, other), nil)
				must(t, err)
				must(t, execOf(tx)(other))
				must(t, tx.Commit())
			}
			if again := w.pool.TenantStats(id)[0].Opens; again != opens {
				t.Errorf("%d connections were opened for queries that follow each other", again-opens)
			}
		})
	}
}

func TestDB_unchangedHandlesAreReused(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		enter, id := entering(t, w)
		ctx, leave := enter()
		db := tenantdb.DB(ctx)
		if tenantdb.DB(ctx) != db {
			t.Error("a scope has two handles for writing")
		}
		must(t, execOf(db)(ctx))
		leave()
		before := runtime.NumGoroutine()
		for range 50 {
			ctx, leave := enter()
			if tenantdb.DB(ctx) != db {
				t.Error("a handle that nobody touched isn't used again")
			}
			must(t, execOf(tenantdb.DB(ctx))(ctx))
			leave()
		}
		for i := range 50 { // changed handles are closed
			ctx, leave := enter()
			switch db := tenantdb.DB(ctx); i % 3 {
			case 0:
				db.SetMaxOpenConns(1)
			case 1:
				must(t, db.Close())
			case 2:
				_, err := db.Conn(ctx)
				must(t, err)
			}
			leave()
		}
		var leaves []func()
		for range 100 { // more at once than are kept idle
			ctx, leave := enter()
			tenantdb.DB(ctx)
			leaves = append(leaves, leave)
		}
		for _, leave := range leaves {
			leave()
		}
		eventually(t, func() bool { return runtime.NumGoroutine() < before+30 }) // 16 are kept idle
		w.pool.Retire(id)
		eventually(t, func() bool { return isClosed(db) && runtime.NumGoroutine() < before+10 })
	})
}

// TestDB_handlesMayBeTunedConcurrently changes the handles of concurrent requests of a tenant as libraries
// do. No query may fail or hang.
func TestDB_handlesMayBeTunedConcurrently(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		enter, _ := entering(t, w)
		tuning := []func(*sql.DB){
			func(db *sql.DB) { db.SetMaxOpenConns(1) },
			func(db *sql.DB) { db.SetMaxIdleConns(10); db.SetConnMaxLifetime(time.Hour) },
			func(db *sql.DB) { _ = db.Close() },
			func(*sql.DB) {},
		}
		together(8, func(i int) {
			for n := range 40 {
				ctx, leave := enter()
				inTime := promptly(t, ctx)
				for _, handle := range []func(context.Context) *sql.DB{tenantdb.ReadDB, tenantdb.DB} {
					tuning[(i+n)%len(tuning)](handle(ctx))
					if err := readAll(handle(ctx).QueryContext(inTime, "SELECT name FROM me")); err != nil {
						t.Errorf("a query: %v", err)
					}
					tx, err := handle(ctx).BeginTx(inTime, nil)
					if err != nil {
						t.Errorf("a transaction: %v", err)
						continue
					}
					tuning[n%len(tuning)](handle(ctx)) // while the transaction runs
					if err := errors.Join(readAll(tx.QueryContext(inTime, "SELECT name FROM me")),
						tx.Commit()); err != nil {
						t.Errorf("in a transaction: %v", err)
					}
				}
				leave()
			}
		})
	})
}

func TestDB_handleAfterTheScopesEndSaysSo(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		enter, id := entering(t, w)
		_, keep := enter()
		ctx, leave := enter()
		leave()
		for range 2 {
			for _, db := range []*sql.DB{tenantdb.DB(ctx), tenantdb.ReadDB(ctx)} {
				err := db.PingContext(ctx)
				if !errors.Is(err, tenantdb.ErrTenantUnavailable) ||
					!strings.Contains(err.Error(), "Detach") {
					t.Errorf("a query after the scope's end = %v", err)
				}
			}
		}
		before := runtime.NumGoroutine()
		keep()
		w.pool.Retire(id)
		for range 10 {
			if db := tenantdb.DB(ctx); !isClosed(db) || !isClosed(tenantdb.ReadDB(ctx)) {
				t.Error("a handle is open after the database's end")
			}
		}
		eventually(t, func() bool { return runtime.NumGoroutine() <= before })
	})
}

// TestDB_rawConnectionIsPgxs uses pgx's connection inside Raw. If the scope ends meanwhile, the socket
// closes.
func TestDB_rawConnectionIsPgxs(t *testing.T) {
	w := newWorld(t, "postgres", tenantdb.PoolConfig{MaxConnsPerTenant: 1})
	enter, _ := entering(t, w)
	ctx, leave := enter()
	conn, err := tenantdb.DB(ctx).Conn(ctx)
	must(t, err)
	raw := func(use func(*pgx.Conn) error) error {
		return conn.Raw(func(driverConn any) error {
			return use(driverConn.(interface{ Conn() *pgx.Conn }).Conn())
		})
	}
	must(t, raw(func(c *pgx.Conn) error {
		_, err := c.CopyFrom(ctx, pgx.Identifier{"me"}, []string{"name"},
			pgx.CopyFromRows([][]any{{"copied"}}))
		return err
	}))
	must(t, raw(func(c *pgx.Conn) error {
		_, err := c.Exec(ctx, "SET search_path = elsewhere; LISTEN ears")
		return err
	}))
	must(t, conn.Close())
	if path := ask[string](t, ctx, "SHOW search_path"); strings.Contains(path, "elsewhere") {
		t.Errorf("the next borrower has the search_path %s", path)
	}
	if n := ask[int](t, ctx, "SELECT count(*) FROM pg_listening_channels()"); n != 0 {
		t.Errorf("the next borrower listens to %d channels", n)
	}
	conn, err = tenantdb.DB(ctx).Conn(ctx)
	must(t, err)
	err = raw(func(c *pgx.Conn) error {
		tx, err := c.Begin(context.Background())
		must(t, err)
		leave()
		for range 1000 {
			if _, err = tx.Exec(context.Background(), "INSERT INTO me VALUES ('late')"); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		t.Error("the connection of an ended scope goes on")
	}
	_ = conn.Close()
	ctx, leave = enter()
	defer leave()
	if ask[int](t, ctx, "SELECT count(*) FROM me WHERE name = 'late'") != 0 {
		t.Error("what began in Raw was committed")
	}
}

func TestDB_openTransactionDoesNotReachTheNextBorrower(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		lease, err := w.pool.Lease(w.tenant("acme", w.user("ann")))
		must(t, err)
		defer lease.Release()
		conn, err := lease.DB().Conn(t.Context())
		must(t, err)
		for _, statement := range []string{"BEGIN", "UPDATE me SET name = 'half'"} {
			_, err = conn.ExecContext(t.Context(), statement)
			must(t, err)
		}
		must(t, conn.Close())
		var name string
		must(t, lease.DB().QueryRowContext(t.Context(), "SELECT name FROM me").Scan(&name))
		if name != "acme" {
			t.Errorf("read %q out of a transaction that nobody committed", name)
		}
	})
}

func TestDB_withoutAMiddlewareNamesTheFix(t *testing.T) {
	ctx := t.Context()
	mustPanic(t, "Middleware.Handler", func() { tenantdb.DB(ctx) })
	mustPanic(t, "Middleware.Handler", func() { tenantdb.ReadDB(ctx) })
	mustPanic(t, "in gin, pass c.Request.Context()", func() { tenantdb.PG(ctx) })
	mustPanic(t, "Middleware.Handler", func() {
		_, _ = tenantdb.Cached(ctx, "x", func(*tenantdb.Scope) (int, func(), error) { return 0, nil, nil })
	})
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	acme := w.tenant("acme", w.user("ann"))
	entered, leave, err := w.middleware(w.config()).Enter(ctx, acme.ID)
	must(t, err)
	defer leave()
	mustPanic(t, "use DB(ctx)", func() { tenantdb.PG(entered) })
}
