package tenantdb

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/tenantdb/tenantdb/hostdb"
)

// Scope is what the middleware found out about a request: who asks, in which tenant, by which right. It is
// the handler's own: what a handler writes into it, or into what it points to, changes no decision and is
// seen by no other request. FromContext returns the same Scope throughout a request, which is made when first
// asked for: that takes one allocation of 1 KB, one for the features, and those of the claims.
type Scope struct {
	// Identity is the verified caller; nil in a scope from Enter and for an anonymous visitor.
	Identity *Identity
	// User is the caller's row in the host database; nil in a scope from Enter, for an anonymous visitor, and
	// behind Authenticated for a caller who has none yet. Its PasswordHash is never loaded.
	User *hostdb.GlobalUser
	// Tenant is the tenant; nil behind Authenticated and for an anonymous visitor.
	Tenant *hostdb.TenantCatalog
	// Membership is the caller's membership in Tenant.
	Membership *hostdb.Membership
	// Subscription is the one in force, else (HandlerWith with AllowInactive, free plans) the best one that
	// the tenant had; nil where it never had one.
	Subscription *hostdb.Subscription
	// Plan is the plan in force: the active subscription's, else the tenant's where that is free. Nil where
	// there is none or it isn't in the price list.
	Plan *hostdb.PricingPlan
	// Role is the membership's role; "" without a membership.
	Role string
	// Features are those of Plan, and of the plans of all other subscriptions that admit.
	Features []string

	ctx          *scopeContext        // which carries it; nil in a Scope that no middleware made
	subscription *hostdb.Subscription // Subscription as the host database has it
}

// scopeContext is a context with a Scope. It has what a request was let in by, which no handler can reach.
// The Scope is made from it for the first who asks: a handler that only wants its tenant's database does not.
type scopeContext struct {
	context.Context
	m        *Middleware
	identity *Identity                 // nil in a scope from Enter and for an anonymous visitor
	found    *entry                    // where access is from; nil in a scope from Enter and for an anonymous visitor
	access   *hostdb.Access            // what the host database says; nil for an anonymous visitor
	grant    grant                     // what follows from it; zero without a membership
	admitted atomic.Pointer[admission] // by which guards; nil: none yet
	lease    Lease                     // of no tenant where the scope has none
	scope    atomic.Pointer[Scope]     // nil before the first who asks
	loans    atomic.Pointer[loans]     // nil before the first
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

// whole returns the Scope, which it makes when first asked.
func (c *scopeContext) whole() *Scope {
	if s := c.scope.Load(); s != nil {
		return s
	}
	c.scope.CompareAndSwap(nil, c.newScope(c.access, c.grant))
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

// SubscriptionStatus returns what a page tells about the tenant's subscription now: days left, grace,
// cancellation. The zero status where there is none.
func (s *Scope) SubscriptionStatus() hostdb.SubscriptionStatus {
	if s.ctx == nil {
		return hostdb.SubscriptionStatus{}
	}
	return s.subscription.StatusAt(s.ctx.m.now(), s.ctx.m.policy.Grace)
}

// Detach returns a context for work that outlives the handler: it isn't cancelled with the request, and it
// keeps the tenant's database until the returned function is called, which must happen once the work is done.
// Its Scope is the work's own. Call Detach before the handler returns: after that the context is cancelled
// from the start, and its error says why.
func (s *Scope) Detach() (context.Context, func()) {
	c := s.ctx
	if c == nil {
		panic("tenantdb: Scope.Detach: this Scope is not from FromContext")
	}
	held := &scopeContext{Context: context.WithoutCancel(c.Context), m: c.m, identity: c.identity, found: c.found,
		access: c.access, grant: c.grant, rules: c.rules}
	held.admitted.Store(c.admitted.Load())
	if c.lease.tenant != nil {
		c.lease.again(&held.lease)
	}
	if c.lease.over.Load() { // perhaps just now: then the new lease is of no use either
		held.release()
		held.Context = lateContext{held.Context}
	}
	return held, held.release
}

// errDetachedLate is the error of a context from Detach after the handler.
var errDetachedLate = fmt.Errorf("tenantdb: Scope.Detach was called after the handler had returned; call it before: %w", context.Canceled)

// lateContext is a context that was over from the start.
type lateContext struct{ context.Context }

// ended is the Done channel of all of them.
var ended = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// Done implements context.Context.
func (lateContext) Done() <-chan struct{} { return ended }

// Err implements context.Context.
func (lateContext) Err() error { return errDetachedLate }

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

// borrows returns the list of the scope's connections, which it makes when first asked: either it sees the
// scope's end, or the end sees the list.
func (c *scopeContext) borrows() *loans {
	if c.loans.Load() == nil {
		c.loans.CompareAndSwap(nil, &loans{lease: &c.lease})
	}
	return c.loans.Load()
}

// DB returns the tenant's database: on SQLite the writer, on PostgreSQL a handle whose connections come from
// the pool's budget. DB panics where no middleware ran, which is a mistake in the program.
//
// Give the handle's methods the request's context. What the handler leaves open is rolled back and closed at
// the request's end then. What is begun without it (Begin instead of BeginTx) is nobody's request's, and
// stays open until the requests have ended that the tenant had at that moment, long-lived ones too, and
// perhaps those that began while one of them ran.
//
// Call DB in each request instead of keeping its result. With the context of another tenant's scope, or of a
// scope without a tenant, a handle and all that comes of it (statements, connections, transactions, what
// [Cached] keeps) fail with [ErrWrongTenant]. Within a scope from [Middleware.Enter], use the handle and the
// context of that scope together. A call without a context can't be told apart, since nothing says for whose
// request it is; PoolConfig.RequireScope refuses these.
//
// The handle is the scope's own. A library may close it or limit its connections: no other scope feels it,
// and the next call of DB returns an open one. Idle connections are the pool's, so SetMaxIdleConns,
// SetConnMaxLifetime and SetConnMaxIdleTime have no effect. Behind a limit (SetMaxOpenConns) database/sql
// lets callers wait as long as their contexts live, whatever AcquireTimeout says. After the scope's end the
// handle may be closed, or be that of another request of the tenant.
//
// On PostgreSQL, the value that sql.Conn.Raw passes has a method Conn() *pgx.Conn, which is for use until Raw
// returns. It is no *stdlib.Conn: pgx gives no way to make one that goes back to a pool of another's, so
// stdlib.AcquireConn panics; see [PGX.Acquire].
//
// On SQLite there is one connection that writes. A query on it inside for rows.Next(), or beside a
// transaction of one's own, waits for itself and fails with ErrBusy: finish or close the rows first, use the
// transaction, or read with [ReadDB]. Statements are confined to the tenant's file: ATTACH and VACUUM are
// refused ([Lease.Vacuum] compacts), as are extensions, and PRAGMAs that last beyond the connection, such as
// journal_mode = DELETE. Other PRAGMAs and temporary tables work, and last as long as the connection is held
// (sql.Conn, sql.Tx); the next borrower finds neither.
func DB(ctx context.Context) *sql.DB {
	return leaseOf(ctx, "DB").own(forRequests).writer()
}

// ReadDB returns the tenant's database for reading: on SQLite the readers, which refuse writes and don't wait
// for the writer; on PostgreSQL the same as DB. It panics where no middleware ran.
func ReadDB(ctx context.Context) *sql.DB {
	return leaseOf(ctx, "ReadDB").own(forRequests).reader()
}

// PG returns the tenant's PostgreSQL database in pgx's own shape, as sqlc's generated code wants it. It
// panics where no middleware ran, and for a tenant on SQLite. Call it in each request: as with DB, the
// context of another tenant's scope is refused.
func PG(ctx context.Context) *PGX {
	pg := leaseOf(ctx, "PG").tenant.engine.native(forRequests)
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
		panic("tenantdb: " + caller + "(ctx): no scope in this context; wrap the route with Middleware.Handler, or get a context from Middleware.Enter; " +
			"in gin, pass c.Request.Context() rather than c, or set the engine's ContextWithFallback")
	case c.lease.tenant == nil:
		panic("tenantdb: " + caller + "(ctx): this scope has no tenant; the route is behind Authenticated or AllowAnonymous, so wrap it with Middleware.Handler")
	}
	return &c.lease
}
