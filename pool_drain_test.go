package tenantdb_test

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/fleet"
	"github.com/tenantdb/tenantdb/hostdb"
)

// deaf opens the world's host database a second time, so that its change feed finds nothing during a test.
func (w *world) deaf() *hostdb.DB {
	w.t.Helper()
	host, err := hostdb.OpenConfig(w.t.Context(), hostdb.Config{
		URL: hostdb.Secret(w.host.URI()), PollInterval: time.Hour, NoNotify: true,
	})
	must(w.t, err)
	w.t.Cleanup(func() { _ = host.Close() })
	return host
}

// closings are the ways to close a tenant that wait for its requests, with the answer that members get
// afterwards.
func (w *world) closings() map[string]struct {
	shut func(ctx context.Context, tenantID string) error
	code int
} {
	return map[string]struct {
		shut func(ctx context.Context, tenantID string) error
		code int
	}{
		"Suspend": {w.fleet.Suspend, http.StatusForbidden},
		"Maintenance": {
			func(ctx context.Context, id string) error { return w.fleet.Maintenance(ctx, id, true) },
			http.StatusServiceUnavailable,
		},
		"Drain": {func(ctx context.Context, id string) error {
			_, err := w.host.Tenants.Change(ctx, id, func(t *hostdb.TenantCatalog) error {
				t.IsActive = false
				return nil
			})
			must(w.t, err)
			return w.pool.Drain(ctx, id)
		}, http.StatusForbidden},
	}
}

// TestPool_Drain_refusesOlderFacts closes tenants whose members are cached by middlewares that aren't
// notified.
func TestPool_Drain_refusesOlderFacts(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ann := w.user("ann")
		cfg := w.config()
		cfg.Host, cfg.Cache.MaxStaleness = w.deaf(), time.Minute
		first, second := w.middleware(cfg), w.middleware(cfg)
		feedStarted(t, first)
		feedStarted(t, second)
		for name, closing := range w.closings() {
			tenant := w.tenant(strings.ToLower(name), ann)
			handlers := []http.Handler{
				first.Handler(http.HandlerFunc(whoami)), second.Handler(http.HandlerFunc(whoami)),
			}
			r := request("ann", tenant.Slug)
			for range 2 {
				for _, h := range handlers {
					if rec := do(h, r); rec.Code != http.StatusOK {
						t.Fatalf("%s: before: %d %s", name, rec.Code, rec.Body)
					}
				}
			}
			must(t, closing.shut(t.Context(), tenant.ID))
			for i, h := range handlers {
				if rec := do(h, r); rec.Code != closing.code {
					t.Errorf("%s: middleware %d answers %d %s after it; want %d", name, i, rec.Code, rec.Body,
						closing.code)
				}
			}
			lease, err := w.pool.Lease(tenant) // maintenance work gets a lease, which admits no request
			must(t, err)
			must(t, lease.DB().PingContext(t.Context()))
			for i, h := range handlers {
				if rec := do(h, r); rec.Code != closing.code {
					t.Errorf("%s: middleware %d answers %d %s while the tenant is worked on", name, i,
						rec.Code, rec.Body)
				}
			}
			lease.Release()
		}
	})
}

// TestPool_Drain_refusesARequestWithoutALeaseYet stops a request between its decision and its lease while the
// tenant is closed.
func TestPool_Drain_refusesARequestWithoutALeaseYet(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ann := w.user("ann")
		for name, closing := range w.closings() {
			tenant := w.tenant(strings.ToLower(name), ann)
			w.update(tenant, func(t *hostdb.TenantCatalog) { t.PlanTier = "pro" })
			end := noon.Add(time.Hour)
			must(t, w.host.Subscriptions.Insert(t.Context(), &hostdb.Subscription{
				TenantID: tenant.ID, PlanTier: "pro",
				Status: hostdb.SubscriptionTrialing, TrialEnd: &end, PaymentType: hostdb.PaymentSubscription,
			}))
			deciding, decide := make(chan struct{}), make(chan struct{})
			var once sync.Once
			cfg := w.config()
			cfg.Now = func() time.Time { // the clock is read for a trial's end, after the facts are loaded
				once.Do(func() { close(deciding); <-decide })
				return noon
			}
			h := w.middleware(cfg).Handler(http.HandlerFunc(whoami))
			code := make(chan int)
			go func() { code <- do(h, request("ann", tenant.Slug)).Code }()
			<-deciding
			must(t, closing.shut(t.Context(), tenant.ID))
			close(decide)
			if got := <-code; got != closing.code {
				t.Errorf("%s: the request was answered %d; want %d", name, got, closing.code)
			}
		}
	})
}

// TestPool_Drain_lastsUntilTheLastWrite has requests and jobs write all the time while the tenant is closed
// and reopened. No write may succeed after the close.
func TestPool_Drain_lastsUntilTheLastWrite(t *testing.T) {
	t.Parallel()
	const rounds = 15
	onBothEngines(t, func(t *testing.T, w *world) {
		acme := w.tenant("acme", w.user("ann"))
		cfg := w.config()
		cfg.Host, cfg.Cache.MaxStaleness = w.deaf(), time.Minute
		mw := w.middleware(cfg)
		feedStarted(t, mw)
		var mu sync.Mutex
		var closed bool
		var late, written int
		write := func(ctx context.Context) {
			_, err := tenantdb.DB(ctx).ExecContext(ctx, "INSERT INTO me (name) VALUES ('x')")
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil && closed:
				late++
			case err == nil:
				written++
			}
		}
		h := mw.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { write(r.Context()) }))
		stop := make(chan struct{})
		var writers sync.WaitGroup
		defer writers.Wait()
		defer close(stop)
		for i := range 8 {
			writers.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					if i > 0 {
						do(h, request("ann", "acme"))
					} else if ctx, leave, err := mw.Enter(t.Context(), acme.ID); err == nil {
						write(ctx)
						leave()
					}
				}
			})
		}
		set := func(now bool) (wrote, tooLate int) {
			mu.Lock()
			defer mu.Unlock()
			closed = now
			return written, late
		}
		for round := range rounds {
			before, _ := set(false)
			if round%2 == 0 {
				must(t, w.fleet.Resume(t.Context(), acme.ID))
			} else {
				must(t, w.fleet.Maintenance(t.Context(), acme.ID, false))
			}
			mw.Invalidate("", acme.ID) // the feed is silent
			eventually(t, func() bool { now, _ := set(false); return now > before+20 })
			// running requests would delay it for ever
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			if round%2 == 0 { // the next round reverts it
				must(t, w.fleet.Maintenance(ctx, acme.ID, true))
			} else {
				must(t, w.fleet.Suspend(ctx, acme.ID))
			}
			cancel()
			set(true)
			for range 20 {
				if rec := do(h, request("ann", "acme")); rec.Code == http.StatusOK {
					t.Fatalf("round %d: a request is let in", round)
				}
			}
		}
		if _, n := set(true); n > 0 {
			t.Errorf("%d writes after the tenant was closed", n)
		}
	})
}

// TestFleet_Suspend_waitsForOtherProcesses waits as long as the fleet is configured to, unless its context
// ends.
func TestFleet_Suspend_waitsForOtherProcesses(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	acme := w.tenant("acme", w.user("ann"))
	patient, err := fleet.New(fleet.Config{Host: w.host, Pool: w.pool, WaitForOthers: 300 * time.Millisecond})
	must(t, err)
	began := time.Now()
	must(t, patient.Suspend(t.Context(), acme.ID))
	if took := time.Since(began); took < 300*time.Millisecond {
		t.Errorf("Suspend returned after %v", took)
	}
	must(t, patient.Resume(t.Context(), acme.ID))
	ctx, cancel := context.WithCancel(t.Context())
	suspended := make(chan error)
	go func() { suspended <- patient.Suspend(ctx, acme.ID) }()
	eventually(t, func() bool {
		row, err := w.host.Tenants.Get(t.Context(), acme.ID)
		must(t, err)
		return row.Status == hostdb.TenantSuspended
	})
	cancel()
	if err := <-suspended; err == nil {
		t.Error("Suspend returned nil although its caller went away while it waited")
	}
}
