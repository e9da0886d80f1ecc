package keyedpool

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// budget returns a configuration function for a budget, without a reserve.
func budget(n int) func(*Config[string, int]) {
	return func(c *Config[string, int]) { c.Budget, c.Reserve = n, -1 }
}

func TestAcquire_takesTheIdleConnectionUsedLast(t *testing.T) {
	inBubble(t, budget(4), func(r *rig) {
		lease := r.lease("a")
		defer lease.Release()
		first, second := r.acquire(lease), r.acquire(lease)
		second.Release(Healthy)
		first.Release(Healthy)
		if got := r.use("a"); got != first.Value() {
			t.Errorf("got connection %d, want %d, which was released last", got, first.Value())
		}
	})
}

func TestAcquire_lineIsServedInOrder(t *testing.T) {
	inBubble(t, budget(1), func(r *rig) {
		lease, conn := r.hold("a")
		defer lease.Release()
		var order []int
		done := make(chan struct{})
		for i := range 10 {
			p := r.start(lease, nil)
			go func() {
				<-p.done
				order = append(order, i)
				p.end()
				if i == 9 {
					close(done)
				}
			}()
			time.Sleep(time.Microsecond)
		}
		conn.Release(Healthy)
		<-done
		if got := fmt.Sprint(order); got != "[0 1 2 3 4 5 6 7 8 9]" {
			t.Errorf("served in the order %s", got)
		}
	})
}

func TestAcquire_waitEndsWithAcquireTimeout(t *testing.T) {
	inBubble(t, budget(1), func(r *rig) {
		lease, conn := r.hold("a")
		began := time.Now()
		_, err := lease.Acquire(r.t.Context(), nil)
		e := r.reason(err, ErrBusy)
		if waited := time.Since(began); waited != 5*time.Second || e.Waited != waited {
			t.Errorf("waited %v, the error says %v, want 5s", waited, e.Waited)
		}
		conn.Release(Healthy)
		lease.Release()
	})
}

func TestAcquire_waitEndsWithTheContext(t *testing.T) {
	inBubble(t, budget(1), func(r *rig) {
		lease, conn := r.hold("a")
		ctx, cancel := context.WithTimeout(r.t.Context(), 30*time.Millisecond)
		defer cancel()
		_, err := lease.Acquire(ctx, nil)
		r.reason(err, ErrBusy)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v does not wrap the context's error", err)
		}
		p := r.start(lease, nil)
		p.cancel()
		<-p.done
		r.reason(p.err, context.Canceled)
		if errors.Is(p.err, ErrBusy) {
			t.Error("a caller who went away is told that the pool is busy")
		}
		_, err = lease.Acquire(ctx, nil)
		r.reason(err, context.DeadlineExceeded)
		conn.Release(Healthy)
		lease.Release()
	})
}

func TestAcquire_canceledCallerLeavesTheDialToTheNext(t *testing.T) {
	inBubble(t, budget(1), func(r *rig) {
		lease := r.lease("a")
		defer lease.Release()
		first := r.start(lease, nil)
		second := r.start(lease, nil)
		first.cancel()
		<-first.done
		r.reason(first.err, context.Canceled)
		second.end()
		if second.err != nil || r.dials() != "a" {
			t.Errorf("the next in line got %v after the dials %q", second.err, r.dials())
		}
	})
}

func TestAcquire_canceledCallerLeavesTheConnectionIdleWhereNobodyWaits(t *testing.T) {
	inBubble(t, budget(1), func(r *rig) {
		lease := r.lease("a")
		defer lease.Release()
		p := r.start(lease, nil)
		p.cancel()
		<-p.done
		time.Sleep(5 * time.Millisecond)
		if st := r.server(); st.Idle != 1 || st.Leased != 0 {
			t.Errorf("%+v, want one idle connection", st)
		}
		if r.use("a"); r.dials() != "a" {
			t.Errorf("dialed %q", r.dials())
		}
	})
}

func TestAcquire_tenantsWithNothingComeFirst(t *testing.T) {
	inBubble(t, budget(2), func(r *rig) {
		leaseA, conn := r.hold("a")
		leaseB, other := r.hold("b")
		more := r.start(leaseA, nil)
		leaseC := r.lease("c")
		none := r.start(leaseC, nil)
		other.Release(Healthy)
		time.Sleep(6 * time.Millisecond)
		if !none.over() || more.over() {
			t.Error("the tenant with nothing was not served first")
		}
		conn.Release(Healthy)
		more.end()
		none.end()
		for _, lease := range []*Lease[string, int]{leaseA, leaseB, leaseC} {
			lease.Release()
		}
	})
}

func TestAcquire_nobodyIsStolenFromForASecondConnectionBeforeStealAfter(t *testing.T) {
	inBubble(t, budget(2), func(r *rig) {
		r.use("b")
		lease, conn := r.hold("a")
		p := r.start(lease, nil)
		time.Sleep(49 * time.Millisecond)
		if st := r.server(); st.Steals != 0 || p.over() {
			t.Errorf("%+v before StealAfter", st)
		}
		time.Sleep(time.Millisecond + 5*time.Millisecond)
		synctest.Wait()
		if st := r.server(); st.Steals != 1 || !p.over() {
			t.Errorf("%+v after StealAfter", st)
		}
		p.end()
		conn.Release(Healthy)
		lease.Release()
	})
}

func TestAcquire_capShrinksToOneUnderPressure(t *testing.T) {
	inBubble(t, budget(3), func(r *rig) {
		hot := r.lease("hot")
		first, second := r.acquire(hot), r.acquire(hot)
		cold, conn := r.hold("cold")
		waiting := r.start(hot, nil)
		waitFirst := r.lease("waitFirst")
		p := r.start(waitFirst, nil)
		// hot has another, and its own line: the place goes to who has nothing all the same
		first.Release(Healthy)
		<-p.done
		if waiting.over() {
			t.Error("the tenant with several was served before the one with none")
		}
		second.Release(Healthy)
		waiting.end()
		p.end()
		conn.Release(Healthy)
		for _, lease := range []*Lease[string, int]{hot, cold, waitFirst} {
			lease.Release()
		}
	})
}

func TestAcquire_reserveIsForTenantsWithNothing(t *testing.T) {
	inBubble(t, func(c *Config[string, int]) { c.Budget, c.TenantCap, c.Reserve = 3, 3, 1 }, func(r *rig) {
		lease := r.lease("a")
		first, second := r.acquire(lease), r.acquire(lease)
		third := r.start(lease, nil)
		time.Sleep(40 * time.Millisecond)
		if third.over() {
			t.Error("a tenant with two connections took the reserve")
		}
		r.use("b")
		third.end()
		first.Release(Healthy)
		second.Release(Healthy)
		lease.Release()
	})
}

func TestAcquire_turnBoundsHowLongALineKeepsTheOnlyConnection(t *testing.T) {
	for _, turn := range []int{1, 2, 5} {
		inBubble(t, func(c *Config[string, int]) { c.Budget, c.Reserve, c.Turn = 1, -1, turn }, func(r *rig) {
			noisy, conn := r.hold("noisy")
			var served []string
			finish := func(name string, p *pending) {
				<-p.done
				served = append(served, name)
				time.Sleep(time.Millisecond)
				p.end()
			}
			for range 12 {
				go finish("noisy", r.start(noisy, nil))
			}
			quiet := r.lease("quiet")
			go finish("quiet", r.start(quiet, nil))
			synctest.Wait()
			conn.Release(Healthy)
			time.Sleep(time.Second)
			synctest.Wait()
			if got := strings.Index(strings.Join(served, " "), "quiet") / len("noisy "); got != turn-1 ||
				len(served) != 13 {
				t.Errorf("turn %d: %d of noisy's line went before: %v", turn, got, served)
			}
			noisy.Release()
			quiet.Release()
		})
	}
}

// TestAcquire_aLineInBackoffKeepsItsOnlyConnection: passed on, it would leave the line to fail, since no
// other can be dialed for.
func TestAcquire_aLineInBackoffKeepsItsOnlyConnection(t *testing.T) {
	inBubble(t, func(c *Config[string, int]) {
		c.Budget, c.TenantCap, c.Turn, c.Reserve, c.BackoffMin = 2, 2, 1, -1, 2*time.Second
	}, func(r *rig) {
		lease, conn := r.hold("a")
		r.failing(func(tenant, _ string) error {
			if tenant == "a" {
				return errTenantBroken
			}
			return nil
		})
		waiting := r.start(lease, nil)
		time.Sleep(60 * time.Millisecond) // the dial for a second one fails
		other, full := r.hold("b")
		pressing := r.lease("c")
		pressed := r.start(pressing, nil)
		synctest.Wait()
		conn.Release(Healthy)
		synctest.Wait()
		if !waiting.over() || waiting.err != nil {
			t.Errorf("over %v, %v: the tenant's connection came back healthy", waiting.over(), waiting.err)
		}
		full.Release(Healthy)
		pressed.end()
		waiting.end()
		for _, l := range []*Lease[string, int]{lease, other, pressing} {
			l.Release()
		}
	})
}

func TestAcquire_nestedAcquireAtTheCapIsNamed(t *testing.T) {
	inBubble(t, func(c *Config[string, int]) { c.TenantCap = 1 }, func(r *rig) {
		var owner Owner
		lease := r.lease("a")
		conn, err := lease.Acquire(r.t.Context(), &owner)
		if err != nil {
			r.t.Fatal(err)
		}
		began := time.Now()
		_, err = lease.Acquire(r.t.Context(), &owner)
		r.reason(err, ErrNested)
		if waited := time.Since(began); waited != time.Second {
			t.Errorf("it took %v to notice, want NestedAfter", waited)
		}
		conn.Release(Healthy)
		lease.Release()
	})
}

func TestAcquire_nestedAcquiresOfSeveralOwnersDeadlockTogether(t *testing.T) {
	inBubble(t, func(c *Config[string, int]) { c.TenantCap = 2 }, func(r *rig) {
		owners := []*Owner{{}, {}}
		lease := r.lease("a")
		var conns []Conn[string, int]
		for _, owner := range owners {
			conn, err := lease.Acquire(r.t.Context(), owner)
			if err != nil {
				r.t.Fatal(err)
			}
			conns = append(conns, conn)
		}
		first := r.start(lease, owners[0])
		time.Sleep(time.Millisecond)
		second := r.start(lease, owners[1])
		<-first.done
		r.reason(first.err, ErrNested)
		conns[0].Release(Healthy) // who was told gives up what it holds, and the other goes on
		second.end()
		if second.err != nil {
			t.Errorf("the other owner got %v", second.err)
		}
		first.cancel()
		conns[1].Release(Healthy)
		lease.Release()
	})
}

func TestAcquire_parallelWorkOfOneOwnerIsNoDeadlock(t *testing.T) {
	inBubble(t, func(c *Config[string, int]) { c.TenantCap = 1 }, func(r *rig) {
		var owner Owner
		lease := r.lease("a")
		for range 20 {
			go func() {
				conn, err := lease.Acquire(r.t.Context(), &owner)
				if err != nil {
					t.Error(err)
					return
				}
				time.Sleep(30 * time.Millisecond)
				conn.Release(Healthy)
			}()
		}
		time.Sleep(700 * time.Millisecond)
		synctest.Wait()
		if st := r.server(); st.Acquires != 20 {
			t.Errorf("%d of 20 were served", st.Acquires)
		}
		lease.Release()
	})
}

func TestAcquire_busyOwnerWhoHoldsAConnectionIsToldSo(t *testing.T) {
	inBubble(t, func(c *Config[string, int]) { c.Budget, c.TenantCap = 2, 2 }, func(r *rig) {
		var a, b Owner
		leaseA, leaseB := r.lease("a"), r.lease("b")
		connA, _ := leaseA.Acquire(r.t.Context(), &a)
		connB, _ := leaseB.Acquire(r.t.Context(), &b)
		_, err := leaseA.Acquire(r.t.Context(), &a)
		if r.reason(err, ErrBusy); !errors.Is(err, ErrNested) {
			t.Errorf("%v does not say that the owner holds a connection", err)
		}
		connA.Release(Healthy)
		connB.Release(Healthy)
		leaseA.Release()
		leaseB.Release()
	})
}
