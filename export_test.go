package tenantdb

import (
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// VectorDir is the folder of the external security vectors.
var VectorDir = vectorDir

// SharedRows counts the rows of tenants and plans that cached facts share.
func (m *Middleware) SharedRows() (tenants, plans int) {
	return m.resolver.rows.tenants.Len(), m.resolver.rows.plans.Len()
}

// SharedBy returns the rows in the cache that a Scope was copied from.
func (s *Scope) SharedBy() (*hostdb.Access, *hostdb.Subscription, *hostdb.PricingPlan) {
	return s.ctx.access, s.ctx.entitled.subscription, s.ctx.entitled.plan
}

// Decide reports whether a policy admits a caller at a time, with the tier and the features of the plan.
func Decide(p SubscriptionPolicy, a *hostdb.Access, now time.Time) (tier int, features []string, in bool) {
	e, err := (&policy{SubscriptionPolicy: p}).decide(a, func() time.Time { return now }, Rules{})
	if e.plan != nil {
		features = e.plan.Features
	}
	return tierOf(e.plan), features, err == nil
}
