package tenantdb_test

import (
	"context"
	"database/sql"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb"
)

func TestCached_buildsOnceAndClosesWithTheDatabase(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		acme := w.tenant("acme", w.user("ann"))
		mw := w.middleware(w.config())
		var built, closed atomic.Int32
		get := func(ctx context.Context) (*string, error) {
			return tenantdb.Cached(ctx, "greeting", func(s *tenantdb.Scope) (*string, func(), error) {
				built.Add(1)
				text := "hello " + s.Tenant.Slug
				return &text, func() { closed.Add(1) }, nil
			})
		}
		var ran atomic.Int32
		h := mw.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			ran.Add(1)
			if v, err := get(r.Context()); err != nil || *v != "hello acme" {
				t.Errorf("Cached = %v, %v", v, err)
			}
		}))
		together(20, func(int) { do(h, request("ann", "acme")) })
		if n := ran.Load(); n != 20 {
			t.Errorf("the handler ran %d times; want 20", n)
		}
		if built.Load() != 1 || closed.Load() != 0 {
			t.Errorf("built %d, closed %d; want 1, 0", built.Load(), closed.Load())
		}
		ctx, leave, err := mw.Enter(t.Context(), acme.ID)
		must(t, err)
		if _, err := tenantdb.Cached(ctx, "greeting", func(*tenantdb.Scope) (int, func(), error) {
			return 1, nil, nil
		}); err == nil {
			t.Error("one key held two types")
		}
		failing := errors.New("no")
		for range 2 {
			if _, err := tenantdb.Cached(ctx, "fails", func(*tenantdb.Scope) (int, func(), error) {
				return 0, nil, failing
			}); !errors.Is(err, failing) {
				t.Errorf("a failed build = %v", err)
			}
		}
		w.pool.Retire(acme.ID)
		if closed.Load() != 0 {
			t.Error("closed under a lease")
		}
		leave()
		if closed.Load() != 1 {
			t.Error("not closed with the database")
		}
	})
}

func TestCached_buildsNothingAfterTheDatabaseClosed(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		acme := w.tenant("acme", w.user("ann"))
		ctx, leave, err := w.middleware(w.config()).Enter(t.Context(), acme.ID)
		must(t, err)
		leave()
		must(t, w.pool.Drain(t.Context(), acme.ID))
		build := func(*tenantdb.Scope) (int, func(), error) { t.Error("built"); return 1, nil, nil }
		if _, err := tenantdb.Cached(ctx, "late", build); !errors.Is(err, tenantdb.ErrTenantUnavailable) {
			t.Errorf("Cached after the scope's end and the database's = %v", err)
		}
	})
}

func TestCached_panickingCloserKeepsNothingOpen(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		acme := w.tenant("acme", w.user("ann"))
		ctx, leave, err := w.middleware(w.config()).Enter(t.Context(), acme.ID)
		must(t, err)
		closed := false
		for key, closer := range map[string]func(){
			"a": func() { panic("boom") },
			"b": func() { closed = true },
			"c": func() { panic("boom") },
		} {
			_, err := tenantdb.Cached(ctx, key, func(*tenantdb.Scope) (int, func(), error) {
				return 1, closer, nil
			})
			must(t, err)
		}
		leave()
		must(t, w.pool.Drain(t.Context(), acme.ID))
		if !closed {
			t.Error("one closer's panic spared another")
		}
	})
}

func TestCached_waiterLeavesWithItsContext(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	acme := w.tenant("acme", w.user("ann"))
	mw := w.middleware(w.config())
	ctx, leave, err := mw.Enter(t.Context(), acme.ID)
	must(t, err)
	defer leave()
	building, finish, built := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(built)
		_, _ = tenantdb.Cached(ctx, "slow", func(*tenantdb.Scope) (int, func(), error) {
			close(building)
			<-finish
			return 1, nil, nil
		})
	}()
	<-building
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := tenantdb.Cached(gone, "slow", func(*tenantdb.Scope) (int, func(), error) {
		return 2, nil, nil
	}); !errors.Is(err, context.Canceled) {
		t.Errorf("Cached = %v", err)
	}
	close(finish)
	<-built
}

// TestCached_buildsThatWaitForEachOtherFail calls Cached inside the functions that build values: for the same
// key, and for each other's keys.
func TestCached_buildsThatWaitForEachOtherFail(t *testing.T) {
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) {
			w := newWorld(t, engine, tenantdb.PoolConfig{AcquireTimeout: 200 * time.Millisecond})
			w.tenant("acme", w.user("ann"))
			letIn(t, w.middleware(w.config()).Handler, request("ann", "acme"),
				func(_ http.ResponseWriter, r *http.Request) {
					ctx := context.WithoutCancel(r.Context()) // only AcquireTimeout ends a wait
					nothing := func(*tenantdb.Scope) (int, func(), error) { return 1, nil, nil }
					_, err := tenantdb.Cached(ctx, "own", func(*tenantdb.Scope) (int, func(), error) {
						v, err := tenantdb.Cached(ctx, "own", nothing)
						return v, nil, err
					})
					if !errors.Is(err, tenantdb.ErrBusy) {
						t.Errorf("its own key: %v", err)
					}
					var both, building sync.WaitGroup
					building.Add(2)
					failed := make(chan error, 2)
					for _, keys := range [][2]string{{"a", "b"}, {"b", "a"}} {
						both.Go(func() {
							_, err := tenantdb.Cached(ctx, keys[0],
								func(*tenantdb.Scope) (int, func(), error) {
									building.Done()
									building.Wait()
									v, err := tenantdb.Cached(ctx, keys[1], nothing)
									return v, nil, err
								})
							failed <- err
						})
					}
					both.Wait()
					if first, second := <-failed, <-failed; !errors.Is(errors.Join(first, second),
						tenantdb.ErrBusy) {
						t.Errorf("each other's: %v, %v", first, second)
					}
					if v, err := tenantdb.Cached(ctx, "own", nothing); v != 1 || err != nil {
						t.Errorf("afterwards: %v, %v", v, err)
					}
				})
		})
	}
}

// TestCached_closerMayCallCached asks for a value in the function that closes it. The call fails and the
// database closes.
func TestCached_closerMayCallCached(t *testing.T) {
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) {
			w := newWorld(t, engine, tenantdb.PoolConfig{AcquireTimeout: 100 * time.Millisecond})
			acme := w.tenant("acme", w.user("ann"))
			closed := make(chan error, 1)
			letIn(t, w.middleware(w.config()).Handler, request("ann", "acme"),
				func(_ http.ResponseWriter, r *http.Request) {
					ctx := context.WithoutCancel(r.Context())
					nothing := func(*tenantdb.Scope) (int, func(), error) { return 1, nil, nil }
					_, err := tenantdb.Cached(ctx, "key", func(*tenantdb.Scope) (int, func(), error) {
						return 1, func() {
							err := errors.New("it panicked")
							defer func() { closed <- err }()
							_, err = tenantdb.Cached(ctx, "key", nothing)
						}, nil
					})
					must(t, err)
				})
			w.pool.Retire(acme.ID)
			if err := <-closed; err == nil {
				t.Error("a closed database's value was given out")
			}
		})
	}
}

func TestCached_handleInAValueIsItsOwn(t *testing.T) {
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
		// no lease is left, but the handle isn't closed
		if err := db.Ping(); !errors.Is(err, tenantdb.ErrTenantUnavailable) {
			t.Errorf("without a lease: %v", err)
		}
	})
}

func TestCached_handleInAValueOutlivesALimitAndAClose(t *testing.T) {
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

func TestCached_valueOutlivesTheConnection(t *testing.T) {
	w := newWorld(t, "postgres", tenantdb.PoolConfig{MaxConns: 1})
	ann := w.user("ann")
	acme, other := w.tenant("acme", ann), w.tenant("other", ann)
	mw := w.middleware(w.config())
	built := 0
	for range 3 {
		ctx, leave, err := mw.Enter(t.Context(), acme.ID)
		must(t, err)
		handle, err := tenantdb.Cached(ctx, "handle",
			func(*tenantdb.Scope) (func(context.Context) error, func(), error) {
				built++
				return tenantdb.DB(ctx).PingContext, nil, nil
			})
		must(t, err)
		must(t, handle(ctx))
		leave()
		must(t, readName(t.Context(), w.pool, other)) // takes acme's connection
		eventually(t, func() bool { return w.pool.TenantStats(acme.ID)[0].Closing == 0 })
	}
	if built != 1 {
		t.Errorf("built %d times", built)
	}
}
