package coherent

import (
	"context"
	"fmt"
	"hash/maphash"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// benchCache returns a cache of n grants that stay valid.
func benchCache(b *testing.B, n int) (*Cache[key, fact], []key) {
	b.Helper()
	cfg := baseConfig(func(_ context.Context, batch []Load[key, fact]) {
		for i := range batch {
			l := &batch[i]
			l.User, l.Tenant, l.Plans = l.Key.user, l.Key.slug, []string{"pro"}
		}
	})
	cfg.Hash = func(s maphash.Seed, k key) uint64 {
		return maphash.String(s, k.user) ^ 3*maphash.String(s, k.slug)
	}
	cfg.Capacity = 2 * n
	c := New(cfg)
	b.Cleanup(c.Close)
	c.Polled(time.Now())
	keys := make([]key, n)
	for i := range keys {
		keys[i] = key{fmt.Sprintf("oauth|%08d", i), fmt.Sprintf("tenant-%06d", i/4)}
		if _, err := c.Get(context.Background(), keys[i], time.Now()); err != nil {
			b.Fatal(err)
		}
	}
	return c, keys
}

// BenchmarkHit finds one of many cached grants, by its key and by an entry that was kept. bare is a map of
// the same keys, which knows neither age nor validity. The clock is read once, as a request reads it once.
func BenchmarkHit(b *testing.B) {
	for _, n := range []int{10_000, 1_000_000} {
		c, keys := benchCache(b, n)
		bare := make(map[key]*fact, n)
		for _, k := range keys {
			bare[k] = new(fact)
		}
		runtime.GC()     // none is under way while it is measured
		step := 7919 % n // visits the keys in an order that the processor can't foresee
		at := time.Now()
		kept := make([]*Entry[key, fact], n)
		for i, k := range keys {
			var err error
			if kept[i], err = c.Get(context.Background(), k, at); err != nil {
				b.Fatal(err)
			}
		}
		b.Run(fmt.Sprintf("keys=%d/coherent", n), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i += step {
				if _, err := c.Get(context.Background(), keys[i%n], at); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("keys=%d/kept", n), func(b *testing.B) {
			for i := 0; b.Loop(); i += step {
				if e := kept[i%n]; e.Key() != keys[i%n] || !c.Again(e, at) {
					b.Fatal("it doesn't serve")
				}
			}
		})
		b.Run(fmt.Sprintf("keys=%d/bare", n), func(b *testing.B) {
			for i := 0; b.Loop(); i += step {
				if bare[keys[i%n]] == nil {
					b.Fatal("missing")
				}
			}
		})
	}
}

// BenchmarkHitParallel is Hit from every processor; compare -cpu 1,2.
func BenchmarkHitParallel(b *testing.B) {
	c, keys := benchCache(b, 10_000)
	var worker atomic.Int64
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		at := time.Now()
		for i := int(worker.Add(1)) * 1234; pb.Next(); i += 7919 {
			if _, err := c.Get(context.Background(), keys[i%len(keys)], at); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkMemory reports the bytes that a cached grant takes beside its key and value.
func BenchmarkMemory(b *testing.B) {
	const n = 200_000
	for b.Loop() {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		c, keys := benchCache(b, n)
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/n, "bytes/entry")
		runtime.KeepAlive(c)
		runtime.KeepAlive(keys)
	}
}
