package tenantdb_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
)

// TestMiddleware_cachedRequestCostsThreeAllocations keeps the budget of the request path: the context,
// net/http's copy of the request that carries it, and the value of Vary. A handler that asks for its Scope
// pays for the Scope, its features and the claims.
func TestMiddleware_cachedRequestCostsThreeAllocations(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		must(t, w.host.Plans.Insert(t.Context(), &hostdb.PricingPlan{
			ID: "pro", Name: "Pro", Features: []string{"sso"},
		}))
		ada := w.user("ada")
		acme, trial := w.tenant("acme", ada), w.tenant("trial", ada)
		w.subscribe(acme, "pro")
		soon := noon.AddDate(0, 0, 7)
		must(t, w.host.Subscriptions.Insert(t.Context(), &hostdb.Subscription{
			TenantID: trial.ID, PlanTier: "pro",
			Status: hostdb.SubscriptionTrialing, PaymentType: hostdb.PaymentSubscription, TrialEnd: &soon,
		}))
		var scope *tenantdb.Scope
		mw := w.middleware(w.config())
		asks, uses, ran := false, false, 0
		h := mw.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			ran++
			if asks {
				scope, _ = tenantdb.FromContext(r.Context())
			}
			if uses && (tenantdb.DB(r.Context()) == nil || tenantdb.ReadDB(r.Context()) == nil) {
				t.Error("no handle")
			}
		}))
		rec := httptest.NewRecorder()
		feedStarted(t, mw) // before that, cached entries may be dropped
		for _, c := range []struct {
			tenant string
			asks   bool
			uses   bool
			want   float64
		}{
			{"trial", false, false, 3}, {"trial", true, false, 7}, {"acme", false, false, 3},
			{"acme", true, false, 7}, {"acme", false, true, 3},
		} {
			r := request("ada", c.tenant)
			asks, uses, ran = c.asks, c.uses, 0
			n := testing.AllocsPerRun(1000, func() {
				h.ServeHTTP(rec, r)
				delete(rec.Header(), "Vary") // a response has this header once
			})
			if n != c.want || ran != 1001 { // AllocsPerRun warms up with one more
				t.Errorf("%+v: %v allocations for a request, %d of 1001 reached the handler", c, n, ran)
			}
		}
		if scope == nil || scope.Tenant.ID != acme.ID || scope.Subscription == nil {
			t.Fatalf("status %d, scope %+v", rec.Code, scope)
		}
	})
}

// BenchmarkMiddleware_request measures a request whose token and facts are cached. One handler only wants its
// database, the other reads its Scope. The token has the four claims of the tests.
func BenchmarkMiddleware_request(b *testing.B) {
	w := newWorld(b, "sqlite", tenantdb.PoolConfig{})
	acme := w.tenant("acme", w.user("ann"))
	onPlan(3, "sso", "export")(w, acme)
	mw := w.middleware(w.config())
	r, header := request("ann", "acme"), http.Header{}
	var rw http.ResponseWriter = headerOnly{header}
	for name, handler := range map[string]http.HandlerFunc{
		"database": func(_ http.ResponseWriter, r *http.Request) { tenantdb.DB(r.Context()) },
		"scope":    func(_ http.ResponseWriter, r *http.Request) { tenantdb.FromContext(r.Context()) },
	} {
		b.Run(name, func(b *testing.B) {
			ran, served := 0, 0
			h := mw.Handler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				ran++
				handler(rw, r)
			}))
			b.ReportAllocs()
			for b.Loop() {
				clear(header)
				h.ServeHTTP(rw, r)
				served++
			}
			if ran != served {
				b.Errorf("%d of %d requests reached the handler", ran, served)
			}
		})
	}
}

// headerOnly is a ResponseWriter that keeps only the header.
type headerOnly struct{ header http.Header }

func (w headerOnly) Header() http.Header         { return w.header }
func (w headerOnly) Write(p []byte) (int, error) { return len(p), nil }
func (w headerOnly) WriteHeader(int)             {}
