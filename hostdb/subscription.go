package hostdb

import (
	"context"
	"time"
)

// The statuses of a subscription that can grant access (Stripe's words;
// stripe.com/docs/api/subscriptions/object). Every other word is stored and grants none.
const (
	SubscriptionActive   = "active"
	SubscriptionTrialing = "trialing"
	SubscriptionPastDue  = "past_due"
)

// The statuses of a subscription that never grant access.
const (
	SubscriptionIncomplete        = "incomplete"
	SubscriptionIncompleteExpired = "incomplete_expired"
	SubscriptionCanceled          = "canceled"
	SubscriptionUnpaid            = "unpaid"
	SubscriptionPaused            = "paused"
)

// The kinds of payment.
const (
	PaymentSubscription = "subscription"
	PaymentOneTime      = "one_time"
)

// DefaultGrace is how long a subscription that is past due grants access after the end of its period.
const DefaultGrace = 3 * 24 * time.Hour

// Subscription is what a tenant pays for (core_subscriptions).
type Subscription struct {
	ID                string
	TenantID          string // required
	StripeSubID       string // unique where present
	StripeCustID      string
	PlanTier          string // a PricingPlan's ID, which may not exist; default TierFree
	Status            string // default SubscriptionIncomplete
	CurrentPeriodEnd  *time.Time
	CancelAtPeriodEnd bool
	PaymentType       string // default PaymentSubscription
	AmountCents       int64  // in the currency's smallest unit, not negative
	ProductName       string
	TrialEnd          *time.Time
	CreatedAt         time.Time

	// LastEventAt, LastEventRank and LastEventID identify the latest of Stripe's events that the row
	// reflects or was fetched for. Events are ordered by these three. Only a later event changes the row
	// (package stripehook).
	LastEventAt   *time.Time
	LastEventRank int
	LastEventID   string

	// PlanEvent is the position, in the same order, of the event that PlanTier comes from (package
	// stripehook).
	PlanEvent string
	// InvoiceFailedAt is when Stripe last reported that a renewal's payment had failed. An older status of
	// active counts as past_due (package stripehook).
	InvoiceFailedAt *time.Time
}

// NewSubscription returns a subscription of a tenant to a plan, with an id. It is SubscriptionIncomplete and
// grants no access until its Status changes. Insert stores it.
func NewSubscription(tenantID, planTier string) *Subscription {
	return &Subscription{ID: NewID(), TenantID: tenantID, PlanTier: planTier, Status: SubscriptionIncomplete,
		PaymentType: PaymentSubscription}
}

// ActiveAt reports whether the subscription grants access at this time. Its payment type must be
// "subscription", and its status "active", "trialing" before TrialEnd, or "past_due" before the end of
// CurrentPeriodEnd plus grace. Without the date, and with any other status, it grants none.
func (s *Subscription) ActiveAt(now time.Time, grace time.Duration) bool {
	if s.PaymentType != PaymentSubscription {
		return false
	}
	switch s.Status {
	case SubscriptionActive:
		return true
	case SubscriptionTrialing:
		return s.TrialEnd != nil && now.Before(*s.TrialEnd)
	case SubscriptionPastDue:
		return s.CurrentPeriodEnd != nil && now.Before(s.CurrentPeriodEnd.Add(grace))
	}
	return false
}

var subscriptionRelation = relation[Subscription]{
	table: "core_subscriptions", subject: "subscription", foreignKey: "subscription_id",
	references: []reference{{"tenant_id", "core_tenants"}},
	columns: []column[Subscription]{
		{"id", func(s *Subscription) any { return &s.ID }, idRule},
		{"tenant_id", func(s *Subscription) any { return &s.TenantID }, idRule},
		{"stripe_sub_id", func(s *Subscription) any { return &s.StripeSubID }, anyText},
		{"stripe_cust_id", func(s *Subscription) any { return &s.StripeCustID }, rule{personal: true}},
		{"plan_tier", func(s *Subscription) any { return &s.PlanTier }, tierRule},
		{"status", func(s *Subscription) any { return &s.Status }, wordRule},
		{"current_period_end", func(s *Subscription) any { return &s.CurrentPeriodEnd }, anyTime},
		{"cancel_at_period_end", func(s *Subscription) any { return &s.CancelAtPeriodEnd }, anyBool},
		{"payment_type", func(s *Subscription) any { return &s.PaymentType },
			rule{required: true, allowed: []string{PaymentSubscription, PaymentOneTime}}},
		{"amount_cents", func(s *Subscription) any { return &s.AmountCents }, centsRule},
		{"product_name", func(s *Subscription) any { return &s.ProductName }, anyText},
		{"trial_end", func(s *Subscription) any { return &s.TrialEnd }, anyTime},
		{"created_at", func(s *Subscription) any { return &s.CreatedAt }, anyTime},
		{"last_event_at", func(s *Subscription) any { return &s.LastEventAt }, anyTime},
		{"last_event_rank", func(s *Subscription) any { return &s.LastEventRank }, rule{most: 1 << 31}},
		{"last_event_id", func(s *Subscription) any { return &s.LastEventID }, anyText},
		{"plan_event", func(s *Subscription) any { return &s.PlanEvent }, anyText},
		{"invoice_failed_at", func(s *Subscription) any { return &s.InvoiceFailedAt }, anyTime},
	},
	owner: func(s *Subscription) string { return s.StripeCustID },
	defaults: func(s *Subscription) {
		setDefault(&s.PlanTier, TierFree)
		setDefault(&s.Status, SubscriptionIncomplete)
		setDefault(&s.PaymentType, PaymentSubscription)
	},
}

// Subscriptions is the table of subscriptions.
type Subscriptions struct{ Table[Subscription] }

// ByStripeSubID returns the subscription with this id at Stripe. Errors: ErrNotFound; ErrInvalid.
func (t Subscriptions) ByStripeSubID(ctx context.Context, id string) (*Subscription, error) {
	if err := (rule{required: true}).checkText("stripe_sub_id", id); err != nil {
		return nil, err
	}
	return t.one(ctx, "WHERE stripe_sub_id = $1", id)
}

// LockByStripeSubID is ByStripeSubID with a lock, as [Table.Lock]. It requires a Tx. Errors: ErrNotFound;
// ErrInvalid.
func (t Subscriptions) LockByStripeSubID(ctx context.Context, id string) (*Subscription, error) {
	if err := (rule{required: true}).checkText("stripe_sub_id", id); err != nil {
		return nil, err
	}
	return t.lock(ctx, "stripe_sub_id", id)
}

// LockOrInsert stores a subscription unless there is one with its StripeSubID, and returns the stored row,
// locked as by LockByStripeSubID. It requires a Tx. Errors: ErrInvalid; ErrConflict if there is no such
// tenant.
func (t Subscriptions) LockOrInsert(ctx context.Context, s *Subscription) (*Subscription, error) {
	if t.s.tx == nil {
		return nil, invalid("tx", "locking a row requires a transaction")
	}
	args, err := t.newRow(s)
	if err != nil {
		return nil, err
	}
	stored, err := t.s.exec(ctx, t.r.insertText()+" ON CONFLICT (stripe_sub_id) DO NOTHING", args,
		func(reported string) string {
			if reported != "" {
				return reported
			}
			return t.danglingColumn(ctx, s)
		})
	if err == nil && stored == 1 {
		err = audit(ctx, t.s.tx, t.r, "created", nil, s)
	}
	if err != nil {
		return nil, withReason(err, "refers to no row")
	}
	return t.LockByStripeSubID(ctx, s.StripeSubID)
}

// ListForTenant returns a tenant's subscriptions, as [Table.List] does. Errors: ErrInvalid.
func (t Subscriptions) ListForTenant(ctx context.Context, tenantID string,
	filters ...Filter) ([]*Subscription, error) {
	return t.List(ctx, append([]Filter{Where("tenant_id", tenantID)}, filters...)...)
}

// ListForCustomer returns a Stripe customer's subscriptions, as [Table.List] does. Errors: ErrInvalid.
func (t Subscriptions) ListForCustomer(ctx context.Context, customer string,
	filters ...Filter) ([]*Subscription, error) {
	return t.List(ctx, append([]Filter{Where("stripe_cust_id", customer)}, filters...)...)
}

// CountOverdue returns how many subscriptions have the status active although their period ended longer than
// age ago. The events that would have renewed or ended them may not have arrived. Errors: ErrInvalid if age
// is negative.
func (t Subscriptions) CountOverdue(ctx context.Context, age time.Duration) (int64, error) {
	if age < 0 {
		return 0, invalid("age", "is negative")
	}
	var n int64
	err := t.s.queryRow(ctx, `SELECT count(*) FROM core_subscriptions
		WHERE payment_type = 'subscription' AND status = 'active' AND current_period_end < $1`,
		[]any{t.s.db.engine.time(t.s.db.now().Add(-age))}, &n)
	return n, err
}
