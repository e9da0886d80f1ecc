package stripehook

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// bench is a ledger that nobody tells of changes, so that what it applies was applied by the delivery alone.
type bench struct {
	*ledger
	t      *testing.T
	parked func()          // called where an event has been parked, before anything else is done
	broken map[string]bool // the subscriptions that the Fetcher can't have
	asked  []string        // what it was asked for
}

func newBench(t *testing.T) *bench {
	t.Helper()
	host, err := hostdb.Open(context.Background(), "sqlite:"+filepath.Join(t.TempDir(), "host.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = host.Close() })
	b := &bench{t: t, broken: map[string]bool{}}
	b.ledger = &ledger{host: host, logger: slog.New(b)}
	return b
}

// Enabled implements slog.Handler, which the bench does to see when an event has been parked.
func (b *bench) Enabled(context.Context, slog.Level) bool { return true }

func (b *bench) Handle(_ context.Context, r slog.Record) error {
	if b.parked != nil && r.Message == "webhook parked" {
		b.parked()
	}
	return nil
}

func (b *bench) WithAttrs([]slog.Attr) slog.Handler { return b }
func (b *bench) WithGroup(string) slog.Handler      { return b }

// Subscription implements Fetcher.
func (b *bench) Subscription(_ context.Context, id string) ([]byte, error) {
	b.asked = append(b.asked, id)
	if b.broken[id] {
		return nil, errors.New("no such subscription")
	}
	return []byte(`{"id":"` + id + `","status":"active"}`), nil
}

// put makes the tenant.
func (b *bench) put(tenant string) {
	b.t.Helper()
	if err := b.host.Tenants.Insert(b.t.Context(),
		&hostdb.TenantCatalog{ID: tenant, Name: "Acme"}); err != nil {
		b.t.Fatal(err)
	}
}

// about is an event about a subscription; the tenant is named unless it is "".
func about(kind, sub, tenant string) *event {
	e, err := parseEvent(Told{ID: "evt_" + kind[:8], Kind: kind, Created: 1000,
		Status: map[bool]string{true: "active"}[strings.HasPrefix(kind, "customer.")],
		Period: 2000, Named: tenant != ""}.Body(sub, tenant))
	if err != nil {
		panic(err)
	}
	return e
}

// gets delivers an event, which must get this status.
func (b *bench) gets(e *event, want string) {
	b.t.Helper()
	if status, err := b.deliver(b.t.Context(), e, false); err != nil || status != want {
		b.t.Fatalf("%s: %s, %v; want %s", e.id, status, err, want)
	}
}

// leaves stores an event as a process leaves it that parks it and dies.
func (b *bench) leaves(e *event) {
	b.t.Helper()
	c, err := e.change()
	if err != nil {
		b.t.Fatal(err)
	}
	if err := b.host.WebhookEvents.Insert(b.t.Context(),
		rowOf(e, c, hostdb.WebhookParked, tenantMissing)); err != nil {
		b.t.Fatal(err)
	}
}

// is checks what is recorded of an event.
func (b *bench) is(e *event, want string) {
	b.t.Helper()
	if row, err := b.host.WebhookEvents.ByEventID(b.t.Context(), e.id); err != nil || row.Status != want {
		b.t.Errorf("%s is recorded as %+v, %v; want %s", e.id, row, err, want)
	}
}

func TestUnpark_aDuplicateAppliesWhatTheDeliveryBeforeItLeftParked(t *testing.T) {
	b := newBench(t)
	b.put(tenantID)
	began, update := about(checkoutCompleted, "sub_1", tenantID), about(subscriptionUpdated, "sub_1", "")
	b.gets(began, hostdb.WebhookProcessed)
	b.leaves(update)
	b.gets(began, duplicate)
	b.is(update, hostdb.WebhookProcessed)
}

// The tenant appears when the event's transaction has ended without having seen it, and whoever listens to
// changes has looked already.
func TestUnpark_anEventIsAppliedWhoseTenantAppearsWhileItIsParked(t *testing.T) {
	b := newBench(t)
	b.parked = func() { b.parked = nil; b.put(tenantID) }
	e := about(subscriptionUpdated, "sub_1", tenantID)
	b.gets(e, hostdb.WebhookParked)
	b.is(e, hostdb.WebhookProcessed)
}

// The delivered event is of another subscription of the tenant. A parked session names the tenant, and what
// waits for that session names nothing.
func TestUnpark_whatWaitsForAParkedEventIsAppliedWithIt(t *testing.T) {
	b := newBench(t)
	update, began := about(subscriptionUpdated, "sub_2", ""), about(checkoutCompleted, "sub_2", tenantID)
	b.gets(update, hostdb.WebhookParked)
	b.gets(began, hostdb.WebhookParked)
	b.put(tenantID)
	b.gets(about(subscriptionCreated, "sub_1", tenantID), hostdb.WebhookProcessed)
	b.is(began, hostdb.WebhookProcessed)
	b.is(update, hostdb.WebhookProcessed)
}

// An event of no subscription and no tenant isn't made to do everybody's work.
func TestUnpark_anEventAboutNobodyAppliesNoOthers(t *testing.T) {
	b := newBench(t)
	b.put(tenantID)
	left, other := about(subscriptionUpdated, "sub_1", tenantID), about(invoiceFailed, "", "")
	b.leaves(left)
	b.gets(other, hostdb.WebhookProcessed)
	b.is(left, hostdb.WebhookParked)
}

// One subscription that Stripe no longer has doesn't have the other events of its tenant refused, or those of
// a tenant to come wait.
func TestUnpark_aParkedEventThatCantBeAppliedIsNobodyElsesTrouble(t *testing.T) {
	b := newBench(t)
	b.put(tenantID)
	b.fetcher = b
	for i := range 120 { // more than are listed at once
		sub := fmt.Sprintf("sub_gone%d", i)
		b.broken[sub] = true
		b.leaves(about(subscriptionUpdated, sub, tenantID))
	}
	last := about(subscriptionUpdated, "sub_last", tenantID)
	b.leaves(last)
	own := about(subscriptionUpdated, "sub_own", tenantID)
	if status, err := b.deliver(t.Context(), own, false); status != hostdb.WebhookProcessed ||
		!errors.Is(err, errFetch) || redeliver(status, err) {
		t.Errorf("delivered: %s, %v", status, err)
	}
	b.is(own, hostdb.WebhookProcessed)
	b.is(last, hostdb.WebhookProcessed)

	f := follower{ledger: b.ledger}
	f.hear(t.Context(), hostdb.Delivery{Reset: true})
	if !f.waiting || f.pause != time.Second {
		t.Fatalf("after a failure: %+v", f)
	}
	f.next = time.Now().Add(time.Hour)
	later := hostdb.NewID()
	next := about(subscriptionUpdated, "sub_next", later)
	b.gets(next, hostdb.WebhookParked)
	b.put(later)
	before := len(b.asked)
	f.hear(t.Context(), hostdb.Delivery{Changes: []hostdb.Change{{Kind: hostdb.ChangeTenant,
		TenantID: later}}})
	b.is(next, hostdb.WebhookProcessed)
	if n := len(b.asked) - before; n != 1 {
		t.Errorf("%d questions to Stripe, want the new tenant's alone", n)
	}
	b.broken, f.next = nil, time.Time{}
	f.hear(t.Context(), hostdb.Delivery{})
	if parked, err := b.host.WebhookEvents.ListByStatus(t.Context(), hostdb.WebhookParked); err != nil ||
		len(parked) != 0 || f.waiting || f.pause != 0 {
		t.Errorf("in the end %d are parked, %v, %+v", len(parked), err, f)
	}
}

// Where the time of a request is over, the rest isn't tried: each would fail, and be waited for.
func TestHook_worksOnADeliveryUntilItsContextEnds(t *testing.T) {
	b := newBench(t)
	b.put(tenantID)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	asked := 0
	b.fetcher = ending(func() { asked++; cancel() })
	for i := range 3 {
		b.leaves(about(subscriptionUpdated, fmt.Sprintf("sub_%d", i), tenantID))
	}
	p := pass{ledger: b.ledger, tenant: tenantID, tried: map[string]bool{}}
	if err := p.run(ctx); err == nil || asked != 1 || len(p.tried) != 1 {
		t.Errorf("%d asked for, %d tried, %v", asked, len(p.tried), err)
	}
	if parked, err := b.host.WebhookEvents.ListByStatus(t.Context(), hostdb.WebhookParked); err != nil ||
		len(parked) != 3 {
		t.Errorf("%d are parked, %v", len(parked), err)
	}
}

// ending is a Fetcher that calls a function and fails.
type ending func()

func (f ending) Subscription(context.Context, string) ([]byte, error) {
	f()
	return nil, errors.New("no")
}
