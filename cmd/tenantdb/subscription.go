package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// subscriptionCmd is tenantdb subscription.
type subscriptionCmd struct {
	Create subscriptionCreateCmd `cmd:"" help:"Create a subscription, such as one paid by invoice."`
	Trial  subscriptionTrialCmd  `cmd:"" help:"${subscription_trial}"`
	List   subscriptionListCmd   `cmd:"" help:"List subscriptions."`
	Show   subscriptionShowCmd   `cmd:"" help:"Show a subscription."`
	Update subscriptionUpdateCmd `cmd:"" help:"${subscription_update}"`
}

// subscriptionColumns are the columns of a subscription, with its tenant's slug.
func subscriptionColumns(n *names) []column[hostdb.Subscription] {
	return []column[hostdb.Subscription]{
		{"id", func(b *hostdb.Subscription) any { return b.ID }, true},
		{"tenant", func(b *hostdb.Subscription) any { return n.tenant(b.TenantID) }, true},
		{"tenant_id", func(b *hostdb.Subscription) any { return b.TenantID }, true},
		{"plan_tier", func(b *hostdb.Subscription) any { return b.PlanTier }, true},
		{"status", func(b *hostdb.Subscription) any { return b.Status }, true},
		{"current_period_end", func(b *hostdb.Subscription) any { return b.CurrentPeriodEnd }, true},
		{"trial_end", func(b *hostdb.Subscription) any { return b.TrialEnd }, true},
		{"cancel_at_period_end", func(b *hostdb.Subscription) any { return b.CancelAtPeriodEnd }, false},
		{"payment_type", func(b *hostdb.Subscription) any { return b.PaymentType }, true},
		{"amount_cents", func(b *hostdb.Subscription) any { return b.AmountCents }, false},
		{"product_name", func(b *hostdb.Subscription) any { return b.ProductName }, false},
		{"stripe_sub_id", func(b *hostdb.Subscription) any { return b.StripeSubID }, true},
		{"stripe_cust_id", func(b *hostdb.Subscription) any { return b.StripeCustID }, false},
		{"created_at", func(b *hostdb.Subscription) any { return b.CreatedAt }, false},
	}
}

// subscriptionFields are the columns of a subscription that create sets and update changes.
type subscriptionFields struct {
	Plan              *string    `help:"The plan; a new one has free."`
	Status            *string    `enum:"${subscription_statuses}" help:"${subscription_status}"`
	PeriodEnd         *time.Time `placeholder:"TIME" help:"${period_end}"`
	TrialEnd          *time.Time `placeholder:"TIME" help:"When the trial ends."`
	CancelAtPeriodEnd *bool      `negatable:"" help:"Whether it ends with the period."`
	PaymentType       *string    `enum:"subscription, one_time" help:"${payment_type}"`
	AmountCents       *int64     `placeholder:"CENTS" help:"The amount in the currency's smallest unit."`
	Product           *string    `help:"The product's name."`
	StripeSub         *string    `placeholder:"SUBSCRIPTION" help:"The subscription at Stripe."`
	StripeCust        *string    `placeholder:"CUSTOMER" help:"The customer at Stripe."`
}

// apply changes the given columns.
func (f subscriptionFields) apply(b *hostdb.Subscription) {
	set(&b.PlanTier, f.Plan)
	set(&b.Status, f.Status)
	if f.PeriodEnd != nil {
		b.CurrentPeriodEnd = f.PeriodEnd
	}
	if f.TrialEnd != nil {
		b.TrialEnd = f.TrialEnd
	}
	set(&b.CancelAtPeriodEnd, f.CancelAtPeriodEnd)
	set(&b.PaymentType, f.PaymentType)
	set(&b.AmountCents, f.AmountCents)
	set(&b.ProductName, f.Product)
	set(&b.StripeSubID, f.StripeSub)
	set(&b.StripeCustID, f.StripeCust)
}

// subscriptionCreateCmd is tenantdb subscription create.
type subscriptionCreateCmd struct {
	tenantArg
	subscriptionFields
}

// Run runs the command.
func (c *subscriptionCreateCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	tenant, err := findTenant(ctx, host, c.Tenant)
	if err != nil {
		return err
	}
	if err := checkPlanFlag(ctx, host, c.Plan); err != nil {
		return err
	}
	subscription := hostdb.NewSubscription(tenant.ID, hostdb.TierFree)
	c.apply(subscription)
	if err := host.Subscriptions.Insert(ctx, subscription); err != nil {
		return err
	}
	return printOne(s, subscriptionColumns(s.names(ctx, host)), subscription)
}

// subscriptionTrialCmd is tenantdb subscription trial.
type subscriptionTrialCmd struct {
	tenantArg
	Plan string `arg:"" help:"The plan's id. Its trial_days say how long."`
}

// Run runs the command.
func (c *subscriptionTrialCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	tenant, err := findTenant(ctx, host, c.Tenant)
	if err != nil {
		return err
	}
	if _, err := findPlan(ctx, host, c.Plan); err != nil {
		return err
	}
	trial, started, err := host.Subscriptions.StartTrial(ctx, tenant.ID, c.Plan)
	if err != nil {
		return err
	}
	if !started {
		return fmt.Errorf("tenant %s has, or had, a subscription already: %s", nameOf(tenant), trial.ID)
	}
	return printOne(s, subscriptionColumns(s.names(ctx, host)), trial)
}

// subscriptionListCmd is tenantdb subscription list.
type subscriptionListCmd struct {
	page
	Tenant   string  `placeholder:"TENANT" help:"Only those of this tenant (slug or id)."`
	Status   *string `enum:"${subscription_statuses}" help:"Only those with this status (${enum})."`
	Customer string  `help:"Only those of this Stripe customer."`
}

// Run runs the command.
func (c *subscriptionListCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	tenant, err := tenantID(ctx, host, c.Tenant)
	if err != nil {
		return err
	}
	filters := c.filters("tenant_id", tenant, "status", given(c.Status), "stripe_cust_id", c.Customer)
	return printList(s, subscriptionColumns(s.names(ctx, host)), host.Subscriptions.All(ctx, filters...))
}

// subscriptionArg names a subscription.
type subscriptionArg struct {
	Subscription string `arg:"" help:"${subscription}"`
}

// find returns the subscription.
func (c subscriptionArg) find(ctx context.Context, host *hostdb.DB) (*hostdb.Subscription, error) {
	named := c.Subscription
	subscription, err := host.Subscriptions.ByStripeSubID(ctx, named)
	if errors.Is(err, hostdb.ErrNotFound) && hostdb.ValidID(named) {
		subscription, err = host.Subscriptions.Get(ctx, named)
	}
	if err == nil || !errors.Is(err, hostdb.ErrNotFound) {
		return subscription, err
	}
	if !hostdb.ValidID(named) && !hostdb.ValidSlug(named) {
		return nil, fmt.Errorf("subscription %s: %w", named, err)
	}
	tenant, err := findTenant(ctx, host, named)
	if err != nil {
		return nil, fmt.Errorf("no subscription has this id, and: %w", err)
	}
	found, err := host.Subscriptions.ListForTenant(ctx, tenant.ID, hostdb.Limit(shownRows+1))
	switch {
	case err != nil:
		return nil, err
	case len(found) == 0:
		return nil, fmt.Errorf("tenant %s has no subscription", nameOf(tenant))
	case len(found) > 1:
		ids := make([]string, 0, len(found))
		for _, subscription := range found {
			ids = append(ids, subscription.ID+" ("+subscription.Status+")")
		}
		return nil, fmt.Errorf("tenant %s has several subscriptions; name one: %s",
			nameOf(tenant), some(ids, shownRows))
	}
	return found[0], nil
}

// subscriptionShowCmd is tenantdb subscription show.
type subscriptionShowCmd struct{ subscriptionArg }

// Run runs the command.
func (c *subscriptionShowCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	subscription, err := c.find(ctx, host)
	if err != nil {
		return err
	}
	return printOne(s, subscriptionColumns(s.names(ctx, host)), subscription)
}

// subscriptionUpdateCmd is tenantdb subscription update.
type subscriptionUpdateCmd struct {
	subscriptionArg
	subscriptionFields
}

// Run runs the command.
func (c *subscriptionUpdateCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	if err := checkPlanFlag(ctx, host, c.Plan); err != nil {
		return err
	}
	found, err := c.find(ctx, host)
	if err != nil {
		return err
	}
	return change(ctx, s, subscriptionColumns(s.names(ctx, host)),
		host.Subscriptions.Table, found.ID, c.apply)
}
