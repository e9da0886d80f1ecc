package keyedpool

import (
	"context"
	"fmt"
	"runtime"
	"testing"
)

// atOnce is a pool whose dials and closes take no time, for measurements.
func atOnce(t testing.TB, size int) *Pool[string, int] {
	cfg := minimal()
	cfg.Budget = size
	pool, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pool.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return pool
}

// warm gives a number of tenants an idle connection each, and returns leases on them.
func warm(t testing.TB, pool *Pool[string, int], tenants int) []*Lease[string, int] {
	leases := make([]*Lease[string, int], tenants)
	for i := range leases {
		lease, err := pool.Lease(fmt.Sprintf("%032x", i), "target")
		if err != nil {
			t.Fatal(err)
		}
		leases[i] = &lease
		conn, err := lease.Acquire(context.Background(), nil)
		if err != nil {
			t.Fatal(err)
		}
		conn.Release(Healthy)
		t.Cleanup(lease.Release)
	}
	return leases
}

func TestPool_warmPathAllocatesNothing(t *testing.T) {
	pool := atOnce(t, 100)
	leases := warm(t, pool, 50)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	i := 0
	if n := testing.AllocsPerRun(1000, func() {
		i++
		conn, err := leases[i%50].Acquire(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		conn.Release(Healthy)
	}); n != 0 {
		t.Errorf("acquire and release: %v allocations", n)
	}
	id := fmt.Sprintf("%032x", 7)
	if n := testing.AllocsPerRun(1000, func() {
		lease, err := pool.Lease(id, "target")
		if err != nil {
			t.Fatal(err)
		}
		lease.Release()
	}); n != 0 {
		t.Errorf("lease and release: %v allocations", n)
	}
}

func TestPool_knownTenantsAreCheap(t *testing.T) {
	for name, used := range map[string]bool{"never used": false, "used once": true} {
		t.Run(name, func(t *testing.T) { knownTenantsAreCheap(t, used) })
	}
}

// knownTenantsAreCheap measures tenants that are known, and have no connection or no longer one.
func knownTenantsAreCheap(t *testing.T, used bool) {
	const tenants, most = 10_000, 230
	pool := atOnce(t, 20)
	ids := make([]string, tenants)
	for i := range ids {
		ids[i] = fmt.Sprintf("%032x", i)
	}
	leases := make([]Lease[string, int], tenants)
	warm(t, pool, 1)
	before, goroutines := heap(), runtime.NumGoroutine()
	for i, id := range ids {
		var err error
		if leases[i], err = pool.Lease(id, "target"); err != nil {
			t.Fatal(err)
		}
		if used {
			conn, err := leases[i].Acquire(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			conn.Release(Destroy)
		}
	}
	for pool.Servers()[0].Closing > 0 {
		runtime.Gosched()
	}
	each := (heap() - before) / tenants
	t.Logf("%d bytes for a known tenant without connections", each)
	if each <= 0 || each > most {
		t.Errorf("%d bytes each, want at most %d", each, most)
	}
	if n := runtime.NumGoroutine(); n > goroutines {
		t.Errorf("%d goroutines more", n-goroutines)
	}
	for i := range leases {
		leases[i].Release()
	}
	if n := len(pool.Tenants()); n != 1 { // the warm one
		t.Errorf("%d tenants are known without a lease", n)
	}
	runtime.KeepAlive(ids)
}

// heap returns the bytes in use after a collection.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func BenchmarkLease(b *testing.B) {
	pool := atOnce(b, 2000)
	warm(b, pool, 1000)
	ids := make([]string, 1000)
	for i := range ids {
		ids[i] = fmt.Sprintf("%032x", i)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		lease, err := pool.Lease(ids[i%1000], "target")
		if err != nil {
			b.Fatal(err)
		}
		lease.Release()
	}
}

func BenchmarkAcquire(b *testing.B) {
	for _, tenants := range []int{1, 1000} {
		pool := atOnce(b, 2000)
		leases := warm(b, pool, tenants)
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		b.Run(fmt.Sprintf("tenants=%d", tenants), func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				i++
				conn, err := leases[i%tenants].Acquire(ctx, nil)
				if err != nil {
					b.Fatal(err)
				}
				conn.Release(Healthy)
			}
		})
		b.Run(fmt.Sprintf("tenants=%d/parallel", tenants), func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					conn, err := leases[i%tenants].Acquire(ctx, nil)
					if err != nil {
						b.Error(err)
						return
					}
					conn.Release(Healthy)
				}
			})
		})
	}
}

func BenchmarkSteal(b *testing.B) {
	pool := atOnce(b, 80)
	ctx := context.Background()
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		lease, err := pool.Lease(fmt.Sprintf("%032x", i%1000), "target")
		if err != nil {
			b.Fatal(err)
		}
		conn, err := lease.Acquire(ctx, nil)
		if err != nil {
			b.Fatal(err)
		}
		conn.Release(Healthy)
		lease.Release()
	}
}
