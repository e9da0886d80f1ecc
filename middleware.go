// Package tenantdb is HTTP middleware for products that give every customer (tenant) a database of their own.
// It wraps any net/http handler: for each request it authenticates the caller, finds out which tenant the
// request is for, asks the host database (cached) whether the caller may enter, and puts the tenant's own
// database into the request's context.
//
//	mw, err := tenantdb.New(tenantdb.Config{
//		Host: host, Authenticator: auth, Tenant: tenantdb.FromSubdomain("example.com"),
//	})
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
	"runtime/pprof"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/refusal"
)

// Middleware guards handlers. Make one with [New]. It is safe for concurrent use.
type Middleware struct {
	auth         Authenticator
	ask          func(*http.Request) (*Identity, time.Time, error) // auth's
	mapUser      func(*Identity) (UserKey, error)
	source       Source
	waits        bool // mapUser or source is the program's own, and may wait
	resolver     *resolver
	policy       policy
	roles        []string
	features     []string // nil: any
	skip         skipper
	pool         *Pool
	ownPool      bool
	logins       logins
	redirects    Redirects
	vary         string // the request headers on which a response depends
	varySignedIn string // the same for a route without a tenant
	errorHandler func(http.ResponseWriter, *http.Request, error)
	answering    sync.Map // the http.ResponseWriters that errorHandler is writing to
	reporter     reporter
	watch        *watch // nil: nobody observes
	labels       bool   // Config.ProfileLabels
	now          func() time.Time
	closed       atomic.Bool
}

// New checks the configuration and returns a Middleware. Close it with [Middleware.Close]. An error names the
// field, and how to mend it.
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
		auth: cfg.Authenticator, ask: asking(cfg.Authenticator), mapUser: mapUser,
		source: cfg.Tenant, waits: cfg.UserKey != nil || cfg.Tenant.custom,
		policy: policy{cfg.Subscription, cfg.MinSchemaVersion}, roles: cfg.Roles, features: cfg.Features,
		skip: skip, pool: cfg.Pool, redirects: cfg.Redirects,
		vary: varyOn(cfg.Authenticator, &cfg.Tenant), varySignedIn: varyOn(cfg.Authenticator, nil),
		errorHandler: cfg.ErrorHandler, reporter: reporter{logger: cfg.Logger}, watch: newWatch(&cfg),
		now: cfg.Now, labels: cfg.ProfileLabels,
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
	m.resolver = newResolver(cfg.Host, &m.policy, cfg.Cache, m.watch)
	m.logins.open(&cfg, &m.reporter, m.resolver.userExists)
	m.resolver.follow(m.pool, cfg.Logger)
	return m, nil
}

// Format implements fmt.Formatter. It prints the name, since what a Middleware holds is secret.
func (m *Middleware) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, "tenantdb.Middleware")
}

// Handler guards next. It serves next with a [Scope] in the request's context, or it refuses the request.
//
// Every response says in Vary (RFC 9110, section 12.5.5) on which request headers it depends:
// Authorization, Cookie, those that name the tenant, and those of an Authenticator's Vary method. Handler
// adds them before it serves next. A handler that sets Vary with Header.Set rather than Add removes them.
// Then a cache may show one caller's page to another.
//
// A router inside next sets Request.Pattern. Handler copies it to the request of the middleware around this
// one, for logs, traces and metrics by route. It doesn't copy path values.
func (m *Middleware) Handler(next http.Handler) http.Handler {
	return m.HandlerWith(Rules{}, next)
}

// HandlerWith is Handler with exceptions for a part of the product, such as the billing page.
func (m *Middleware) HandlerWith(rules Rules, next http.Handler) http.Handler {
	return m.serve(next, m.vary, OperationRequest, func(ctx context.Context, r *http.Request) (
		*scopeContext, error) {
		return m.enter(ctx, r, rules)
	})
}

// Authenticated guards next for callers who are signed in but need no tenant: sign-up, "my workspaces",
// accepting an invitation. Scope has the Identity, and the User where there is one.
func (m *Middleware) Authenticated(next http.Handler) http.Handler {
	return m.serve(next, m.varySignedIn, OperationSignIn, m.signIn)
}

// entrance decides a request: it returns a scope, or why the request is refused. ctx is the request's
// context, with what the observer put there.
type entrance func(ctx context.Context, r *http.Request) (*scopeContext, error)

// serve is the request path: a scope or a refusal, the handler, and the end of the lease whatever happened.
// vary names what the response depends on.
func (m *Middleware) serve(next http.Handler, vary string, op Operation, enter entrance) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if m.skip.match(r) {
			next.ServeHTTP(w, r)
			return
		}
		addVary(w.Header(), vary)
		ctx, err := m.decide(r, op, enter)
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
		if m.labels && ctx.tenantID() != "" {
			labelled := pprof.WithLabels(ctx, pprof.Labels("tenant_id", ctx.tenantID()))
			pprof.SetGoroutineLabels(labelled)
			defer pprof.SetGoroutineLabels(r.Context())
		}
		next.ServeHTTP(w, inner)
	})
}

// decide decides a request, of which the observer is told.
func (m *Middleware) decide(r *http.Request, op Operation, enter entrance) (*scopeContext, error) {
	if m.watch == nil {
		return enter(r.Context(), r)
	}
	return m.watch.decide(r.Context(), op, func(ctx context.Context) (*scopeContext, error) {
		return enter(ctx, r)
	})
}

// addVary adds a value of Vary, unless a middleware around this one has added it.
func addVary(h http.Header, vary string) {
	switch said := h["Vary"]; {
	case said == nil:
		h["Vary"] = []string{vary} // the usual case, without a slice that grows
	case !slices.Contains(said, vary):
		h["Vary"] = append(said, vary)
	}
}

// enter decides a request: who asks, for which tenant, whether they may, and with which database.
func (m *Middleware) enter(ctx context.Context, r *http.Request, rules Rules) (*scopeContext, error) {
	by, err := m.authenticate(r)
	if err != nil {
		if rules.AllowAnonymous && refusal.Of(err) == ErrNoCredential {
			return &scopeContext{Context: ctx, m: m, rules: rules}, nil
		}
		return nil, err
	}
	tenant, err := m.source.tenant(r, by.identity)
	if err == nil && tenant == (hostdb.TenantKey{}) {
		tenant, err = m.onlyTenant(ctx, r, by)
		by.at = time.Time{} // it may have waited
	}
	if err != nil {
		return nil, explain(err, "").of(by.identity, tenant, nil)
	}
	return m.scopeFor(ctx, by, tenant, rules)
}

// caller is a verified identity, and the user that it is mapped to.
type caller struct {
	identity *Identity
	user     UserKey
	at       time.Time // when the clock was read, just now; zero: it wasn't
}

// authenticate asks the Authenticator who calls, and maps them to a user. What it can't tell is refused.
func (m *Middleware) authenticate(r *http.Request) (by caller, err error) {
	if m.closed.Load() {
		return caller{}, refusal.WithCause(ErrHostUnavailable, errClosed)
	}
	by.identity, by.at, err = m.ask(r)
	switch {
	case err != nil && refusal.Of(err) == refusal.Unknown:
		return caller{}, refusal.WithCause(ErrAuthUnavailable, err)
	case err != nil:
		return caller{}, err
	case by.identity == nil:
		return caller{}, refusal.WithCause(ErrAuthUnavailable, errNoIdentity)
	}
	if m.waits {
		by.at = time.Time{}
	}
	by.user, err = m.userOf(by.identity)
	return by, err
}

// errNoIdentity is why a request is refused whose Authenticator breaks its contract.
var errNoIdentity = errors.New("the authenticator returned neither identity nor error")

// userOf maps a verified caller to a user.
func (m *Middleware) userOf(id *Identity) (UserKey, error) {
	key, err := m.mapUser(id)
	if err == nil {
		err = checkUserKey(key)
	}
	if err != nil {
		err = refusal.WithCause(ErrInvalidCredential, err)
		return UserKey{}, explain(err, "").of(id, hostdb.TenantKey{}, nil)
	}
	return key, nil
}

// onlyTenant returns the tenant of a request that names none, if FromSoleMembership allows that.
func (m *Middleware) onlyTenant(ctx context.Context, r *http.Request, by caller) (
	hostdb.TenantKey, error) {
	switch {
	case m.source.routed && !routed(r): // until then a missing path value means nothing
		return hostdb.TenantKey{}, errNotRouted
	case !m.source.sole:
		return hostdb.TenantKey{}, ErrNoTenant
	}
	found, err := m.find(ctx, by, hostdb.TenantKey{})
	switch {
	case err != nil:
		return hostdb.TenantKey{}, err
	case found.Value().User == nil:
		return hostdb.TenantKey{}, errNoUserNoSole
	case found.Value().onlyTenant == "":
		return hostdb.TenantKey{}, errNoSole
	}
	return hostdb.TenantKey{ID: found.Value().onlyTenant}, nil
}

// scopeFor makes the scope of a caller in a tenant, or refuses it.
func (m *Middleware) scopeFor(ctx context.Context, by caller, tenant hostdb.TenantKey, rules Rules) (
	*scopeContext, error) {
	found, entitled, db, err := m.admit(ctx, by, tenant, rules)
	var access *hostdb.Access // nil if nothing is known
	if found != nil {
		access = &found.Value().Access
	}
	if err != nil {
		// As the request named it: a stranger must not learn the id.
		return nil, explain(err, tenant.ID+tenant.Slug).of(by.identity, tenant, access)
	}
	scope := &scopeContext{Context: ctx, m: m, identity: by.identity, found: found, access: access,
		entitled: entitled, rules: rules}
	scope.lease.begin(db)
	return scope, nil
}

// maxReloads is how often one request looks a tenant up anew because it was drained meanwhile.
const maxReloads = 3

// admit decides whether a caller may enter a tenant, and leases its database. It loads facts anew that are
// from before a drain of the tenant. If the answer is no, it returns what was found all the same.
func (m *Middleware) admit(ctx context.Context, by caller, tenant hostdb.TenantKey, rules Rules) (
	*entry, entitlement, leaseRef, error) {
	for reloads := 0; ; reloads++ {
		found, err := m.find(ctx, by, tenant)
		if err != nil {
			return nil, entitlement{}, leaseRef{}, err
		}
		facts := found.Value()
		entitled, err := facts.judge(&m.policy, m.now, rules)
		if err != nil {
			return found, entitlement{}, leaseRef{}, err
		}
		db, err := databaseOf(found, m.pool)
		if err == nil {
			return found, entitled, db, nil
		}
		if !errors.Is(err, errDrained) || reloads == maxReloads {
			return found, entitlement{}, leaseRef{}, explain(err, facts.Tenant.ID)
		}
		m.resolver.cache.TenantChanged(facts.Tenant.ID)
		by.at = time.Time{} // it may have waited
	}
}

// find returns the facts about a caller in a tenant, or about the caller alone. A caller who has no user yet
// gets one from Config.FirstLogin first.
func (m *Middleware) find(ctx context.Context, by caller, tenant hostdb.TenantKey) (*entry, error) {
	key := keyOf(by.user, tenant)
	found, err := m.resolver.find(ctx, by.identity, key, by.at)
	if err != nil || m.logins.hook == nil || found.Value().User != nil {
		return found, err
	}
	if err := m.logins.run(ctx, by.user, by.identity); err != nil {
		return nil, err
	}
	return m.resolver.find(ctx, by.identity, key, time.Time{})
}

// signIn decides a request that needs a caller, and no tenant.
func (m *Middleware) signIn(ctx context.Context, r *http.Request) (*scopeContext, error) {
	by, err := m.authenticate(r)
	if err != nil {
		return nil, err
	}
	found, err := m.find(ctx, by, hostdb.TenantKey{})
	if err != nil {
		return nil, explain(err, "").of(by.identity, hostdb.TenantKey{}, nil)
	}
	return &scopeContext{Context: ctx, m: m, identity: by.identity, found: found,
		access: &found.Value().Access}, nil
}

// Enter is [Middleware.Handler] outside HTTP, for jobs and scripts. The tenant is named by its id or its
// slug.
//
// Enter asks the host database whether the tenant is open and its schema current, and returns a context for
// [DB], [ReadDB], [PG] and [Cached]. Call the returned function when done. There is no user, no
// subscription is checked, and [RequireRole], [RequireFeature] and [RequireTier] refuse.
//
// If ctx has a scope already, such as a request's, use the returned context only with handles that come from
// it: those of another tenant's scope refuse it.
func (m *Middleware) Enter(ctx context.Context, tenant string) (context.Context, func(), error) {
	scope, err := m.watch.decide(ctx, OperationEnter, func(ctx context.Context) (*scopeContext, error) {
		return m.enterTenant(ctx, tenant)
	})
	if err != nil {
		return nil, nil, err
	}
	return scope, scope.release, nil
}

// enterTenant makes the scope of Enter.
func (m *Middleware) enterTenant(ctx context.Context, name string) (*scopeContext, error) {
	if m.closed.Load() {
		return nil, explain(refusal.WithCause(ErrHostUnavailable, errClosed), "")
	}
	key, err := tenantKey(name)
	if err != nil {
		return nil, explain(err, "")
	}
	tenant, db, err := m.leaseOpen(ctx, key)
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

// leaseOpen leases the database of a tenant that may be entered. It asks again if the tenant was drained
// meanwhile.
func (m *Middleware) leaseOpen(ctx context.Context, key hostdb.TenantKey) (
	*hostdb.TenantCatalog, leaseRef, error) {
	for reloads := 0; ; reloads++ {
		asked := time.Now()
		tenant, err := m.openTenant(ctx, key)
		if err != nil {
			return tenant, leaseRef{}, err
		}
		db, err := m.pool.retain(tenant, asked)
		if !errors.Is(err, errDrained) || reloads == maxReloads {
			return tenant, db, err
		}
	}
}

// openTenant returns a tenant that may be entered.
func (m *Middleware) openTenant(ctx context.Context, key hostdb.TenantKey) (*hostdb.TenantCatalog, error) {
	var tenant *hostdb.TenantCatalog
	var err error
	ended := m.watch.lookup(ctx)
	if key.ID != "" {
		tenant, err = m.resolver.host.Tenants.Get(ctx, key.ID)
	} else {
		tenant, err = m.resolver.host.Tenants.BySlug(ctx, key.Slug)
	}
	ended(err)
	switch {
	case errors.Is(err, hostdb.ErrNotFound):
		return nil, errUnknownTenant
	case err == nil && tenant.Status == hostdb.TenantDropped:
		return nil, errDropped
	case err != nil:
		return nil, refusal.WithCause(ErrHostUnavailable, err)
	}
	return tenant, m.policy.open(tenant)
}

// EnterAs is [Middleware.Handler] outside HTTP for work on behalf of a caller, such as a message on a
// websocket, or a job that a member has asked for. It decides about user, membership, tenant and subscription
// as for a request, by the cached facts. Guards and [Scope.Check] work. Call the returned function when done.
//
// The program vouches for the identity. EnterAs refuses one that has expired, or that the Authenticator's
// Revalidate refuses. Rules.AllowAnonymous has no meaning here.
func (m *Middleware) EnterAs(ctx context.Context, id *Identity, tenant hostdb.TenantKey, rules Rules) (
	context.Context, func(), error) {
	scope, err := m.watch.decide(ctx, OperationEnterAs, func(ctx context.Context) (*scopeContext, error) {
		return m.enterAs(ctx, id.Clone(), tenant, rules)
	})
	if err != nil {
		return nil, nil, explain(err, "")
	}
	return scope, scope.release, nil
}

// enterAs makes the scope of EnterAs.
func (m *Middleware) enterAs(ctx context.Context, id *Identity, tenant hostdb.TenantKey, rules Rules) (
	*scopeContext, error) {
	key, err := tenantKey(tenant.ID + tenant.Slug) // a valid key has one of them
	switch {
	case m.closed.Load():
		return nil, refusal.WithCause(ErrHostUnavailable, errClosed)
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
	return m.scopeFor(ctx, caller{identity: id, user: user}, tenant, rules)
}

// Pool returns the pool of the tenants' databases: Config.Pool, or the one that New made.
func (m *Middleware) Pool() *Pool { return m.pool }

// Close stops listening for changes, and refuses requests from then on. It waits for first-login hooks and
// lookups until they have returned or ctx ends. Then it closes the pool if [New] made it. It never closes
// Config.Host.
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
