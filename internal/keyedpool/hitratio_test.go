package keyedpool

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand"
	"slices"
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

// trace returns the tenants of a seeded run of requests. Every shift requests the tenants change places, as fashions do;
// 0: never.
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

// pooled returns the hit ratio of the pool itself, one request after the other.
func pooled(t *testing.T, list []int) float64 {
	ctx := context.Background()
	pool, err := New(Config[int, int]{
		Budget: traceBudget,
		Dial:   func(context.Context, string, int) (int, error) { return 0, nil },
		Close:  func(context.Context, int) error { return nil },
		Server: func(string, int) (string, error) { return "server", nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, tenant := range list {
		lease, err := pool.Lease(fmt.Sprintf("tenant%d", tenant), 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := lease.Acquire(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		conn.Release(Healthy)
		lease.Release()
	}
	opens := pool.Servers()[0].Opens
	if err := pool.Close(ctx); err != nil {
		t.Fatal(err)
	}
	return 1 - float64(opens)/float64(len(list))
}

func TestVictimsComeNearTheStaticOptimum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, shift := range []int{0, 20_000, 5000} {
			list := trace(1, shift)
			start := time.Now()
			_ = start
			ours, optimum, old := pooled(t, list), staticOptimum(list), lru(list)
			t.Logf("shift %d: pool %.4f, static optimum %.4f (ratio %.3f), LRU %.4f (ratio %.3f)", shift, ours, optimum, ours/optimum, old, old/optimum)
		}
	})
}
