package checkout

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/refusal"
)

// Tenant is the part of a tenant's database that is about its leases and the connections checked out of it.
// Every request reads Leases, so it comes first.
type Tenant struct {
	Leases   LeaseCount
	unscoped atomic.Pointer[unscoped] // nil before the first
	Pool     *Pool
	ID       string
}

// Pool is what the tenants of a pool have in common.
type Pool struct {
	// RequireScope refuses contexts without a scope where a handle is for requests.
	RequireScope bool
	// Forgotten, if set, is told of each connection that is reclaimed, and where it was checked out: program
	// counters for runtime.CallersFrames.
	Forgotten func(tenantID string, frames []uintptr)
	// Host is the host database whose tenants they are; nil: nobody has said.
	Host atomic.Pointer[hostdb.DB]
}

// Borrower returns the borrower whose context this is, nil without one. It fails where the context may not be
// used with a handle of this tenant.
func (t *Tenant) Borrower(ctx context.Context, use Use) (*Borrower, error) {
	b := borrowerOf(ctx)
	switch {
	case use != ForRequests:
		return b, nil
	case b != nil:
		return b, t.admits(b)
	case t.Pool.RequireScope:
		return nil, errNoScope
	}
	return nil, nil
}

// errNoScope is [refusal.ErrNoScope] with what to do about it.
var errNoScope = fmt.Errorf("%w; give it the request's context or that of Middleware.Enter "+
	"(PoolConfig.RequireScope)",
	refusal.ErrNoScope)

// admits refuses a scope of another tenant or of none. Generations don't matter: a tenant may have moved
// while it is served.
func (t *Tenant) admits(b *Borrower) error {
	const mend = "call tenantdb.DB(r.Context()), or ReadDB or PG, in each request " +
		"instead of keeping its result"
	other := b.tenant
	switch {
	case other == t:
		return nil
	case other == nil:
		return fmt.Errorf("%w: it is of tenant %s, and the context has a scope without a tenant; %s",
			refusal.ErrWrongTenant, t.ID, mend)
	case other.ID != t.ID || other.Pool != t.Pool && !SameHost(other.Pool.Host.Load(), t.Pool.Host.Load()):
		return fmt.Errorf("%w: it is of tenant %s, and the context of tenant %s; %s",
			refusal.ErrWrongTenant, t.ID, other.ID, mend)
	}
	return nil
}

// SameHost reports whether two handles are of one host database: they are the same, or were opened by the
// same URL. A database in memory has one handle.
func SameHost(a, b *hostdb.DB) bool {
	return a == b || a != nil && b != nil && a.URI() == b.URI() && a.URI() != "sqlite::memory:"
}

// CheckOut keeps account of a connection of this tenant's. It reports false if the borrower's scope is over,
// or, without a borrower, if the database has no lease.
func (t *Tenant) CheckOut(c *Checkout, by *Borrower, use Use) bool {
	if use == ForRequests {
		c.tenant = t
	}
	c.taken = takenHere(t)
	if by != nil {
		return by.add(c)
	}
	return t.outsideScopes().add(c, &t.Leases)
}

// Release ends a lease that counts in a phase. It reports whether it was the last one, and whether the
// database is retired.
func (t *Tenant) Release(p Phase) (last, retired bool) {
	lastOfPhase, last, retired := t.Leases.release(p)
	if u := t.unscoped.Load(); lastOfPhase && u != nil {
		u.reclaimEnded(&t.Leases)
	}
	return last, retired
}

// Close reclaims the connections that were checked out without a scope, and refuses further ones. It is
// called once a retired database has no lease.
func (t *Tenant) Close() { t.outsideScopes().close() }

// outsideScopes returns the connections that were checked out without a scope.
func (t *Tenant) outsideScopes() *unscoped {
	if t.unscoped.Load() == nil {
		t.unscoped.CompareAndSwap(nil, new(unscoped))
	}
	return t.unscoped.Load()
}
