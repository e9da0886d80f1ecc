package main

import (
	"context"
	"errors"
	"iter"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/stripehook"
)

// webhooksCmd is tenantdb webhooks.
type webhooksCmd struct {
	List   webhooksListCmd   `cmd:"" help:"List events. Their payloads are not shown."`
	Replay webhooksReplayCmd `cmd:"" help:"${webhooks_replay}"`
}

// webhookColumns are the columns of an event, with its tenant's slug.
func webhookColumns(n *names) []column[hostdb.StripeWebhookEvent] {
	return []column[hostdb.StripeWebhookEvent]{
		{"id", func(e *hostdb.StripeWebhookEvent) any { return e.ID }, false},
		{"event_id", func(e *hostdb.StripeWebhookEvent) any { return e.EventID }, true},
		{"event_type", func(e *hostdb.StripeWebhookEvent) any { return e.EventType }, true},
		{"status", func(e *hostdb.StripeWebhookEvent) any { return e.Status }, true},
		{"stripe_sub_id", func(e *hostdb.StripeWebhookEvent) any { return e.StripeSubID }, true},
		{"tenant", func(e *hostdb.StripeWebhookEvent) any { return n.tenant(e.TenantID) }, true},
		{"tenant_id", func(e *hostdb.StripeWebhookEvent) any { return e.TenantID }, true},
		{"reason", func(e *hostdb.StripeWebhookEvent) any { return e.Reason }, true},
		{"created_at", func(e *hostdb.StripeWebhookEvent) any { return e.CreatedAt }, true},
	}
}

// webhooksListCmd is tenantdb webhooks list.
type webhooksListCmd struct {
	page
	Status *string `enum:"${webhook_statuses}" help:"Only events with this status (${enum})."`
	Type   string  `help:"Only events of this type, such as invoice.paid."`
	Sub    string  `placeholder:"SUBSCRIPTION" help:"Only events about this subscription at Stripe."`
}

// Run runs the command.
func (c *webhooksListCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	filters := c.filters("status", given(c.Status), "event_type", c.Type, "stripe_sub_id", c.Sub)
	return printList(s, webhookColumns(s.names(ctx, host)), host.WebhookEvents.All(ctx, filters...))
}

// webhooksReplayCmd is tenantdb webhooks replay.
type webhooksReplayCmd struct {
	Event  []string `arg:"" optional:"" help:"Stripe's ids of the events (evt_…)."`
	Status *string  `enum:"failed, parked" help:"All events with this status (${enum})."`
}

// Help is the long help.
func (*webhooksReplayCmd) Help() string {
	return "It reads the stored payloads and sends nothing to Stripe. Replaying a processed event is " +
		"harmless. The exit code is 1 if an event failed."
}

// replayed is an event and the result of its replay.
type replayed struct{ event, status, problem string }

var replayedColumns = []column[replayed]{
	{"event_id", func(r *replayed) any { return r.event }, true},
	{"status", func(r *replayed) any { return r.status }, true},
	{"error", func(r *replayed) any { return r.problem }, true},
}

// Run runs the command.
func (c *webhooksReplayCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	if (c.Status == nil) == (len(c.Event) == 0) {
		return errors.New("name events by Stripe's ids, or give --status")
	}
	failed := 0
	err := printList(s, replayedColumns, func(yield func(*replayed, error) bool) {
		for id, err := range c.events(ctx, host) {
			r := &replayed{event: id}
			if err == nil {
				if r.status, err = stripehook.Replay(ctx, host, id); err != nil && ctx.Err() == nil {
					r.problem, err = err.Error(), nil
				}
			}
			if r.problem != "" || r.status == hostdb.WebhookFailed {
				failed++
			}
			if !yield(r, err) {
				return
			}
		}
	})
	if err == nil && failed > 0 {
		return errors.New("not every event could be applied; see webhooks list")
	}
	return err
}

// events returns the given ids, or those of all events with the status.
func (c *webhooksReplayCmd) events(ctx context.Context, host *hostdb.DB) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for _, id := range c.Event {
			if !yield(id, nil) {
				return
			}
		}
		if c.Status == nil {
			return
		}
		for event, err := range host.WebhookEvents.All(ctx, hostdb.Where("status", *c.Status)) {
			if err != nil {
				yield("", err)
				return
			}
			if !yield(event.EventID, nil) {
				return
			}
		}
	}
}
