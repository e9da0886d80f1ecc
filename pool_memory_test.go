package tenantdb_test

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
)

func TestTenThousandIdleTenantsAreRememberedCheaply(t *testing.T) {
	const tenants = 10_000
	for engine, most := range map[string]int64{"postgres": 1 << 10, "sqlite": 3 << 10} {
		t.Run(engine, func(t *testing.T) {
			pool, err := tenantdb.NewPool(tenantdb.PoolConfig{SQLiteDir: t.TempDir()})
			must(t, err)
			goroutines, before := runtime.NumGoroutine(), heap()
			for i := range tenants {
				id := hostdb.NewID()
				tenant := &hostdb.TenantCatalog{ID: id, DBURL: hostdb.Secret("sqlite:" + id + ".db")}
				if engine == "postgres" {
					tenant.DBURL = hostdb.Secret(fmt.Sprintf("postgres://app:secret@db.example.com:5432/tenant_%d", i))
				}
				lease, err := pool.Lease(tenant)
				must(t, err)
				lease.Release()
			}
			each, more := (heap()-before)/tenants, runtime.NumGoroutine()-goroutines
			t.Logf("%d bytes each, its id and db_url included; %d goroutines more", each, more)
			must(t, pool.Close(t.Context()))
			if each > most || more > 10 {
				t.Errorf("%d bytes each, %d goroutines more; want at most %d, and a few", each, more, most)
			}
		})
	}
}

// heap returns the bytes in use.
func heap() int64 {
	var stats runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}
