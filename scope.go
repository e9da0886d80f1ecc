package tenantdb

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// Scope is what the middleware found out about a request: who asks, in which tenant, by which right. What it points to is
// shared with other requests: read it, never write to it.
type Scope struct {
	// Identity is the verified caller; nil in a scope from Enter and for an anonymous visitor.
	Identity *Identity
	// User is the caller's row in the host database; nil in a scope from Enter, for an anonymous visitor, and behind
	// Authenticated for a caller who has none yet. Its PasswordHash is never loaded.
	User *hostdb.GlobalUser
	// Tenant is the tenant; nil behind Authenticated and for an anonymous visitor.
	Tenant *hostdb.TenantCatalog
	// Membership is the caller's membership in Tenant.
	Membership *hostdb.Membership
	// Subscription is the one in force, else (HandlerWith with AllowInactive, free plans) the best one that the tenant had; nil
	// where it never had one.
	Subscription *hostdb.Subscription
	// Plan is the plan in force: the active subscription's, else the tenant's where that is free. Nil where there is none or
	// it isn't in the price list.
	Plan *hostdb.PricingPlan
	// Role is the membership's role; "" without a membership.
	Role string
	// Features are those of Plan.
	Features []string

	ctx *scopeContext // which carries it; nil in a Scope that no middleware made
}

// scopeContext is a context with a Scope. It has what a request is let in by. The Scope itself is made for the first who asks for it, as
// a handler that wants its tenant's database alone does not; at once where the grant is of this moment only, as a trial's is.
type scopeContext struct {
	context.Context
	m        *Middleware
	identity *Identity // nil in a scope from Enter and for an anonymous visitor, as found is
	found    *entry    // what it was granted by
	lease    Lease     // of no tenant where the scope has none
	scope    atomic.Pointer[Scope]
	loans    atomic.Pointer[loans] // nil before the first
	rules    Rules
}

// scopeKey is the key of a scopeContext in itself.
type scopeKey struct{}

// Value implements context.Context.
func (c *scopeContext) Value(key any) any {
	if key == (scopeKey{}) {
		return c
	}
	return c.Context.Value(key)
}

// scopeOf returns the innermost context with a Scope.
func scopeOf(ctx context.Context) (c *scopeContext, found bool) {
	c, found = ctx.Value(scopeKey{}).(*scopeContext)
	return c, found
}

// whole returns the Scope. Where none was made before, it tells what was found: then the grant is settled, or there is none (behind
// Authenticated), or nothing was looked for (an anonymous visitor).
func (c *scopeContext) whole() *Scope {
	if s := c.scope.Load(); s != nil {
		return s
	}
	var made *Scope
	if c.found == nil {
		made = &Scope{ctx: c}
	} else {
		made = c.granted(&c.found.Value().grant)
	}
	c.scope.CompareAndSwap(nil, made)
	return c.scope.Load()
}

// granted makes the Scope of what was found, by a grant.
func (c *scopeContext) granted(g *grant) *Scope {
	f := c.found.Value()
	return &Scope{Identity: c.identity, User: f.User, Tenant: f.Tenant, Membership: f.Membership,
		Subscription: g.subscription, Plan: g.plan, Role: g.role, Features: g.features(), ctx: c}
}

// Format implements fmt.Formatter: a context is printed by name, not by what it carries.
func (c *scopeContext) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "%v.WithTenant", c.Context)
}

// FromContext returns the scope of the request or of Enter; found=false where no middleware ran.
func FromContext(ctx context.Context) (scope *Scope, found bool) {
	c, found := scopeOf(ctx)
	if !found {
		return nil, false
	}
	return c.whole(), true
}

// HasFeature reports whether the plan in force has a feature. An unknown plan has none.
func (s *Scope) HasFeature(key string) bool {
	return slices.Contains(s.Features, key)
}

// SubscriptionStatus returns what a page tells about the tenant's subscription now: days left, grace, cancellation. The zero
// status where there is none.
func (s *Scope) SubscriptionStatus() hostdb.SubscriptionStatus {
	if s.ctx == nil {
		return hostdb.SubscriptionStatus{}
	}
	return s.Subscription.StatusAt(s.ctx.m.now(), s.ctx.m.policy.grace)
}

// Check reports whether the caller may still be here: nil, or the error that a request would be refused with now. Long-lived
// connections (websockets, event streams) call it from time to time. It costs a cache lookup; in a scope from Enter, a query in
// the host database.
func (s *Scope) Check(ctx context.Context) error {
	err := ErrForbidden // a Scope that no middleware made grants nothing
	if s.ctx != nil {
		err = s.check(ctx)
	}
	if err != nil {
		return explain(err, s.tenantID())
	}
	return nil
}

// tenantID is the tenant's id, "" without one.
func (s *Scope) tenantID() string {
	if s.Tenant == nil {
		return ""
	}
	return s.Tenant.ID
}

// check looks again at what the scope was granted for.
func (s *Scope) check(ctx context.Context) error {
	m := s.ctx.m
	if s.Identity != nil {
		if err := s.Identity.check(m.now); err != nil {
			return err
		}
		if again, ok := m.auth.(interface {
			Revalidate(context.Context, *Identity) error
		}); ok {
			if err := again.Revalidate(ctx, s.Identity); err != nil {
				return err
			}
		}
	}
	switch {
	case s.Tenant == nil && s.User == nil: // anonymous, or signed in without a user
		return nil
	case s.Tenant == nil:
		now, err := m.resolver.find(ctx, s.Identity, s.ctx.found.Key(), time.Time{})
		if err == nil && (now.Value().User == nil || now.Value().User.ID != s.User.ID) {
			err = fmt.Errorf("%w: the user is gone", ErrForbidden)
		}
		return err
	case s.User == nil:
		_, err := m.openTenant(ctx, s.Tenant.ID)
		return err
	}
	found, err := m.resolver.find(ctx, s.Identity, s.ctx.found.Key(), time.Time{})
	if err != nil {
		return err
	}
	facts := found.Value()
	if _, err := m.policy.judge(facts, m.now, s.ctx.rules); err != nil {
		return err
	}
	if facts.Tenant.ID != s.Tenant.ID || facts.User.ID != s.User.ID { // their names mean others now
		return ErrNotMember
	}
	return nil
}

// Detach returns a context for work that outlives the handler: it isn't cancelled with the request, and it keeps the tenant's
// database until the returned function is called, which must happen once the work is done. Call Detach before the handler
// returns.
func (s *Scope) Detach() (context.Context, func()) {
	c := s.ctx
	held := &scopeContext{Context: context.WithoutCancel(c.Context), m: c.m, identity: c.identity, found: c.found, rules: c.rules}
	whole := *s
	whole.ctx = held
	held.scope.Store(&whole)
	if c.lease.tenant != nil {
		c.lease.again(&held.lease)
	}
	return held, held.release
}

// release takes back the connections that were forgotten and gives the lease back, once.
func (c *scopeContext) release() {
	if c.lease.over.Swap(true) {
		return
	}
	if l := c.loans.Load(); l != nil {
		l.takeBack()
	}
	if c.lease.tenant != nil {
		c.lease.end()
	}
}

// borrows returns the list of the scope's connections, which it makes when first asked: either it sees the scope's end, or the end sees
// the list.
func (c *scopeContext) borrows() *loans {
	if c.loans.Load() == nil {
		c.loans.CompareAndSwap(nil, &loans{lease: &c.lease})
	}
	return c.loans.Load()
}

// DB returns the tenant's database: on SQLite the writer, on PostgreSQL a handle whose connections come from the pool's budget.
// It is the tenant's one handle: don't close it. Give its methods the request's context: what the handler leaves open is rolled back and
// closed at the request's end then. What is begun without it (Begin instead of BeginTx) is nobody's request's, and stays open until the
// requests have ended that the tenant had at that moment, long-lived ones too, and perhaps those that began while one of them ran. DB
// panics where no middleware ran, which is a mistake in the program.
//
// On SQLite there is one connection that writes. A query on it inside for rows.Next(), or beside a transaction of one's own, waits for
// itself and fails with ErrBusy: finish or close the rows first, use the transaction, or read with [ReadDB]. Statements are confined to
// the tenant's file: ATTACH and VACUUM are refused ([Lease.Vacuum] compacts), as are extensions, and PRAGMAs that last beyond the
// connection, such as journal_mode = DELETE. Other PRAGMAs and temporary tables work, and last as long as the connection is held
// (sql.Conn, sql.Tx); the next borrower finds neither.
func DB(ctx context.Context) *sql.DB {
	return leaseOf(ctx, "DB").DB()
}

// ReadDB returns the tenant's database for reading: on SQLite the readers, which refuse writes and don't wait for the writer;
// on PostgreSQL the same as DB. It panics where no middleware ran.
func ReadDB(ctx context.Context) *sql.DB {
	return leaseOf(ctx, "ReadDB").ReadDB()
}

// PG returns the tenant's PostgreSQL database in pgx's own shape, as sqlc's generated code wants it. It panics where no middleware
// ran, and for a tenant on SQLite.
func PG(ctx context.Context) *PGX {
	pg := leaseOf(ctx, "PG").PG()
	if pg == nil {
		panic("tenantdb: PG(ctx): this tenant's database is SQLite; use DB(ctx), which serves both engines")
	}
	return pg
}

// leaseOf returns the lease of the context's scope.
func leaseOf(ctx context.Context, caller string) *Lease {
	c, ok := scopeOf(ctx)
	switch {
	case !ok:
		panic("tenantdb: " + caller + "(ctx): no scope in this context; wrap the route with Middleware.Handler, or get a context from Middleware.Enter")
	case c.lease.tenant == nil:
		panic("tenantdb: " + caller + "(ctx): this scope has no tenant; the route is behind Authenticated or AllowAnonymous, so wrap it with Middleware.Handler")
	}
	return &c.lease
}
