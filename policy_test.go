package tenantdb_test

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
)

// TestPolicy_oneMoreSubscriptionTakesNothingAway gives a tenant one subscription after another, of any plan,
// status and date, as a stranger can with a payment link. At no time may the tenant be refused, get a lower
// tier or lose a feature because of it.
func TestPolicy_oneMoreSubscriptionTakesNothingAway(t *testing.T) {
	t.Parallel()
	onBothEngines(t, func(t *testing.T, w *world) {
		ctx, ann := t.Context(), w.user("ann")
		for tier, plans := range [][]string{{"free"}, {"basic", "other"}, {"pro"}, {"top"}} {
			for _, plan := range plans { // each has its own feature
				must(t, w.host.Plans.Insert(ctx, &hostdb.PricingPlan{
					ID: plan, Name: plan, TierLevel: tier, IsActive: true,
					Features: []string{plan},
				}))
			}
		}
		rapid.Check(t, func(rt *rapid.T) {
			tenant := &hostdb.TenantCatalog{
				Name: "Acme", IsActive: true, PlanTier: rapid.SampledFrom([]string{"free", "pro"}).Draw(rt,
					"own plan"),
			}
			must(t, w.host.Tenants.Insert(ctx, tenant))
			must(t, w.host.Memberships.Insert(ctx, &hostdb.Membership{
				UserID: ann.ID, TenantID: tenant.ID, Role: hostdb.RoleOwner, IsActive: true,
			}))
			policy := tenantdb.SubscriptionPolicy{Grace: 24 * time.Hour}
			if rapid.Bool().Draw(rt, "free plans") {
				policy.FreePlans = []string{"free", "pro"}
			}
			if rapid.Bool().Draw(rt, "backstop") {
				policy.MaxOverdue, policy.TrialPatience = 36*time.Hour, 12*time.Hour
			}
			times := []time.Time{
				noon, noon.Add(20 * time.Hour), noon.Add(47 * time.Hour), noon.Add(100 * time.Hour),
			}
			before, had := make([]int, len(times)), make([][]string, len(times))
			for i := range before {
				before[i] = -2
			}
			for n := range rapid.IntRange(1, 40).Draw(rt, "subscriptions") {
				must(t, w.host.Subscriptions.Insert(ctx, drawSubscription(rt, tenant.ID, n)))
				a, err := w.host.Access(ctx, hostdb.UserKey{ID: ann.ID}, hostdb.TenantKey{ID: tenant.ID})
				must(t, err)
				for i, now := range times {
					tier, features, in := tenantdb.Decide(policy, a, now)
					if !in {
						tier = -2
					}
					if tier < before[i] {
						rt.Fatalf("after %d subscriptions tier %d became %d at %v", n+1, before[i], tier, now)
					}
					for _, key := range had[i] {
						if !slices.Contains(features, key) {
							rt.Fatalf("after %d subscriptions the features %q became %q at %v", n+1, had[i],
								features, now)
						}
					}
					before[i], had[i] = tier, features
				}
			}
		})
	})
}

// drawSubscription draws a subscription without storing it.
func drawSubscription(rt *rapid.T, tenantID string, n int) *hostdb.Subscription {
	date := func(name string) *time.Time {
		if !rapid.Bool().Draw(rt, name) {
			return nil
		}
		at := noon.Add(time.Duration(rapid.IntRange(-48, 72).Draw(rt, name+" in hours")) * time.Hour)
		return &at
	}
	s := &hostdb.Subscription{TenantID: tenantID,
		PlanTier: rapid.SampledFrom([]string{"basic", "other", "pro", "top", "unknown"}).Draw(rt, "plan"),
		Status: rapid.SampledFrom([]string{"active", "trialing", "past_due", "canceled", "odd"}).Draw(rt,
			"status"),
		PaymentType: rapid.SampledFrom([]string{hostdb.PaymentSubscription, hostdb.PaymentSubscription,
			hostdb.PaymentOneTime}).Draw(rt, "kind"),
		TrialEnd: date("trial end"), CurrentPeriodEnd: date("period end")}
	if rapid.Bool().Draw(rt, "Stripe's") {
		s.StripeSubID = fmt.Sprintf("sub_%s_%d", tenantID, n)
	}
	return s
}

// TestPolicy_endsWhatMissingEventsWouldHaveEnded tries the two options that stand in for events which arrive
// late or never.
func TestPolicy_endsWhatMissingEventsWouldHaveEnded(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ann, end := w.user("ann"), noon.Add(time.Hour)
		var tenants []string
		for i, s := range []hostdb.Subscription{
			{Status: "trialing", TrialEnd: &end, StripeSubID: "sub_1"},
			{Status: "trialing", TrialEnd: &end},
			{Status: "active", CurrentPeriodEnd: &end},
			{Status: "active"},
		} {
			tenant := w.tenant(fmt.Sprintf("t%d", i), ann)
			w.update(tenant, func(row *hostdb.TenantCatalog) { row.PlanTier = "pro" })
			s.TenantID, s.PlanTier, s.PaymentType = tenant.ID, "pro", hostdb.PaymentSubscription
			must(t, w.host.Subscriptions.Insert(t.Context(), &s))
			tenants = append(tenants, tenant.Slug)
		}
		for name, c := range map[string]struct {
			policy tenantdb.SubscriptionPolicy
			want   []string // for each tenant, how long after its date it is admitted
		}{
			"default": {tenantdb.SubscriptionPolicy{}, []string{"0s", "0s", "ever", "ever"}},
			"patience": {
				tenantdb.SubscriptionPolicy{TrialPatience: time.Hour}, []string{
					"1h0m0s", "0s", "ever", "ever",
				},
			},
			"backstop": {
				tenantdb.SubscriptionPolicy{MaxOverdue: 48 * time.Hour},
				[]string{"0s", "0s", "48h0m0s", "ever"},
			},
		} {
			cfg := w.config()
			cfg.Subscription = c.policy
			w.clock.Set(noon)
			mw := w.middleware(cfg)
			h := mw.Handler(emptyHandler)
			for i, slug := range tenants {
				got := "never"
				for _, after := range []time.Duration{0, time.Hour, 48 * time.Hour} {
					w.clock.Set(end.Add(after - time.Second))
					last := do(h, request("ann", slug)).Code == http.StatusOK
					w.clock.Set(end.Add(after))
					if last && do(h, request("ann", slug)).Code == http.StatusPaymentRequired {
						got = after.String()
					}
				}
				w.clock.Set(end.AddDate(0, 6, 0))
				if do(h, request("ann", slug)).Code == http.StatusOK {
					got = "ever"
				}
				if got != c.want[i] {
					t.Errorf("%s: %s is let in until %s after its date, want %s", name, slug, got, c.want[i])
				}
			}
			if got := mw.Stats().MaxOverdue; got != c.policy.MaxOverdue {
				t.Errorf("%s: Stats say %v", name, got)
			}
		}
	})
}
