package tenantdb_test

import (
	"context"
	"errors"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
)

func TestPool_concurrentRequestsShareOneDatabase(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		w.tenant("acme", w.user("ann"))
		w.pool.Retire(w.bySlug("acme").ID)
		first, second := w.middleware(w.config()), w.middleware(w.config()) // two middlewares with one pool
		var opened atomic.Int32
		h := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			must(t, tenantdb.DB(r.Context()).PingContext(r.Context()))
			_, err := tenantdb.Cached(r.Context(), "of the database",
				func(*tenantdb.Scope) (int32, func(), error) { return opened.Add(1), nil, nil })
			must(t, err)
		})
		together(40, func(i int) {
			mw := first
			if i%2 == 1 {
				mw = second
			}
			if rec := do(mw.Handler(h), request("ann", "acme")); rec.Code != 200 {
				t.Errorf("request %d: %d %s", i, rec.Code, rec.Body)
			}
		})
		if n := opened.Load(); n != 1 {
			t.Errorf("a tenant has %d databases", n)
		}
	})
}

func TestPool_movedTenantGetsANewGeneration(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ann := w.user("ann")
		acme, other := w.tenant("acme", ann), w.tenant("other", ann)
		old, err := w.pool.Lease(acme)
		must(t, err)
		moved := *acme
		moved.DBURL = other.DBURL
		if w.engine == "sqlite" { // a relative path must be the tenant's own
			moved.DBURL = hostdb.Secret("sqlite:" + w.sqliteFile(other))
		}
		fresh, err := w.pool.Lease(&moved)
		must(t, err)
		defer fresh.Release()
		before := "acme" // a file stays open for its leases
		if w.engine == "postgres" {
			before = "other" // connections of the old generation aren't used again
		}
		for lease, want := range map[*tenantdb.Lease]string{old: before, fresh: "other"} {
			var name string
			must(t, lease.DB().QueryRowContext(t.Context(), "SELECT name FROM me").Scan(&name))
			if name != want {
				t.Errorf("read %q; want %q", name, want)
			}
		}
		db := old.Session() // a session isn't closed with the lease
		defer db.Close()
		old.Release()
		old.Release() // a second call does nothing
		if err := db.PingContext(t.Context()); err == nil {
			t.Error("the old generation is open after its last lease")
		}
	})
}

func TestPool_Close_waitsForLeasesAndNamesTheirTenants(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		acme := w.tenant("acme", w.user("ann"))
		pool, err := tenantdb.NewPool(tenantdb.PoolConfig{SQLiteDir: filepath.Dir(w.sqliteFile(acme))})
		must(t, err)
		lease, err := pool.Lease(acme)
		must(t, err)
		must(t, lease.DB().PingContext(t.Context()))
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if err := pool.Close(ctx); err == nil || !strings.Contains(err.Error(), acme.ID) {
			t.Errorf("Close with a lease = %v; want the holder's name", err)
		}
		if err := lease.DB().PingContext(t.Context()); err == nil {
			t.Error("the database is open after a forced close")
		}
		lease.Release()
		if _, err := pool.Lease(acme); !errors.Is(err, tenantdb.ErrTenantUnavailable) {
			t.Errorf("Lease after Close = %v", err)
		}
		must(t, pool.Close(t.Context()))
	})
}

func TestPool_nestedQueryAtALimitOfOneIsNamed(t *testing.T) {
	w := newWorld(t, "postgres", tenantdb.PoolConfig{MaxConnsPerTenant: 1, AcquireTimeout: time.Minute})
	w.tenant("acme", w.user("ann"))
	mw := w.middleware(w.config())
	for name, query := range map[string]func(ctx context.Context) error{
		"PG beside PG": func(ctx context.Context) error {
			tx, err := tenantdb.PG(ctx).Begin(ctx)
			must(t, err)
			defer tx.Rollback(ctx)
			_, err = tenantdb.PG(ctx).Exec(ctx, "SELECT 1")
			return err
		},
		"DB beside DB": func(ctx context.Context) error {
			tx, err := tenantdb.DB(ctx).BeginTx(ctx, nil)
			must(t, err)
			defer tx.Rollback()
			return tenantdb.DB(ctx).PingContext(ctx)
		},
		"DB beside unread rows of PG": func(ctx context.Context) error {
			rows, err := tenantdb.PG(ctx).Query(ctx, "SELECT generate_series(1, 10)")
			must(t, err)
			defer rows.Close()
			return tenantdb.DB(ctx).PingContext(ctx)
		},
		"with a context of its own within the request's": func(ctx context.Context) error {
			tx, err := tenantdb.PG(ctx).Begin(ctx)
			must(t, err)
			defer tx.Rollback(ctx)
			inner, cancel := context.WithTimeout(ctx, time.Hour)
			defer cancel()
			return tenantdb.PG(ctx).QueryRow(inner, "SELECT 1").Scan(new(int))
		},
	} {
		t.Run(name, func(t *testing.T) {
			var nested error
			h := mw.Handler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				nested = query(r.Context())
				tenantdb.WriteError(rw, r, nested)
			}))
			began := time.Now()
			rec := do(h, request("ann", "acme"))
			if !errors.Is(nested, tenantdb.ErrBusy) || !strings.Contains(nested.Error(), "nested acquire") {
				t.Errorf("the query = %v", nested)
			}
			if rec.Code != 503 || code(t, rec) != "busy" || time.Since(began) > 30*time.Second {
				t.Errorf("answered %d %s after %v", rec.Code, rec.Body, time.Since(began))
			}
			if rec := do(mw.Handler(http.HandlerFunc(whoami)),
				request("ann", "acme")); rec.Body.String() != "acme" {
				t.Errorf("the next request: %d %s", rec.Code, rec.Body)
			}
		})
	}
}
