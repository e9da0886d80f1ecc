package tenantdb

import (
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// SubscriptionPolicy says what "paying" means. A subscription admits while hostdb's rule for its status and
// dates does ([hostdb.Subscription.ActiveAt]). Where a tenant has several, any one of them is enough, and of
// those that admit the one with the highest tier_level is in force, with the features of all of them. A free
// plan of a higher tier goes before it.
type SubscriptionPolicy struct {
	// FreePlans names the values of core_tenants.plan_tier that need no subscription. Default: none, so that
	// every tenant needs one.
	FreePlans []string
	// Grace is how long a past_due subscription admits after its period's end. Default 0 means
	// hostdb.DefaultGrace (3 days); a negative value means none.
	Grace time.Duration
	// TrialPatience is how much longer a trial admits that Stripe ends, since the event that says what
	// follows comes after the date. It concerns subscriptions with a StripeSubID. Default 0: a trial is over
	// at its date.
	TrialPatience time.Duration
	// MaxOverdue ends subscriptions that are active by their status, but whose period ended longer ago than
	// this: the events that would have renewed or ended them may not arrive any more. Default 0: the status
	// alone decides. Give several days, since Stripe tries for as long to deliver an event.
	MaxOverdue time.Duration
}

// validate names the field that is wrong, and the mend.
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
	// AllowInactive lets members in whose tenant's subscription has lapsed, so that they reach the billing
	// page. Scope.Plan is nil for them; RequireFeature and RequireTier deny.
	AllowInactive bool
	// AllowAnonymous lets requests without any credential in, with a Scope that has neither user nor tenant.
	// A bad credential is refused all the same.
	AllowAnonymous bool
}

// policy decides from facts, configuration and the clock alone: no I/O, no state. Whatever depends on the
// clock is decided on every request, so that what ends at an instant ends at that instant, whatever the cache
// holds.
type policy struct {
	SubscriptionPolicy
	minSchemaVersion int64
}

// entitlement is what a member is let in by, beside the membership.
type entitlement struct {
	subscription *hostdb.Subscription // in force, else the best one there was
	plan         *hostdb.PricingPlan
}

// precompute returns the entitlement, if no date and no rule can change it.
func (p *policy) precompute(a *hostdb.Access) (e entitlement, dateFree bool) {
	dated := false
	e, err := p.decide(a, func() time.Time { dated = true; return time.Time{} }, Rules{})
	return e, err == nil && !dated
}

// decide returns the entitlement, or the reason to refuse. It reads the clock only if a date matters.
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

// inForce returns the subscription of the highest tier that admits now, the first of them in the order of
// [hostdb.Access]; nil where none does.
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

// withAllFeatures returns the plan in force with the features of all plans that admit now, so that a further
// subscription takes no feature away where it wins, or ties, by its tier. Nearly always that is the plan
// itself.
func (p *policy) withAllFeatures(plan *hostdb.PricingPlan, a *hostdb.Access, free bool, clock func() time.Time) *hostdb.PricingPlan {
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

// lacks reports whether another plan, nil for none, has a feature that a plan hasn't.
func lacks(plan, other *hostdb.PricingPlan) bool {
	if other == nil || other == plan {
		return false
	}
	return slices.ContainsFunc(other.Features, func(key string) bool { return !slices.Contains(plan.Features, key) })
}

// joined returns a copy of a plan that has another one's features too.
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

// dated reports whether it depends on the clock whether a subscription admits.
func (p *policy) dated(s *hostdb.Subscription) bool {
	switch s.Status {
	case hostdb.SubscriptionTrialing, hostdb.SubscriptionPastDue:
		return true
	}
	return s.Status == hostdb.SubscriptionActive && p.MaxOverdue > 0 && s.CurrentPeriodEnd != nil
}

// admits reports whether a subscription admits at this time.
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

// tierOf is a plan's tier_level; less than any for no plan.
func tierOf(plan *hostdb.PricingPlan) int {
	if plan == nil {
		return -1
	}
	return plan.TierLevel
}

// enrolled returns why a user is no active member of a tenant, if they aren't.
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

// unpaid is why a tenant needs a subscription that admits, and has none. best is nil where it has none at
// all.
func unpaid(t *hostdb.TenantCatalog, best *hostdb.Subscribed) error {
	plan := "the plan " + strconv.Quote(t.PlanTier) + " is not in FreePlans, and "
	switch {
	case best == nil:
		return why(ErrSubscriptionInactive, ReasonNoSubscription, plan+"there is no subscription")
	case best.PaymentType != hostdb.PaymentSubscription:
		return why(ErrSubscriptionInactive, ReasonSubscriptionLapsed, plan+"there are only one-time payments")
	}
	return why(ErrSubscriptionInactive, ReasonSubscriptionLapsed, plan+"the best subscription is "+best.Status+" and its dates do not admit now")
}

// entitled makes an entitlement; subscription and plan may be nil.
func entitled(subscription *hostdb.Subscribed, plan *hostdb.PricingPlan) entitlement {
	g := entitlement{plan: plan}
	if subscription != nil {
		g.subscription = &subscription.Subscription
	}
	return g
}

// open returns why a tenant can't be entered by anybody, if it can't.
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
	case t.Status != hostdb.TenantActive: // a word of a later version
		return why(ErrTenantUnavailable, ReasonTenantStatus, "its status is "+strconv.Quote(t.Status))
	case t.SchemaVersion < p.minSchemaVersion:
		return errSchemaTooOld
	}
	return nil
}
