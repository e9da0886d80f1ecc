package tenantdb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/checkout"
	"github.com/tenantdb/tenantdb/internal/madescope"
	"github.com/tenantdb/tenantdb/internal/refusal"
)

// Scope is what the middleware found out about a request: who asks, in which tenant, and by which right.
//
// It is the handler's own. What a handler writes into it, or into what it points to, changes no decision
// and is seen by no other request. [FromContext] returns the same Scope throughout a request. The first
// call makes it, with one allocation of 1 KB, one for the features, and those of the claims.
type Scope struct {
	// Identity is the verified caller. It is nil in a scope from Enter and for an anonymous visitor.
	Identity *Identity
	// User is the caller's row in the host database, without PasswordHash. It is nil in a scope from Enter,
	// for an anonymous visitor, and behind Authenticated for a caller who has no row yet.
	User *hostdb.GlobalUser
	// Tenant is the tenant. It is nil behind Authenticated and for an anonymous visitor.
	Tenant *hostdb.TenantCatalog
	// Membership is the caller's membership in Tenant.
	Membership *hostdb.Membership
	// Subscription is the one in force. If there is none (HandlerWith with AllowInactive, free plans) it is
	// the best one that the tenant had. It is nil if the tenant never had one.
	Subscription *hostdb.Subscription
	// Plan is the plan in force: the active subscription's, or else the tenant's if that is free. It is nil
	// if there is none, or if it isn't in the price list.
	Plan *hostdb.PricingPlan
	// Role is the membership's role; "" without a membership.
	Role string
	// Features are those of Plan, and of the plans of all other subscriptions that admit.
	Features []string

	ctx          *scopeContext        // carries it; nil in a Scope that no middleware made
	subscription *hostdb.Subscription // Subscription as the host database has it
}

// scopeContext is the context of a scope. It has the facts that the request was let in by, which a handler
// can't change. The first call of FromContext copies them into a Scope; a handler that only wants its
// tenant's database makes no such copy.
type scopeContext struct {
	context.Context
	m        *Middleware
	identity *Identity                         // nil from Enter, and for an anonymous visitor
	found    *entry                            // the cached answer that has access; nil if identity is nil
	access   *hostdb.Access                    // what the host database says; nil for an anonymous visitor
	entitled entitlement                       // what follows from access; zero without a membership
	admitted atomic.Pointer[admission]         // the guards that let it in; nil: none yet
	lease    Lease                             // without a tenant if the scope has none
	scope    atomic.Pointer[Scope]             // nil before the first who asks
	borrower atomic.Pointer[checkout.Borrower] // nil before the first query
	rules    Rules
}

// scopeKey is the key of a scopeContext in itself.
type scopeKey struct{}

// Value implements context.Context.
func (c *scopeContext) Value(key any) any {
	switch key {
	case scopeKey{}:
		return c
	case checkout.Key{}:
		return c.borrows()
	}
	return c.Context.Value(key)
}

// scopeOf returns the innermost context with a Scope.
func scopeOf(ctx context.Context) (c *scopeContext, found bool) {
	c, found = ctx.Value(scopeKey{}).(*scopeContext)
	return c, found
}

// whole returns the Scope, which it makes when first asked.
func (c *scopeContext) whole() *Scope {
	if s := c.scope.Load(); s != nil {
		return s
	}
	c.scope.CompareAndSwap(nil, c.newScope(c.access, c.entitled))
	return c.scope.Load()
}

// tenantID is the tenant's id, "" without one.
func (c *scopeContext) tenantID() string {
	if c.access == nil || c.access.Tenant == nil {
		return ""
	}
	return c.access.Tenant.ID
}

// Format implements fmt.Formatter: a context is printed by name, not by what it carries.
func (c *scopeContext) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "%v.WithTenant", c.Context)
}

// FromContext returns the scope of the request, or of [Middleware.Enter]. It reports false if no middleware
// ran.
func FromContext(ctx context.Context) (scope *Scope, found bool) {
	c, found := scopeOf(ctx)
	if !found { // a test may have made one, which grants nothing
		scope, found = ctx.Value(madescope.Key{}).(*Scope)
		return scope, found
	}
	return c.whole(), true
}

// HasFeature reports whether the plan in force has a feature. An unknown plan has none.
func (s *Scope) HasFeature(key string) bool {
	return slices.Contains(s.Features, key)
}

// SubscriptionStatus returns what a page tells about the tenant's subscription now: days left, grace,
// cancellation. It is zero if there is no subscription.
func (s *Scope) SubscriptionStatus() hostdb.SubscriptionStatus {
	if s.ctx == nil {
		return hostdb.SubscriptionStatus{}
	}
	return s.subscription.StatusAt(s.ctx.m.now(), s.ctx.m.policy.Grace)
}

// Detach returns a context for work that outlives the handler. The context isn't cancelled with the request,
// and it keeps the tenant's database until the returned function is called. Call that once the work is done.
// The context's Scope is the work's own.
//
// Call Detach before the handler returns. After that the context is cancelled from the start, and its error
// says why.
func (s *Scope) Detach() (context.Context, func()) {
	c := s.ctx
	if c == nil {
		panic("tenantdb: Scope.Detach: this Scope is not from FromContext")
	}
	held := &scopeContext{Context: context.WithoutCancel(c.Context), m: c.m, identity: c.identity,
		found: c.found, access: c.access, entitled: c.entitled, rules: c.rules}
	held.admitted.Store(c.admitted.Load())
	if c.lease.tenant != nil {
		c.lease.beginBeside(&held.lease)
	}
	if c.lease.over.Load() { // perhaps just now: then the new lease is of no use either
		held.release()
		held.Context = checkout.Ended(held.Context, errDetachedLate)
	}
	return held, held.release
}

// errDetachedLate is the error of a context from Detach after the handler.
var errDetachedLate = fmt.Errorf("tenantdb: Scope.Detach was called after the handler had returned; "+
	"call it before: %w", context.Canceled)

// release reclaims the connections that were not returned, and ends the lease, once.
func (c *scopeContext) release() {
	if c.lease.over.Swap(true) {
		return
	}
	if b := c.borrower.Load(); b != nil {
		b.ReclaimAll()
	}
	if c.lease.tenant != nil {
		c.lease.end()
	}
}

// borrows returns what has the scope's connections. It is made when first asked for: either it sees the
// scope's end, or the end sees it.
func (c *scopeContext) borrows() *checkout.Borrower {
	if b := c.borrower.Load(); b != nil {
		return b
	}
	var tenant *checkout.Tenant
	if c.lease.tenant != nil {
		tenant = &c.lease.tenant.Tenant
	}
	c.borrower.CompareAndSwap(nil, checkout.NewBorrower(tenant, &c.lease.over))
	return c.borrower.Load()
}

// DB returns the tenant's database: on SQLite the writer, on PostgreSQL a handle whose connections come from
// the pool's budget. DB panics if no middleware ran, which is a mistake in the program.
//
// Give the handle's methods the request's context. Then what the handler leaves open is rolled back and
// closed at the request's end. What is begun without it (Begin instead of BeginTx) belongs to no request.
// It stays open until all requests have ended that the tenant had at that moment, and perhaps those that
// began while one of them ran.
//
// Call DB in each request instead of keeping its result. With the context of another tenant's scope, or of a
// scope without a tenant, a handle fails with [ErrWrongTenant], and so does all that comes of it: statements,
// connections, transactions, and what [Cached] keeps. Within a scope from [Middleware.Enter], use the handle
// and the context of that scope together. A call without a context can't be checked, since nothing says for
// whose request it is. PoolConfig.RequireScope refuses these.
//
// The handle is the scope's own. A library may close it or limit its connections: no other scope is affected,
// and the next call of DB returns an open one. The pool keeps idle connections, so SetMaxIdleConns,
// SetConnMaxLifetime and SetConnMaxIdleTime have no effect. Behind a limit (SetMaxOpenConns), callers wait in
// database/sql as long as their contexts live, whatever AcquireTimeout says. After the scope's end the handle
// may be closed, or serve another request of the tenant.
//
// On PostgreSQL, the value that sql.Conn.Raw passes has a method Conn() *pgx.Conn. It is for use until Raw
// returns. The value isn't a *stdlib.Conn, since pgx has no way to make one that returns to another pool. So
// stdlib.AcquireConn panics; use [PGX.Acquire].
//
// On SQLite one connection writes. A query on it inside for rows.Next(), or beside a transaction of one's
// own, would wait for itself: it fails with [ErrBusy]. Finish or close the rows first, use the transaction,
// or read with [ReadDB]. Statements are confined to the tenant's file. ATTACH and VACUUM are refused (use
// [Lease.Vacuum]), and so are extensions and PRAGMAs that last beyond the connection, such as journal_mode
// = DELETE. Other PRAGMAs and temporary tables last as long as the connection is held (sql.Conn, sql.Tx).
// The next borrower finds neither.
func DB(ctx context.Context) *sql.DB {
	return leaseOf(ctx, "DB").own(checkout.ForRequests).writer()
}

// ReadDB returns the tenant's database for reading. On SQLite these are the readers, which refuse writes and
// don't wait for the writer. On PostgreSQL it is the same as [DB]. It panics if no middleware ran.
func ReadDB(ctx context.Context) *sql.DB {
	return leaseOf(ctx, "ReadDB").own(checkout.ForRequests).reader()
}

// PG returns the tenant's PostgreSQL database in pgx's own shape, as sqlc's generated code wants it. Call
// it in each request: as with [DB], the context of another tenant's scope is refused. It panics if no
// middleware ran, and for a tenant on SQLite.
func PG(ctx context.Context) *PGX {
	pg := leaseOf(ctx, "PG").postgres(checkout.ForRequests)
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
		panic("tenantdb: " + caller + "(ctx): no scope in this context; " +
			"wrap the route with Middleware.Handler, or get a context from Middleware.Enter; " +
			"in gin, pass c.Request.Context() rather than c, or set the engine's ContextWithFallback")
	case c.lease.tenant == nil:
		panic("tenantdb: " + caller + "(ctx): this scope has no tenant; the route is behind Authenticated " +
			"or AllowAnonymous, so wrap it with Middleware.Handler")
	}
	return &c.lease
}

// ownScope is a Scope and all that it points to, except for what has no fixed size: the lists of features and
// the claims. It is one piece of memory, so that a Scope costs one allocation.
type ownScope struct {
	Scope
	identity                                    Identity
	user                                        hostdb.GlobalUser
	tenant                                      hostdb.TenantCatalog
	membership                                  hostdb.Membership
	subscription                                hostdb.Subscription
	plan                                        hostdb.PricingPlan
	lastLogin, periodEnd, trialEnd, lastEventAt time.Time
	invoiceFailedAt                             time.Time
}

// newScope copies what the host database said, and what was decided by it, into a Scope that shares no memory
// with anything else.
func (c *scopeContext) newScope(a *hostdb.Access, e entitlement) *Scope {
	own := &ownScope{Scope: Scope{ctx: c, subscription: e.subscription}}
	s := &own.Scope
	if c.identity != nil {
		own.identity = c.identity.own()
		s.Identity = &own.identity
	}
	if a == nil {
		return s
	}
	if s.User = copyInto(&own.user, a.User); s.User != nil {
		s.User.LastLogin = copyInto(&own.lastLogin, s.User.LastLogin)
	}
	s.Tenant = copyInto(&own.tenant, a.Tenant)
	if s.Membership = copyInto(&own.membership, a.Membership); s.Membership != nil {
		s.Role = s.Membership.Role
	}
	if s.Subscription = copyInto(&own.subscription, e.subscription); s.Subscription != nil {
		s.Subscription.CurrentPeriodEnd = copyInto(&own.periodEnd, s.Subscription.CurrentPeriodEnd)
		s.Subscription.TrialEnd = copyInto(&own.trialEnd, s.Subscription.TrialEnd)
		s.Subscription.LastEventAt = copyInto(&own.lastEventAt, s.Subscription.LastEventAt)
		s.Subscription.InvoiceFailedAt = copyInto(&own.invoiceFailedAt, s.Subscription.InvoiceFailedAt)
	}
	if s.Plan = copyInto(&own.plan, e.plan); s.Plan != nil {
		s.Plan.Features = slices.Clone(s.Plan.Features)
		s.Features = s.Plan.Features
	}
	return s
}

// copyInto copies a record, and returns the copy; nil where there is none.
func copyInto[T any](to, from *T) *T {
	if from == nil {
		return nil
	}
	*to = *from
	return to
}

// Check reports whether the caller may still be here: nil, or the error that a request would be refused with
// now. It looks at all that let the request in: the credential, the user, the membership, the tenant, the
// subscription, and the guards such as [RequireRole]. Long-lived connections (websockets, event streams) call
// it from time to time. It costs a cache lookup; in a scope from [Middleware.Enter], a query in the host
// database.
func (s *Scope) Check(ctx context.Context) error {
	if s.ctx == nil { // a Scope that no middleware made grants nothing
		return explain(ErrForbidden, "")
	}
	if _, _, err := s.ctx.recheck(ctx); err != nil {
		return s.ctx.explain(err)
	}
	return nil
}

// Refresh is [Scope.Check] that also returns the scope as it is now: the caller's role, the plan and its
// features, the subscription. The Scope in the request's context and the tenant's database stay those that
// the request began with. The error is Check's.
func (s *Scope) Refresh(ctx context.Context) (*Scope, error) {
	if s.ctx == nil {
		return nil, explain(ErrForbidden, "")
	}
	access, entitled, err := s.ctx.recheck(ctx)
	if err != nil {
		return nil, s.ctx.explain(err)
	}
	return s.ctx.newScope(access, entitled), nil
}

// recheck decides anew what the scope was granted for. It returns what the host database says now, and what
// that grants.
func (c *scopeContext) recheck(ctx context.Context) (*hostdb.Access, entitlement, error) {
	if c.identity != nil {
		if err := c.m.vouched(ctx, c.identity); err != nil {
			return nil, entitlement{}, err
		}
	}
	access, entitled, err := c.judgeAgain(ctx)
	if err != nil {
		return nil, entitlement{}, err
	}
	if err := c.admitted.Load().check(c.m, access, entitled.plan); err != nil {
		return nil, entitlement{}, err
	}
	if outer, ok := scopeOf(c.Context); ok && c.found != nil { // the outer scope must hold too
		if _, _, err := outer.recheck(ctx); err != nil {
			return nil, entitlement{}, err
		}
	}
	return access, entitled, nil
}

// judgeAgain asks about the user and the tenant, whichever the scope has.
func (c *scopeContext) judgeAgain(ctx context.Context) (*hostdb.Access, entitlement, error) {
	switch {
	case c.access == nil: // anonymous
		return nil, entitlement{}, nil
	case c.found == nil: // from Enter
		tenant, err := c.m.openTenant(ctx, hostdb.TenantKey{ID: c.access.Tenant.ID})
		return &hostdb.Access{Tenant: tenant}, entitlement{}, err
	}
	found, err := c.m.resolver.find(ctx, c.identity, c.found.Key(), time.Time{})
	if err != nil {
		return nil, entitlement{}, err
	}
	now := found.Value()
	if c.access.Tenant == nil { // behind Authenticated
		if was := c.access.User; was != nil && (now.User == nil || now.User.ID != was.ID) {
			return nil, entitlement{}, fmt.Errorf("%w: the user is gone", ErrForbidden)
		}
		return &now.Access, entitlement{}, nil
	}
	entitled, err := now.judge(&c.m.policy, c.m.now, c.rules)
	if err != nil {
		return nil, entitlement{}, err
	}
	if now.Tenant.ID != c.access.Tenant.ID || now.User.ID != c.access.User.ID { // a name has passed on
		return nil, entitlement{}, ErrNotMember
	}
	return &now.Access, entitled, nil
}

// vouchingKey marks the context that Revalidate gets.
type vouchingKey struct{}

// errVouching is returned to a Revalidate that calls Check, Refresh or EnterAs, which would call it again.
var errVouching = refusal.WithCause(ErrAuthUnavailable,
	errors.New("the Authenticator's Revalidate must not call Check, Refresh or EnterAs"))

// vouched reports whether the credential still stands for the caller.
func (m *Middleware) vouched(ctx context.Context, id *Identity) error {
	if err := id.check(m.now); err != nil {
		return err
	}
	if again, ok := m.auth.(interface {
		Revalidate(context.Context, *Identity) error
	}); ok {
		if ctx.Value(vouchingKey{}) != nil {
			return errVouching
		}
		return again.Revalidate(context.WithValue(ctx, vouchingKey{}, true), id.Clone())
	}
	return nil
}
