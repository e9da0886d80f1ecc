package keyedpool

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// The trace of issue 6: 1,000 tenants by Zipf 1.1, seeded, against a budget of 80.
const (
	traceTenants = 1000
	traceBudget  = 80
	traceLength  = 100_000
)

// trace returns the tenants of a seeded run of requests. Every shift requests the tenants change places, as
// fashions do; 0: never.
func trace(seed int64, shift int) []int {
	r := rand.New(rand.NewSource(seed))
	zipf := rand.NewZipf(r, 1.1, 1, traceTenants-1)
	place := r.Perm(traceTenants)
	list := make([]int, traceLength)
	for i := range list {
		if shift > 0 && i%shift == shift-1 {
			place = r.Perm(traceTenants)
		}
		list[i] = place[zipf.Uint64()]
	}
	return list
}

// staticOptimum returns the best hit ratio that any fixed choice of tenants has, each missing once.
func staticOptimum(list []int) float64 {
	count := make(map[int]int)
	for _, tenant := range list {
		count[tenant]++
	}
	most := slices.SortedFunc(maps.Values(count), func(a, b int) int { return cmp.Compare(b, a) })
	hits := 0
	for _, n := range most[:min(traceBudget, len(most))] {
		hits += n - 1
	}
	return float64(hits) / float64(len(list))
}

// lru returns the hit ratio of a pool whose victim is the tenant that was used longest ago.
func lru(list []int) float64 {
	last := make(map[int]int)
	hits := 0
	for now, tenant := range list {
		if _, ok := last[tenant]; ok {
			hits++
		} else if len(last) == traceBudget {
			oldest := tenant
			for t, at := range last {
				if oldest == tenant || at < last[oldest] {
					oldest = t
				}
			}
			delete(last, oldest)
		}
		last[tenant] = now
	}
	return float64(hits) / float64(len(list))
}

// pooled returns the hit ratio of the pool itself under a number of clients, each of which takes the next
// request of the trace when its last one is done. A dial takes 4 ms, a close 1 ms, a query as long as it is
// given.
func pooled(t *testing.T, list []int, clients int, query time.Duration) float64 {
	ctx := t.Context()
	pool, err := New(Config[int, int]{
		Budget: traceBudget,
		Dial: func(context.Context, string, int) (int,
			error) {
			time.Sleep(4 * time.Millisecond)
			return 0, nil
		},
		Close:  func(context.Context, int) error { time.Sleep(time.Millisecond); return nil },
		Server: func(string, int) (string, error) { return "server", nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	var next atomic.Int64
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(list)); i = next.Add(1) - 1 {
				lease, err := pool.Lease(fmt.Sprintf("tenant%d", list[i]), 0)
				if err != nil {
					t.Error(err)
					return
				}
				conn, err := lease.Acquire(ctx, nil)
				if err != nil {
					t.Error(err)
					return
				}
				time.Sleep(query)
				conn.Release(Healthy)
				lease.Release()
			}
		})
	}
	all.Wait()
	opens := pool.Servers()[0].Opens
	if err := pool.Close(ctx); err != nil {
		t.Fatal(err)
	}
	return 1 - float64(opens)/float64(len(list))
}

func TestVictims_comeNearTheStaticOptimum(t *testing.T) {
	for _, c := range []struct {
		shift   int
		optimum float64 // wanted, as a share of the static optimum
		lru     float64 // wanted, as a multiple of LRU
	}{
		{0, 0.97, 1.12}, {20_000, 1.15, 1.1}, {5000, 1.5, 1.03},
	} {
		synctest.Test(t, func(t *testing.T) {
			list := trace(1, c.shift)
			ours, optimum, old := pooled(t, list, 1, 0), staticOptimum(list), lru(list)
			t.Logf("shift %d: pool %.4f, static optimum %.4f (ratio %.3f), LRU %.4f (ratio %.3f)",
				c.shift, ours, optimum, ours/optimum, old, old/optimum)
			if ours < c.optimum*optimum || ours < c.lru*old {
				t.Errorf("want %.2f of the optimum and %.2f of LRU", c.optimum, c.lru)
			}
		})
	}
}

func TestVictims_hitRatioHoldsUnderManyClients(t *testing.T) {
	for _, query := range []time.Duration{50 * time.Microsecond, 2 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			list := trace(1, 0)
			ours, optimum := pooled(t, list, 32, query), staticOptimum(list)
			t.Logf("32 clients, queries of %v: pool %.4f, static optimum %.4f (ratio %.3f)", query, ours,
				optimum, ours/optimum)
			if ours < 0.92*optimum {
				t.Error("want 0.92 of the optimum")
			}
		})
	}
}
