package hostdb

import (
	"context"
	"time"
)

// The statuses of a webhook event.
const (
	WebhookProcessed = "processed"
	WebhookFailed    = "failed"
	WebhookSkipped   = "skipped_out_of_order" // a newer one had been applied
	WebhookParked    = "parked"               // concerns a subscription or a tenant that isn't known yet
)

// StripeWebhookEvent is a webhook that was received (core_stripe_webhook_events). It is kept, with its
// payload, until Prune or Delete removes it.
type StripeWebhookEvent struct {
	ID          string
	EventID     string // Stripe's id of it: required, unique
	EventType   string // required
	Status      string // default WebhookProcessed
	PayloadJSON string // the body, up to 1 MiB
	CreatedAt   time.Time
	StripeSubID string // the Stripe subscription that it concerns
	TenantID    string // the tenant that it names, which may not exist; no foreign key
	Reason      string // why it failed or is parked; repeats nothing of the payload
}

var webhookRelation = relation[StripeWebhookEvent]{
	table: "core_stripe_webhook_events", foreignKey: "event_id", batch: 50,
	columns: []column[StripeWebhookEvent]{
		{"id", func(e *StripeWebhookEvent) any { return &e.ID }, idRule},
		{"event_id", func(e *StripeWebhookEvent) any { return &e.EventID }, rule{required: true}},
		{"event_type", func(e *StripeWebhookEvent) any { return &e.EventType }, rule{required: true}},
		{"status", func(e *StripeWebhookEvent) any { return &e.Status },
			rule{required: true, allowed: []string{WebhookProcessed, WebhookFailed, WebhookSkipped,
				WebhookParked}}},
		{"payload_json", func(e *StripeWebhookEvent) any { return &e.PayloadJSON },
			rule{maxBytes: 1 << 20, valid: validJSON}},
		{"created_at", func(e *StripeWebhookEvent) any { return &e.CreatedAt }, anyTime},
		{"stripe_sub_id", func(e *StripeWebhookEvent) any { return &e.StripeSubID }, anyText},
		{"tenant_id", func(e *StripeWebhookEvent) any { return &e.TenantID }, optionalID},
		{"reason", func(e *StripeWebhookEvent) any { return &e.Reason }, anyText},
	},
	defaults: func(e *StripeWebhookEvent) { setDefault(&e.Status, WebhookProcessed) },
}

// WebhookEvents is the table of webhook events.
type WebhookEvents struct{ Table[StripeWebhookEvent] }

// Record stores an event unless there is one with its EventID, and reports whether it did. Of two concurrent
// transactions that record the same event, one waits for the other and gets false. Errors: ErrInvalid.
func (t WebhookEvents) Record(ctx context.Context, e *StripeWebhookEvent) (bool, error) {
	if e == nil {
		return false, invalid("event", "is nil")
	}
	args, err := t.newRow(e)
	if err != nil {
		return false, err
	}
	stored, err := t.s.exec(ctx, t.r.insertText()+" ON CONFLICT (event_id) DO NOTHING", args, asReported)
	return stored == 1, err
}

// Claim stores an event for processing, or overwrites the one with its EventID if that has failed or is
// parked. It reports whether it did either, and sets ID and CreatedAt from the stored row. False means that
// the event has been processed. Concurrent transactions that claim the same event wait for each other.
// Errors: ErrInvalid.
func (t WebhookEvents) Claim(ctx context.Context, e *StripeWebhookEvent) (bool, error) {
	if e == nil {
		return false, invalid("event", "is nil")
	}
	args, err := t.newRow(e)
	if err != nil {
		return false, err
	}
	claimed := false
	err = t.s.returning(ctx, t.r.insertText()+` ON CONFLICT (event_id) DO UPDATE
		SET event_type = excluded.event_type,
			status = excluded.status, payload_json = excluded.payload_json, stripe_sub_id =
			excluded.stripe_sub_id,
			tenant_id = excluded.tenant_id, reason = excluded.reason
		WHERE core_stripe_webhook_events.status IN ('failed', 'parked') RETURNING id, created_at`, args,
		func(row scanner) error {
			claimed = true
			return row.Scan(&cell{&e.ID}, &cell{&e.CreatedAt})
		})
	return claimed, err
}

// ListReady returns parked events whose subscription or tenant now exists, ordered by id, at most 50, with
// ids greater than after. It returns those about this Stripe subscription or this tenant, or all if both are
// "". Errors: ErrInvalid.
func (t WebhookEvents) ListReady(ctx context.Context, stripeSubID, tenantID,
	after string) ([]*StripeWebhookEvent, error) {
	const there = ` AND id > $1 AND (EXISTS (SELECT 1 FROM core_subscriptions s
		WHERE s.stripe_sub_id = core_stripe_webhook_events.stripe_sub_id)
		OR EXISTS (SELECT 1 FROM core_tenants t WHERE t.id = core_stripe_webhook_events.tenant_id))
		ORDER BY id LIMIT 50`
	if err := optionalID.checkText("id", after); err != nil {
		return nil, err
	}
	if stripeSubID == "" && tenantID == "" {
		return t.many(ctx, "WHERE status = 'parked'"+there, after)
	}
	if err := anyText.checkText("stripe_sub_id", stripeSubID); err != nil {
		return nil, err
	}
	if err := optionalID.checkText("tenant_id", tenantID); err != nil {
		return nil, err
	}
	return t.many(ctx, "WHERE status = 'parked' AND (stripe_sub_id = $2 OR tenant_id = $3)"+there, after,
		nullIfEmpty(stripeSubID), nullIfEmpty(tenantID))
}

// WebhookRetention is how long events are kept at least. Stripe can be asked to redeliver an event for that
// long (docs.stripe.com/cli/events/resend), and one that was deleted would be taken for a new one.
const WebhookRetention = 30 * 24 * time.Hour

// Prune deletes the events that arrived longer than age ago and have been processed or skipped, payloads
// included. It returns how many. Failed and parked events stay until they are applied, or deleted by hand.
// It works in transactions of up to 1,000 rows, and may be called as often as needed. Errors: ErrInvalid for
// an age below WebhookRetention.
func (t WebhookEvents) Prune(ctx context.Context, age time.Duration) (int64, error) {
	if age < WebhookRetention {
		return 0, invalid("age", "is less than WebhookRetention")
	}
	before := firstID(t.s.db.now().Add(-age))
	return t.s.execBatches(ctx, `DELETE FROM core_stripe_webhook_events WHERE id IN (
		SELECT id FROM core_stripe_webhook_events
		WHERE id < $1 AND status IN ('processed', 'skipped_out_of_order') ORDER BY id LIMIT 1000)`, before)
}

// ExpireParked marks parked events that arrived longer than age ago as failed, with a reason: what they
// waited for didn't come. It returns how many. It works in transactions of up to 1,000 rows. The events can
// still be replayed. Errors: ErrInvalid if age isn't positive.
func (t WebhookEvents) ExpireParked(ctx context.Context, age time.Duration, reason string) (int64, error) {
	if age <= 0 {
		return 0, invalid("age", "is not positive")
	}
	if err := anyText.checkText("reason", reason); err != nil {
		return 0, err
	}
	before := firstID(t.s.db.now().Add(-age))
	return t.s.execBatches(ctx, `UPDATE core_stripe_webhook_events SET status = 'failed', reason = $2
		WHERE id IN (SELECT id FROM core_stripe_webhook_events
			WHERE id < $1 AND status = 'parked' ORDER BY id LIMIT 1000)`, before, reason)
}

// ListForSubscription returns the events about a Stripe subscription that were applied, skipped or parked,
// ordered by id, at most 1,000. Errors: ErrInvalid.
func (t WebhookEvents) ListForSubscription(ctx context.Context,
	stripeSubID string) ([]*StripeWebhookEvent, error) {
	if err := (rule{required: true}).checkText("stripe_sub_id", stripeSubID); err != nil {
		return nil, err
	}
	return t.many(ctx, "WHERE stripe_sub_id = $1 AND status <> 'failed' ORDER BY id LIMIT 1000", stripeSubID)
}

// ByEventID returns the event with this id at Stripe. Errors: ErrNotFound; ErrInvalid.
func (t WebhookEvents) ByEventID(ctx context.Context, id string) (*StripeWebhookEvent, error) {
	if err := (rule{required: true}).checkText("event_id", id); err != nil {
		return nil, err
	}
	return t.one(ctx, "WHERE event_id = $1", id)
}

// ListByStatus returns the events with a status, as [Table.List] does. The order of ids is that of arrival.
// Errors: ErrInvalid.
func (t WebhookEvents) ListByStatus(ctx context.Context, status string,
	filters ...Filter) ([]*StripeWebhookEvent, error) {
	return t.List(ctx, append([]Filter{Where("status", status)}, filters...)...)
}

// Newest returns the event that arrived last, whatever its status. Errors: ErrNotFound.
func (t WebhookEvents) Newest(ctx context.Context) (*StripeWebhookEvent, error) {
	return t.one(ctx, "ORDER BY id DESC LIMIT 1")
}
