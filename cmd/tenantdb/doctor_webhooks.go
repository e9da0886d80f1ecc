package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// overdueAfter is how long after the end of its period an active subscription counts as overdue. Stripe
// renews subscriptions within hours, and retries events for three days (docs.stripe.com/webhooks#retries).
const overdueAfter = 7 * 24 * time.Hour

// webhooks reports when the newest Stripe event arrived, and how many active subscriptions are overdue.
func (d *doctor) webhooks(ctx context.Context) {
	arrived, err := d.lastEvent(ctx)
	if err != nil {
		d.add("webhooks", statusWrong, "%v", err)
		return
	}
	overdue, err := d.host.Subscriptions.CountOverdue(ctx, overdueAfter)
	switch {
	case err != nil:
		d.add("webhooks", statusWrong, "%v", err)
	case overdue > 0:
		d.add("webhooks", statusNote, "%s. %d subscription(s) are active although their period ended more "+
			"than %d days ago: check whether Stripe's events arrive. SubscriptionPolicy.MaxOverdue ends "+
			"such subscriptions; without it they stay valid", arrived, overdue, overdueAfter/(24*time.Hour))
	default:
		d.add("webhooks", statusOK, "%s; no active subscription is overdue", arrived)
	}
}

// lastEvent describes when the newest event arrived.
func (d *doctor) lastEvent(ctx context.Context) (string, error) {
	newest, err := d.host.WebhookEvents.Newest(ctx)
	switch {
	case errors.Is(err, hostdb.ErrNotFound):
		return "no Stripe event is stored", nil
	case err != nil:
		return "", err
	}
	age := d.s.env.now().Sub(newest.CreatedAt).Round(time.Second)
	return fmt.Sprintf("the newest event arrived %v ago, at %s", age, cell(newest.CreatedAt)), nil
}
