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

func TestPool_Close_refusesNewLeasesAndLetsOldOnesFinish(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		r.use("idle")
		lease, conn := r.hold("a")
		done := make(chan error)
		go func() { done <- r.pool.Close(r.t.Context()) }()
		time.Sleep(2 * time.Millisecond)
		if st := r.server(); st.Idle != 0 || st.Leased != 1 {
			t.Errorf("%+v: what nobody leases closes at once", st)
		}
		_, err := r.pool.Lease("b", "s/b")
		r.reason(err, ErrClosed)
		_, err = r.pool.Lease("a", "s/a")
		r.reason(err, ErrClosed)
		r.acquire(lease).Release(Healthy)
		conn.Release(Healthy)
		select {
		case err := <-done:
			t.Errorf("Close returned %v with a lease", err)
		default:
		}
		lease.Release()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestPool_Close_outOfTimeForcesAndNamesTheHolders(t *testing.T) {
	inBubble(t, func(c *Config[string, int]) { c.TenantCap = 1 }, func(r *rig) {
		lease := r.lease("a")
		conn, err := lease.Acquire(r.t.Context(), &Owner{})
		if err != nil {
			r.t.Fatal(err)
		}
		onlyLeased := r.lease("b")
		waiting := r.start(lease, nil)
		ctx, cancel := context.WithTimeout(r.t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		err = r.pool.Close(ctx)
		var held *HoldersError
		if !errors.As(err, &held) || time.Since(began) != time.Second {
			r.t.Fatalf("%v after %v", err, time.Since(began))
		}
		if got := fmt.Sprint(held.Holders); got != "[{a 1 1} {b 1 0}]" {
			t.Errorf("holders %s", got)
		}
		<-waiting.done
		r.reason(waiting.err, ErrClosed)
		time.Sleep(2 * time.Millisecond)
		if st := r.server(); st.Leased+st.Closing != 0 {
			t.Errorf("%+v: still open", st)
		}
		conn.Release(Healthy)
		_, err = lease.Acquire(r.t.Context(), nil)
		r.reason(err, ErrClosed)
		lease.Release()
		onlyLeased.Release()
	})
}

func TestPool_Close_byForceCallsOffDials(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		r.failing(always(context.DeadlineExceeded))
		lease := r.lease("a")
		p := r.start(lease, nil)
		ctx, cancel := context.WithCancel(r.t.Context())
		cancel()
		if err := r.pool.Close(ctx); err == nil {
			t.Error("nil with a lease")
		}
		began := time.Now()
		<-p.done
		r.reason(p.err, ErrClosed)
		lease.Release()
		if err := r.pool.Close(r.t.Context()); err != nil || time.Since(began) > 4*time.Millisecond {
			t.Errorf("the dial ended after %v: %v", time.Since(began), err)
		}
	})
}

func TestPool_Close_twiceAndOfAnEmptyPool(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		for range 2 {
			if err := r.pool.Close(r.t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestPool_Close_duringABreakersPauseLeavesNothingBehind(t *testing.T) {
	inBubble(t, func(c *Config[string, int]) { c.BreakerThreshold = 1 }, func(r *rig) {
		r.failing(always(errServerDown))
		lease := r.lease("a")
		_, err := lease.Acquire(r.t.Context(), nil)
		r.reason(err, ErrServerUnavailable)
		lease.Release()
	})
}

func TestHoldersError_namesTenAndCountsAll(t *testing.T) {
	err := &HoldersError{Cause: context.DeadlineExceeded}
	for i := range 12 {
		err.Holders = append(err.Holders, Holder{Tenant: fmt.Sprintf("tenant%02d", i), Leases: 1})
	}
	text := err.Error()
	for _, want := range []string{"12 tenants", `"tenant09" (1 leases, 0 connections)`, " …"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q lacks %q", text, want)
		}
	}
	if strings.Contains(text, "tenant10") {
		t.Errorf("%q goes on", text)
	}
}

func TestPool_Stats_tellWhatIsGoingOn(t *testing.T) {
	inBubble(t, budget(3), func(r *rig) {
		if _, ok := r.pool.Tenant("a"); ok || r.pool.Servers() != nil {
			t.Error("counters of nothing")
		}
		lease := r.lease("a")
		first, second := r.acquire(lease), r.acquire(lease)
		waiting := r.start(lease, nil) // at its cap
		r.use("b")
		r.use("c") // b's place
		synctest.Wait()
		other := r.leaseTo("d", "other/d")
		dialing := r.start(other, nil)
		want := ServerStats{
			Server: "s", Budget: 3, Idle: 1, Leased: 2, Waiting: 1, Acquires: 4, Opens: 4, Steals: 1,
			Waits: Histogram{0, 0, 0, 4},
		}
		if got := r.server(); got != want {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
		if all := r.pool.Servers(); len(all) != 2 || all[0].Server != "other" || all[0].Dialing != 1 ||
			all[0].Needy != 0 || all[0].Waiting != 1 {
			t.Errorf("%+v", all)
		}
		tenant, ok := r.pool.Tenant("a")
		wantTenant := TenantStats{
			Tenant: "a", Server: "s", Generation: 1, Leases: 1, Leased: 2, Waiting: 1, Acquires: 2, Opens: 2,
			Waits: Histogram{0, 0, 0, 2},
		}
		if !ok || tenant != wantTenant {
			t.Errorf("got  %+v\nwant %+v", tenant, wantTenant)
		}
		var names []string
		for _, st := range r.pool.Tenants() {
			names = append(names, st.Tenant)
		}
		if strings.Join(names, " ") != "a c d" {
			t.Errorf("tenants %v", names)
		}
		first.Release(Healthy)
		second.Release(Healthy)
		waiting.end()
		dialing.end()
		lease.Release()
		other.Release()
	})
}

func TestHistogram_bucketsArePowersOfTwoMilliseconds(t *testing.T) {
	for _, c := range []struct {
		wait   time.Duration
		bucket int
	}{
		{-time.Second, 0}, {0, 0}, {999 * time.Microsecond, 0}, {time.Millisecond, 1},
		{2 * time.Millisecond, 2},
		{3 * time.Millisecond, 2}, {4 * time.Millisecond, 3}, {time.Second, 10}, {5 * time.Second, 13},
		{time.Hour, 13},
	} {
		var h Histogram
		h.add(c.wait)
		if h[c.bucket] != 1 {
			t.Errorf("%v went to %v, want bucket %d", c.wait, h, c.bucket)
		}
	}
}

func TestBreakerState_String(t *testing.T) {
	for state, want := range map[BreakerState]string{BreakerClosed: "closed", BreakerOpen: "open",
		BreakerHalfOpen: "half-open"} {
		if state.String() != want {
			t.Errorf("%d is %q, want %q", state, state, want)
		}
	}
}
