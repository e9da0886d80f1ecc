package keyedpool

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

func TestLease_releasedLeaseAcquiresNothing(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		lease := r.lease("a")
		lease.Release()
		lease.Release()
		_, err := lease.Acquire(r.t.Context(), nil)
		r.reason(err, ErrReleased)
		var zero Lease[string, int]
		zero.Release()
		_, err = zero.Acquire(r.t.Context(), nil)
		r.reason(err, ErrReleased)
		if len(r.pool.Tenants()) != 0 {
			t.Errorf("known: %+v", r.pool.Tenants())
		}
	})
}

func TestLease_connectionReleasedTwiceIsReleasedOnce(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		lease, conn := r.hold("a")
		conn.Release(Healthy)
		again := r.acquire(lease)
		conn.Release(Destroy)
		if st := r.server(); st.Leased != 1 || again.Value() != conn.Value() {
			t.Errorf("the former holder took it away: %+v", st)
		}
		again.Release(Healthy)
		var zero Conn[string, int]
		zero.Release(Healthy)
		lease.Release()
	})
}

func TestLease_connectionOutlivesItsLease(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		lease, conn := r.hold("a")
		lease.Release()
		r.pool.Retire("a")
		if st, ok := r.pool.Tenant("a"); !ok || st.Leased != 1 || st.Leases != 0 {
			t.Errorf("%+v, %v", st, ok)
		}
		conn.Release(Healthy)
		time.Sleep(2 * time.Millisecond)
		if _, ok := r.pool.Tenant("a"); ok {
			t.Error("a retired tenant is known after its last connection")
		}
	})
}

func TestLease_destroyedConnectionIsNotUsedAgain(t *testing.T) {
	inBubble(t, budget(1), func(r *rig) {
		lease, conn := r.hold("a")
		conn.Release(Destroy)
		if again := r.acquire(lease); again.Value() == conn.Value() {
			t.Error("it is")
		} else {
			again.Release(Healthy)
		}
		lease.Release()
	})
}

func TestLease_anOutdatedConnectionTakesAllAlongThatAreAsOld(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		for name, refresh := range map[string]func(conn Conn[string, int]){
			"a connection's holder says so": func(conn Conn[string,
				int]) {
				conn.Release(Outdated)
				conn.Release(Outdated)
			},
			"the pool is told": func(conn Conn[string,
				int]) {
				r.pool.Refresh("a")
				conn.Release(Healthy)
			},
		} {
			lease, first := r.hold("a")
			second, third := r.acquire(lease), r.acquire(lease)
			second.Release(Healthy)
			refresh(first)
			time.Sleep(2 * time.Millisecond)
			if st, _ := r.pool.Tenant("a"); st.Idle != 0 || st.Leased != 1 {
				t.Errorf("%s: %+v, want only the connection that is in use", name, st)
			}
			fourth := r.acquire(lease)
			fourth.Release(Healthy)
			third.Release(Outdated) // known by now
			time.Sleep(2 * time.Millisecond)
			if st, _ := r.pool.Tenant("a"); st.Idle != 1 || st.Leased != 0 {
				t.Errorf("%s: %+v, want only the connection that was opened since", name, st)
			}
			lease.Release()
		}
		r.pool.Refresh("nobody")
	})
}

func TestLease_placeIsHeldUntilTheCloseIsConfirmed(t *testing.T) {
	inBubble(t, func(c *Config[string, int]) {
		c.Budget = 1
		c.Close = func(ctx context.Context, conn int) error {
			<-ctx.Done() // a cut network: the end is never seen
			return context.Cause(ctx)
		}
	}, func(r *rig) {
		lease, conn := r.hold("a")
		conn.Release(Destroy)
		began := time.Now()
		conn = r.acquire(lease)
		if took := time.Since(began); took != 2*time.Second+4*time.Millisecond {
			t.Errorf("the place was free after %v, want DrainTimeout and a dial", took)
		}
		if st := r.server(); st.Unconfirmed != 1 {
			t.Errorf("%+v", st)
		}
		r.mu.Lock()
		r.open = 0 // this test's Close counts nothing
		r.mu.Unlock()
		conn.Release(Healthy)
		lease.Release()
	})
}

func TestLease_aConnectionThatIsBeingClosedCountsInTheBudgetAndNotInTheCap(t *testing.T) {
	for budget, want := range map[int]time.Duration{1: 5 * time.Millisecond, 2: 4 * time.Millisecond} {
		inBubble(t, func(c *Config[string, int]) { c.Budget, c.TenantCap = budget, 1 }, func(r *rig) {
			lease, conn := r.hold("a")
			conn.Release(Destroy)
			began := time.Now()
			conn = r.acquire(lease)
			if took := time.Since(began); took != want {
				t.Errorf("budget %d: the next connection took %v, want %v: a close takes 1 ms, a dial 4",
					budget, took, want)
			}
			conn.Release(Healthy)
			lease.Release()
		})
	}
}

func TestLease_newTargetStartsAGeneration(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		old := r.leaseTo("a", "s/old")
		first, second := r.acquire(old), r.acquire(old)
		first.Release(Healthy)
		renewed := r.leaseTo("a", "s/new")
		time.Sleep(2 * time.Millisecond)
		if st, _ := r.pool.Tenant("a"); st.Generation != 2 || st.Idle != 0 || st.Leased != 1 ||
			st.Leases != 2 {
			t.Errorf("%+v, want generation 2 and the old one's connection in use only", st)
		}
		third := r.acquire(old) // the old lease is on the tenant, not on its old target
		if third.Value() == first.Value() || third.Value() == second.Value() {
			t.Error("an old connection is handed out")
		}
		second.Release(Healthy)
		third.Release(Healthy)
		time.Sleep(2 * time.Millisecond)
		if st, _ := r.pool.Tenant("a"); st.Idle != 1 {
			t.Errorf("%+v, want only the new connection", st)
		}
		old.Release()
		renewed.Release()
	})
}

func TestLease_thoseWhoWaitMoveWithTheTenantInOrder(t *testing.T) {
	inBubble(t, budget(1), func(r *rig) {
		lease, conn := r.hold("a")
		var waiting []*pending
		for range 3 {
			waiting = append(waiting, r.start(lease, nil))
			time.Sleep(time.Microsecond)
		}
		moved := r.leaseTo("a", "elsewhere/a")
		for i, p := range waiting {
			<-p.done
			for _, later := range waiting[i+1:] {
				if later.over() {
					t.Error("the order was lost")
				}
			}
			if p.err != nil || p.conn.Value() == conn.Value() {
				t.Errorf("waiter %d got %v", i, p.err)
			}
			p.end()
		}
		conn.Release(Healthy)
		lease.Release()
		moved.Release()
		if st, _ := r.pool.Tenant("a"); st.Server != "elsewhere" {
			t.Errorf("%+v", st)
		}
	})
}

func TestLease_invalidTenantChangesNothing(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		for _, bad := range [][2]string{{"", "s/a"}, {"a", "no server"}} {
			lease, err := r.pool.Lease(bad[0], bad[1])
			r.reason(err, ErrTenantUnavailable)
			lease.Release()
		}
		r.use("a")
		_, err := r.pool.Lease("a", "no server")
		if r.reason(err, ErrTenantUnavailable); !errors.Is(err, errInvalid) {
			t.Errorf("%v does not wrap the cause", err)
		}
		if st, _ := r.pool.Tenant("a"); st.Generation != 1 || st.Idle != 1 || len(r.pool.Servers()) != 1 {
			t.Errorf("%+v", st)
		}
	})
}

func TestPool_Retire_closesWithTheLastLease(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		one, two := r.lease("a"), r.lease("a")
		r.acquire(one).Release(Healthy)
		r.pool.Retire("a")
		r.pool.Retire("unknown")
		one.Release()
		r.acquire(two).Release(Healthy)
		if st := r.server(); st.Idle != 1 || r.dials() != "a" {
			t.Errorf("%+v after the dials %q: the last lease may go on using what is there", st, r.dials())
		}
		two.Release()
		time.Sleep(2 * time.Millisecond)
		if len(r.pool.Tenants()) != 0 {
			t.Errorf("%+v", r.pool.Tenants())
		}
	})
}

func TestPool_Drain_waitsForLeasesAndClosesAndRefusesNewOnes(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		if err := r.pool.Drain(r.t.Context(), "unknown"); err != nil {
			t.Error(err)
		}
		lease, conn := r.hold("a")
		done := make(chan error)
		go func() { done <- r.pool.Drain(r.t.Context(), "a") }()
		synctest.Wait()
		_, err := r.pool.Lease("a", "s/a")
		if r.reason(err, ErrTenantUnavailable); !errors.Is(err, errDraining) {
			t.Errorf("%v does not say why", err)
		}
		conn.Release(Healthy)
		r.acquire(lease).Release(Healthy)
		lease.Release()
		began := time.Now()
		if err := <-done; err != nil || time.Since(began) != time.Millisecond {
			t.Errorf("Drain returned %v after %v, want nil after the close", err, time.Since(began))
		}
		r.use("a")
	})
}

func TestPool_Drain_outOfTimeNamesTheHolder(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		lease := r.lease("a")
		conn, err := lease.Acquire(r.t.Context(), &Owner{})
		if err != nil {
			r.t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(r.t.Context(), time.Second)
		defer cancel()
		err = r.pool.Drain(ctx, "a")
		var held *HoldersError
		if !errors.As(err, &held) || !errors.Is(err, context.DeadlineExceeded) {
			r.t.Fatalf("got %v", err)
		}
		if got := fmt.Sprint(held.Holders); got != "[{a 1 1}]" {
			t.Errorf("holders %s", got)
		}
		again := r.lease("a") // the time is over: the tenant may be used again
		if st, _ := r.pool.Tenant("a"); st.Generation != 2 {
			t.Errorf("%+v", st)
		}
		again.Release()
		conn.Release(Healthy)
		lease.Release()
	})
}

func TestPool_forgetsUnusedTenants(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		lease := r.lease("leased")
		lease.Release()
		if len(r.pool.Tenants()) != 0 {
			t.Errorf("known after its lease: %+v", r.pool.Tenants())
		}
		r.use("used")
		if len(r.pool.Tenants()) != 1 {
			t.Error("forgotten with a connection")
		}
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if len(r.pool.Tenants()) != 0 {
			t.Errorf("known after its connection: %+v", r.pool.Tenants())
		}
		r.failing(always(errTenantBroken))
		bad := r.lease("bad")
		_, err := bad.Acquire(r.t.Context(), nil)
		r.reason(err, ErrTenantUnavailable)
		bad.Release()
		if len(r.pool.Tenants()) != 1 {
			t.Error("forgotten in its backoff")
		}
		time.Sleep(6 * time.Second)
		if len(r.pool.Tenants()) != 0 {
			t.Errorf("known after its backoff: %+v", r.pool.Tenants())
		}
	})
}

func TestLease_idleConnectionsAndOldOnesAreClosed(t *testing.T) {
	inBubble(t, func(c *Config[string, int]) {
		c.Budget, c.IdleTimeout, c.MaxLifetime = 200, time.Minute, 10*time.Minute
	}, func(r *rig) {
		for i := range 150 {
			r.use(fmt.Sprintf("idle%d", i))
		}
		busy := r.use("busy")
		lease, conn := r.hold("held")
		ends := make(map[int]bool)
		for minute := range 12 {
			for range 6 {
				time.Sleep(10 * time.Second)
				ends[r.use("busy")] = true
			}
			if st := r.server(); minute == 1 && st.Idle != 1 {
				t.Errorf("%d idle after two minutes", st.Idle)
			}
		}
		if !ends[busy] || len(ends) != 2 {
			t.Errorf("a busy connection lived on, or died young: %v", ends)
		}
		conn.Release(Healthy)
		time.Sleep(2 * time.Millisecond)
		if st, _ := r.pool.Tenant("held"); st.Idle != 0 {
			t.Errorf("a connection past its lifetime is idle: %+v", st)
		}
		lease.Release()
	})
}

func TestError_namesTenantServerAndCauseAndNoTarget(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		r.failing(always(errTenantBroken))
		lease := r.leaseTo("acme", "s/password=hunter2")
		_, err := lease.Acquire(r.t.Context(), nil)
		for _, want := range []string{`"acme"`, "on s", "unavailable", "tenant broken", "waited 4ms"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q lacks %q", err, want)
			}
		}
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q gives the target away", err)
		}
		lease.Release()
	})
}

func TestLease_aDormantTenantGoesOnWhereItStood(t *testing.T) {
	inBubble(t, func(c *Config[string, int]) { c.Budget, c.Reserve, c.IdleTimeout = 2, -1, time.Minute },
		func(r *rig) {
			regular := r.lease("regular")
			for range 5 {
				conn := r.acquire(regular)
				conn.Release(Healthy)
			}
			before, _ := r.pool.Tenant("regular")
			time.Sleep(2 * time.Minute)
			if regular.tenant.current.Load() != nil {
				t.Error("it doesn't rest without a connection")
			}
			before.Idle = 0
			if st, _ := r.pool.Tenant("regular"); st != before {
				t.Errorf("at rest: %+v, want %+v", st, before)
			}
			conn := r.acquire(regular)
			conn.Release(Healthy)
			if st, _ := r.pool.Tenant("regular"); st.Acquires != 6 || st.Opens != 2 || st.Waits[3] != 2 {
				t.Errorf("after it: %+v", st)
			}
			r.use("once")
			r.use("once")
			r.use("new")
			time.Sleep(2 * time.Millisecond)
			if st, _ := r.pool.Tenant("regular"); st.Idle != 1 {
				t.Errorf("the regular lost its connection to a stranger: %+v", st)
			}
			time.Sleep(2 * time.Minute)
			moved := r.leaseTo("regular", "elsewhere/regular")
			if st, _ := r.pool.Tenant("regular"); st.Server != "elsewhere" || st.Generation != 2 ||
				st.Acquires != 6 {
				t.Errorf("moved at rest: %+v", st)
			}
			conn = r.acquire(regular)
			conn.Release(Healthy)
			moved.Release()
			regular.Release()
		})
}

func TestCounters_arePackedWithoutLoss(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		number := rapid.OneOf(rapid.Just(uint64(0)), rapid.Uint64())
		f := counters{acquires: number.Draw(rt, "acquires"), opens: number.Draw(rt, "opens"),
			stolen:   number.Draw(rt, "stolen"),
			refusals: number.Draw(rt, "refusals"), waits: new(Histogram)}
		for i := range f.waits {
			f.waits[i] = number.Draw(rt, "waits")
		}
		var want, got TenantStats
		want.count(f)
		if got.count(unpack(f.pack())); got != want {
			rt.Fatalf("%+v came back as %+v", want, got)
		}
	})
	if packed := (counters{}).pack(); packed != "" {
		t.Errorf("nothing takes %d bytes", len(packed))
	}
}
