package tenantdb_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
)

// TestARequestWhoseTokenAndFactsAreCachedCostsTwoAllocations keeps the budget of the request path: the context, and net/http's copy of
// the request that carries it. A handler that asks for its Scope pays for it.
func TestARequestWhoseTokenAndFactsAreCachedCostsTwoAllocations(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ada := w.user("ada")
		acme := w.tenant("acme", ada)
		must(t, w.host.Subscriptions.Insert(t.Context(), &hostdb.Subscription{TenantID: acme.ID, PlanTier: "pro",
			Status: hostdb.SubscriptionActive, PaymentType: hostdb.PaymentSubscription}))
		var scope *tenantdb.Scope
		mw := w.middleware(w.config())
		asks := false
		h := mw.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if asks {
				scope, _ = tenantdb.FromContext(r.Context())
			}
		}))
		r, rec := request("ada", "acme"), httptest.NewRecorder()
		eventually(t, func() bool { return mw.Stats().SincePoll >= 0 }) // until then what is cached may be dropped
		for want := 2.0; want <= 3; want++ {
			if n := testing.AllocsPerRun(1000, func() { h.ServeHTTP(rec, r) }); n > want {
				t.Errorf("%v allocations for a request, want %v", n, want)
			}
			asks = true
		}
		if scope == nil || scope.Tenant.ID != acme.ID || scope.Subscription == nil {
			t.Fatalf("status %d, scope %+v", rec.Code, scope)
		}
	})
}
