package keyedpool

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

// The invariants that need no clock, on the real scheduler: here goroutines meet as they do in production,
// within one instant, which a bubble's clock never splits.
func TestPool_everythingAtOnce(t *testing.T) {
	const size, workers, rounds, tenants = 5, 16, 400, 12
	type link struct {
		tenant  string
		version int
		held    atomic.Bool
	}
	var sockets, most atomic.Int32
	var targets [tenants]struct {
		sync.Mutex // makes leases reach the pool in the order of their versions
		version    int
	}
	pool, err := New(Config[int, *link]{
		Dial: func(_ context.Context, tenant string, version int) (*link, error) {
			n := sockets.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			runtime.Gosched()
			if rand.IntN(50) == 0 {
				sockets.Add(-1)
				return nil, errServerFull
			}
			return &link{tenant: tenant, version: version}, nil
		},
		Close: func(_ context.Context, l *link) error {
			if l.held.Load() {
				t.Errorf("a connection of %s is closed in its holder's hands", l.tenant)
			}
			runtime.Gosched()
			sockets.Add(-1)
			return nil
		},
		Server:   func(string, int) (string, error) { return "server", nil },
		Classify: classify, Budget: size, BackoffMin: 1, BackoffMax: 1000, ServerRetry: 1000,
	})
	if err != nil {
		t.Fatal(err)
	}
	visit := func() error {
		number := rand.IntN(tenants)
		tenant := fmt.Sprintf("tenant%d", number)
		target := &targets[number]
		target.Lock()
		if rand.IntN(40) == 0 {
			target.version++
		}
		version := target.version
		lease, err := pool.Lease(tenant, version)
		target.Unlock()
		if err != nil {
			return err
		}
		defer lease.Release()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		if rand.IntN(4) == 0 {
			go cancel()
		}
		conn, err := lease.Acquire(ctx, nil)
		if errors.Is(err, context.Canceled) {
			return nil
		}
		if err != nil {
			return err
		}
		l := conn.Value()
		if l.tenant != tenant || l.version < version || l.held.Swap(true) {
			return fmt.Errorf("%s %d got a connection of %s %d, or somebody else's", tenant, version,
				l.tenant, l.version)
		}
		runtime.Gosched()
		l.held.Store(false)
		conn.Release(Verdict(rand.IntN(8) / 7))
		if rand.IntN(60) == 0 {
			pool.Retire(tenant)
		}
		return nil
	}
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for range rounds {
				if err := visit(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	if err := pool.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if most.Load() > size || sockets.Load() != 0 {
		t.Errorf("%d sockets at most, budget %d; %d left", most.Load(), size, sockets.Load())
	}
}
