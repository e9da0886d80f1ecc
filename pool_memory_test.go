package tenantdb_test

import (
	"context"
	"database/sql"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
)

// TestTenThousandIdleTenantsAreRememberedCheaply counts all that a tenant without lease and connection takes,
// its id and db_url included.
func TestTenThousandIdleTenantsAreRememberedCheaply(t *testing.T) {
	const tenants, most = 10_000, 500
	for engine, place := range map[string]func(id string) string{
		"postgres": func(id string) string {
			return fmt.Sprintf("postgres://t_%.8s:%s@db.example.com:5432/t_%.8s", id, id, id)
		},
		"sqlite": func(id string) string { return "sqlite:" + id + ".db" },
	} {
		t.Run(engine, func(t *testing.T) {
			pool, err := tenantdb.NewPool(tenantdb.PoolConfig{SQLiteDir: t.TempDir()})
			must(t, err)
			goroutines, before := runtime.NumGoroutine(), heap()
			for range tenants {
				id := hostdb.NewID()
				lease, err := pool.Lease(&hostdb.TenantCatalog{ID: id, DBURL: hostdb.Secret(place(id))})
				must(t, err)
				lease.Release()
			}
			each, more := (heap()-before)/tenants, runtime.NumGoroutine()-goroutines
			t.Logf("%d bytes each, its id and a db_url of %d bytes included; %d goroutines more", each, len(place(hostdb.NewID())), more)
			must(t, pool.Close(t.Context()))
			if each > most || more > 0 {
				t.Errorf("%d bytes each, %d goroutines more; want at most %d, and none", each, more, most)
			}
		})
	}
}

// TestATenantThatWasUsedKeepsNoGoroutine uses the handle that owns one, and has the tenant lose its
// connection, in its lease and after it.
func TestATenantThatWasUsedKeepsNoGoroutine(t *testing.T) {
	w := newWorld(t, "postgres", tenantdb.PoolConfig{MaxConns: 1})
	ann := w.user("ann")
	acme, other := w.tenant("acme", ann), w.tenant("other", ann)
	mw := w.middleware(w.config())
	enter := func(tenant *hostdb.TenantCatalog) (handle *sql.DB, ctx context.Context, leave func()) {
		ctx, leave, err := mw.Enter(t.Context(), tenant.ID)
		must(t, err)
		handle = tenantdb.DB(ctx)
		must(t, handle.PingContext(ctx))
		return handle, ctx, leave
	}
	use := func(tenant *hostdb.TenantCatalog) *sql.DB {
		handle, _, leave := enter(tenant)
		leave()
		return handle
	}
	handle := use(acme)
	eventually(t, func() bool { return w.pool.TenantStats(other.ID)[0].Closing == 0 })
	before := runtime.NumGoroutine() // acme has the one connection, and a handle
	use(other)
	eventually(t, func() bool { return isClosed(handle) && runtime.NumGoroutine() <= before })

	handle, ctx, leave := enter(acme)
	use(other)                       // takes acme's connection
	must(t, handle.PingContext(ctx)) // which goes on, held as it is
	use(other)
	eventually(t, func() bool { return w.pool.TenantStats(acme.ID)[0].Closing == 0 })
	leave()
	eventually(t, func() bool { return isClosed(handle) && runtime.NumGoroutine() <= before })
	if s := w.pool.TenantStats(acme.ID); len(s) != 1 || s[0].Opens < 3 || s[0].Leases != 0 {
		t.Errorf("it is counted anew: %+v", s)
	}
}

func TestWhatCachedKeepsOutlivesTheConnection(t *testing.T) {
	w := newWorld(t, "postgres", tenantdb.PoolConfig{MaxConns: 1})
	ann := w.user("ann")
	acme, other := w.tenant("acme", ann), w.tenant("other", ann)
	mw := w.middleware(w.config())
	built := 0
	for range 3 {
		ctx, leave, err := mw.Enter(t.Context(), acme.ID)
		must(t, err)
		handle, err := tenantdb.Cached(ctx, "handle", func(*tenantdb.Scope) (func(context.Context) error, func(), error) {
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

// isClosed reports whether a handle is closed; one that is open, but not leased any more, says something
// else.
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
