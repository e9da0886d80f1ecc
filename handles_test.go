package tenantdb_test

import (
	"context"
	"database/sql"
	"errors"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb"
)

// entering returns a function that begins scopes of a new tenant, and the tenant's id.
func entering(t *testing.T, w *world) (enter func() (context.Context, func()), tenantID string) {
	acme, mw := w.tenant("acme", w.user("ann")), w.middleware(w.config())
	return func() (context.Context, func()) {
		ctx, leave, err := mw.Enter(context.Background(), acme.ID)
		must(t, err)
		return ctx, leave
	}, acme.ID
}

// promptly bounds what must not hang.
func promptly(t *testing.T, ctx context.Context) context.Context {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestClosingAHandleHarmsNobodyElse(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		enter, _ := entering(t, w)
		one, leave := enter()
		other, leaveOther := enter()
		defer leaveOther()
		for name, handle := range map[string]func(context.Context) *sql.DB{"DB": tenantdb.DB, "ReadDB": tenantdb.ReadDB} {
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

// TestALimitOfConnectionsIsTheScopesOwn: database/sql lets callers wait for a handle's connections as long as
// their contexts live.
func TestALimitOfConnectionsIsTheScopesOwn(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		enter, _ := entering(t, w)
		one, leave := enter()
		other, leaveOther := enter()
		defer leaveOther()
		mine := tenantdb.ReadDB(one)
		mine.SetMaxOpenConns(1)
		_, err := mine.Conn(one) // and never closes it
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

// TestNoHandleKeepsAConnection whatever is set on it: idle ones belong to the pool, which gives them to
// whoever comes.
func TestNoHandleKeepsAConnection(t *testing.T) {
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

func TestHandlesGoFromRequestToRequest(t *testing.T) {
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
		for i := range 50 { // what was touched is closed
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
		for range 100 { // more at once than are kept
			ctx, leave := enter()
			tenantdb.DB(ctx)
			leaves = append(leaves, leave)
		}
		for _, leave := range leaves {
			leave()
		}
		eventually(t, func() bool { return runtime.NumGoroutine() < before+30 }) // 16 are kept
		w.pool.Retire(id)
		eventually(t, func() bool { return isClosed(db) && runtime.NumGoroutine() < before+10 })
	})
}

// TestHandlesAreTunedTogether has requests of a tenant do to their handles, at once, what libraries do.
// Nobody's query may fail or hang.
func TestHandlesAreTunedTogether(t *testing.T) {
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
					tuning[n%len(tuning)](handle(ctx)) // while it runs
					if err := errors.Join(readAll(tx.QueryContext(inTime, "SELECT name FROM me")), tx.Commit()); err != nil {
						t.Errorf("in a transaction: %v", err)
					}
				}
				leave()
			}
		})
	})
}

func TestWhatCachedKeepsHasAHandleOfItsOwn(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		enter, _ := entering(t, w)
		var built atomic.Int32
		kept := func(ctx context.Context) *sql.DB {
			before := tenantdb.ReadDB(ctx)
			db, err := tenantdb.Cached(ctx, "db", func(*tenantdb.Scope) (*sql.DB, func(), error) {
				built.Add(1)
				return before, nil, nil
			})
			must(t, err)
			return db
		}
		first, leave := enter()
		db := kept(first)
		if tenantdb.ReadDB(first) == db {
			t.Error("the scope has the handle that Cached keeps")
		}
		must(t, tenantdb.ReadDB(first).Close())
		leave()
		for range 3 {
			ctx, leave := enter()
			must(t, tenantdb.ReadDB(ctx).Close())
			must(t, readAll(kept(ctx).QueryContext(ctx, "SELECT name FROM me")))
			if kept(ctx) != db {
				t.Error("it was built again")
			}
			leave()
		}
		if err := db.Ping(); !errors.Is(err, tenantdb.ErrTenantUnavailable) { // no lease is left, and none of it is closed
			t.Errorf("without a lease: %v", err)
		}
	})
}

func TestAnOwnersLimitOnWhatCachedKeepsIsLiftedAndItsCloseMended(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		enter, id := entering(t, w)
		built, dropped := 0, 0
		kept := func(ctx context.Context) *sql.DB {
			db, err := tenantdb.Cached(ctx, "db", func(*tenantdb.Scope) (*sql.DB, func(), error) {
				built++
				db := tenantdb.ReadDB(ctx)
				return db, func() { dropped++; _ = db.Close() }, nil
			})
			must(t, err)
			return db
		}
		one, leave := enter()
		kept(one).SetMaxOpenConns(1)
		_, err := kept(one).Conn(one)
		must(t, err)
		other, leaveOther := enter()
		must(t, readAll(kept(other).QueryContext(promptly(t, other), "SELECT name FROM me")))
		must(t, kept(one).Close())
		must(t, readAll(kept(other).QueryContext(promptly(t, other), "SELECT name FROM me")))
		if built != 2 || dropped != 1 {
			t.Errorf("after a Close: built %d times, dropped %d times", built, dropped)
		}
		leave()
		leaveOther()
		w.pool.Retire(id)
		if built != 2 || dropped != 2 {
			t.Errorf("after the database's end: built %d times, dropped %d times", built, dropped)
		}
	})
}

// TestADetachedScopeHasItsRequestsHandles: what was built on one goes on after the handler.
func TestADetachedScopeHasItsRequestsHandles(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		enter, _ := entering(t, w)
		ctx, leave := enter()
		db := tenantdb.DB(ctx)
		scope, _ := tenantdb.FromContext(ctx)
		work, done := scope.Detach()
		leave()
		for range 3 {
			next, leave := enter()
			if tenantdb.DB(next) == db {
				t.Error("another request has the handle")
			}
			must(t, tenantdb.DB(next).Close())
			leave()
		}
		must(t, execOf(db)(work))
		done()
		next, leave := enter()
		defer leave()
		if tenantdb.DB(next) != db {
			t.Error("the handle isn't used again after the last of its scopes")
		}
	})
}

func TestAHandleThatIsAskedForAfterTheScopeSaysSo(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		enter, id := entering(t, w)
		_, keep := enter()
		ctx, leave := enter()
		leave()
		for range 2 {
			for _, db := range []*sql.DB{tenantdb.DB(ctx), tenantdb.ReadDB(ctx)} {
				err := db.PingContext(ctx)
				if !errors.Is(err, tenantdb.ErrTenantUnavailable) || !strings.Contains(err.Error(), "Detach") {
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

func TestALeasesHandlesAreItsOwn(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		acme := w.tenant("acme", w.user("ann"))
		one, err := w.pool.Lease(acme)
		must(t, err)
		other, err := w.pool.Lease(acme)
		must(t, err)
		defer other.Release()
		db := one.DB()
		must(t, other.DB().Close())
		must(t, db.PingContext(t.Context()))
		must(t, other.DB().PingContext(t.Context()))
		one.Release()
		if !isClosed(db) || !isClosed(one.DB()) || !isClosed(one.ReadDB()) {
			t.Error("a handle outlives its lease")
		}
	})
}

// TestRawGivesPgxsConnection until it returns, also where the scope ends meanwhile: then its socket closes.
func TestRawGivesPgxsConnection(t *testing.T) {
	w := newWorld(t, "postgres", tenantdb.PoolConfig{MaxConnsPerTenant: 1})
	enter, _ := entering(t, w)
	ctx, leave := enter()
	conn, err := tenantdb.DB(ctx).Conn(ctx)
	must(t, err)
	raw := func(use func(*pgx.Conn) error) error {
		return conn.Raw(func(driverConn any) error { return use(driverConn.(interface{ Conn() *pgx.Conn }).Conn()) })
	}
	must(t, raw(func(c *pgx.Conn) error {
		_, err := c.CopyFrom(ctx, pgx.Identifier{"me"}, []string{"name"}, pgx.CopyFromRows([][]any{{"copied"}}))
		return err
	}))
	must(t, raw(func(c *pgx.Conn) error {
		_, err := c.Exec(ctx, "SET search_path = elsewhere; LISTEN ears")
		return err
	}))
	must(t, conn.Close())
	if path := ask[string](t, ctx, "SELECT current_setting('search_path') || (SELECT count(*) FROM pg_listening_channels())"); strings.Contains(path, "elsewhere") || !strings.HasSuffix(path, "0") {
		t.Errorf("the next borrower finds %s", path)
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
