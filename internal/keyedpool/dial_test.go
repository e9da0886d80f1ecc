package keyedpool

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestDial_tenantFaultFailsThoseInLineAndThenAtOnce(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		r.failing(always(errTenantBroken))
		lease := r.lease("a")
		first, second := r.start(lease, nil), r.start(lease, nil)
		for _, p := range []*pending{first, second} {
			<-p.done
			r.reason(p.err, ErrTenantUnavailable)
			if !errors.Is(p.err, errTenantBroken) {
				t.Errorf("%v does not wrap the cause", p.err)
			}
		}
		began := time.Now()
		_, err := lease.Acquire(r.t.Context(), nil)
		e := r.reason(err, ErrTenantUnavailable)
		if time.Since(began) != 0 || r.dials() != "a" || e.RetryAfter <= 0 ||
			e.RetryAfter > 100*time.Millisecond {
			t.Errorf("in backoff: took %v, dialed %q, RetryAfter %v", time.Since(began), r.dials(),
				e.RetryAfter)
		}
		lease.Release()
	})
}

func TestBackoff_growsAndEndsWithOneProbe(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		r.failing(always(errTenantBroken))
		lease := r.lease("a")
		for i, most := 0, 100*time.Millisecond; i < 14; i, most = i+1, min(2*most, 4*time.Second) {
			_, err := lease.Acquire(r.t.Context(), nil)
			if e := r.reason(err, ErrTenantUnavailable); e.RetryAfter < most/2 || e.RetryAfter > most {
				r.t.Fatalf("failure %d: RetryAfter %v, want %v to %v", i+1, e.RetryAfter, most/2, most)
			} else {
				time.Sleep(e.RetryAfter)
			}
		}
		before := len(r.dials())
		probes := []*pending{r.start(lease, nil), r.start(lease, nil), r.start(lease, nil)}
		for _, p := range probes {
			<-p.done
		}
		if got := len(r.dials()) - before; got != len(" a") {
			t.Errorf("more than one probe: %q", r.dials())
		}
		r.failing(nil)
		st, _ := r.pool.Tenant("a")
		time.Sleep(st.Backoff)
		r.acquire(lease).Release(Healthy)
		if st, _ := r.pool.Tenant("a"); st.Backoff != 0 || st.BackoffCause != nil {
			t.Errorf("after a success: %+v", st)
		}
		lease.Release()
	})
}

func TestBackoff_outlivesRetirementButNotANewTarget(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		r.failing(always(errTenantBroken))
		lease := r.lease("a")
		_, err := lease.Acquire(r.t.Context(), nil)
		r.reason(err, ErrTenantUnavailable)
		lease.Release()
		r.pool.Retire("a")
		lease = r.lease("a")
		_, err = lease.Acquire(r.t.Context(), nil)
		r.reason(err, ErrTenantUnavailable)
		if r.dials() != "a" {
			t.Errorf("dialed in its backoff: %q", r.dials())
		}
		r.failing(nil)
		renewed := r.leaseTo("a", "s/rotated")
		r.acquire(lease).Release(Healthy)
		lease.Release()
		renewed.Release()
	})
}

func TestDial_oneTenantsFaultIsItsOwn(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		r.failing(func(tenant, _ string) error {
			if tenant == "bad" {
				return errTenantBroken
			}
			return nil
		})
		bad := r.lease("bad")
		for range 20 {
			_, err := bad.Acquire(r.t.Context(), nil)
			r.reason(err, ErrTenantUnavailable)
			time.Sleep(30 * time.Second)
		}
		if st := r.server(); st.Breaker != BreakerClosed || st.DialFailures != 20 {
			t.Errorf("%+v", st)
		}
		r.use("good")
		bad.Release()
	})
}

func TestBreaker_opensProbesAndCloses(t *testing.T) {
	inBubble(t, func(c *Config[string, int]) { c.BreakerThreshold = 3 }, func(r *rig) {
		r.failing(always(errServerDown))
		for _, tenant := range strings.Fields("a b c") {
			lease := r.lease(tenant)
			_, err := lease.Acquire(r.t.Context(), nil)
			if r.reason(err, ErrServerUnavailable); !errors.Is(err, errServerDown) {
				t.Errorf("%v does not wrap the cause", err)
			}
			lease.Release()
		}
		if st := r.server(); st.Breaker != BreakerOpen || st.BreakerCause == nil {
			r.t.Fatalf("after three failures: %+v", st)
		}
		lease := r.lease("d")
		_, err := lease.Acquire(r.t.Context(), nil)
		e := r.reason(err, ErrServerUnavailable)
		if r.dials() != "a b c" || e.RetryAfter <= 0 {
			t.Errorf("dialed through an open breaker: %q, RetryAfter %v", r.dials(), e.RetryAfter)
		}
		time.Sleep(e.RetryAfter)
		if st := r.server(); st.Breaker != BreakerHalfOpen {
			t.Errorf("after the pause: %v", st.Breaker)
		}
		r.failing(nil)
		other := r.lease("e")
		probe, behind := r.start(lease, nil), r.start(other, nil)
		if r.dials() != "a b c d" {
			t.Errorf("more than one probe: %q", r.dials())
		}
		probe.end()
		behind.end()
		if st := r.server(); st.Breaker != BreakerClosed || probe.err != nil || behind.err != nil {
			t.Errorf("after the probe: %v, %v, %v", st.Breaker, probe.err, behind.err)
		}
		lease.Release()
		other.Release()
	})
}

func TestDial_probeThatFailsFailsThoseBehindIt(t *testing.T) {
	inBubble(t, func(c *Config[string, int]) { c.BreakerThreshold = 1 }, func(r *rig) {
		r.failing(always(errServerDown))
		a, b := r.lease("a"), r.lease("b")
		_, err := a.Acquire(r.t.Context(), nil)
		r.reason(err, ErrServerUnavailable)
		time.Sleep(100 * time.Millisecond)
		probe, behind := r.start(a, nil), r.start(b, nil)
		<-probe.done
		<-behind.done
		r.reason(probe.err, ErrServerUnavailable)
		r.reason(behind.err, ErrServerUnavailable)
		if st := r.server(); st.Breaker != BreakerOpen || r.dials() != "a a" {
			t.Errorf("%v after the dials %q", st.Breaker, r.dials())
		}
		a.Release()
		b.Release()
	})
}

func TestBreaker_openConnectionsServeMeanwhile(t *testing.T) {
	inBubble(t, func(c *Config[string, int]) { c.BreakerThreshold = 1 }, func(r *rig) {
		lease, conn := r.hold("a")
		r.failing(always(errServerDown))
		waiting := r.start(lease, nil)
		time.Sleep(10 * time.Millisecond) // the second dial fails
		if waiting.over() {
			r.t.Fatalf("who waits for a connection in use got %v", waiting.err)
		}
		conn.Release(Healthy)
		waiting.end()
		if waiting.err != nil || r.use("a") != conn.Value() {
			t.Errorf("the open connection did not serve: %v", waiting.err)
		}
		lease.Release()
	})
}

func TestBreaker_lateFailuresDoNotLengthenItsPause(t *testing.T) {
	b := breaker{threshold: 1}
	b.failed(false, 0, time.Second, time.Minute, errServerDown)
	until := b.trips.until
	b.failed(false, until/2, time.Second, time.Minute, errServerDown)
	if b.trips.until != until || b.state(until/2) != BreakerOpen {
		t.Errorf("open until %v, then until %v", until, b.trips.until)
	}
	if !b.start(until) || b.allows(until) {
		t.Error("the first dial after the pause is the probe, and the only one")
	}
	b.answered()
	if b.state(until) != BreakerClosed || !b.allows(until) {
		t.Error("an answer does not close it")
	}
}

// TestDial_aTenantThatIsAwayIsTriedSoon: its pauses grow to ServerRetry and no further, and its server's
// other tenants don't notice.
func TestDial_aTenantThatIsAwayIsTriedSoon(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		r.failing(func(tenant, _ string) error {
			if tenant == "a" {
				return errTenantAway
			}
			return nil
		})
		lease := r.lease("a")
		for i, most := 0, 100*time.Millisecond; i < 8; i, most = i+1, min(2*most, time.Second) {
			_, err := lease.Acquire(r.t.Context(), nil)
			if e := r.reason(err, ErrTenantUnavailable); e.RetryAfter < most/2 || e.RetryAfter > most {
				r.t.Fatalf("failure %d: RetryAfter %v, want %v to %v", i+1, e.RetryAfter, most/2, most)
			} else {
				time.Sleep(e.RetryAfter)
			}
			r.use("b")
		}
		if st := r.server(); st.Breaker != BreakerClosed {
			t.Errorf("%+v", st)
		}
		lease.Release()
	})
}

func TestDial_backpressureMakesDialsWaitAndNobodyFail(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		r.failing(always(errServerFull))
		lease := r.lease("a")
		p := r.start(lease, nil)
		time.Sleep(time.Second)
		if st := r.server(); p.over() || st.Breaker != BreakerClosed || st.DialFailures < 3 ||
			st.DialFailures > 8 {
			t.Errorf("over %v, %+v", p.over(), st)
		}
		r.failing(nil)
		p.end()
		if p.err != nil {
			t.Error(p.err)
		}
		lease.Release()
	})
}

func TestDial_aTenantWithoutRoomWaitsAloneAndNobodyFails(t *testing.T) {
	inBubble(t, budget(10), func(r *rig) {
		r.failing(func(tenant, _ string) error {
			if tenant == "a" {
				return errTenantFull
			}
			return nil
		})
		lease := r.lease("a")
		p := r.start(lease, nil)
		time.Sleep(20 * time.Millisecond)
		began := time.Now()
		for _, tenant := range strings.Fields("b c d e f g h i") {
			r.use(tenant)
		}
		if waited := time.Since(began); waited > 50*time.Millisecond { // a dial each
			t.Errorf("the others waited %v", waited)
		}
		time.Sleep(time.Second)
		st := r.server()
		if p.over() || st.Breaker != BreakerClosed || st.Steals != 0 || st.DialFailures < 3 ||
			st.DialFailures > 8 {
			t.Errorf("over %v, %+v", p.over(), st)
		}
		r.failing(nil)
		p.end()
		if p.err != nil {
			t.Error(p.err)
		}
		lease.Release()
	})
}

// TestDial_aTenantsOwnCloseEndsItsPause: there is room where its connection was.
func TestDial_aTenantsOwnCloseEndsItsPause(t *testing.T) {
	inBubble(t, budget(10), func(r *rig) {
		lease, held := r.hold("a")
		r.failing(func(string, string) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			if r.open > 1 {
				return errTenantFull
			}
			return nil
		})
		for range 8 { // in vain, so that the pause is long
			_, err := lease.Acquire(r.t.Context(), nil)
			r.reason(err, ErrBusy)
		}
		held.Release(Destroy)
		began := time.Now()
		conn, err := lease.Acquire(r.t.Context(), nil)
		if waited := time.Since(began); err != nil || waited > 100*time.Millisecond {
			t.Errorf("after %v: %v", waited, err)
			return
		}
		conn.Release(Healthy)
		lease.Release()
	})
}

func TestDial_roomThatComesIsSeenByThoseWhoWait(t *testing.T) {
	inBubble(t, budget(10), func(r *rig) {
		r.failing(always(errTenantFull))
		lease := r.lease("a")
		for range 8 {
			_, err := lease.Acquire(r.t.Context(), nil)
			r.reason(err, ErrBusy)
		}
		p := r.start(lease, nil)
		time.Sleep(time.Second)
		r.failing(nil)
		began := time.Now()
		if p.end(); p.err != nil || time.Since(began) > 2*time.Second {
			t.Errorf("after %v: %v", time.Since(began), p.err)
		}
		lease.Release()
	})
}

// TestDial_noRoomThatLastsIsBusy, be it the server's or the tenant's own.
func TestDial_noRoomThatLastsIsBusy(t *testing.T) {
	for _, cause := range []error{errServerFull, errTenantFull} {
		inBubble(t, nil, func(r *rig) {
			r.failing(always(cause))
			lease := r.lease("a")
			_, err := lease.Acquire(r.t.Context(), nil)
			if r.reason(err, ErrBusy); !errors.Is(err, cause) {
				t.Errorf("%v does not say why", err)
			}
			lease.Release()
		})
	}
}

// A server that others fill too: our own idle connections make the places that a budget promised and the
// server hasn't got.
func TestDial_fullServersPlacesComeFromIdleConnections(t *testing.T) {
	inBubble(t, budget(10), func(r *rig) {
		r.failing(func(string, string) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			if r.open > 3 {
				return errServerFull
			}
			return nil
		})
		for _, tenant := range strings.Fields("a b c d e f") {
			r.use(tenant)
		}
		st := r.server()
		if st.Idle != 3 || st.Steals != 3 || st.Refusals != 0 || st.DialFailures != 1 {
			t.Errorf("%+v, want 3 idle, 3 stolen", st)
		}
		r.failing(nil)
		for _, tenant := range strings.Fields("g h i j k l m n") {
			r.use(tenant)
			time.Sleep(5 * time.Second)
		}
		if st := r.server(); st.Idle < 8 {
			t.Errorf("%+v: the budget never came back", st)
		}
	})
}

func TestDial_hangingServerDelaysNobodyElse(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		r.failing(func(_, target string) error {
			if strings.HasPrefix(target, "hung/") {
				return context.DeadlineExceeded
			}
			return nil
		})
		var leases []*Lease[string, int]
		var deadlocked []*pending
		for _, tenant := range strings.Fields("h1 h2 h3 h4 h5 h6 h7 h8 h9 h10 h11 h12") {
			leases = append(leases, r.leaseTo(tenant, "hung/"+tenant))
			deadlocked = append(deadlocked, r.start(leases[len(leases)-1], nil))
		}
		began := time.Now()
		for range 100 {
			r.use("a")
		}
		if took := time.Since(began); took != 4*time.Millisecond {
			t.Errorf("the other server took %v for one dial and 100 uses", took)
		}
		for i, p := range deadlocked {
			<-p.done
			if waited := time.Since(began); p.err == nil || waited > 5*time.Second {
				t.Errorf("%v after %v", p.err, waited)
			}
			leases[i].Release()
		}
	})
}

func TestDial_slotsBoundTheDialsUnderWay(t *testing.T) {
	inBubble(t, func(c *Config[string, int]) { c.DialSlots = 2 }, func(r *rig) {
		var all []*pending
		for _, tenant := range strings.Fields("a b c d e") {
			lease := r.lease(tenant)
			defer lease.Release()
			all = append(all, r.start(lease, nil))
		}
		for want := 2; want <= 6; want += 2 {
			if got := len(strings.Fields(r.dials())); got != min(want, 5) {
				t.Errorf("%d dials, want %d", got, min(want, 5))
			}
			time.Sleep(4 * time.Millisecond)
			synctest.Wait()
		}
		for _, p := range all {
			p.end()
		}
	})
}

func TestDial_panicInDialFailsTheTenantOnly(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		r.failing(func(tenant, _ string) error {
			if tenant == "bad" {
				r.mu.Lock()
				r.open--
				r.mu.Unlock()
				panic("driver defect")
			}
			return nil
		})
		lease := r.lease("bad")
		_, err := lease.Acquire(r.t.Context(), nil)
		if e := r.reason(err, ErrTenantUnavailable); !strings.Contains(e.Error(), "driver defect") {
			t.Errorf("%v hides the panic", err)
		}
		lease.Release()
		r.use("good")
	})
}

func TestDial_panicInCloseGivesThePlaceBack(t *testing.T) {
	inBubble(t, func(c *Config[string, int]) {
		c.Budget = 1
		end := c.Close
		c.Close = func(ctx context.Context, conn int) error {
			if err := end(ctx, conn); err != nil {
				return err
			}
			panic("driver defect")
		}
	}, func(r *rig) {
		r.use("a")
		r.use("b")
		if st := r.server(); st.Unconfirmed != 1 {
			t.Errorf("%+v", st)
		}
	})
}
