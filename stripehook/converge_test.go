package stripehook_test

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/stripehook"
)

// Sampled: the ledger on a real database gets as many random cases as samples says, on each engine;
// -rapid.checks overrides it. In each, every event of a random history is delivered one to three times, in a
// random order, by 8 workers at once, and the tenant comes to be at a random point: the subscription ends as
// the history does. What the orders come to is exhaustive without a database (order_test.go); what is sampled
// here is what the database adds: its transactions, locks and queries.
func TestHook_deliveriesInAnyOrderByManyWorkersConverge(t *testing.T) {
	checks := flag.Lookup("rapid.checks")
	if checks.Value.String() == checks.DefValue {
		must(t, flag.Set("rapid.checks", strconv.Itoa(samples)))
		defer flag.Set("rapid.checks", checks.DefValue)
	}
	names := []string{}
	for name := range stripehook.Histories {
		names = append(names, name)
	}
	slices.Sort(names)
	for engine, url := range map[string]func(testing.TB) string{"sqlite": sqliteURL,
		"postgres": postgresURL} {
		t.Run(engine, func(t *testing.T) {
			w := newWorld(t, url(t))
			rapid.Check(t, func(rt *rapid.T) {
				history := stripehook.Histories[rapid.SampledFrom(names).Draw(rt, "history")]
				var deliveries []stripehook.Told
				for _, e := range history {
					for range rapid.IntRange(1, 3).Draw(rt, "times") {
						deliveries = append(deliveries, e)
					}
				}
				deliveries = rapid.Permutation(deliveries).Draw(rt, "order")
				tenantAt := rapid.IntRange(-len(deliveries), len(deliveries)).Draw(rt, "the tenant comes")
				if err := w.converge(history, deliveries, max(0, tenantAt)); err != nil {
					rt.Fatal(err)
				}
			})
		})
	}
}

// converge delivers, and returns what is wrong with the end. The tenant comes to be after so many deliveries.
func (w *world) converge(history, deliveries []stripehook.Told, tenantAt int) error {
	ctx := context.Background()
	id := hostdb.NewID()
	sub, owner := "sub_"+id, &hostdb.GlobalUser{Email: id + "@example.com"}
	if err := w.host.Users.Insert(ctx, owner); err != nil {
		return err
	}
	w.deliverAll(deliveries[:tenantAt], sub, id)
	err := w.host.InTx(ctx, func(tx *hostdb.Tx) error {
		if err := tx.Tenants.Insert(ctx, &hostdb.TenantCatalog{ID: id, Name: "Acme"}); err != nil {
			return err
		}
		return tx.Memberships.Insert(ctx, &hostdb.Membership{UserID: owner.ID, TenantID: id,
			Role: hostdb.RoleOwner, IsActive: true})
	})
	if err != nil {
		return err
	}
	w.deliverAll(deliveries[tenantAt:], sub, id)
	eventually(w.t, "nothing is parked", func() bool {
		parked, err := w.host.WebhookEvents.List(ctx, hostdb.Where("status", hostdb.WebhookParked),
			hostdb.Where("stripe_sub_id", sub))
		return err == nil && len(parked) == 0
	})
	return w.check(history, sub, owner.ID)
}

// check compares what is stored with a history's end.
func (w *world) check(history []stripehook.Told, sub, ownerID string) error {
	ctx := context.Background()
	want := stripehook.Last(history)
	row, err := w.host.Subscriptions.ByStripeSubID(ctx, sub)
	if err != nil {
		return err
	}
	if !want.Ends(row, sub) {
		return fmt.Errorf("ends as %+v, want %+v", row, want)
	}
	logs, err := w.host.AuditLogs.ListForTarget(ctx, row.ID)
	if err != nil {
		return err
	}
	times := map[string]int{}
	for _, log := range logs {
		if log.EventType != "subscription.updated" {
			times[log.ActorUserID]++
		}
	}
	checkout := false
	for _, e := range history {
		event, err := w.host.WebhookEvents.ByEventID(ctx, e.ID+"_"+sub)
		if err != nil || event.Reason != "" || event.Status != hostdb.WebhookProcessed &&
			(event.Status != hostdb.WebhookSkipped || e.Status == "") {
			return fmt.Errorf("%s is recorded as %+v, %v", e.ID, event, err)
		}
		checkout = checkout || strings.HasPrefix(e.Kind, "checkout")
		if strings.HasPrefix(e.Kind, "invoice") && times["stripe:"+e.ID+"_"+sub] != 1 {
			return fmt.Errorf("%s was audited %d times", e.ID, times["stripe:"+e.ID+"_"+sub])
		}
	}
	if owner, err := w.host.Users.Get(ctx, ownerID); err != nil || checkout &&
		owner.StripeCustID != "cus_"+sub {
		return fmt.Errorf("the owner's customer is %+v, %v", owner, err)
	}
	return nil
}

// deliverAll delivers in order of their turn, 8 at a time, each until it is answered 200, as Stripe does.
func (w *world) deliverAll(deliveries []stripehook.Told, sub, tenant string) {
	queue := make(chan string, len(deliveries))
	for _, e := range deliveries {
		queue <- string(e.Body(sub, tenant))
	}
	close(queue)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for body := range queue {
				code := 0
				for tries := 0; code != http.StatusOK && tries < 100; tries++ {
					code = post(w.hook, body, sign(body, secret, noon)).Code
				}
				if code != http.StatusOK {
					w.t.Errorf("a delivery was never taken: %d", code)
				}
			}
		})
	}
	wg.Wait()
}
