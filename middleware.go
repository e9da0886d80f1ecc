// Package tenantdb is HTTP middleware for products that give every customer (tenant) a database of their own.
// It wraps any net/http handler: for each request it authenticates the caller, finds out which tenant the
// request is for, asks the host database (cached) whether the caller may enter, and puts the tenant's own
// database into the request's context.
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
	"slices"
	"sync"
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
	features     []string // nil: any
	skip         skipper
	pool         *Pool
	ownPool      bool
	logins       logins
	redirects    Redirects
	vary         string // what an answer depends on
	varySignedIn string // the same for a route without a tenant
	errorHandler func(http.ResponseWriter, *http.Request, error)
	answering    sync.Map // the http.ResponseWriters that errorHandler is writing to
	reporter     reporter
	now          func() time.Time
	closed       atomic.Bool
}

// Format implements fmt.Formatter: a middleware is printed by name.
func (m *Middleware) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, "tenantdb.Middleware")
}

// Handler guards next: it is served with a Scope in the request's context, or the request is refused.
//
// Every answer says by Vary (RFC 9110, section 12.5.5) on which request headers it depends: Authorization,
// Cookie, those that name the tenant, and those of an Authenticator's Vary method. They are added before next
// is served. A handler that sets Vary with Header.Set rather than Add takes them away, and a cache may then
// show one caller's page to another.
//
// Request.Pattern as a router inside next leaves it is handed to the request that a middleware around this
// one holds, for logs, traces and metrics by route. Path values are not.
func (m *Middleware) Handler(next http.Handler) http.Handler {
	return m.HandlerWith(Rules{}, next)
}

// HandlerWith is Handler with exceptions for a part of the product, such as the billing page.
func (m *Middleware) HandlerWith(rules Rules, next http.Handler) http.Handler {
	return m.guard(next, m.vary, func(r *http.Request) (*scopeContext, error) { return m.enter(r, rules) })
}

// Authenticated guards next for callers who are signed in but need no tenant: sign-up, "my workspaces",
// accepting an invitation. Scope has the Identity, and the User where there is one.
func (m *Middleware) Authenticated(next http.Handler) http.Handler {
	return m.guard(next, m.varySignedIn, m.signIn)
}

// guard is the request path: a scope or a refusal, the handler, the lease given back whatever happened.
func (m *Middleware) guard(next http.Handler, vary string, enter func(*http.Request) (*scopeContext, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if m.skip.match(r) {
			next.ServeHTTP(w, r)
			return
		}
		h := w.Header()
		switch said := h["Vary"]; {
		case said == nil:
			h["Vary"] = []string{vary}
		case !slices.Contains(said, vary): // a middleware around this one may have said it
			h["Vary"] = append(said, vary)
		}
		ctx, err := enter(r)
		if err != nil {
			m.refuse(w, r, explain(err, ""), next)
			return
		}
		defer ctx.release()
		inner := r.WithContext(ctx)
		defer func() {
			if r.Pattern != inner.Pattern {
				r.Pattern = inner.Pattern
			}
		}()
		next.ServeHTTP(w, inner)
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
	return m.scopeFor(ctx, identity, user, tenant, at, rules)
}

// scopeFor makes the scope of a caller in a tenant, or refuses it.
func (m *Middleware) scopeFor(ctx context.Context, id *Identity, user UserKey, tenant hostdb.TenantKey, at time.Time,
	rules Rules) (*scopeContext, error) {
	found, granted, db, err := m.admit(ctx, id, keyOf(user, tenant), at, rules)
	var access *hostdb.Access // nil where nothing is known
	if found != nil {
		access = &found.Value().Access
	}
	if err != nil {
		return nil, explain(err, tenant.ID+tenant.Slug).of(id, tenant, access)
	}
	scope := &scopeContext{Context: ctx, m: m, identity: id, found: found, access: access, grant: granted, rules: rules}
	scope.lease.begin(db)
	return scope, nil
}

// admit decides whether a caller may enter a tenant, and claims its database. Facts from before a drain of
// the tenant are loaded anew. Where the answer is no it returns what was found all the same.
func (m *Middleware) admit(ctx context.Context, id *Identity, key accessKey, at time.Time, rules Rules) (*entry, grant, claim, error) {
	for reloads := 0; ; reloads++ {
		found, err := m.find(ctx, id, key, at)
		if err != nil {
			return nil, grant{}, claim{}, err
		}
		facts := found.Value()
		granted, err := m.policy.judge(facts, m.now, rules)
		if err != nil {
			return found, grant{}, claim{}, err
		}
		db, err := databaseOf(found, m.pool)
		if err == nil {
			return found, granted, db, nil
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
	return &scopeContext{Context: r.Context(), m: m, identity: identity, found: found, access: &found.Value().Access}, nil
}

// authenticate asks the Authenticator who calls, and maps them to a user; what it can't tell is refused. It
// also returns when the clock was read, if that was just now.
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
	if m.waits {
		at = time.Time{}
	}
	key, err = m.userOf(identity)
	return identity, key, at, err
}

// userOf maps a verified caller to a user.
func (m *Middleware) userOf(id *Identity) (UserKey, error) {
	key, err := m.mapUser(id)
	if err == nil {
		err = checkUserKey(key)
	}
	if err != nil {
		return UserKey{}, explain(because(ErrInvalidCredential, err), "").of(id, hostdb.TenantKey{}, nil)
	}
	return key, nil
}

// soleTenant is the tenant of a request that names none, where FromSoleMembership allows that.
func (m *Middleware) soleTenant(r *http.Request, identity *Identity, key UserKey) (hostdb.TenantKey, error) {
	switch {
	case m.source.routed && !routed(r): // until then a path value can't be told from none
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

// Pool returns the pool of the tenants' databases: Config.Pool, or the one that New made.
func (m *Middleware) Pool() *Pool { return m.pool }

// Close stops listening for changes and forgets what is cached; requests are refused from then on. It waits
// for what runs until ctx ends, closes the pool where New made it, and never closes Config.Host.
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

// New checks the configuration and makes a Middleware, to be closed by Close. Its errors name the field and
// the mend.
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
		roles: cfg.Roles, features: cfg.Features, skip: skip, pool: cfg.Pool,
		policy:    policy{cfg.Subscription, cfg.MinSchemaVersion},
		redirects: cfg.Redirects, vary: varyOn(cfg.Authenticator, &cfg.Tenant), varySignedIn: varyOn(cfg.Authenticator, nil),
		errorHandler: cfg.ErrorHandler, reporter: reporter{logger: cfg.Logger}, now: cfg.Now,
	}
	if m.pool == nil {
		if m.pool, err = NewPool(PoolConfig{}); err != nil {
			return nil, err
		}
		m.ownPool = true
	}
	if err := m.pool.serve(cfg.Host); err != nil {
		return nil, fmt.Errorf("tenantdb: Config.%w", err)
	}
	m.resolver = newResolver(cfg.Host, &m.policy, cfg.Cache)
	m.logins.open(&cfg, &m.reporter, m.resolver.userExists)
	m.resolver.follow(m.pool, cfg.Logger)
	return m, nil
}
