package stripehook_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/stripehook"
)

func TestPark_eventsWaitForTheirSubscription(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.deliver(envelope("evt_2", "customer.subscription.updated", noon.Unix()+1,
			subscription("sub_1", "active", nil)), "parked")
		w.deliver(envelope("evt_1", "customer.subscription.created", noon.Unix(),
			subscription("sub_1", "incomplete", nil)), "parked")
		w.deliver(envelope("evt_3", "invoice.payment_succeeded", noon.Unix()+1, invoiceOf("sub_1", nil)),
			"parked")
		w.deliver(envelope("evt_1", "customer.subscription.created", noon.Unix(),
			subscription("sub_1", "incomplete", nil)), "parked")
		parked, err := w.host.WebhookEvents.ListByStatus(t.Context(), hostdb.WebhookParked)
		must(t, err)
		if len(parked) != 3 || parked[0].StripeSubID != "sub_1" || parked[0].Reason == "" ||
			parked[0].PayloadJSON == "" {
			t.Fatalf("parked: %+v", parked)
		}
		w.deliver(envelope("evt_4", "checkout.session.completed", noon.Unix()+2,
			session("sub_1", w.tenant.ID, nil)), "processed")
		if row := w.row("sub_1"); row.TenantID != w.tenant.ID || row.Status != "active" ||
			row.LastEventID != "evt_2" {
			t.Errorf("%+v", row)
		}
		for id, want := range map[string][]string{"evt_1": {"processed", "skipped_out_of_order"},
			"evt_2": {"processed"}, "evt_3": {"processed"}} {
			if e := w.event(id); !slices.Contains(want, e.Status) || e.Reason != "" {
				t.Errorf("%s: %s %q", id, e.Status, e.Reason)
			}
		}
	})
}

// Nobody tells the endpoint that the tenant has come to be: it hears of it from the host database.
func TestPark_eventsWaitForTheirTenant(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		later := hostdb.NewID()
		w.deliver(envelope("evt_1", "checkout.session.completed", noon.Unix(), session("sub_1", later, nil)),
			"parked")
		w.deliver(envelope("evt_2", "customer.subscription.updated", noon.Unix(),
			subscription("sub_1", "active", nil)), "parked")
		w.deliver(envelope("evt_3", "invoice.payment_succeeded", noon.Unix(), invoiceOf("sub_1", nil)),
			"parked")
		w.deliver(envelope("evt_4", "checkout.session.completed", noon.Unix(),
			fields{"id": "cs_1", "mode": "payment", "client_reference_id": later}), "parked")
		w.deliver(envelope("evt_5", "checkout.session.completed", noon.Unix(),
			fields{"id": "cs_2", "mode": "payment"}), "parked")
		if e := w.event("evt_1"); e.TenantID != later {
			t.Errorf("the tenant that it waits for isn't shown: %+v", e)
		}
		must(t, w.host.Tenants.Insert(t.Context(),
			&hostdb.TenantCatalog{ID: later, Name: "Later", IsActive: true}))
		eventually(t, "the events are applied", func() bool {
			parked, err := w.host.WebhookEvents.ListByStatus(context.Background(), hostdb.WebhookParked)
			must(t, err)
			return len(parked) == 1
		})
		if row := w.row("sub_1"); row.TenantID != later || row.Status != "active" {
			t.Errorf("%+v", row)
		}
		if e := w.event("evt_5"); e.Status != hostdb.WebhookParked {
			t.Errorf("an event that names no tenant: %s", e.Status)
		}
	})
}

func TestPark_eventsAreAppliedWhenAnotherProgramWritesTheirSubscription(t *testing.T) {
	w := newWorld(t, sqliteURL(t))
	w.deliver(envelope("evt_1", "customer.subscription.updated", noon.Unix(),
		subscription("sub_1", "active", nil)), "parked")
	must(t, w.host.Subscriptions.Insert(t.Context(),
		&hostdb.Subscription{TenantID: w.tenant.ID, StripeSubID: "sub_1"}))
	eventually(t, "the event is applied", func() bool { return w.row("sub_1").Status == "active" })
}

// A process died after it had parked an event, and before it applied it: the next endpoint that starts does,
// and so does a duplicate.
func TestPark_whatACrashLeftParkedIsApplied(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		left := func(sub string) string {
			body := envelope("evt_"+sub, "customer.subscription.updated", noon.Unix(),
				subscription(sub, "active", fields{"metadata": fields{"tenant_id": w.tenant.ID}}))
			must(t, w.host.WebhookEvents.Insert(t.Context(),
				&hostdb.StripeWebhookEvent{EventID: "evt_" + sub, EventType: "customer.subscription.updated",
					Status: hostdb.WebhookParked, PayloadJSON: body, StripeSubID: sub,
					TenantID: w.tenant.ID}))
			return body
		}
		body := left("sub_1")
		// or the endpoint was faster
		if rec := post(w.hook, body, sign(body, secret, noon)); rec.Code != 200 ||
			w.row("sub_1").Status != "active" {
			t.Errorf("after the retry: %d %s, %+v", rec.Code, rec.Body, w.row("sub_1"))
		}
		session := envelope("evt_cs", "checkout.session.completed", noon.Unix(),
			session("sub_2", w.tenant.ID, nil))
		w.deliver(session, "processed")
		left("sub_2")
		w.deliver(session, "duplicate")
		if row := w.row("sub_2"); row.Status != "active" {
			t.Errorf("after the duplicate: %+v", row)
		}
		left("sub_3")
		w.newHook(stripehook.Config{})
		eventually(t, "a new endpoint applies it",
			func() bool { return w.event("evt_sub_3").Status == hostdb.WebhookProcessed })
	})
}

// A test binary with this variable delivers an event to a host database and is killed before the event is
// applied.
const crashVariable = "STRIPEHOOK_TEST_CRASH"

// crash begins to apply an event that is recorded, says so, and waits for its end.
func crash(url string) {
	host, err := hostdb.Open(context.Background(), url)
	if err != nil {
		fmt.Println(err)
		return
	}
	hook, err := stripehook.New(host, stripehook.Config{Secrets: []string{secret},
		Fetcher: fetcher(func(context.Context, string) ([]byte, error) {
			fmt.Println("recorded")
			select {}
		})})
	if err != nil {
		fmt.Println(err)
		return
	}
	body := os.Getenv(crashVariable + "_BODY")
	fmt.Println(post(hook, body, os.Getenv(crashVariable+"_HEADER")).Body)
}

func TestPark_aCrashBetweenRecordAndApplicationIsMadeGoodByTheRetry(t *testing.T) {
	for name, place := range map[string]func(testing.TB) string{"sqlite": sqliteURL,
		"postgres": postgresURL} {
		t.Run(name, func(t *testing.T) {
			url := place(t)
			w := newWorld(t, url)
			body := envelope("evt_1", "customer.subscription.created", noon.Unix(),
				subscription("sub_1", "active", fields{"metadata": fields{"tenant_id": w.tenant.ID}}))
			cmd := exec.Command(os.Args[0], "-test.run=^$")
			cmd.Env = append(os.Environ(), crashVariable+"="+url, crashVariable+"_BODY="+body,
				crashVariable+"_HEADER="+sign(body, secret, time.Now()))
			cmd.Stderr = os.Stderr
			out, err := cmd.StdoutPipe()
			must(t, err)
			must(t, cmd.Start())
			line, err := bufio.NewReader(out).ReadString('\n')
			if strings.TrimSpace(line) != "recorded" {
				t.Errorf("the process says %q, %v", line, err)
			}
			must(t, cmd.Process.Kill())
			_ = cmd.Wait()
			if _, err := w.host.WebhookEvents.ByEventID(t.Context(), "evt_1"); err == nil {
				t.Error("the event is recorded without having been applied")
			}
			w.deliver(body, "processed")
			if row := w.row("sub_1"); row.Status != "active" {
				t.Errorf("after the retry: %+v", row)
			}
			w.deliver(body, "duplicate")
		})
	}
}
