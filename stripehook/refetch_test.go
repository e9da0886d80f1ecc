package stripehook_test

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/stripehook"
)

// answering makes an endpoint whose Fetcher answers with what is in the variable that it returns.
func (w *world) answering() *fields {
	answer := new(fields)
	w.hook = w.newHook(stripehook.Config{Fetcher: fetcher(func(context.Context, string) ([]byte,
		error) {
		return json.Marshal(*answer)
	})})
	return answer
}

// stays replays events, which must keep the status processed and leave the subscription as it is.
func (w *world) stays(sub string, events ...string) {
	w.t.Helper()
	before := *w.row(sub)
	for _, id := range events {
		if status, err := stripehook.Replay(w.t.Context(), w.host, id); err != nil ||
			status != hostdb.WebhookProcessed {
			w.t.Errorf("Replay(%s) = %s, %v", id, status, err)
		}
		if after := *w.row(sub); after.Status != before.Status || after.PlanTier != before.PlanTier ||
			after.AmountCents != before.AmountCents ||
			after.CancelAtPeriodEnd != before.CancelAtPeriodEnd || after.LastEventID != before.LastEventID ||
			after.LastEventRank != before.LastEventRank {
			w.t.Errorf("Replay(%s) made of\n%+v\n%+v", id, before, after)
		}
	}
}

func TestReplay_keepsWhatAnInvoiceOrASessionFetched(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		answer, meta := w.answering(), fields{"metadata": fields{"tenant_id": w.tenant.ID}}
		for sub, kind := range map[string]string{"sub_i": "invoice.payment_failed",
			"sub_s": "checkout.session.completed"} {
			object := invoiceOf(sub, nil)
			if kind == "checkout.session.completed" {
				object = session(sub, w.tenant.ID, nil)
			}
			*answer = subscription(sub, "active", nil)
			w.deliver(envelope("evt_1"+sub, "customer.subscription.updated", noon.Unix(),
				subscription(sub, "active", meta)), "processed")
			for i, age := range []int64{1, 0, -1} { // the last one is older than the event
				*answer = subscription(sub, []string{"unpaid", "paused", "past_due"}[i], nil)
				id := "evt_2" + sub + string(rune('a'+i))
				w.deliver(envelope(id, kind, noon.Unix()+age, object), "processed")
				if row := w.row(sub); row.Status != (*answer)["status"] {
					t.Errorf("after a refetch: %+v", row)
				}
				w.stays(sub, "evt_1"+sub, id)
			}
		}
	})
}

// The answer to the event itself may be another state than the event's, in either direction, or have only
// another price.
func TestReplay_keepsWhatItsOwnEventFetched(t *testing.T) {
	w := newWorld(t, sqliteURL(t))
	answer, meta := w.answering(), fields{"metadata": fields{"tenant_id": w.tenant.ID}}
	dearer := fields{"items": fields{"data": []any{fields{"price": fields{"id": "price_max",
		"unit_amount": 9900}}}}}
	for sub, c := range map[string]struct {
		said, fetched string
		more          fields
	}{"sub_1": {"active", "unpaid", nil}, "sub_2": {"past_due", "active", nil},
		"sub_3": {"active", "canceled", nil}, "sub_4": {"active", "active", dearer},
		"sub_5": {"unpaid", "active", dearer}} {
		*answer = subscription(sub, c.fetched, c.more)
		w.deliver(envelope("evt_"+sub, "customer.subscription.updated", noon.Unix(),
			subscription(sub, c.said, meta)), "processed")
		if row := w.row(sub); row.Status != c.fetched || row.LastEventID != "evt_"+sub {
			t.Errorf("%s: %+v", sub, row)
		}
		w.stays(sub, "evt_"+sub)
	}
}

// What is fetched is the latest that there is: an event of the same second asks again, whatever its rank and
// id, and so does one whose record was pruned.
func TestFetcher_isAskedByEventsOfTheSecondThatWasReached(t *testing.T) {
	w := newWorld(t, sqliteURL(t))
	answer, meta := w.answering(), fields{"metadata": fields{"tenant_id": w.tenant.ID}}
	event := func(id, status string) string {
		return envelope(id, "customer.subscription.updated", noon.Unix(), subscription("sub_1", status, meta))
	}
	for _, step := range []struct{ id, said, fetched string }{
		{"evt_2", "active", "unpaid"},
		{"evt_1", "past_due", "active"},
		{"evt_0", "incomplete", "past_due"},
		{"evt_2", "active", "active"}, // once more
	} {
		if row, err := w.host.WebhookEvents.ByEventID(t.Context(), step.id); err == nil {
			must(t, w.host.WebhookEvents.Delete(t.Context(), row.ID))
		}
		*answer = subscription("sub_1", step.fetched, nil)
		w.deliver(event(step.id, step.said), "processed")
		if row := w.row("sub_1"); row.Status != step.fetched || row.LastEventID != "evt_2" ||
			row.LastEventAt.Unix() != noon.Unix() {
			t.Errorf("after %s: %+v", step.id, row)
		}
		w.stays("sub_1", step.id)
	}
	*answer = subscription("sub_1", "canceled", nil)
	w.deliver(envelope("evt_in", "invoice.payment_failed", noon.Unix()-1, invoiceOf("sub_1", nil)),
		"processed")
	*answer = subscription("sub_1", "active", nil)
	w.deliver(event("evt_3", "active"), "skipped_out_of_order")
	w.stays("sub_1", "evt_2", "evt_1", "evt_0", "evt_in")
	if row := w.row("sub_1"); row.Status != "canceled" {
		t.Errorf("after the end: %+v", row)
	}
}

// A plan that the price list lacked when it was fetched is made good by Replay, where the row is else as the
// event has it.
func TestReplay_findsThePlanOfWhatWasFetched(t *testing.T) {
	w := newWorld(t, sqliteURL(t))
	answer := w.answering()
	o := subscription("sub_1", "active", fields{"metadata": fields{"tenant_id": w.tenant.ID},
		"items": fields{"data": []any{fields{"price": fields{"id": "price_new", "unit_amount": 700}}}}})
	*answer = o
	w.deliver(envelope("evt_1", "customer.subscription.updated", noon.Unix(), o), "processed")
	w.stays("sub_1", "evt_1")
	must(t, w.host.Plans.Insert(t.Context(),
		&hostdb.PricingPlan{ID: "new", Name: "New", StripePriceMonthly: "price_new"}))
	if status, err := stripehook.Replay(t.Context(), w.host, "evt_1"); err != nil ||
		status != hostdb.WebhookProcessed {
		t.Errorf("Replay = %s, %v", status, err)
	}
	if row := w.row("sub_1"); row.PlanTier != "new" || row.ProductName != "New" || row.Status != "active" ||
		row.AmountCents != 700 {
		t.Errorf("after the replay: %+v", row)
	}
	w.stays("sub_1", "evt_1")
}
