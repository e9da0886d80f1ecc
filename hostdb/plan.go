package hostdb

import (
	"context"
	"time"
)

// PricingPlan is what a tenant can subscribe to (core_pricing_plans). Tenants and subscriptions name its ID
// as their plan tier.
type PricingPlan struct {
	ID                 string // such as "free" or "pro", up to 64 bytes; default NewID
	Name               string // required
	Description        string // up to 4 KiB
	StripePriceMonthly string
	StripePriceYearly  string
	AmountMonthly      int64  // in the currency's smallest unit, not negative
	AmountYearly       int64  // in the currency's smallest unit, not negative
	Currency           string // three lower-case letters; default "usd"
	TrialDays          int    // stored as given: 0 is no trial; [NewPlan] sets 30
	Features           []string
	TierLevel          int  // a greater level includes the lower ones
	IsActive           bool // on sale; stored as given; [NewPlan] sets it
	SortOrder          int
	CreatedAt          time.Time
}

// NewPlan returns a plan that is on sale, of tier level 1, with a trial of 30 days and prices of 0
// in US dollars. id is the plan tier that tenants and subscriptions name, such as "pro". Insert stores it.
func NewPlan(id, name string) *PricingPlan {
	return &PricingPlan{ID: id, Name: name, Currency: "usd", TrialDays: 30, TierLevel: 1,
		IsActive: true}
}

var planRelation = relation[PricingPlan]{
	table: "core_pricing_plans", subject: "plan", foreignKey: "plan_tier",
	columns: []column[PricingPlan]{
		{"id", func(p *PricingPlan) any { return &p.ID }, tierRule},
		{"name", func(p *PricingPlan) any { return &p.Name }, rule{required: true}},
		{"description", func(p *PricingPlan) any { return &p.Description },
			rule{maxBytes: maxLong, masked: true}},
		{"stripe_price_monthly", func(p *PricingPlan) any { return &p.StripePriceMonthly }, anyText},
		{"stripe_price_yearly", func(p *PricingPlan) any { return &p.StripePriceYearly }, anyText},
		{"amount_monthly", func(p *PricingPlan) any { return &p.AmountMonthly }, centsRule},
		{"amount_yearly", func(p *PricingPlan) any { return &p.AmountYearly }, centsRule},
		{"currency", func(p *PricingPlan) any { return &p.Currency },
			rule{required: true, valid: validCurrency}},
		{"trial_days", func(p *PricingPlan) any { return &p.TrialDays }, rule{most: 3650}},
		{"features", func(p *PricingPlan) any { return &p.Features }, rule{maxBytes: maxJSON}},
		{"tier_level", func(p *PricingPlan) any { return &p.TierLevel }, rule{most: 1 << 31}},
		{"is_active", func(p *PricingPlan) any { return &p.IsActive }, anyBool},
		{"sort_order", func(p *PricingPlan) any { return &p.SortOrder },
			rule{least: -1 << 31, most: 1 << 31}},
		{"created_at", func(p *PricingPlan) any { return &p.CreatedAt }, anyTime},
	},
	defaults: func(p *PricingPlan) { setDefault(&p.Currency, "usd") },
}

// Plans is the table of pricing plans.
type Plans struct{ Table[PricingPlan] }

// ByStripePrice returns the plan with this monthly or yearly Stripe price, or else the plan that had it
// last. Subscriptions go on paying a price that has left its plan. Errors: ErrNotFound; ErrInvalid.
func (t Plans) ByStripePrice(ctx context.Context, price string) (*PricingPlan, error) {
	if err := (rule{required: true}).checkText("stripe_price", price); err != nil {
		return nil, err
	}
	return t.one(ctx, `WHERE id = coalesce(
		(SELECT id FROM core_pricing_plans WHERE stripe_price_monthly = $1 OR stripe_price_yearly = $1
		ORDER BY id LIMIT 1),
		(SELECT plan_id FROM host_plan_prices WHERE price = $1))`, price)
}

// OnSale returns the active plans in the order of a price list, at most 1,000.
func (t Plans) OnSale(ctx context.Context) ([]*PricingPlan, error) {
	return t.many(ctx, "WHERE is_active ORDER BY sort_order, tier_level, id LIMIT 1000")
}
