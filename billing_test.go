package tenantdb_test

import (
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
)

func TestAPageIsToldHowTheSubscriptionStands(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	acme := w.tenant("acme", w.user("ann"))
	w.update(acme, func(row *hostdb.TenantCatalog) { row.PlanTier = "pro" })
	end := noon.Add(12 * time.Hour)
	sub := &hostdb.Subscription{TenantID: acme.ID, PlanTier: "pro", Status: "past_due", CurrentPeriodEnd: &end}
	must(t, w.host.Subscriptions.Insert(t.Context(), sub))
	cfg := w.config()
	cfg.Subscription.Grace = 24 * time.Hour
	h := w.middleware(cfg).HandlerWith(tenantdb.Rules{AllowInactive: true}, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		s, _ := tenantdb.FromContext(r.Context())
		st := s.SubscriptionStatus()
		_, _ = io.WriteString(rw, fmt.Sprintf("%s %t %t %d", st.Status, st.Admits, st.InGrace, st.DaysLeft))
	}))
	for _, c := range []struct {
		now  time.Time
		want string
	}{{noon, "past_due true true 2"}, {end, "past_due true true 1"}, {end.Add(24 * time.Hour), "past_due false false 0"}} {
		w.clock.Set(c.now)
		if got := do(h, request("ann", "acme")).Body.String(); got != c.want {
			t.Errorf("at %v: %q, want %q", c.now, got, c.want)
		}
	}
	if st := new(tenantdb.Scope).SubscriptionStatus(); st != (hostdb.SubscriptionStatus{}) {
		t.Errorf("without a middleware: %+v", st)
	}
}
