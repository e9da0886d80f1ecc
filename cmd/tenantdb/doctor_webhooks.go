package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// overdueAfter is how long after its period's end an active subscription counts as overdue. Stripe renews
// within hours, and tries for three days to deliver an event (docs.stripe.com/webhooks#retries).
const overdueAfter = 7 * 24 * time.Hour

// webhooks reports when the newest of Stripe's events arrived, and how many subscriptions are active only
// because none has ended them.
func (d *doctor) webhooks(ctx context.Context) {
	arrived, err := d.lastEvent(ctx)
	if err != nil {
		d.add("webhooks", wrong, "%v", err)
		return
	}
	overdue, err := d.host.Subscriptions.CountOverdue(ctx, overdueAfter)
	switch {
	case err != nil:
		d.add("webhooks", wrong, "%v", err)
	case overdue > 0:
		d.add("webhooks", note, "%s. %d subscription(s) are active, though the period ended more than %d days ago: see whether Stripe's events arrive. "+
			"SubscriptionPolicy.MaxOverdue ends such subscriptions; without it they admit for ever", arrived,
			overdue, overdueAfter/(24*time.Hour))
	default:
		d.add("webhooks", fine, "%s; no subscription is active long after its period's end", arrived)
	}
}

// lastEvent says when the newest event arrived.
func (d *doctor) lastEvent(ctx context.Context) (string, error) {
	newest, err := d.host.WebhookEvents.Newest(ctx)
	switch {
	case errors.Is(err, hostdb.ErrNotFound):
		return "no event of Stripe's is stored", nil
	case err != nil:
		return "", err
	}
	age := d.s.env.now().Sub(newest.CreatedAt).Round(time.Second)
	return fmt.Sprintf("the newest event arrived %v ago, at %s", age, cell(newest.CreatedAt)), nil
}
