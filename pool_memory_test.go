package tenantdb_test

import (
	"context"
	"database/sql"
	"fmt"
	"runtime"
	"testing"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
)

// TestPool_tenThousandIdleTenantsAreCheap measures the memory of a tenant without leases and connections, its
// id and db_url included.
func TestPool_tenThousandIdleTenantsAreCheap(t *testing.T) {
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
			t.Logf("%d bytes each, its id and a db_url of %d bytes included; %d goroutines more", each,
				len(place(hostdb.NewID())), more)
			must(t, pool.Close(t.Context()))
			if each > most || more > 0 {
				t.Errorf("%d bytes each, %d goroutines more; want at most %d, and none", each, more, most)
			}
		})
	}
}

// TestPool_usedTenantKeepsNoGoroutine uses the handle, which owns a goroutine. The tenant then loses its
// connection, during a lease and after it.
func TestPool_usedTenantKeepsNoGoroutine(t *testing.T) {
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
	before := runtime.NumGoroutine() // acme has the only connection, and a handle
	use(other)
	eventually(t, func() bool { return isClosed(handle) && runtime.NumGoroutine() <= before })

	handle, ctx, leave := enter(acme)
	use(other)                       // takes acme's connection
	must(t, handle.PingContext(ctx)) // a leased handle stays open
	use(other)
	eventually(t, func() bool { return w.pool.TenantStats(acme.ID)[0].Closing == 0 })
	leave()
	eventually(t, func() bool { return isClosed(handle) && runtime.NumGoroutine() <= before })
	if s := w.pool.TenantStats(acme.ID); len(s) != 1 || s[0].Opens < 3 || s[0].Leases != 0 {
		t.Errorf("it is counted anew: %+v", s)
	}
}
