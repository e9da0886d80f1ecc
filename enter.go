package tenantdb

import (
	"context"
	"errors"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// Enter is [Middleware.Handler] outside HTTP, for jobs and scripts. The tenant is named by its id or its
// slug. Enter checks that the tenant is open and its schema current, asking the host database afresh, and
// returns a context for [DB], [ReadDB], [PG] and [Cached]. Call the returned function when done. There is no
// user, no subscription is checked, and [RequireRole] denies. Where ctx has a scope already, as a request's,
// use the returned context and the handles that it gives together: those of the outer scope refuse it if that
// is another tenant's.
func (m *Middleware) Enter(ctx context.Context, tenant string) (context.Context, func(), error) {
	scope, err := m.enterTenant(ctx, tenant)
	if err != nil {
		return nil, nil, err
	}
	return scope, scope.release, nil
}

// enterTenant makes the scope of Enter.
func (m *Middleware) enterTenant(ctx context.Context, name string) (*scopeContext, error) {
	if m.closed.Load() {
		return nil, explain(because(ErrHostUnavailable, errClosed), "")
	}
	key, err := tenantKey(name)
	if err != nil {
		return nil, explain(err, "")
	}
	tenant, db, err := m.claimOpen(ctx, key)
	if tenant != nil {
		name = tenant.ID
	}
	if err != nil {
		return nil, explain(err, name)
	}
	scope := &scopeContext{Context: ctx, m: m, access: &hostdb.Access{Tenant: tenant}}
	scope.lease.begin(db)
	return scope, nil
}

// EnterAs is [Middleware.Handler] outside HTTP for work on behalf of a caller, such as a message on a
// websocket or a job that a member has asked for: user, membership, tenant and subscription are decided as
// for a request, by the cached facts, and guards and [Scope.Check] work. The program vouches for the
// identity; one that has ended, or that the Authenticator's Revalidate refuses, is refused.
// Rules.AllowAnonymous has no meaning here. Call the returned function when done.
func (m *Middleware) EnterAs(ctx context.Context, id *Identity, tenant hostdb.TenantKey, rules Rules) (context.Context, func(), error) {
	scope, err := m.enterAs(ctx, id.Clone(), tenant, rules)
	if err != nil {
		return nil, nil, explain(err, "")
	}
	return scope, scope.release, nil
}

// enterAs makes the scope of EnterAs.
func (m *Middleware) enterAs(ctx context.Context, id *Identity, tenant hostdb.TenantKey, rules Rules) (*scopeContext, error) {
	switch key, err := tenantKey(tenant.ID + tenant.Slug); {
	case m.closed.Load():
		return nil, because(ErrHostUnavailable, errClosed)
	case id == nil:
		return nil, ErrNoCredential
	case tenant == (hostdb.TenantKey{}):
		return nil, ErrNoTenant
	case err != nil || key != tenant:
		return nil, ErrInvalidTenant
	}
	if err := m.vouched(ctx, id); err != nil {
		return nil, err
	}
	user, err := m.userOf(id)
	if err != nil {
		return nil, err
	}
	return m.scopeFor(ctx, id, user, tenant, time.Time{}, rules)
}

// claimOpen claims the database of a tenant that may be entered. It asks again where the tenant was drained
// meanwhile.
func (m *Middleware) claimOpen(ctx context.Context, key hostdb.TenantKey) (*hostdb.TenantCatalog, claim, error) {
	for reloads := 0; ; reloads++ {
		asked := time.Now()
		tenant, err := m.openTenant(ctx, key)
		if err != nil {
			return tenant, claim{}, err
		}
		db, err := m.pool.claim(tenant, asked)
		if !errors.Is(err, errOutdated) || reloads == maxReloads {
			return tenant, db, err
		}
	}
}

// openTenant returns a tenant that may be entered.
func (m *Middleware) openTenant(ctx context.Context, key hostdb.TenantKey) (tenant *hostdb.TenantCatalog, err error) {
	if key.ID != "" {
		tenant, err = m.resolver.host.Tenants.Get(ctx, key.ID)
	} else {
		tenant, err = m.resolver.host.Tenants.BySlug(ctx, key.Slug)
	}
	switch {
	case errors.Is(err, hostdb.ErrNotFound):
		return nil, errUnknownTenant
	case err == nil && tenant.Status == hostdb.TenantDropped:
		return nil, errDropped
	case err != nil:
		return nil, because(ErrHostUnavailable, err)
	}
	return tenant, m.policy.open(tenant)
}
