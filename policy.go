package tenantdb

import (
	"slices"
	"strconv"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// SubscriptionPolicy says what "paying" means. A subscription admits while hostdb's rule for its status and dates does
// (hostdb.Subscription.ActiveAt); where a tenant has several, any one of them is enough.
type SubscriptionPolicy struct {
	// FreePlans names the values of core_tenants.plan_tier that need no subscription. Default: none, so that every tenant
	// needs one.
	FreePlans []string
	// Grace is how long a past_due subscription admits after its period's end. Default 0 means hostdb.DefaultGrace (3 days);
	// a negative value means none.
	Grace time.Duration
}

// Rules are the exceptions that a part of the product needs. The zero Rules makes none.
type Rules struct {
	// AllowInactive lets members in whose tenant's subscription has lapsed, so that they reach the billing page. Scope.Plan is
	// nil for them; RequireFeature and RequireTier deny.
	AllowInactive bool
	// AllowAnonymous lets requests without any credential in, with a Scope that has neither user nor tenant. A bad credential
	// is refused all the same.
	AllowAnonymous bool
}

// policy decides from facts, configuration and the clock alone: no I/O, no state. Whatever depends on the clock is decided on every
// request, so that what ends at an instant ends at that instant, whatever the cache holds.
type policy struct {
	freePlans        []string
	grace            time.Duration
	minSchemaVersion int64
}

// grant is what a member is let in by, beside the membership.
type grant struct {
	subscription *hostdb.Subscription // in force, else the best one there was
	plan         *hostdb.PricingPlan
}

// judge returns the grant, or the reason to refuse.
func (p *policy) judge(f *facts, clock func() time.Time, rules Rules) (grant, error) {
	if f.settled {
		return f.grant, nil
	}
	return p.decide(&f.Access, clock, rules)
}

// settle notes the grant that the facts have at all times and by all rules, if they have one.
func (p *policy) settle(f *facts) {
	dated := false
	g, err := p.decide(&f.Access, func() time.Time { dated = true; return time.Time{} }, Rules{})
	if err == nil && !dated {
		f.grant, f.settled = g, true
	}
}

// decide returns the grant, or the reason to refuse. The clock is read only where a date matters.
func (p *policy) decide(a *hostdb.Access, clock func() time.Time, rules Rules) (grant, error) {
	if err := enrolled(a); err != nil {
		return grant{}, err
	}
	if err := p.open(a.Tenant); err != nil {
		return grant{}, err
	}
	var now time.Time
	for i := range a.Subscriptions {
		s := &a.Subscriptions[i]
		if now.IsZero() && s.Status != hostdb.SubscriptionActive {
			now = clock()
		}
		if s.ActiveAt(now, p.grace) {
			return granted(s, s.Plan), nil
		}
	}
	var lapsed *hostdb.Subscribed
	if len(a.Subscriptions) > 0 {
		lapsed = &a.Subscriptions[0]
	}
	if slices.Contains(p.freePlans, a.Tenant.PlanTier) {
		return granted(lapsed, a.TenantPlan), nil
	}
	if rules.AllowInactive {
		return granted(lapsed, nil), nil
	}
	return grant{}, unpaid(a.Tenant, lapsed)
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

// unpaid is why a tenant needs a subscription that admits, and has none. best is nil where it has none at all.
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

// granted fills in a grant; subscription and plan may be nil.
func granted(subscription *hostdb.Subscribed, plan *hostdb.PricingPlan) grant {
	g := grant{plan: plan}
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
