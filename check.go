package tenantdb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// Check reports whether the caller may still be here: nil, or the error that a request would be refused with
// now. It looks at all that let the request in: the credential, the user, the membership, the tenant, the
// subscription, and the guards such as [RequireRole]. Long-lived connections (websockets, event streams) call
// it from time to time. It costs a cache lookup; in a scope from [Middleware.Enter], a query in the host
// database.
func (s *Scope) Check(ctx context.Context) error {
	if s.ctx == nil { // a Scope that no middleware made grants nothing
		return explain(ErrForbidden, "")
	}
	if _, _, err := s.ctx.again(ctx); err != nil {
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
	access, grant, err := s.ctx.again(ctx)
	if err != nil {
		return nil, s.ctx.explain(err)
	}
	return s.ctx.newScope(access, grant), nil
}

// again decides anew what the scope was granted for. It returns what the host database says now, and what
// that grants.
func (c *scopeContext) again(ctx context.Context) (*hostdb.Access, grant, error) {
	if c.identity != nil {
		if err := c.m.vouched(ctx, c.identity); err != nil {
			return nil, grant{}, err
		}
	}
	access, g, err := c.judgeAgain(ctx)
	if err != nil {
		return nil, grant{}, err
	}
	if err := c.admitted.Load().check(c.m, access, g.plan); err != nil {
		return nil, grant{}, err
	}
	if outer, ok := scopeOf(c.Context); ok && c.found != nil { // the outer scope must hold too
		if _, _, err := outer.again(ctx); err != nil {
			return nil, grant{}, err
		}
	}
	return access, g, nil
}

// judgeAgain asks about the user and the tenant, whichever the scope has.
func (c *scopeContext) judgeAgain(ctx context.Context) (*hostdb.Access, grant, error) {
	switch {
	case c.access == nil: // anonymous
		return nil, grant{}, nil
	case c.found == nil: // from Enter
		tenant, err := c.m.openTenant(ctx, hostdb.TenantKey{ID: c.access.Tenant.ID})
		return &hostdb.Access{Tenant: tenant}, grant{}, err
	}
	found, err := c.m.resolver.find(ctx, c.identity, c.found.Key(), time.Time{})
	if err != nil {
		return nil, grant{}, err
	}
	now := found.Value()
	if c.access.Tenant == nil { // behind Authenticated
		if was := c.access.User; was != nil && (now.User == nil || now.User.ID != was.ID) {
			return nil, grant{}, fmt.Errorf("%w: the user is gone", ErrForbidden)
		}
		return &now.Access, grant{}, nil
	}
	g, err := c.m.policy.judge(now, c.m.now, c.rules)
	if err != nil {
		return nil, grant{}, err
	}
	if now.Tenant.ID != c.access.Tenant.ID || now.User.ID != c.access.User.ID { // their names mean others now
		return nil, grant{}, ErrNotMember
	}
	return &now.Access, g, nil
}

// vouchingKey marks the context that Revalidate gets.
type vouchingKey struct{}

// errVouching is the answer to a Revalidate that asks what is waiting for it.
var errVouching = because(ErrAuthUnavailable, errors.New("the Authenticator's Revalidate must not call Check, Refresh or EnterAs"))

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
