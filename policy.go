package tenantdb

import (
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// SubscriptionPolicy decides which tenants have paid. A subscription is active as
// [hostdb.Subscription.ActiveAt] decides by its status and dates, with the exceptions below. A tenant needs
// one active subscription. Of several, the one with the highest tier_level is in force, and the tenant has
// the features of all of them. A free plan of a higher tier takes precedence.
type SubscriptionPolicy struct {
	// FreePlans are the values of core_tenants.plan_tier that need no subscription. The default is none, so
	// that every tenant needs one.
	FreePlans []string
	// Grace is how long a past_due subscription stays active after its period's end. The default 0 means
	// [hostdb.DefaultGrace] (3 days). A negative value means none.
	Grace time.Duration
	// TrialPatience is how much longer than its trial_end a trial with a StripeSubID stays active, since
	// Stripe's event that says what follows comes after that date. The default is 0.
	TrialPatience time.Duration
	// MaxOverdue ends subscriptions whose status is active but whose period ended longer ago than this. The
	// events that would have renewed or ended them may be lost. Give several days, since Stripe tries for as
	// long to deliver an event. The default 0 means that the status alone decides.
	MaxOverdue time.Duration
}

// validate checks the policy. Its errors begin with the name of the field, and say how to correct it.
func (p *SubscriptionPolicy) validate() error {
	switch {
	case slices.Contains(p.FreePlans, ""):
		return errors.New("Subscription.FreePlans: a plan has a name")
	case p.TrialPatience < 0 || p.MaxOverdue < 0:
		return errors.New("Subscription: TrialPatience and MaxOverdue can't be negative")
	}
	return nil
}

// Rules are the exceptions that a part of the product needs. The zero Rules makes none.
type Rules struct {
	// AllowInactive admits members of a tenant without an active subscription, so that they reach the billing
	// page. Their [Scope.Plan] is nil. [RequireFeature] and [RequireTier] refuse them.
	AllowInactive bool
	// AllowAnonymous admits requests without a credential. Their [Scope] has neither user nor tenant. A bad
	// credential is still refused.
	AllowAnonymous bool
}

// policy decides by facts, configuration and the clock alone. What depends on the clock is decided anew for
// each request, so that a trial ends on time whatever the cache holds.
type policy struct {
	SubscriptionPolicy
	minSchemaVersion int64
}

// entitlement is what the tenant has paid for.
type entitlement struct {
	subscription *hostdb.Subscription // in force, else the best one there was
	plan         *hostdb.PricingPlan
}

// precompute returns the entitlement. It reports whether neither dates nor rules can change it.
func (p *policy) precompute(a *hostdb.Access) (e entitlement, dateFree bool) {
	dated := false
	e, err := p.decide(a, func() time.Time { dated = true; return time.Time{} }, Rules{})
	return e, err == nil && !dated
}

// decide returns the entitlement, or why the caller is refused. It reads the clock only if a date matters.
func (p *policy) decide(a *hostdb.Access, clock func() time.Time, rules Rules) (entitlement, error) {
	if err := enrolled(a); err != nil {
		return entitlement{}, err
	}
	if err := p.open(a.Tenant); err != nil {
		return entitlement{}, err
	}
	free := slices.Contains(p.FreePlans, a.Tenant.PlanTier)
	best := p.inForce(a.Subscriptions, clock)
	switch {
	case best != nil && free && tierOf(a.TenantPlan) > tierOf(best.Plan):
		return entitled(best, p.withAllFeatures(a.TenantPlan, a, free, clock)), nil
	case best != nil:
		return entitled(best, p.withAllFeatures(best.Plan, a, free, clock)), nil
	case len(a.Subscriptions) > 0:
		best = &a.Subscriptions[0]
	}
	if free {
		return entitled(best, a.TenantPlan), nil
	}
	if rules.AllowInactive {
		return entitled(best, nil), nil
	}
	return entitlement{}, unpaid(a.Tenant, best)
}

// inForce returns the active subscription of the highest tier, and the first in the order of [hostdb.Access]
// if several have that tier. It is nil if none is active.
func (p *policy) inForce(all []hostdb.Subscribed, clock func() time.Time) (best *hostdb.Subscribed) {
	var now time.Time
	for i := range all {
		s := &all[i]
		if best != nil && tierOf(s.Plan) <= tierOf(best.Plan) {
			continue
		}
		if now.IsZero() && p.dated(&s.Subscription) {
			now = clock()
		}
		if p.admits(&s.Subscription, now) {
			best = s
		}
	}
	return best
}

// withAllFeatures returns the plan in force with the features of all active plans added, so that a further
// subscription takes no feature away. Usually that is the plan itself.
func (p *policy) withAllFeatures(plan *hostdb.PricingPlan, a *hostdb.Access, free bool,
	clock func() time.Time) *hostdb.PricingPlan {
	if plan == nil {
		return nil
	}
	if free && lacks(plan, a.TenantPlan) {
		plan = joined(plan, a.TenantPlan)
	}
	for i := range a.Subscriptions {
		s := &a.Subscriptions[i]
		if !lacks(plan, s.Plan) {
			continue
		}
		var now time.Time
		if p.dated(&s.Subscription) {
			now = clock()
		}
		if p.admits(&s.Subscription, now) {
			plan = joined(plan, s.Plan)
		}
	}
	return plan
}

// lacks reports whether another plan, which may be nil, has a feature that the plan lacks.
func lacks(plan, other *hostdb.PricingPlan) bool {
	if other == nil || other == plan {
		return false
	}
	return slices.ContainsFunc(other.Features, func(key string) bool {
		return !slices.Contains(plan.Features, key)
	})
}

// joined returns a copy of a plan with another plan's features added.
func joined(plan, other *hostdb.PricingPlan) *hostdb.PricingPlan {
	all := *plan
	all.Features = slices.Clone(plan.Features)
	for _, key := range other.Features {
		if !slices.Contains(all.Features, key) {
			all.Features = append(all.Features, key)
		}
	}
	return &all
}

// dated reports whether it depends on the clock that a subscription is active.
func (p *policy) dated(s *hostdb.Subscription) bool {
	switch s.Status {
	case hostdb.SubscriptionTrialing, hostdb.SubscriptionPastDue:
		return true
	}
	return s.Status == hostdb.SubscriptionActive && p.MaxOverdue > 0 && s.CurrentPeriodEnd != nil
}

// admits reports whether a subscription is active at a time.
func (p *policy) admits(s *hostdb.Subscription, now time.Time) bool {
	admits := s.ActiveAt(now, p.Grace)
	switch s.Status {
	case hostdb.SubscriptionTrialing:
		return admits || s.StripeSubID != "" && s.ActiveAt(now.Add(-p.TrialPatience), p.Grace)
	case hostdb.SubscriptionActive:
		return admits && (!p.dated(s) || now.Before(s.CurrentPeriodEnd.Add(p.MaxOverdue)))
	}
	return admits
}

// tierOf returns a plan's tier_level, or -1 without a plan.
func tierOf(plan *hostdb.PricingPlan) int {
	if plan == nil {
		return -1
	}
	return plan.TierLevel
}

// enrolled returns nil if the user is an active member of the tenant, else why not.
func enrolled(a *hostdb.Access) error {
	switch {
	case a.User == nil:
		return errUnknownUser
	case a.Tenant == nil:
		return errUnknownTenant
	case a.Membership == nil:
		return errNoMembership
	case !a.Membership.IsActive:
		return errInactive
	case a.Tenant.Status == hostdb.TenantDropped:
		return errDropped
	}
	return nil
}

// unpaid returns why a tenant without an active subscription is refused. best is nil if it never had one.
func unpaid(t *hostdb.TenantCatalog, best *hostdb.Subscribed) error {
	reason := ReasonSubscriptionLapsed
	text := "the plan " + strconv.Quote(t.PlanTier) + " is not in FreePlans, and "
	switch {
	case best == nil:
		reason = ReasonNoSubscription
		text += "there is no subscription"
	case best.PaymentType != hostdb.PaymentSubscription:
		text += "there are only one-time payments"
	default:
		text += "the best subscription is " + best.Status + " and its dates do not admit now"
	}
	return why(ErrSubscriptionInactive, reason, text)
}

// entitled returns an entitlement. Both subscription and plan may be nil.
func entitled(subscription *hostdb.Subscribed, plan *hostdb.PricingPlan) entitlement {
	e := entitlement{plan: plan}
	if subscription != nil {
		e.subscription = &subscription.Subscription
	}
	return e
}

// open returns nil if members may enter the tenant, else why not.
func (p *policy) open(t *hostdb.TenantCatalog) error {
	switch {
	case t.Status == hostdb.TenantSuspended:
		return errSuspended
	case !t.IsActive:
		return errTenantOff
	case t.Status == hostdb.TenantMaintenance:
		return errMaintenance
	case t.Status == hostdb.TenantProvisioning:
		return errProvisioning
	case t.Status != hostdb.TenantActive: // a status that a later version has added
		return why(ErrTenantUnavailable, ReasonTenantStatus, "its status is "+strconv.Quote(t.Status))
	case t.SchemaVersion < p.minSchemaVersion:
		return errSchemaTooOld
	}
	return nil
}
