package stripehook_test

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/stripehook"
)

// The endpoint stands beside what the middleware guards: Stripe has no token, and signs what it sends.
func Example() {
	ctx := context.Background()
	host, err := hostdb.Open(ctx, "sqlite::memory:")
	check(err)
	defer host.Close()
	acme := hostdb.NewTenant("Acme", "acme")
	check(host.Tenants.Insert(ctx, acme))

	hook, err := stripehook.New(host, stripehook.Config{Secrets: []string{"whsec_from_your_dashboard"}})
	check(err)
	mux := http.NewServeMux()
	mux.Handle("POST /webhooks/stripe", hook)
	// mux.Handle("/", mw.Handler(app))

	event := envelope("evt_1", "customer.subscription.created", time.Now().Unix(),
		subscription("sub_1", "active", fields{"metadata": fields{"tenant_id": acme.ID}}))
	fmt.Print(send(mux, event, "whsec_from_your_dashboard").Body)
	fmt.Print(send(mux, event, "whsec_from_your_dashboard").Body)
	fmt.Print(send(mux, event, "whsec_of_somebody").Body)
	row, err := host.Subscriptions.ByStripeSubID(ctx, "sub_1")
	check(err)
	fmt.Println(row.Status)
	// Output:
	// processed
	// duplicate
	// no signature matches
	// active
}

// An event about a tenant that isn't there is parked. It is applied as soon as the tenant is there; Replay
// does the same by hand.
func ExampleReplay() {
	ctx := context.Background()
	host, err := hostdb.Open(ctx, "sqlite::memory:")
	check(err)
	defer host.Close()
	hook, err := stripehook.New(host, stripehook.Config{Secrets: []string{"whsec_from_your_dashboard"}})
	check(err)
	event := envelope("evt_1", "customer.subscription.created", time.Now().Unix(),
		subscription("sub_1", "active", nil))
	send(hook, event, "whsec_from_your_dashboard")

	parked, err := host.WebhookEvents.ListByStatus(ctx, hostdb.WebhookParked)
	check(err)
	for _, e := range parked {
		status, err := stripehook.Replay(ctx, host, e.EventID)
		check(err)
		fmt.Println(e.EventID, status, "since", e.Reason)
	}
	// Output: evt_1 parked since it names no tenant, and its subscription isn't there
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
