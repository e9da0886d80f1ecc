package stripehook_test

import (
	"testing"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/stripehook"
)

// priced are the items of a subscription of one price.
func priced(price string) fields {
	return fields{"data": []any{fields{"price": fields{"id": price, "unit_amount": 1500}}}}
}

// TestHook_aPriceStaysItsPlans: customers on a price that a plan no longer has keep that plan.
func TestHook_aPriceStaysItsPlans(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		meta := fields{"metadata": fields{"tenant_id": w.tenant.ID}}
		w.deliver(envelope("evt_1", "customer.subscription.created", noon.Unix(),
			subscription("sub_1", "active", meta)), "processed")
		plan, err := w.host.Plans.Get(t.Context(), "pro")
		must(t, err)
		plan.StripePriceMonthly = "price_pro_2027"
		must(t, w.host.Plans.Update(t.Context(), plan))
		w.deliver(envelope("evt_2", "customer.subscription.updated", noon.Unix()+1,
			subscription("sub_1", "active", nil)), "processed")
		w.deliver(envelope("evt_3", "customer.subscription.created", noon.Unix(),
			subscription("sub_2", "active",
				fields{"metadata": fields{"tenant_id": w.tenant.ID}, "items": priced("price_pro_2027")})),
			"processed")
		for _, sub := range []string{"sub_1", "sub_2"} {
			if row := w.row(sub); row.PlanTier != "pro" || row.ProductName != "Pro" {
				t.Errorf("%s: plan %q of product %q", sub, row.PlanTier, row.ProductName)
			}
		}

		maximum, err := w.host.Plans.Get(t.Context(), "max") // the price list decides, where it has the price
		must(t, err)
		maximum.StripePriceMonthly = "price_pro"
		must(t, w.host.Plans.Update(t.Context(), maximum))
		w.deliver(envelope("evt_4", "customer.subscription.updated", noon.Unix()+2,
			subscription("sub_1", "active", nil)), "processed")
		if row := w.row("sub_1"); row.PlanTier != "max" {
			t.Errorf("plan %q for a price that the price list gives to max", row.PlanTier)
		}
	})
}

// TestHook_anUnknownPriceTakesNoPlanAway, in whatever order the events arrive.
func TestHook_anUnknownPriceTakesNoPlanAway(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		meta := fields{"tenant_id": w.tenant.ID}
		known := func(sub, id string) string {
			return envelope(id, "customer.subscription.created", noon.Unix(),
				subscription(sub, "active", fields{"metadata": meta}))
		}
		strange := func(sub, id string) string {
			return envelope(id, "customer.subscription.updated", noon.Unix()+1,
				subscription(sub, "active", fields{"metadata": meta, "items": priced("price_by_hand")}))
		}
		w.deliver(known("sub_1", "evt_1"), "processed")
		w.deliver(strange("sub_1", "evt_2"), "processed")
		w.deliver(strange("sub_2", "evt_4"), "processed")
		if row := w.row("sub_2"); row.PlanTier != "unknown" {
			t.Errorf("plan %q before any is known", row.PlanTier)
		}
		w.deliver(known("sub_2", "evt_3"), "skipped_out_of_order")
		for _, sub := range []string{"sub_1", "sub_2"} {
			if row := w.row(sub); row.PlanTier != "pro" || row.LastEventAt.Unix() != noon.Unix()+1 {
				t.Errorf("%s: %+v", sub, row)
			}
		}
	})
}

// TestHook_aTierThatIsNoPlanTakesNoPlanAway, in whatever order the events arrive: metadata may say "monthly"
// where others say which plan.
func TestHook_aTierThatIsNoPlanTakesNoPlanAway(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		told := func(sub, id string, second int64, price, tier string) string {
			return envelope(id, "customer.subscription.updated", noon.Unix()+second,
				subscription(sub, "active",
					fields{"metadata": fields{"tenant_id": w.tenant.ID, "plan_type": tier},
						"items": priced(price)}))
		}
		w.deliver(told("sub_1", "evt_1", 0, "price_pro", "monthly"), "processed")
		w.deliver(told("sub_1", "evt_2", 1, "price_by_hand", "monthly"), "processed")
		w.deliver(told("sub_2", "evt_3", 1, "price_by_hand", "monthly"), "processed")
		if row := w.row("sub_2"); row.PlanTier != "monthly" {
			t.Errorf("plan %q where nothing else is known", row.PlanTier)
		}
		w.deliver(told("sub_2", "evt_4", 0, "price_pro", "monthly"), "skipped_out_of_order")
		w.deliver(told("sub_3", "evt_5", 0, "price_by_hand", "old"), "processed")
		w.deliver(told("sub_3", "evt_6", 1, "price_by_hand", "new"), "processed")
		w.deliver(told("sub_4", "evt_7", 0, "price_pro", "monthly"), "processed")
		w.deliver(told("sub_4", "evt_8", 1, "price_by_hand", "max"), "processed")
		for sub, want := range map[string]string{"sub_1": "pro", "sub_2": "pro", "sub_3": "new",
			"sub_4": "max"} {
			if row := w.row(sub); row.PlanTier != want {
				t.Errorf("%s: plan %q, want %q", sub, row.PlanTier, want)
			}
		}
	})
}

// TestHook_aDelayedPaymentIsPaidInTheEnd: a bank debit succeeds, or fails, days after its Checkout session.
func TestHook_aDelayedPaymentIsPaidInTheEnd(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		event := func(session, id, kind, status string) string {
			return envelope(id, "checkout.session."+kind, noon.Unix(),
				fields{"id": session, "mode": "payment", "payment_status": status,
					"amount_total": 990, "client_reference_id": w.tenant.ID})
		}
		w.deliver(event("cs_1", "evt_1", "completed", "unpaid"), "processed")
		w.deliver(event("cs_1", "evt_2", "async_payment_succeeded", "paid"), "processed")
		w.deliver(event("cs_2", "evt_3", "async_payment_succeeded", "paid"), "processed")
		w.deliver(event("cs_2", "evt_4", "completed", "unpaid"), "processed")
		w.deliver(event("cs_3", "evt_5", "completed", "unpaid"), "processed")
		w.deliver(event("cs_3", "evt_6", "async_payment_failed", "unpaid"), "processed")
		rows, err := w.host.Subscriptions.ListForTenant(t.Context(), w.tenant.ID)
		must(t, err)
		count := map[string]int{}
		for _, row := range rows {
			count[row.Status]++
		}
		if len(rows) != 3 || count["paid"] != 2 || count["unpaid"] != 1 {
			t.Errorf("%d rows: %v", len(rows), count)
		}
	})
}

func TestHook_aSubscriptionIsPausedAndResumed(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		meta := fields{"metadata": fields{"tenant_id": w.tenant.ID}}
		w.deliver(envelope("evt_1", "customer.subscription.created", noon.Unix(),
			subscription("sub_1", "trialing", meta)), "processed")
		w.deliver(envelope("evt_2", "customer.subscription.paused", noon.Unix()+1,
			subscription("sub_1", "paused", nil)), "processed")
		if row := w.row("sub_1"); row.Status != hostdb.SubscriptionPaused {
			t.Errorf("status %s", row.Status)
		}
		w.deliver(envelope("evt_3", "customer.subscription.resumed", noon.Unix()+2,
			subscription("sub_1", "active", nil)), "processed")
		if row := w.row("sub_1"); row.Status != hostdb.SubscriptionActive {
			t.Errorf("status %s", row.Status)
		}
	})
}

func TestConfig_DenyPaused_holdsWhatIsNotCollected(t *testing.T) {
	for deny, want := range map[bool]string{false: "active", true: "paused"} {
		w := newWorld(t, sqliteURL(t))
		w.hook = w.newHook(stripehook.Config{DenyPaused: deny})
		meta := fields{"tenant_id": w.tenant.ID}
		w.deliver(envelope("evt_1", "customer.subscription.created", noon.Unix(),
			subscription("sub_1", "active", fields{"metadata": meta,
				"pause_collection": fields{"behavior": "void"}})), "processed")
		if row := w.row("sub_1"); row.Status != want {
			t.Errorf("DenyPaused %v: status %s, want %s", deny, row.Status, want)
		}
		w.deliver(envelope("evt_2", "customer.subscription.updated", noon.Unix()+1,
			subscription("sub_1", "active", fields{"pause_collection": nil})), "processed")
		if row := w.row("sub_1"); row.Status != "active" {
			t.Errorf("DenyPaused %v: collected again, status %s", deny, row.Status)
		}
		w.deliver(envelope("evt_3", "customer.subscription.deleted", noon.Unix()+2,
			subscription("sub_1", "canceled", fields{"pause_collection": fields{"behavior": "void"}})),
			"processed")
		if row := w.row("sub_1"); row.Status != "canceled" {
			t.Errorf("DenyPaused %v: canceled, status %s", deny, row.Status)
		}
	}
}

func TestConfig_Accept_choosesAmongProducts(t *testing.T) {
	w := newWorld(t, sqliteURL(t))
	var asked []stripehook.Event
	w.hook = w.newHook(stripehook.Config{Accept: func(e stripehook.Event) bool {
		asked = append(asked, e)
		switch e.Metadata["app"] {
		case "shop":
			return false
		case "broken":
			panic("accept")
		}
		return true
	}})
	items := fields{"data": []any{fields{"price": fields{"id": "price_pro", "product": "prod_1",
		"unit_amount": 1500}}}}
	for app, want := range map[string]string{"shop": "ignored", "notes": "processed", "broken": "processed"} {
		w.deliver(envelope("evt_"+app, "customer.subscription.created", noon.Unix(),
			subscription("sub_"+app, "active",
				fields{"metadata": fields{"app": app, "tenant_id": w.tenant.ID}, "items": items})), want)
	}
	w.deliver(envelope("evt_invoice", "invoice.payment_succeeded", noon.Unix(),
		fields{"id": "in_1", "customer": "cus_shop",
			"parent": fields{"subscription_details": fields{"subscription": "sub_shop",
				"metadata": fields{"app": "shop"}}},
			"lines": fields{"data": []any{fields{"pricing": fields{"price_details": fields{"price": "price_x",
				"product": "prod_x"}}}}}}), "ignored")
	stored, err := w.host.WebhookEvents.List(t.Context())
	must(t, err)
	if len(stored) != 2 {
		t.Errorf("%d events are stored, want 2", len(stored))
	}
	last := asked[len(asked)-1]
	if last.Subscription != "sub_shop" || last.Customer != "cus_shop" || len(last.Prices) != 1 ||
		last.Prices[0] != "price_x" || last.Products[0] != "prod_x" {
		t.Errorf("of the invoice Accept learns %+v", last)
	}
}

// TestPark_endsAfterParkedFor: what never comes isn't waited for without end.
func TestPark_endsAfterParkedFor(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.deliver(envelope("evt_1", "customer.subscription.updated", noon.Unix(),
			subscription("sub_other", "active", nil)), "parked")
		if n, err := w.host.WebhookEvents.ExpireParked(t.Context(), time.Hour, "too late"); err != nil ||
			n != 0 {
			t.Errorf("%d events given up at once, %v", n, err)
		}
		w.hook = w.newHook(stripehook.Config{ParkedFor: time.Nanosecond})
		eventually(t, "the event is given up",
			func() bool { return w.event("evt_1").Status == hostdb.WebhookFailed })
		if row := w.event("evt_1"); row.Reason == "" {
			t.Error("the event doesn't say why")
		}
	})
}
