package main

import (
	"context"

	"github.com/tenantdb/tenantdb/hostdb"
)

// webhooksCmd is tenantdb webhooks.
type webhooksCmd struct {
	List webhooksListCmd `cmd:"" help:"List events. Their payloads are not shown."`
}

var webhookColumns = []column[hostdb.StripeWebhookEvent]{
	{"id", func(e *hostdb.StripeWebhookEvent) any { return e.ID }, false},
	{"event_id", func(e *hostdb.StripeWebhookEvent) any { return e.EventID }, true},
	{"event_type", func(e *hostdb.StripeWebhookEvent) any { return e.EventType }, true},
	{"status", func(e *hostdb.StripeWebhookEvent) any { return e.Status }, true},
	{"stripe_sub_id", func(e *hostdb.StripeWebhookEvent) any { return e.StripeSubID }, true},
	{"tenant_id", func(e *hostdb.StripeWebhookEvent) any { return e.TenantID }, true},
	{"reason", func(e *hostdb.StripeWebhookEvent) any { return e.Reason }, true},
	{"created_at", func(e *hostdb.StripeWebhookEvent) any { return e.CreatedAt }, true},
}

// webhooksListCmd is tenantdb webhooks list.
type webhooksListCmd struct {
	page
	Status string `help:"Only events with this status: processed, failed, skipped_out_of_order or parked."`
	Type   string `help:"Only events of this type, such as invoice.paid."`
	Sub    string `placeholder:"SUBSCRIPTION" help:"Only events about this subscription at Stripe."`
}

// Run runs the command.
func (c *webhooksListCmd) Run(ctx context.Context, s *session) error {
	ctx, host, err := s.open(ctx)
	if err != nil {
		return err
	}
	filters := c.filters("status", c.Status, "event_type", c.Type, "stripe_sub_id", c.Sub)
	return printList(s, webhookColumns, host.WebhookEvents.All(ctx, filters...))
}
