package tenantdb

import (
	"slices"
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

// policy decides from facts, configuration and the clock alone: no I/O, no state. It runs on every request, so that what ends at
// an instant ends at that instant, whatever the cache holds.
type policy struct {
	freePlans        []string
	grace            time.Duration
	minSchemaVersion int64
}

// decide returns the subscription and the plan in force, or the reason to refuse. The clock is read only where a date matters.
func (p *policy) decide(a *hostdb.Access, clock func() time.Time, rules Rules) (*hostdb.Subscribed, *hostdb.PricingPlan, error) {
	if a.User == nil || a.Tenant == nil || a.Membership == nil || !a.Membership.IsActive || a.Tenant.Status == hostdb.TenantDropped {
		return nil, nil, ErrNotMember
	}
	if err := p.open(a.Tenant); err != nil {
		return nil, nil, err
	}
	var now time.Time
	for i := range a.Subscriptions {
		s := &a.Subscriptions[i]
		if now.IsZero() && s.Status != hostdb.SubscriptionActive {
			now = clock()
		}
		if s.ActiveAt(now, p.grace) {
			return s, s.Plan, nil
		}
	}
	var lapsed *hostdb.Subscribed
	if len(a.Subscriptions) > 0 {
		lapsed = &a.Subscriptions[0]
	}
	if slices.Contains(p.freePlans, a.Tenant.PlanTier) {
		return lapsed, a.TenantPlan, nil
	}
	if rules.AllowInactive {
		return lapsed, nil, nil
	}
	return nil, nil, ErrSubscriptionInactive
}

// open returns why a tenant can't be entered by anybody, if it can't.
func (p *policy) open(t *hostdb.TenantCatalog) error {
	switch {
	case t.Status == hostdb.TenantSuspended || !t.IsActive:
		return ErrTenantSuspended
	case t.Status != hostdb.TenantActive: // provisioning, maintenance, a word of a later version
		return because(ErrTenantUnavailable, notOpen(t.Status))
	case t.SchemaVersion < p.minSchemaVersion:
		return because(ErrTenantUnavailable, errSchemaTooOld)
	}
	return nil
}
