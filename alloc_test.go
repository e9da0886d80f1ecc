package tenantdb_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
)

// TestARequestWhoseTokenAndFactsAreCachedCostsTwoAllocations keeps the budget of the request path: the context with its scope, and
// net/http's copy of the request that carries it.
func TestARequestWhoseTokenAndFactsAreCachedCostsTwoAllocations(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ada := w.user("ada")
		acme := w.tenant("acme", ada)
		must(t, w.host.Subscriptions.Insert(t.Context(), &hostdb.Subscription{TenantID: acme.ID, PlanTier: "pro",
			Status: hostdb.SubscriptionActive, PaymentType: hostdb.PaymentSubscription}))
		var scope *tenantdb.Scope
		mw := w.middleware(w.config())
		h := mw.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { scope, _ = tenantdb.FromContext(r.Context()) }))
		r, rec := request("ada", "acme"), httptest.NewRecorder()
		eventually(t, func() bool { return mw.Stats().SincePoll >= 0 }) // until then what is cached may be dropped
		if n := testing.AllocsPerRun(1000, func() { h.ServeHTTP(rec, r) }); n > 2 {
			t.Errorf("%v allocations for a request, want 2", n)
		}
		if scope == nil || scope.Tenant.ID != acme.ID || scope.Subscription == nil {
			t.Fatalf("status %d, scope %+v", rec.Code, scope)
		}
	})
}
