package main

import (
	"context"

	"github.com/tenantdb/tenantdb/hostdb"
)

// planCmd is tenantdb plan.
type planCmd struct {
	Create planCreateCmd `cmd:"" help:"Create a plan."`
	List   planListCmd   `cmd:"" help:"List plans."`
	Show   planShowCmd   `cmd:"" help:"Show a plan."`
	Update planUpdateCmd `cmd:"" help:"Change a plan, or take it off sale."`
}

var planColumns = []column[hostdb.PricingPlan]{
	{"id", func(p *hostdb.PricingPlan) any { return p.ID }, true},
	{"name", func(p *hostdb.PricingPlan) any { return p.Name }, true},
	{"description", func(p *hostdb.PricingPlan) any { return p.Description }, false},
	{"amount_monthly", func(p *hostdb.PricingPlan) any { return p.AmountMonthly }, true},
	{"amount_yearly", func(p *hostdb.PricingPlan) any { return p.AmountYearly }, true},
	{"currency", func(p *hostdb.PricingPlan) any { return p.Currency }, true},
	{"stripe_price_monthly", func(p *hostdb.PricingPlan) any { return p.StripePriceMonthly }, false},
	{"stripe_price_yearly", func(p *hostdb.PricingPlan) any { return p.StripePriceYearly }, false},
	{"trial_days", func(p *hostdb.PricingPlan) any { return p.TrialDays }, true},
	{"features", func(p *hostdb.PricingPlan) any { return p.Features }, true},
	{"tier_level", func(p *hostdb.PricingPlan) any { return p.TierLevel }, true},
	{"is_active", func(p *hostdb.PricingPlan) any { return p.IsActive }, true},
	{"sort_order", func(p *hostdb.PricingPlan) any { return p.SortOrder }, false},
	{"created_at", func(p *hostdb.PricingPlan) any { return p.CreatedAt }, false},
}

// planFields are the columns of a plan that create sets and update changes.
type planFields struct {
	Name               *string   `help:"The name that people read."`
	Description        *string   `help:"The description."`
	AmountMonthly      *int64    `placeholder:"CENTS" help:"${amount_monthly}"`
	AmountYearly       *int64    `placeholder:"CENTS" help:"${amount_yearly}"`
	Currency           *string   `help:"Three lower-case letters; a new plan has usd."`
	StripePriceMonthly *string   `placeholder:"PRICE" help:"The monthly price at Stripe."`
	StripePriceYearly  *string   `placeholder:"PRICE" help:"The yearly price at Stripe."`
	TrialDays          *int      `help:"The length of the trial; 0 is none. A new plan has 30."`
	Features           *[]string `placeholder:"FEATURE,…" help:"All the features, separated by commas."`
	TierLevel          *int      `help:"The tier; a higher one includes more."`
	Active             *bool     `negatable:"" help:"Whether it is on sale. A new plan is."`
	SortOrder          *int      `help:"The place in the price list."`
}

// apply changes the given columns.
func (f planFields) apply(p *hostdb.PricingPlan) {
	set(&p.Name, f.Name)
	set(&p.Description, f.Description)
	set(&p.AmountMonthly, f.AmountMonthly)
	set(&p.AmountYearly, f.AmountYearly)
	set(&p.Currency, f.Currency)
	set(&p.StripePriceMonthly, f.StripePriceMonthly)
	set(&p.StripePriceYearly, f.StripePriceYearly)
	set(&p.TrialDays, f.TrialDays)
	set(&p.Features, f.Features)
	set(&p.TierLevel, f.TierLevel)
	set(&p.IsActive, f.Active)
	set(&p.SortOrder, f.SortOrder)
}

// planCreateCmd is tenantdb plan create.
type planCreateCmd struct {
	ID string `arg:"" help:"The plan's id, such as pro."`
	planFields
}

// Run runs the command.
func (c *planCreateCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	plan := hostdb.NewPlan(c.ID, c.ID)
	c.apply(plan)
	if err := host.Plans.Insert(ctx, plan); err != nil {
		return err
	}
	return printOne(s, planColumns, plan)
}

// planListCmd is tenantdb plan list.
type planListCmd struct{ page }

// Run runs the command.
func (c *planListCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	return printList(s, planColumns, host.Plans.All(ctx, c.filters()...))
}

// planShowCmd is tenantdb plan show.
type planShowCmd struct {
	ID string `arg:"" help:"The plan's id."`
}

// Run runs the command.
func (c *planShowCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	plan, err := findPlan(ctx, host, c.ID)
	if err != nil {
		return err
	}
	return printOne(s, planColumns, plan)
}

// planUpdateCmd is tenantdb plan update.
type planUpdateCmd struct {
	ID string `arg:"" help:"The plan's id."`
	planFields
}

// Run runs the command.
func (c *planUpdateCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	if _, err := findPlan(ctx, host, c.ID); err != nil {
		return err
	}
	return change(ctx, s, planColumns, host.Plans.Table, c.ID, c.apply)
}
