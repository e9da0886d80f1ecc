package tenantdb

import (
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"

	"github.com/tenantdb/tenantdb/hostdb"
)

// RequireRole admits members whose role is at least role in Config.Roles (highest first); others are answered
// ErrForbidden. A role that Config.Roles doesn't name denies, required or held; [Middleware.RequireRole]
// refuses such a word at the program's start. It goes inside Handler. [Scope.Check] asks it again.
func RequireRole(role string) func(http.Handler) http.Handler {
	return require(func(m *Middleware, a *hostdb.Access, _ *hostdb.PricingPlan) error {
		needed, held := slices.Index(m.roles, role), -1
		if a != nil && a.Membership != nil {
			held = slices.Index(m.roles, a.Membership.Role)
		}
		if needed < 0 || held < 0 || held > needed {
			return why(ErrForbidden, ReasonRole, "role "+role+" needed")
		}
		return nil
	})
}

// RequireFeature admits tenants of which a plan that admits has the feature; others are answered
// ErrForbidden. It goes inside Handler. [Scope.Check] asks it again.
func RequireFeature(key string) func(http.Handler) http.Handler {
	return require(func(_ *Middleware, _ *hostdb.Access, plan *hostdb.PricingPlan) error {
		if plan == nil || !slices.Contains(plan.Features, key) {
			return why(ErrForbidden, ReasonFeature, "feature "+key+" needed")
		}
		return nil
	})
}

// RequireTier admits tenants whose plan in force has at least that tier_level; others are answered
// ErrForbidden. It goes inside Handler. [Scope.Check] asks it again.
func RequireTier(level int) func(http.Handler) http.Handler {
	return require(func(_ *Middleware, _ *hostdb.Access, plan *hostdb.PricingPlan) error {
		if plan == nil || plan.TierLevel < level {
			return why(ErrForbidden, ReasonTier, fmt.Sprintf("tier %d needed", level))
		}
		return nil
	})
}

// RequireRole is the function of that name, and panics where Config.Roles doesn't name the role, which is a
// mistake in the program.
func (m *Middleware) RequireRole(role string) func(http.Handler) http.Handler {
	if !slices.Contains(m.roles, role) {
		panic(fmt.Sprintf("tenantdb: RequireRole(%q): Config.Roles has %q", role, m.roles))
	}
	return RequireRole(role)
}

// RequireFeature is the function of that name, and panics where Config.Features is set and doesn't name the
// key, or the key is empty, which is a mistake in the program.
func (m *Middleware) RequireFeature(key string) func(http.Handler) http.Handler {
	if key == "" || m.features != nil && !slices.Contains(m.features, key) {
		panic(fmt.Sprintf("tenantdb: RequireFeature(%q): Config.Features has %q", key, m.features))
	}
	return RequireFeature(key)
}

// RequireTier is the function of that name, and panics where the level is negative, which is a mistake in the
// program.
func (m *Middleware) RequireTier(level int) func(http.Handler) http.Handler {
	if level < 0 {
		panic(fmt.Sprintf("tenantdb: RequireTier(%d): no plan has a negative tier_level", level))
	}
	return RequireTier(level)
}

// condition is what a guard asks of a scope: nil, or why the request may not go on. Without a tenant access
// has none; plan may be nil.
type condition func(m *Middleware, access *hostdb.Access, plan *hostdb.PricingPlan) error

// guard admits requests that meet a condition.
type guard struct {
	meets condition
	next  http.Handler
	// last is how the last request was admitted. Nearly always the next one has passed the same guards, and
	// shares it.
	last atomic.Pointer[admission]
}

// admission is the list of the guards that have let a request in, the last one first. It is immutable.
type admission struct {
	meets  condition
	before *admission
}

// require turns a condition into a guard. Without a scope it denies.
func require(meets condition) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler { return &guard{meets: meets, next: next} }
}

// ServeHTTP implements http.Handler.
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

// admit notes in the scope that the guard let it in.
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

// check asks the guards again.
func (a *admission) check(m *Middleware, access *hostdb.Access, plan *hostdb.PricingPlan) error {
	for ; a != nil; a = a.before {
		if err := a.meets(m, access, plan); err != nil {
			return err
		}
	}
	return nil
}
