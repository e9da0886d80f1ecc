package stripehook_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/stripehook"
)

// fetcher is a Fetcher made of a function.
type fetcher func(context.Context, string) ([]byte, error)

func (f fetcher) Subscription(ctx context.Context, id string) ([]byte, error) { return f(ctx, id) }

func TestHook_bothShapesOfASubscriptionAreRead(t *testing.T) {
	end := noon.AddDate(0, 1, 0)
	older := func(tenant string) fields {
		return fields{"id": "sub_old", "object": "subscription", "status": "active",
			"customer":           fields{"id": "cus_1", "object": "customer"},
			"current_period_end": end.Unix(), "cancel_at_period_end": true, "trial_end": noon.Unix(),
			"metadata": fields{"tenant_id": tenant},
			"items": fields{"data": []any{fields{"quantity": 2,
				"plan": fields{"id": "price_pro", "amount": 1500}}}}}
	}
	newer := func(tenant string) fields {
		o := subscription("sub_new", "active",
			fields{"customer": "cus_1", "cancel_at": end.Unix(), "trial_end": noon.Unix(),
				"metadata": fields{"tenant_id": tenant}})
		o["items"] = fields{"data": []any{
			fields{"current_period_end": end.Unix(), "quantity": 2,
				"price": fields{"id": "price_pro", "unit_amount": 1000}},
			fields{"current_period_end": noon.Unix(), "quantity": 1,
				"price": fields{"id": "price_unknown", "unit_amount": 1000}}}}
		return o
	}
	w := newWorld(t, sqliteURL(t))
	for id, object := range map[string]fields{"sub_old": older(w.tenant.ID), "sub_new": newer(w.tenant.ID)} {
		w.deliver(envelope("evt_"+id, "customer.subscription.created", noon.Unix(), object), "processed")
		row := w.row(id)
		if row.TenantID != w.tenant.ID || row.Status != "active" || !row.CurrentPeriodEnd.Equal(end) ||
			!row.CancelAtPeriodEnd || !row.TrialEnd.Equal(noon) ||
			row.PlanTier != "pro" || row.ProductName != "Pro" || row.AmountCents != 3000 ||
			row.StripeCustID != "cus_1" || row.PaymentType != hostdb.PaymentSubscription {
			t.Errorf("%s: %+v", id, row)
		}
	}
	for i, invoice := range []fields{{"id": "in_1", "subscription": "sub_old"},
		{"id": "in_2", "subscription": fields{"id": "sub_old"}}, invoiceOf("sub_old", nil),
		invoiceOf("sub_new", nil)} {
		id := "evt_in_" + string(rune('0'+i))
		w.deliver(envelope(id, "invoice.payment_succeeded", noon.Unix(), invoice), "processed")
		if got := w.event(id).StripeSubID; !strings.HasPrefix(got, "sub_") {
			t.Errorf("invoice %d is about %q", i, got)
		}
	}
}

func TestHook_plansAreFoundByPriceAndUnknownOnesGrantNothing(t *testing.T) {
	w := newWorld(t, sqliteURL(t))
	item := func(price string) any { return fields{"price": fields{"id": price, "nickname": "Nick"}} }
	for sub, c := range map[string]struct {
		items   []any
		meta    fields
		tier    string
		product string
	}{
		"sub_1": {[]any{item("price_pro")}, nil, "pro", "Pro"},
		"sub_2": {[]any{item("price_pro"), item("price_max")}, nil, "max", "Max"},
		"sub_3": {[]any{item("price_other")}, nil, "unknown", "Nick"},
		"sub_4": {[]any{item("price_other")}, fields{"plan_tier": "custom", "product_name": "Custom"},
			"custom", "Custom"},
		"sub_5": {nil, fields{"plan_tier": strings.Repeat("x", 65)}, "unknown", ""},
		"sub_6": {[]any{item("price_pro")}, fields{"plan_tier": "max"}, "pro", "Pro"},
		"sub_7": {[]any{item("price_other")}, fields{"plan_type": "custom"}, "custom", "Nick"},
		"sub_8": {[]any{item("price_other")}, fields{"plan_type": "old", "plan_tier": "custom"}, "custom",
			"Nick"},
	} {
		meta := fields{"tenant_id": w.tenant.ID}
		for k, v := range c.meta {
			meta[k] = v
		}
		w.deliver(envelope("evt_"+sub, "customer.subscription.updated", noon.Unix(),
			subscription(sub, "active", fields{"metadata": meta, "items": fields{"data": c.items}})),
			"processed")
		if row := w.row(sub); row.PlanTier != c.tier || row.ProductName != c.product {
			t.Errorf("%s: plan %q, product %q; want %q, %q", sub, row.PlanTier, row.ProductName, c.tier,
				c.product)
		}
	}
}

func TestHook_unknownStatusesAreKeptAndDeny(t *testing.T) {
	w := newWorld(t, sqliteURL(t))
	for i, status := range []any{"blessed", "Active", "active ", "", nil, 7, strings.Repeat("a", 33),
		"act\u0000ive", "paused", "unpaid"} {
		sub := "sub_" + string(rune('a'+i))
		w.deliver(envelope("evt_"+sub, "customer.subscription.updated", noon.Unix(),
			subscription(sub, "", fields{"status": status, "metadata": fields{"tenant_id": w.tenant.ID}})),
			"processed")
		want := "unknown"
		if s, ok := status.(string); ok && (s == "blessed" || s == "paused" || s == "unpaid") {
			want = s
		}
		if row := w.row(sub); row.Status != want || row.ActiveAt(noon, hostdb.DefaultGrace) {
			t.Errorf("%q is stored as %q, admits = %v", status, row.Status,
				row.ActiveAt(noon, hostdb.DefaultGrace))
		}
	}
}

func TestHook_aOneTimePaymentIsRecordedOnceAndIsNoAccess(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		paid := fields{"id": "cs_1", "object": "checkout.session", "mode": "payment", "customer": "cus_1",
			"payment_status": "paid", "amount_total": 990,
			"client_reference_id": w.tenant.ID, "metadata": fields{"product_name": "Sticker"}}
		w.deliver(envelope("evt_1", "checkout.session.completed", noon.Unix(), paid), "processed")
		w.deliver(envelope("evt_1", "checkout.session.completed", noon.Unix(), paid), "duplicate")
		w.deliver(envelope("evt_2", "checkout.session.completed", noon.Unix(), paid), "processed")
		if status, err := stripehook.Replay(t.Context(), w.host, "evt_1"); err != nil ||
			status != "processed" {
			t.Errorf("Replay = %s, %v", status, err)
		}
		rows, err := w.host.Subscriptions.ListForTenant(t.Context(), w.tenant.ID)
		must(t, err)
		if len(rows) != 1 {
			t.Fatalf("%d rows", len(rows))
		}
		row := rows[0]
		if row.PaymentType != hostdb.PaymentOneTime || row.Status != "paid" || row.AmountCents != 990 ||
			row.ProductName != "Sticker" || row.StripeCustID != "cus_1" ||
			row.ActiveAt(noon, hostdb.DefaultGrace) {
			t.Errorf("%+v", row)
		}
		active := *row
		active.Status = "active"
		if active.ActiveAt(noon, hostdb.DefaultGrace) {
			t.Error("a one-time payment admits")
		}
		lost := fields{"id": "cs_2", "mode": "payment"}
		w.deliver(envelope("evt_3", "checkout.session.completed", noon.Unix(), lost), "parked")
		w.deliver(envelope("evt_4", "checkout.session.completed", noon.Unix(), fields{"mode": "payment"}),
			"failed")
		w.deliver(envelope("evt_5", "checkout.session.completed", noon.Unix(),
			fields{"id": "cs_3", "mode": "setup"}), "processed")
	})
}

func TestHook_theCustomerIsKeptOnTheUserWhoPays(t *testing.T) {
	w := newWorld(t, sqliteURL(t))
	member := w.member(w.tenant, hostdb.RoleMember)
	other, stranger := w.customer()
	w.member(other, hostdb.RoleOwner) // so it has two
	customerOf := func(user *hostdb.GlobalUser) string {
		t.Helper()
		row, err := w.host.Users.Get(t.Context(), user.ID)
		must(t, err)
		return row.StripeCustID
	}
	for i, c := range []struct {
		object fields
		want   [3]string // owner, member, stranger
	}{
		{session("sub_1", other.ID, fields{"customer_details": fields{"email": w.owner.Email}}),
			[3]string{"", "", ""}},
		{session("sub_2", other.ID, fields{"metadata": fields{"user_id": w.owner.ID}}),
			[3]string{"", "", ""}},
		{session("sub_3", w.tenant.ID, fields{"metadata": fields{"user_id": stranger.ID}}),
			[3]string{"", "", ""}},
		{session("sub_4", w.tenant.ID, fields{"customer": "cus_m",
			"customer_details": fields{"email": strings.ToUpper(member.Email)}}), [3]string{"", "cus_m", ""}},
		{session("sub_5", w.tenant.ID, fields{"customer": "cus_x", "metadata": fields{"user_id": member.ID}}),
			[3]string{"", "cus_m", ""}},
		{session("sub_6", w.tenant.ID, fields{"customer": nil}), [3]string{"", "cus_m", ""}},
		{session("sub_l", w.tenant.ID, fields{"customer": "cus_l", "payment_link": "plink_1",
			"customer_details": fields{"email": w.owner.Email}}),
			[3]string{"", "cus_m", ""}},
		{session("sub_7", w.tenant.ID, fields{"customer": "cus_o", "customer_email": "nobody@example.com"}),
			[3]string{"cus_o", "cus_m", ""}},
		{session("sub_8", other.ID, fields{"customer": "cus_s", "metadata": fields{"user_id": stranger.ID}}),
			[3]string{"cus_o", "cus_m", "cus_s"}},
	} {
		w.deliver(envelope("evt_"+string(rune('a'+i)), "checkout.session.completed", noon.Unix(), c.object),
			"processed")
		if got := [3]string{customerOf(w.owner), customerOf(member), customerOf(stranger)}; got != c.want {
			t.Errorf("%d: customers %q, want %q", i, got, c.want)
		}
	}
	third, owner := w.customer()
	w.deliver(envelope("evt_sub", "customer.subscription.created", noon.Unix(),
		subscription("sub_api", "active", fields{"metadata": fields{"tenant_id": third.ID,
			"user_id": owner.ID}})), "processed")
	if got := customerOf(owner); got != "cus_sub_api" {
		t.Errorf("the user that a subscription names has customer %q", got)
	}
}

func TestHook_whatChangesIsAudited(t *testing.T) {
	w := newWorld(t, sqliteURL(t))
	meta := fields{"metadata": fields{"tenant_id": w.tenant.ID}}
	w.deliver(envelope("evt_1", "customer.subscription.created", noon.Unix(),
		subscription("sub_1", "active", meta)), "processed")
	w.deliver(envelope("evt_2", "invoice.payment_failed", noon.Unix(), invoiceOf("sub_1", nil)), "processed")
	w.deliver(envelope("evt_3", "customer.subscription.deleted", noon.Unix()+1,
		subscription("sub_1", "canceled", meta)), "processed")
	_, err := stripehook.Replay(t.Context(), w.host, "evt_2")
	must(t, err)
	logs, err := w.host.AuditLogs.ListForTarget(t.Context(), w.row("sub_1").ID)
	must(t, err)
	got := ""
	for _, log := range logs {
		got += log.EventType + " by " + log.ActorUserID + "; "
	}
	if want := "subscription.created by stripe:evt_1; subscription.updated by stripe:evt_1; " +
		"invoice.payment_failed by stripe:evt_2; " +
		"subscription.updated by stripe:evt_2; subscription.updated by stripe:evt_3; "; got != want {
		t.Errorf("audited: %s\nwant:    %s", got, want)
	}
}

func TestHook_aHundredDuplicatesAtOnceChangeStateOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.deliver(envelope("evt_0", "customer.subscription.created", noon.Unix(),
			subscription("sub_1", "active", fields{"metadata": fields{"tenant_id": w.tenant.ID}})),
			"processed")
		before, err := w.host.AuditLogs.List(t.Context())
		must(t, err)
		body := envelope("evt_1", "customer.subscription.updated", noon.Unix()+1,
			subscription("sub_1", "past_due", nil))
		header := sign(body, secret, noon)
		var (
			wg        sync.WaitGroup
			processed atomic.Int64
		)
		for range 100 {
			wg.Go(func() {
				for {
					rec := post(w.hook, body, header)
					switch word := strings.TrimSpace(rec.Body.String()); {
					case rec.Code == http.StatusServiceUnavailable: // as Stripe does
						continue
					case word == "processed":
						processed.Add(1)
					case rec.Code != 200 || word != "duplicate":
						t.Errorf("answered %d %s", rec.Code, word)
					}
					return
				}
			})
		}
		wg.Wait()
		after, err := w.host.AuditLogs.List(t.Context())
		must(t, err)
		if n := len(after) - len(before); processed.Load() != 1 || n != 1 ||
			w.row("sub_1").Status != "past_due" {
			t.Errorf("processed %d times, %d audit rows, status %s", processed.Load(), n,
				w.row("sub_1").Status)
		}
	})
}

func TestHook_nothingRevivesACanceledSubscription(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		at, meta := noon.Unix(), fields{"metadata": fields{"tenant_id": w.tenant.ID}}
		w.deliver(envelope("evt_5", "customer.subscription.deleted", at,
			subscription("sub_1", "canceled", meta)), "processed")
		for i, e := range []string{
			envelope("evt_1", "customer.subscription.updated", at-1, subscription("sub_1", "active", meta)),
			envelope("evt_9", "customer.subscription.updated", at, subscription("sub_1", "active", meta)),
			envelope("evt_8", "customer.subscription.updated", at+1, subscription("sub_1", "active", meta)),
			envelope("evt_7", "customer.subscription.created", at+2, subscription("sub_1", "trialing", meta)),
		} {
			w.deliver(e, "skipped_out_of_order")
			if row := w.row("sub_1"); row.Status != "canceled" || row.LastEventID != "evt_5" {
				t.Errorf("%d: %+v", i, row)
			}
		}
		for i, e := range []string{
			envelope("evt_in1", "invoice.payment_succeeded", at-1, invoiceOf("sub_1", nil)),
			envelope("evt_in2", "invoice.payment_succeeded", at+9, invoiceOf("sub_1", nil)),
			envelope("evt_cs", "checkout.session.completed", at+9, session("sub_1", w.tenant.ID, nil)),
		} {
			w.deliver(e, "processed")
			if row := w.row("sub_1"); row.Status != "canceled" || row.LastEventID != "evt_5" {
				t.Errorf("invoice %d: %+v", i, row)
			}
		}
	})
}

func TestHook_invoicesSetNoStatusButThatOfAnActiveSubscription(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		for _, status := range []string{"incomplete", "trialing", "active", "past_due", "unpaid", "paused",
			"canceled", "incomplete_expired", "blessed"} {
			sub, want := "sub_"+status, map[string]string{"active": "past_due"}[status]
			if want == "" {
				want = status
			}
			w.deliver(envelope("evt_"+status, "customer.subscription.created", noon.Unix(),
				subscription(sub, status, fields{"metadata": fields{"tenant_id": w.tenant.ID}})), "processed")
			before := *w.row(sub)
			for _, kind := range []string{"succeeded", "failed"} {
				w.deliver(envelope("evt_"+kind+status, "invoice.payment_"+kind, noon.Unix()+1,
					invoiceOf(sub, nil)), "processed")
			}
			if row := w.row(sub); row.Status != want ||
				!row.CurrentPeriodEnd.Equal(*before.CurrentPeriodEnd) ||
				row.LastEventID != before.LastEventID {
				t.Errorf("%s became %+v", status, row)
			}
		}
	})
}

// A renewal whose payment failed leaves the subscription past due, whether or not an update says so, until a
// later update says otherwise. Other invoices don't.
func TestHook_aFailedRenewalIsPastDueUntilALaterUpdate(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		at, meta := noon.Unix(), fields{"metadata": fields{"tenant_id": w.tenant.ID}}
		status := func(want string) {
			t.Helper()
			if row := w.row("sub_1"); row.Status != want {
				t.Errorf("status %s, want %s", row.Status, want)
			}
		}
		w.deliver(envelope("evt_1", "customer.subscription.created", at,
			subscription("sub_1", "active", meta)), "processed")
		for i, reason := range []string{"subscription_create", "manual"} {
			w.deliver(envelope(fmt.Sprint("evt_2", i), "invoice.payment_failed", at+10,
				invoiceOf("sub_1", fields{"billing_reason": reason})), "processed")
			status("active")
		}
		w.deliver(envelope("evt_3", "invoice.payment_failed", at+10,
			invoiceOf("sub_1", fields{"billing_reason": "subscription_cycle"})), "processed")
		status("past_due")
		w.deliver(envelope("evt_4", "customer.subscription.updated", at+5,
			subscription("sub_1", "active", nil)), "processed")
		status("past_due")
		w.deliver(envelope("evt_5", "customer.subscription.updated", at+20,
			subscription("sub_1", "active", nil)), "processed")
		status("active")
		w.deliver(envelope("evt_6", "invoice.payment_failed", at+15, invoiceOf("sub_1", nil)), "processed")
		status("active")
	})
}

func TestFetcher_itsAnswerIsShown(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		var (
			status atomic.Value
			asked  atomic.Int64
			broken atomic.Bool
		)
		status.Store("past_due")
		w.hook = w.newHook(stripehook.Config{Fetcher: fetcher(func(ctx context.Context, id string) ([]byte,
			error) {
			asked.Add(1)
			if _, limited := ctx.Deadline(); !limited || id != "sub_1" || broken.Load() {
				return nil, errors.New("down")
			}
			return []byte(`{"id":"sub_1","status":"` + status.Load().(string) + `","current_period_end":` +
				"1900000000}"), nil
		})})
		meta := fields{"metadata": fields{"tenant_id": w.tenant.ID}}
		w.deliver(envelope("evt_2", "customer.subscription.updated", noon.Unix(),
			subscription("sub_1", "active", meta)), "processed")
		if row := w.row("sub_1"); row.Status != "past_due" || row.CurrentPeriodEnd.Unix() != 1900000000 ||
			row.LastEventID != "evt_2" {
			t.Errorf("after a fetch: %+v", row)
		}
		before := asked.Load()
		w.deliver(envelope("evt_1", "customer.subscription.created", noon.Unix()-1,
			subscription("sub_1", "incomplete", meta)), "skipped_out_of_order")
		if asked.Load() != before {
			t.Error("an older event asks Stripe")
		}
		status.Store("active")
		w.deliver(envelope("evt_in", "invoice.payment_succeeded", noon.Unix()+1, invoiceOf("sub_1", nil)),
			"processed")
		if row := w.row("sub_1"); row.Status != "active" {
			t.Errorf("after an invoice: %+v", row)
		}
		broken.Store(true)
		late := envelope("evt_3", "customer.subscription.deleted", noon.Unix()+2,
			subscription("sub_1", "canceled", meta))
		if rec := post(w.hook, late, sign(late, secret, noon)); rec.Code != http.StatusServiceUnavailable {
			t.Errorf("Stripe down: %d", rec.Code)
		}
		if e := w.event("evt_3"); e.Status != hostdb.WebhookFailed || e.Reason == "" ||
			w.row("sub_1").Status != "active" {
			t.Errorf("a failed fetch is recorded as %+v", e)
		}
		broken.Store(false)
		w.deliver(late, "processed") // the answer still says active: the event is newer
		if row := w.row("sub_1"); row.Status != "canceled" {
			t.Errorf("after the cancellation: %+v", row)
		}
		if e := w.event("evt_3"); e.Status != hostdb.WebhookProcessed || e.Reason != "" {
			t.Errorf("the retry is recorded as %+v", e)
		}
		w.deliver(envelope("evt_in2", "invoice.payment_succeeded", noon.Unix()+3, invoiceOf("sub_1", nil)),
			"processed")
		if row := w.row("sub_1"); row.Status != "canceled" {
			t.Errorf("an invoice revived it: %+v", row)
		}
	})
}

// An answer about another subscription, or one that can't be read, is no answer: it would let a tenant in by
// what another pays.
func TestFetcher_itsAnswerIsAboutTheSubscription(t *testing.T) {
	w := newWorld(t, sqliteURL(t))
	var given string
	w.hook = w.newHook(stripehook.Config{Fetcher: fetcher(func(context.Context, string) ([]byte,
		error) {
		return []byte(given), nil
	})})
	meta := fields{"metadata": fields{"tenant_id": w.tenant.ID}}
	for i, answer := range []string{`{"id":"sub_2","status":"active"}`, `{"id":"SUB_1","status":"active"}`,
		`{"status":"active"}`, `{"id":["sub_1"],"status":"active"}`,
		`{"id":"sub_2","id":"sub_1","status":"active"}`, `[]`, ``, `{"id":"sub_1","status":"active"}` +
			strings.Repeat(" ", 1<<20)} {
		given = answer
		e := envelope("evt_"+string(rune('a'+i)), "customer.subscription.created", noon.Unix(),
			subscription("sub_1", "incomplete", meta))
		if rec := post(w.hook, e, sign(e, secret, noon)); rec.Code != http.StatusServiceUnavailable {
			t.Errorf("%.40s: answered %d %s", answer, rec.Code, rec.Body)
		}
		if row, err := w.host.Subscriptions.ByStripeSubID(t.Context(), "sub_1"); !errors.Is(err,
			hostdb.ErrNotFound) {
			t.Errorf("%.40s: stored %+v, %v", answer, row, err)
		}
		if row := w.event("evt_" + string(rune('a'+i))); row.Status != hostdb.WebhookFailed {
			t.Errorf("%.40s: recorded as %s", answer, row.Status)
		}
	}
	w.hook = w.newHook(stripehook.Config{Fetcher: fetcher(func(context.Context, string) ([]byte,
		error) {
		panic("it fails")
	})})
	e := envelope("evt_z", "customer.subscription.created", noon.Unix(),
		subscription("sub_1", "incomplete", meta))
	if rec := post(w.hook, e, sign(e, secret, noon)); rec.Code != http.StatusServiceUnavailable {
		t.Errorf("a Fetcher that panics: answered %d %s", rec.Code, rec.Body)
	}
	w.hook = w.newHook(stripehook.Config{Fetcher: fetcher(func(context.Context, string) ([]byte,
		error) {
		return []byte(given), nil
	})})
	given = `{"id":"sub_1","status":"active"}`
	w.deliver(envelope("evt_a", "customer.subscription.created", noon.Unix(),
		subscription("sub_1", "incomplete", meta)), "processed")
}

// Whoever holds the row asks Stripe, so the answer that comes last is the one that stays.
func TestFetcher_isCalledUnderTheRowsLock(t *testing.T) {
	w := newWorld(t, postgresURL(t))
	var at, most atomic.Int64
	w.hook = w.newHook(stripehook.Config{Fetcher: fetcher(func(context.Context, string) ([]byte, error) {
		most.Store(max(most.Load(), at.Add(1)))
		defer at.Add(-1)
		return []byte(`{"id":"sub_1","status":"active"}`), nil
	})})
	meta := fields{"metadata": fields{"tenant_id": w.tenant.ID}}
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			e := envelope("evt_"+string(rune('a'+i)), "customer.subscription.updated", noon.Unix()+int64(i),
				subscription("sub_1", "active", meta))
			if rec := post(w.hook, e, sign(e, secret, noon)); rec.Code != 200 {
				t.Errorf("answered %d", rec.Code)
			}
		})
	}
	wg.Wait()
	if most.Load() != 1 {
		t.Errorf("%d fetches of one subscription at once", most.Load())
	}
}

func TestHook_anEventThatCanNeverBeAppliedIsRecordedAndNotAskedForAgain(t *testing.T) {
	w := newWorld(t, sqliteURL(t))
	body := strings.Replace(envelope("evt_1", "customer.subscription.updated", noon.Unix(),
		subscription("sub_1", "active", nil)), `"created":`, `"made":`, 1)
	w.deliver(body, "failed")
	w.deliver(body, "failed")
	w.deliver(envelope("evt_2", "customer.subscription.updated", noon.Unix(),
		subscription("sub 2", "active", nil)), "failed")
	w.deliver(envelope("evt_3", "customer.subscription.updated", noon.Unix(), nil), "failed")
	failed, err := w.host.WebhookEvents.ListByStatus(t.Context(), hostdb.WebhookFailed)
	if err != nil || len(failed) != 3 || failed[0].Reason == "" {
		t.Errorf("recorded: %v, %v", failed, err)
	}
	if status, err := stripehook.Replay(t.Context(), w.host, "evt_1"); err != nil || status != "failed" {
		t.Errorf("Replay = %s, %v", status, err)
	}
	if _, err := stripehook.Replay(t.Context(), w.host, "evt_9"); !errors.Is(err, hostdb.ErrNotFound) {
		t.Errorf("Replay of an unknown event: %v", err)
	}
	must(t, w.host.WebhookEvents.Insert(t.Context(),
		&hostdb.StripeWebhookEvent{EventID: "evt_4", EventType: "x", PayloadJSON: `{"id":"evt_5","type":"x"}`,
			Status: hostdb.WebhookFailed}))
	if status, err := stripehook.Replay(t.Context(), w.host, "evt_4"); err != nil || status != "failed" {
		t.Errorf("Replay of another event's payload = %s, %v", status, err)
	}
}

func TestReplay_findsAPlanThatThePriceListLacked(t *testing.T) {
	w := newWorld(t, sqliteURL(t))
	o := subscription("sub_1", "active", fields{"metadata": fields{"tenant_id": w.tenant.ID}})
	o["items"] = fields{"data": []any{fields{"price": fields{"id": "price_new"}}}}
	w.deliver(envelope("evt_1", "customer.subscription.created", noon.Unix()-1,
		subscription("sub_1", "incomplete", nil)), "parked")
	w.deliver(envelope("evt_2", "customer.subscription.updated", noon.Unix(), o), "processed")
	must(t, w.host.Plans.Insert(t.Context(),
		&hostdb.PricingPlan{ID: "new", Name: "New", StripePriceMonthly: "price_new"}))
	for range 2 {
		for id, want := range map[string]string{"evt_2": "processed", "evt_1": "skipped_out_of_order"} {
			if status, err := stripehook.Replay(t.Context(), w.host, id); err != nil || status != want ||
				w.event(id).Status != want {
				t.Errorf("Replay(%s) = %s, %v; recorded %s", id, status, err, w.event(id).Status)
			}
		}
	}
	if row := w.row("sub_1"); row.PlanTier != "new" || row.Status != "active" {
		t.Errorf("after the replay: %+v", row)
	}
	w.deliver(envelope("evt_3", "customer.subscription.updated", noon.Unix()+1, o), "processed")
	if status, err := stripehook.Replay(t.Context(), w.host, "evt_2"); err != nil || status != "processed" ||
		w.row("sub_1").LastEventID != "evt_3" {
		t.Errorf("Replay of what was in order = %s, %v; the row shows %s", status, err,
			w.row("sub_1").LastEventID)
	}
}

func TestHook_subscriptionsStayWithTheirTenant(t *testing.T) {
	w := newWorld(t, sqliteURL(t))
	other, _ := w.customer()
	w.deliver(envelope("evt_1", "customer.subscription.created", noon.Unix(),
		subscription("sub_1", "active", fields{"metadata": fields{"tenant_id": w.tenant.ID}})), "processed")
	w.deliver(envelope("evt_2", "customer.subscription.deleted", noon.Unix()+1,
		subscription("sub_1", "active", fields{"metadata": fields{"tenant_id": other.ID}})), "processed")
	if row := w.row("sub_1"); row.TenantID != w.tenant.ID || row.Status != "canceled" {
		t.Errorf("%+v", row)
	}
}

// TestReplay_ofAnErasedUsersEvents: what is left of them says what a subscription is, and whose tenant
// it is of.
func TestReplay_ofAnErasedUsersEvents(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		user := w.member(w.tenant, hostdb.RoleMember)
		end := noon.AddDate(0, 1, 0)
		w.deliver(envelope("evt_1", "customer.subscription.updated", noon.Unix(),
			subscription("sub_1", "past_due", fields{
				"current_period_end": end.Unix(),
				"metadata": fields{"tenant_id": w.tenant.ID, "user_id": user.ID,
					"plan_tier": "pro", "name": "Ann"},
				"items": fields{"data": []any{fields{"quantity": 2,
					"price": fields{"id": "price_x", "unit_amount": 1500}}}}})), "processed")
		before := w.row("sub_1")
		if got, err := w.host.Users.Get(t.Context(), user.ID); err != nil || got.StripeCustID == "" ||
			before.StripeCustID != got.StripeCustID {
			t.Fatalf("the user is %+v, %v, and the subscription of %q", got, err, before.StripeCustID)
		}
		_, err := w.host.Erase(t.Context(), user.ID)
		must(t, err)
		if text := w.event("evt_1").PayloadJSON; strings.Contains(text, before.StripeCustID) ||
			strings.Contains(text, user.ID) || strings.Contains(text, "Ann") {
			t.Errorf("the payload is %s", text)
		}
		must(t, w.host.Subscriptions.Delete(t.Context(), before.ID))
		_, err = w.host.WebhookEvents.Change(t.Context(), w.event("evt_1").ID,
			func(e *hostdb.StripeWebhookEvent) error {
				e.Status = hostdb.WebhookFailed // as one that hasn't been applied
				return nil
			})
		must(t, err)
		if status, err := stripehook.Replay(t.Context(), w.host, "evt_1"); err != nil ||
			status != "processed" {
			t.Errorf("Replay = %s, %v", status, err)
		}
		after := w.row("sub_1")
		if after.StripeCustID != "" || after.Status != before.Status || after.PlanTier != before.PlanTier ||
			after.AmountCents != before.AmountCents ||
			after.TenantID != before.TenantID || after.CurrentPeriodEnd == nil ||
			!after.CurrentPeriodEnd.Equal(*before.CurrentPeriodEnd) {
			t.Errorf("the subscription is %+v, and was %+v", after, before)
		}
	})
}
