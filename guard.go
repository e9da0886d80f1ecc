package tenantdb

import (
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"

	"github.com/tenantdb/tenantdb/hostdb"
)

// RequireRole admits members whose role is role or a higher one in [Config.Roles]. Others get [ErrForbidden].
// If Config.Roles lacks the required role or the member's, the request is refused. [Middleware.RequireRole]
// finds such a mistake at the program's start. The handler that it returns goes inside [Middleware.Handler].
// [Scope.Check] repeats the check.
func RequireRole(role string) func(http.Handler) http.Handler {
	return require(func(m *Middleware, a *hostdb.Access, _ *hostdb.PricingPlan) error {
		needed, has := slices.Index(m.roles, role), -1
		if a != nil && a.Membership != nil {
			has = slices.Index(m.roles, a.Membership.Role)
		}
		if needed < 0 || has < 0 || has > needed {
			return why(ErrForbidden, ReasonRole, "role "+role+" needed")
		}
		return nil
	})
}

// RequireFeature admits tenants that have the feature, by the plan in force or the plan of another active
// subscription. Others get [ErrForbidden]. The handler that it returns goes inside [Middleware.Handler].
// [Scope.Check] repeats the check.
func RequireFeature(key string) func(http.Handler) http.Handler {
	return require(func(_ *Middleware, _ *hostdb.Access, plan *hostdb.PricingPlan) error {
		if plan == nil || !slices.Contains(plan.Features, key) {
			return why(ErrForbidden, ReasonFeature, "feature "+key+" needed")
		}
		return nil
	})
}

// RequireTier admits tenants whose plan in force has at least that tier_level. Others get [ErrForbidden]. The
// handler that it returns goes inside [Middleware.Handler]. [Scope.Check] repeats the check.
func RequireTier(level int) func(http.Handler) http.Handler {
	return require(func(_ *Middleware, _ *hostdb.Access, plan *hostdb.PricingPlan) error {
		if plan == nil || plan.TierLevel < level {
			return why(ErrForbidden, ReasonTier, fmt.Sprintf("tier %d needed", level))
		}
		return nil
	})
}

// RequireRole is the function [RequireRole], and panics if [Config.Roles] doesn't have the role.
func (m *Middleware) RequireRole(role string) func(http.Handler) http.Handler {
	if !slices.Contains(m.roles, role) {
		panic(fmt.Sprintf("tenantdb: RequireRole(%q): Config.Roles has %q", role, m.roles))
	}
	return RequireRole(role)
}

// RequireFeature is the function [RequireFeature], and panics if the key is empty, or if [Config.Features] is
// set and doesn't have it.
func (m *Middleware) RequireFeature(key string) func(http.Handler) http.Handler {
	if key == "" || m.features != nil && !slices.Contains(m.features, key) {
		panic(fmt.Sprintf("tenantdb: RequireFeature(%q): Config.Features has %q", key, m.features))
	}
	return RequireFeature(key)
}

// RequireTier is the function [RequireTier], and panics if the level is negative.
func (m *Middleware) RequireTier(level int) func(http.Handler) http.Handler {
	if level < 0 {
		panic(fmt.Sprintf("tenantdb: RequireTier(%d): no plan has a negative tier_level", level))
	}
	return RequireTier(level)
}

// condition returns nil if a request may go on, else why it may not. In a scope without a tenant, access is
// nil or has no Tenant. plan is nil if there is none.
type condition func(m *Middleware, access *hostdb.Access, plan *hostdb.PricingPlan) error

// guard admits the requests that meet a condition.
type guard struct {
	meets condition
	next  http.Handler
	// last is the admission of the last request. The next one usually has passed the same guards and shares
	// it, which saves an allocation.
	last atomic.Pointer[admission]
}

// admission is the immutable list of the guards that have admitted a request, the last one first.
type admission struct {
	meets  condition
	before *admission
}

// require returns the guard of a condition. It refuses requests without a scope.
func require(meets condition) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler { return &guard{meets: meets, next: next} }
}

// ServeHTTP implements [http.Handler].
func (g *guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c, ok := scopeOf(r.Context())
	if !ok {
		WriteError(w, r, fmt.Errorf("%w: guard outside Middleware.Handler", ErrForbidden))
		return
	}
	if err := g.meets(c.m, c.access, c.entitled.plan); err != nil {
		WriteError(w, r, err)
		return
	}
	g.admit(c)
	g.next.ServeHTTP(w, r)
}

// admit adds the guard to the scope's admission, for [Scope.Check].
func (g *guard) admit(c *scopeContext) {
	for {
		before, now := c.admitted.Load(), g.last.Load()
		if now == nil || now.before != before {
			now = &admission{g.meets, before}
			g.last.Store(now)
		}
		if c.admitted.CompareAndSwap(before, now) {
			return
		}
	}
}

// check repeats the checks of all guards.
func (a *admission) check(m *Middleware, access *hostdb.Access, plan *hostdb.PricingPlan) error {
	for ; a != nil; a = a.before {
		if err := a.meets(m, access, plan); err != nil {
			return err
		}
	}
	return nil
}
