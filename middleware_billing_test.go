package tenantdb_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/stripehook"
)

func TestScope_SubscriptionStatus_followsTheClock(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	acme := w.tenant("acme", w.user("ann"))
	w.update(acme, func(row *hostdb.TenantCatalog) { row.PlanTier = "pro" })
	end := noon.Add(12 * time.Hour)
	sub := &hostdb.Subscription{
		TenantID: acme.ID, PlanTier: "pro", Status: "past_due", CurrentPeriodEnd: &end,
	}
	must(t, w.host.Subscriptions.Insert(t.Context(), sub))
	cfg := w.config()
	cfg.Subscription.Grace = 24 * time.Hour
	h := w.middleware(cfg).HandlerWith(tenantdb.Rules{AllowInactive: true},
		http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			s, _ := tenantdb.FromContext(r.Context())
			st := s.SubscriptionStatus()
			_, _ = io.WriteString(rw, fmt.Sprintf("%s %t %t %d", st.Status, st.Admits, st.InGrace,
				st.DaysLeft))
		}))
	for _, c := range []struct {
		now  time.Time
		want string
	}{
		{noon, "past_due true true 2"}, {end, "past_due true true 1"}, {
			end.Add(24 * time.Hour), "past_due false false 0",
		},
	} {
		w.clock.Set(c.now)
		if got := do(h, request("ann", "acme")).Body.String(); got != c.want {
			t.Errorf("at %v: %q, want %q", c.now, got, c.want)
		}
	}
	if st := new(tenantdb.Scope).SubscriptionStatus(); st != (hostdb.SubscriptionStatus{}) {
		t.Errorf("without a middleware: %+v", st)
	}
}

// TestMiddleware_everyProcessHeedsACancellation posts signed events to the endpoint while two processes, and
// a middleware in this one, serve the tenant. It measures how long after the answer to Stripe each still
// admitted a member whose tenant no longer paid.
func TestMiddleware_everyProcessHeedsACancellation(t *testing.T) {
	t.Parallel()
	const rounds = 4
	onBothEngines(t, func(t *testing.T, w *world) {
		acme := w.tenant("acme", w.user("ann"))
		w.update(acme, func(row *hostdb.TenantCatalog) { row.PlanTier = "pro" })
		hook, err := stripehook.New(w.host, stripehook.Config{Secrets: []string{"whsec_test"}})
		must(t, err)
		mw := w.middleware(w.config()).Handler(http.HandlerFunc(whoami))
		client := &http.Client{}
		defer client.CloseIdleConnections()
		asks := []func() int{func() int { return do(mw, request("ann", "acme")).Code }}
		for _, address := range startServers(t, 2, w.host.URI()) {
			asks = append(asks, func() int {
				status, err := askStatus(client, address, "ann")
				must(t, err)
				return status
			})
		}
		var last time.Duration
		for round := range rounds {
			for i, status := range []string{"active", "canceled"} {
				kind := []string{"updated", "deleted"}[i]
				bill(t, hook, fmt.Sprintf("evt_%d_%d", round, i), "customer.subscription."+kind, fmt.Sprintf(
					`{"id":"sub_%d","status":"%s","metadata":{"tenant_id":"%s"}}`, round, status, acme.ID))
				answered, want := time.Now(), []int{http.StatusOK, http.StatusPaymentRequired}[i]
				for _, ask := range asks {
					eventually(t, func() bool {
						asked, code := time.Now(), ask()
						if code == http.StatusOK && want != code {
							last = max(last, asked.Sub(answered))
						}
						return code == want
					})
				}
			}
		}
		t.Logf("%d cancellations, 3 middlewares: last let in %v after the answer to Stripe", rounds, last)
		if last > 3*time.Second {
			t.Errorf("a member was let in %v after the answer to Stripe; the bound is 3 s", last)
		}
	})
}

// TestScope_featuresFollowAPlanChangeByStripe changes the price that Stripe says is paid, up and down. A
// price that belongs to no plan grants nothing and takes nothing away.
func TestScope_featuresFollowAPlanChangeByStripe(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		acme := w.tenant("acme", w.user("ann"))
		w.update(acme, func(row *hostdb.TenantCatalog) { row.PlanTier = "pro" })
		for i, plan := range []hostdb.PricingPlan{
			{ID: "pro", Name: "Pro", StripePriceMonthly: "price_pro", TierLevel: 1,
				Features: []string{"export"}},
			{ID: "max", Name: "Max", StripePriceMonthly: "price_max", TierLevel: 2,
				Features: []string{"export", "sso"}},
		} {
			plan.SortOrder = i
			must(t, w.host.Plans.Insert(t.Context(), &plan))
		}
		hook, err := stripehook.New(w.host, stripehook.Config{Secrets: []string{"whsec_test"}})
		must(t, err)
		mw := w.middleware(w.config())
		page := mw.Handler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			s, _ := tenantdb.FromContext(r.Context())
			_, _ = fmt.Fprintf(rw, "%v", s.Features)
		}))
		handlers := []http.Handler{
			page, mw.Handler(tenantdb.RequireFeature("sso")(page)), mw.Handler(tenantdb.RequireTier(2)(page)),
			mw.Handler(tenantdb.RequireTier(1)(page)),
		}
		for i, c := range []struct{ price, want string }{
			{"price_pro", "200 [export], 403, 403, 200"},
			{"price_max", "200 [export sso], 200, 200, 200"},
			{"price_pro", "200 [export], 403, 403, 200"},
			{"price_max", "200 [export sso], 200, 200, 200"},
			{"price_of_nobody", "200 [export sso], 200, 200, 200"},
		} {
			bill(t, hook, fmt.Sprintf("evt_%d", i), "customer.subscription.updated", fmt.Sprintf(
				`{"id":"sub_1","status":"active","metadata":{"tenant_id":"%s"},`+
					`"items":{"data":[{"price":{"id":"%s"}}]}}`, acme.ID, c.price))
			eventually(t, func() bool {
				got := ""
				for j, h := range handlers {
					rec := do(h, request("ann", "acme"))
					got += fmt.Sprint(", ", rec.Code)
					if j == 0 {
						got += " " + rec.Body.String()
					}
				}
				return got == ", "+c.want
			})
		}
	})
}

// bill posts an event as Stripe does.
func bill(t *testing.T, hook http.Handler, id, kind, object string) {
	t.Helper()
	now := time.Now().Unix()
	body := fmt.Sprintf(`{"id":%q,"type":%q,"created":%d,"data":{"object":%s}}`, id, kind, now, object)
	mac := hmac.New(sha256.New, []byte("whsec_test"))
	fmt.Fprintf(mac, "%d.%s", now, body)
	r := httptest.NewRequest(http.MethodPost, "/webhooks/stripe", strings.NewReader(body))
	r.Header.Set("Stripe-Signature", fmt.Sprintf("t=%d,v1=%s", now, hex.EncodeToString(mac.Sum(nil))))
	if rec := do(hook, r); rec.Code != http.StatusOK || rec.Body.String() != "processed\n" {
		t.Fatalf("%s: answered %d %s", id, rec.Code, rec.Body)
	}
}
