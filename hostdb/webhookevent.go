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
	WebhookParked    = "parked"               // it is about a subscription not yet seen
)

// StripeWebhookEvent is a webhook that has arrived (core_stripe_webhook_events).
type StripeWebhookEvent struct {
	ID          string
	EventID     string // Stripe's id of it: required, unique
	EventType   string // required
	Status      string // default WebhookProcessed
	PayloadJSON string // the body, up to 1 MiB
	CreatedAt   time.Time
}

var webhookRelation = relation[StripeWebhookEvent]{
	table: "core_stripe_webhook_events", refers: "event_id", batch: 50,
	columns: []column[StripeWebhookEvent]{
		{"id", func(e *StripeWebhookEvent) any { return &e.ID }, idRule},
		{"event_id", func(e *StripeWebhookEvent) any { return &e.EventID }, rule{required: true}},
		{"event_type", func(e *StripeWebhookEvent) any { return &e.EventType }, rule{required: true}},
		{"status", func(e *StripeWebhookEvent) any { return &e.Status },
			rule{required: true, words: []string{WebhookProcessed, WebhookFailed, WebhookSkipped, WebhookParked}}},
		{"payload_json", func(e *StripeWebhookEvent) any { return &e.PayloadJSON }, rule{max: 1 << 20, form: validJSON}},
		{"created_at", func(e *StripeWebhookEvent) any { return &e.CreatedAt }, anyTime},
	},
	fill: func(e *StripeWebhookEvent) { orDefault(&e.Status, WebhookProcessed) },
}

// WebhookEvents is the table of webhook events.
type WebhookEvents struct{ Table[StripeWebhookEvent] }

// Record stores an event unless one with its EventID is there, and reports whether it did. Two transactions that record the
// same event at once wait for each other, and one of them gets false. Errors: ErrInvalid.
func (t WebhookEvents) Record(ctx context.Context, e *StripeWebhookEvent) (bool, error) {
	if e == nil {
		return false, invalid("event", "is nil")
	}
	t.fill(e)
	args, err := t.r.values(t.s.db.engine, e)
	if err != nil {
		return false, err
	}
	stored, err := t.s.exec(ctx, t.r.insertion()+" ON CONFLICT (event_id) DO NOTHING", args, nothing)
	return stored == 1, err
}

// ByEventID returns the event that Stripe knows by this id. Errors: ErrNotFound; ErrInvalid.
func (t WebhookEvents) ByEventID(ctx context.Context, id string) (*StripeWebhookEvent, error) {
	if err := (rule{required: true}).text("event_id", id); err != nil {
		return nil, err
	}
	return t.one(ctx, "WHERE event_id = $1", id)
}

// ListByStatus returns the events with a status, ordered by id, which is the order of arrival, a page at a time.
// Errors: ErrInvalid.
func (t WebhookEvents) ListByStatus(ctx context.Context, status string, filters ...Filter) ([]*StripeWebhookEvent, error) {
	return t.List(ctx, append([]Filter{Where("status", status)}, filters...)...)
}
