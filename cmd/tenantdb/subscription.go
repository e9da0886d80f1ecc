package main

import (
	"context"
	"fmt"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// subscriptionCmd is tenantdb subscription.
type subscriptionCmd struct {
	Create subscriptionCreateCmd `cmd:"" help:"Create a subscription, such as one that is paid by invoice."`
	Trial  subscriptionTrialCmd  `cmd:"" help:"Start the trial of a plan for a tenant that never had a subscription."`
	List   subscriptionListCmd   `cmd:"" help:"List subscriptions."`
	Show   subscriptionShowCmd   `cmd:"" help:"Show a subscription."`
	Update subscriptionUpdateCmd `cmd:"" help:"Change a subscription. What Stripe says later of one of its own counts again."`
}

var subscriptionColumns = []column[hostdb.Subscription]{
	{"id", func(b *hostdb.Subscription) any { return b.ID }, true},
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

// subscriptionFields are a subscription's columns, as create sets them and update changes them.
type subscriptionFields struct {
	Plan              *string    `help:"The plan; a new subscription has free."`
	Status            *string    `help:"Stripe's word: active, trialing, past_due, canceled, …; a new subscription has incomplete."`
	PeriodEnd         *time.Time `placeholder:"TIME" help:"When the paid period ends, as 2026-01-31T12:00:00Z."`
	TrialEnd          *time.Time `placeholder:"TIME" help:"When the trial ends."`
	CancelAtPeriodEnd *bool      `negatable:"" help:"Whether it ends with the period."`
	PaymentType       *string    `help:"subscription, or one_time; a new one has subscription."`
	AmountCents       *int64     `placeholder:"CENTS" help:"The amount in the currency's smallest unit."`
	Product           *string    `help:"The product's name."`
	StripeSub         *string    `placeholder:"SUBSCRIPTION" help:"The subscription at Stripe."`
	StripeCust        *string    `placeholder:"CUSTOMER" help:"The customer at Stripe."`
}

// apply changes what was given.
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
	subscription := hostdb.NewSubscription(tenant.ID, hostdb.TierFree)
	c.apply(subscription)
	if err := host.Subscriptions.Insert(ctx, subscription); err != nil {
		return err
	}
	return printOne(s, subscriptionColumns, subscription)
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
	trial, started, err := host.Subscriptions.StartTrial(ctx, tenant.ID, c.Plan)
	if err != nil {
		return err
	}
	if !started {
		return fmt.Errorf("tenant %s has, or had, a subscription already: %s", nameOf(tenant), trial.ID)
	}
	return printOne(s, subscriptionColumns, trial)
}

// subscriptionListCmd is tenantdb subscription list.
type subscriptionListCmd struct {
	page
	Tenant   string `placeholder:"TENANT" help:"Only those of this tenant (slug or id)."`
	Status   string `help:"Only those with this status."`
	Customer string `help:"Only those of this Stripe customer."`
}

// Run runs the command.
func (c *subscriptionListCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	tenantID := ""
	if c.Tenant != "" {
		tenant, err := findTenant(ctx, host, c.Tenant)
		if err != nil {
			return err
		}
		tenantID = tenant.ID
	}
	filters := c.filters("tenant_id", tenantID, "status", c.Status, "stripe_cust_id", c.Customer)
	return printList(s, subscriptionColumns, host.Subscriptions.All(ctx, filters...))
}

// subscriptionShowCmd is tenantdb subscription show.
type subscriptionShowCmd struct {
	ID string `arg:"" help:"The subscription's id here."`
}

// Run runs the command.
func (c *subscriptionShowCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	subscription, err := host.Subscriptions.Get(ctx, c.ID)
	if err != nil {
		return err
	}
	return printOne(s, subscriptionColumns, subscription)
}

// subscriptionUpdateCmd is tenantdb subscription update.
type subscriptionUpdateCmd struct {
	ID string `arg:"" help:"The subscription's id here."`
	subscriptionFields
}

// Run runs the command.
func (c *subscriptionUpdateCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	return update(ctx, s, host, subscriptionColumns, c.ID,
		func(tx *hostdb.Tx) hostdb.Table[hostdb.Subscription] { return tx.Subscriptions.Table }, c.apply)
}
