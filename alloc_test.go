package tenantdb_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
)

// TestARequestWhoseTokenAndFactsAreCachedCostsTwoAllocations keeps the budget of the request path: the context, and net/http's copy of
// the request that carries it. The Scope is a third, for a handler that asks for it, and where a date decides.
func TestARequestWhoseTokenAndFactsAreCachedCostsTwoAllocations(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ada := w.user("ada")
		acme, trial := w.tenant("acme", ada), w.tenant("trial", ada)
		w.subscribe(acme, "pro")
		soon := noon.AddDate(0, 0, 7)
		must(t, w.host.Subscriptions.Insert(t.Context(), &hostdb.Subscription{TenantID: trial.ID, PlanTier: "pro",
			Status: hostdb.SubscriptionTrialing, PaymentType: hostdb.PaymentSubscription, TrialEnd: &soon}))
		var scope *tenantdb.Scope
		mw := w.middleware(w.config())
		asks := false
		h := mw.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if asks {
				scope, _ = tenantdb.FromContext(r.Context())
			}
		}))
		rec := httptest.NewRecorder()
		eventually(t, func() bool { return mw.Stats().SincePoll >= 0 }) // until then what is cached may be dropped
		for _, c := range []struct {
			tenant string
			asks   bool
			want   float64
		}{{"trial", false, 3}, {"trial", true, 3}, {"acme", false, 2}, {"acme", true, 3}} {
			r := request("ada", c.tenant)
			asks = c.asks
			if n := testing.AllocsPerRun(1000, func() { h.ServeHTTP(rec, r) }); n > c.want {
				t.Errorf("%+v: %v allocations for a request", c, n)
			}
		}
		if scope == nil || scope.Tenant.ID != acme.ID || scope.Subscription == nil {
			t.Fatalf("status %d, scope %+v", rec.Code, scope)
		}
	})
}
