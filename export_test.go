package tenantdb

import (
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// VectorDir is the folder of the external security vectors.
var VectorDir = vectorDir

// SharedRows counts the tenants and plans whose rows the cached facts have in common.
func (m *Middleware) SharedRows() (tenants, plans int) {
	return m.resolver.rows.tenants.Len(), m.resolver.rows.plans.Len()
}

// SharedBy returns the rows in the cache that a Scope was copied from.
func (s *Scope) SharedBy() (*hostdb.Access, *hostdb.Subscription, *hostdb.PricingPlan) {
	return s.ctx.access, s.ctx.entitled.subscription, s.ctx.entitled.plan
}

// Decide tells with which plan's tier and features a policy lets somebody in at a time, and whether it does.
func Decide(p SubscriptionPolicy, a *hostdb.Access, now time.Time) (tier int, features []string, in bool) {
	e, err := (&policy{SubscriptionPolicy: p}).decide(a, func() time.Time { return now }, Rules{})
	if e.plan != nil {
		features = e.plan.Features
	}
	return tierOf(e.plan), features, err == nil
}
