package stripehook

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// work is the application of one event, inside its transaction.
type work struct {
	*change
	*ledger
	tx       *hostdb.Tx
	event    *event
	repeated bool // it has been applied before: nothing that is to be there once is written again
}

// apply applies the event. It returns the event's status, and the reason if it is parked.
func (w *work) apply(ctx context.Context) (status, reason string, err error) {
	switch {
	case w.payment != nil:
		return w.pay(ctx)
	case w.stripeSub == "": // an invoice of no subscription, a session that only takes a card's number
		return hostdb.WebhookProcessed, "", nil
	}
	row, reason, err := w.lock(ctx)
	if err != nil {
		return "", "", err
	}
	if row == nil {
		return hostdb.WebhookParked, reason, nil
	}
	if err := w.keepCustomer(ctx, row.TenantID); err != nil {
		return "", "", err
	}
	status, err = w.show(ctx, row)
	return status, "", err
}

// lock returns the subscription's row, locked. It makes a missing row if the event names an existing tenant.
// Otherwise it returns no row and the reason.
func (w *work) lock(ctx context.Context) (row *hostdb.Subscription, reason string, err error) {
	row, err = w.tx.Subscriptions.LockByStripeSubID(ctx, w.stripeSub)
	switch {
	case !errors.Is(err, hostdb.ErrNotFound):
		return row, "", err
	case w.invoice != nil:
		return nil, noSubscription, nil
	case w.tenant == "":
		return nil, noTenant, nil
	}
	if _, err := w.tx.Tenants.Get(ctx, w.tenant); errors.Is(err, hostdb.ErrNotFound) {
		return nil, tenantMissing, nil
	} else if err != nil {
		return nil, "", err
	}
	row, err = w.tx.Subscriptions.LockOrInsert(ctx, newRow(w.change))
	return row, "", err
}

// show updates a locked row.
func (w *work) show(ctx context.Context, row *hostdb.Subscription) (string, error) {
	if w.invoice != nil && !w.repeated {
		if err := w.auditInvoice(ctx, row); err != nil {
			return "", err
		}
	}
	var ask func() (*state, error)
	if w.fetcher != nil {
		ask = func() (*state, error) { return w.fetch(ctx, w.stripeSub) }
	}
	tied := func() ([]tie, error) { return w.recorded(ctx) }
	if w.repeated {
		tied = nil
	}
	d, err := decide(w.event, w.change, row, ask, tied)
	if err != nil {
		return d.status, err
	}
	var plan *hostdb.PricingPlan
	if d.now != nil {
		if plan, err = w.planIn(ctx, d.now); err != nil {
			return d.status, err
		}
	}
	if !d.carryOut(row, plan) {
		return d.status, nil
	}
	return d.status, w.tx.Subscriptions.Update(ctx, row)
}

// planIn returns the plan of a state's prices. If the price list has none, it returns nil and looks for the
// state's tier there.
func (w *work) planIn(ctx context.Context, s *state) (*hostdb.PricingPlan, error) {
	plan, err := highest(s.prices, w.planOf(ctx))
	if err != nil || plan != nil || s.tier == "" {
		return plan, err
	}
	_, err = w.tx.Plans.Get(ctx, s.tier)
	if s.listed = err == nil; errors.Is(err, hostdb.ErrNotFound) {
		err = nil
	}
	return nil, err
}

// planOf returns a function that finds the plan of a price, or nil if the price list has none.
func (w *work) planOf(ctx context.Context) func(string) (*hostdb.PricingPlan, error) {
	return func(price string) (*hostdb.PricingPlan, error) {
		plan, err := w.tx.Plans.ByStripePrice(ctx, price)
		if errors.Is(err, hostdb.ErrNotFound) {
			return nil, nil
		}
		return plan, err
	}
}

// recorded returns the recorded events about the subscription, this one included.
func (w *work) recorded(ctx context.Context) ([]tie, error) {
	rows, err := w.tx.WebhookEvents.ListForSubscription(ctx, w.stripeSub)
	if err != nil {
		return nil, err
	}
	var list []tie
	for _, row := range rows {
		e := stored(row)
		if c, err := w.read(e); err == nil && c.state != nil && c.stripeSub == w.stripeSub {
			list = append(list, tieOf(e, c.state))
		}
	}
	return list, nil
}

// errFetch stands for any failure of a Fetcher, whose own error may hold anything.
var errFetch = errors.New("stripehook: the Fetcher failed, or its answer isn't that subscription")

// fetch asks the Fetcher. A panic counts as a failure: parked events are applied on a goroutine where nobody
// else recovers.
func (l *ledger) fetch(ctx context.Context, id string) (now *state, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	defer func() {
		if recover() != nil {
			now, err = nil, errFetch
		}
	}()
	body, err := l.fetcher.Subscription(ctx, id)
	if err != nil {
		return nil, errFetch
	}
	o, err := parseObject(body)
	if err != nil {
		return nil, errFetch
	}
	c, err := readSubscription(o, false)
	if err != nil || c.stripeSub != id {
		return nil, errFetch
	}
	l.holdPaused(c)
	return c.state, nil
}

// auditInvoice records that an invoice was paid, or that its payment failed. The subscription's own events
// tell what follows from it.
func (w *work) auditInvoice(ctx context.Context, row *hostdb.Subscription) error {
	details, err := json.Marshal(map[string]any{"invoice": w.invoice.id, "amount_cents": w.invoice.cents,
		"tenant_id": row.TenantID})
	if err != nil {
		return err
	}
	return w.tx.AuditLogs.Insert(ctx, &hostdb.HostAuditLog{ActorUserID: "stripe:" + w.event.id,
		EventType: w.event.kind, TargetID: row.ID,
		Details: string(details)})
}

// pay records a one-time payment, which gives no access. The row's id is derived from the session's, so that
// there is only one. A bank transfer or debit completes days after its session. Once paid, it stays paid.
func (w *work) pay(ctx context.Context) (status, reason string, err error) {
	if w.tenant == "" {
		return hostdb.WebhookParked, noTenant, nil
	}
	if _, err := w.tx.Tenants.Get(ctx, w.tenant); errors.Is(err, hostdb.ErrNotFound) {
		return hostdb.WebhookParked, tenantMissing, nil
	} else if err != nil {
		return "", "", err
	}
	digest := sha256.Sum256([]byte("stripe checkout session " + w.payment.session))
	id := hex.EncodeToString(digest[:16])
	row, err := w.tx.Subscriptions.Lock(ctx, id)
	switch {
	case err == nil && (row.Status == paid || row.Status == w.payment.status):
		return hostdb.WebhookProcessed, "", nil
	case err == nil:
		row.Status = w.payment.status
		return hostdb.WebhookProcessed, "", w.tx.Subscriptions.Update(ctx, row)
	case !errors.Is(err, hostdb.ErrNotFound):
		return "", "", err
	}
	if err := w.keepCustomer(ctx, w.tenant); err != nil {
		return "", "", err
	}
	return hostdb.WebhookProcessed, "", w.tx.Subscriptions.Insert(ctx,
		&hostdb.Subscription{ID: id, TenantID: w.tenant,
			StripeCustID: w.customer, Status: w.payment.status, PaymentType: hostdb.PaymentOneTime,
			AmountCents: w.payment.cents,
			ProductName: w.payment.product})
}

// paid is the payment_status of a session whose payment has arrived.
const paid = "paid"
