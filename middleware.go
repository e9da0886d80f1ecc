// Package tenantdb is HTTP middleware for products that give every customer (tenant) a database of their own. It wraps any
// net/http handler: for each request it authenticates the caller, finds out which tenant the request is for, asks the host database
// (cached) whether the caller may enter, and puts the tenant's own database into the request's context.
//
//	mw, err := tenantdb.New(tenantdb.Config{Host: host, Authenticator: auth, Tenant: tenantdb.FromSubdomain("example.com")})
//	server := &http.Server{Addr: addr, Handler: mw.Handler(mux), ReadHeaderTimeout: 5 * time.Second}
//	err = server.ListenAndServe()
//
// and in a handler
//
//	rows, err := tenantdb.DB(r.Context()).QueryContext(r.Context(), "SELECT body FROM notes")
//
// No error lets a request through: what can't be decided is refused.
package tenantdb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// Middleware guards handlers. Make one with New; it is safe for use by many goroutines.
type Middleware struct {
	auth         Authenticator
	ask          func(*http.Request) (*Identity, time.Time, error) // auth's
	mapUser      func(*Identity) (UserKey, error)
	source       Source
	waits        bool // the program's own mapUser or source may wait
	resolver     *resolver
	policy       policy
	roles        []string
	skip         skipper
	pool         *Pool
	ownPool      bool
	logins       logins
	redirects    Redirects
	vary         string
	errorHandler func(http.ResponseWriter, *http.Request, error)
	reporter     reporter
	now          func() time.Time
	closed       atomic.Bool
}

// Format implements fmt.Formatter: a middleware is printed by name.
func (m *Middleware) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, "tenantdb.Middleware")
}

// Handler guards next: it is served with a Scope in the request's context, or the request is refused.
func (m *Middleware) Handler(next http.Handler) http.Handler {
	return m.HandlerWith(Rules{}, next)
}

// HandlerWith is Handler with exceptions for a part of the product, such as the billing page.
func (m *Middleware) HandlerWith(rules Rules, next http.Handler) http.Handler {
	return m.guard(next, func(r *http.Request) (*scopeContext, error) { return m.enter(r, rules) })
}

// Authenticated guards next for callers who are signed in but need no tenant: sign-up, "my workspaces", accepting an
// invitation. Scope has the Identity, and the User where there is one.
func (m *Middleware) Authenticated(next http.Handler) http.Handler {
	return m.guard(next, m.signIn)
}

// guard is the request path: a scope or a refusal, the handler, the lease given back whatever happened.
func (m *Middleware) guard(next http.Handler, enter func(*http.Request) (*scopeContext, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if m.skip.match(r) {
			next.ServeHTTP(w, r)
			return
		}
		ctx, err := enter(r)
		if err != nil {
			m.refuse(w, r, explain(err, ""), next)
			return
		}
		defer ctx.release()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// enter decides one request: who, which tenant, by which right, into which database.
func (m *Middleware) enter(r *http.Request, rules Rules) (*scopeContext, error) {
	ctx := r.Context()
	identity, user, at, err := m.authenticate(r)
	if err != nil {
		if rules.AllowAnonymous && refusalOf(err) == ErrNoCredential {
			return &scopeContext{Context: ctx, m: m, rules: rules}, nil
		}
		return nil, err
	}
	tenant, err := m.source.tenant(r, identity)
	if err == nil && tenant == (hostdb.TenantKey{}) {
		tenant, err = m.soleTenant(r, identity, user)
		at = time.Time{} // it may have waited
	}
	if err != nil {
		return nil, explain(err, "").of(identity, tenant, nil)
	}
	found, dated, db, err := m.admit(ctx, identity, keyOf(user, tenant), at, rules)
	var facts *facts // nil where nothing is known
	if found != nil {
		facts = found.Value()
	}
	if err != nil {
		return nil, explain(err, tenant.ID+tenant.Slug).of(identity, tenant, facts)
	}
	scope := &scopeContext{Context: ctx, m: m, identity: identity, found: found, rules: rules}
	scope.lease.begin(db)
	if !facts.settled {
		scope.scope.Store(scope.granted(&dated))
	}
	return scope, nil
}

// admit decides whether a caller may enter a tenant, and claims its database. Facts from before a drain of the tenant are loaded anew.
// Where the answer is no it returns what was found all the same.
func (m *Middleware) admit(ctx context.Context, id *Identity, key accessKey, at time.Time, rules Rules) (*entry, grant, claim, error) {
	for reloads := 0; ; reloads++ {
		found, err := m.find(ctx, id, key, at)
		if err != nil {
			return nil, grant{}, claim{}, err
		}
		facts := found.Value()
		dated, err := m.policy.judge(facts, m.now, rules)
		if err != nil {
			return found, grant{}, claim{}, err
		}
		db, err := facts.database(m.pool)
		if err == nil {
			return found, dated, db, nil
		}
		if !errors.Is(err, errOutdated) || reloads == maxReloads {
			return found, grant{}, claim{}, explain(err, facts.Tenant.ID)
		}
		m.resolver.cache.TenantChanged(facts.Tenant.ID)
		at = time.Time{} // it may have waited
	}
}

// signIn decides a request that needs a caller, and no tenant.
func (m *Middleware) signIn(r *http.Request) (*scopeContext, error) {
	identity, key, at, err := m.authenticate(r)
	if err != nil {
		return nil, err
	}
	found, err := m.find(r.Context(), identity, keyOf(key, hostdb.TenantKey{}), at)
	if err != nil {
		return nil, explain(err, "").of(identity, hostdb.TenantKey{}, nil)
	}
	return &scopeContext{Context: r.Context(), m: m, identity: identity, found: found}, nil
}

// authenticate asks the Authenticator who calls, and maps them to a user; what it can't tell is refused. It also returns when the
// clock was read, if that was just now.
func (m *Middleware) authenticate(r *http.Request) (identity *Identity, key UserKey, at time.Time, err error) {
	if m.closed.Load() {
		return nil, UserKey{}, at, because(ErrHostUnavailable, errClosed)
	}
	identity, at, err = m.ask(r)
	switch {
	case err != nil && refusalOf(err) == unknown:
		return nil, UserKey{}, at, because(ErrAuthUnavailable, err)
	case err != nil:
		return nil, UserKey{}, at, err
	case identity == nil:
		return nil, UserKey{}, at, because(ErrAuthUnavailable, errors.New("the authenticator returned neither identity nor error"))
	}
	if key, err = m.mapUser(identity); err == nil {
		err = checkUserKey(key)
	}
	if err != nil {
		return nil, UserKey{}, at, explain(because(ErrInvalidCredential, err), "").of(identity, hostdb.TenantKey{}, nil)
	}
	if m.waits {
		at = time.Time{}
	}
	return identity, key, at, nil
}

// soleTenant is the tenant of a request that names none, where FromSoleMembership allows that.
func (m *Middleware) soleTenant(r *http.Request, identity *Identity, key UserKey) (hostdb.TenantKey, error) {
	switch {
	case m.source.routed && !routed(r.Pattern): // until then a path value can't be told from none
		return hostdb.TenantKey{}, errNotRouted
	case !m.source.sole:
		return hostdb.TenantKey{}, ErrNoTenant
	}
	found, err := m.find(r.Context(), identity, keyOf(key, hostdb.TenantKey{}), time.Time{})
	switch {
	case err != nil:
		return hostdb.TenantKey{}, err
	case found.Value().User == nil:
		return hostdb.TenantKey{}, errNoUserNoSole
	case found.Value().sole == "":
		return hostdb.TenantKey{}, errNoSole
	}
	return hostdb.TenantKey{ID: found.Value().sole}, nil
}

// Enter is Handler outside HTTP, for jobs and scripts: it checks that the tenant is open and its schema current, asking the host
// database afresh, and returns a context for DB, ReadDB, PG and Cached. Call the returned function when done. There is no
// user, no subscription is checked, and RequireRole denies.
func (m *Middleware) Enter(ctx context.Context, tenantID string) (context.Context, func(), error) {
	if m.closed.Load() {
		return nil, nil, explain(because(ErrHostUnavailable, errClosed), "")
	}
	tenant, db, err := m.claimOpen(ctx, tenantID)
	if errors.Is(err, ErrInvalidTenant) {
		return nil, nil, explain(err, "")
	}
	if err != nil {
		return nil, nil, explain(err, tenantID)
	}
	scope := &scopeContext{Context: ctx, m: m}
	scope.scope.Store(&Scope{Tenant: tenant, ctx: scope})
	scope.lease.begin(db)
	return scope, scope.release, nil
}

// claimOpen claims the database of a tenant that may be entered. It asks again where the tenant was drained meanwhile.
func (m *Middleware) claimOpen(ctx context.Context, id string) (*hostdb.TenantCatalog, claim, error) {
	for reloads := 0; ; reloads++ {
		asked := time.Now()
		tenant, err := m.openTenant(ctx, id)
		if err != nil {
			return nil, claim{}, err
		}
		db, err := m.pool.claim(tenant, asked)
		if !errors.Is(err, errOutdated) || reloads == maxReloads {
			return tenant, db, err
		}
	}
}

// openTenant returns a tenant that may be entered.
func (m *Middleware) openTenant(ctx context.Context, id string) (*hostdb.TenantCatalog, error) {
	if !hostdb.ValidID(id) {
		return nil, ErrInvalidTenant
	}
	tenant, err := m.resolver.host.Tenants.Get(ctx, id)
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

// Close stops listening for changes and forgets what is cached; requests are refused from then on. It waits for what runs until
// ctx ends, closes the pool where New made it, and never closes Config.Host.
func (m *Middleware) Close(ctx context.Context) error {
	m.closed.Store(true)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		m.logins.close()
		m.resolver.close()
	}()
	select {
	case <-ended:
	case <-ctx.Done():
		return fmt.Errorf("tenantdb: Close: a first-login hook or a lookup has not returned: %w", ctx.Err())
	}
	if !m.ownPool {
		return nil
	}
	return m.pool.Close(ctx)
}

// New checks the configuration and makes a Middleware, to be closed by Close. Its errors name the field and the mend.
func New(cfg Config) (*Middleware, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("tenantdb: Config.%w", err)
	}
	mapUser, err := cfg.userKey()
	if err != nil {
		return nil, fmt.Errorf("tenantdb: Config.%w", err)
	}
	skip, err := newSkipper(cfg.Skip)
	if err != nil {
		return nil, fmt.Errorf("tenantdb: Config.%w", err)
	}
	cfg.setDefaults()
	m := &Middleware{
		auth: cfg.Authenticator, ask: asking(cfg.Authenticator), mapUser: mapUser, source: cfg.Tenant, waits: cfg.UserKey != nil || cfg.Tenant.custom,
		roles: cfg.Roles, skip: skip, pool: cfg.Pool,
		policy:    policy{cfg.Subscription.FreePlans, max(0, cfg.Subscription.Grace), cfg.MinSchemaVersion},
		redirects: cfg.Redirects, vary: strings.Join(cfg.Tenant.vary(), ", "),
		errorHandler: cfg.ErrorHandler, reporter: reporter{logger: cfg.Logger}, now: cfg.Now,
	}
	if m.pool == nil {
		if m.pool, err = NewPool(PoolConfig{}); err != nil {
			return nil, err
		}
		m.ownPool = true
	}
	m.pool.host.Store(cfg.Host)
	m.resolver = newResolver(cfg.Host, &m.policy, cfg.Cache)
	m.logins.open(&cfg, &m.reporter, m.resolver.userExists)
	m.resolver.follow(m.pool, cfg.Logger)
	return m, nil
}
