package tenantdb

import (
	"cmp"
	"context"
	"errors"
	"hash/maphash"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/coherent"
	"github.com/tenantdb/tenantdb/internal/intern"
	"github.com/tenantdb/tenantdb/internal/printable"
	"github.com/tenantdb/tenantdb/internal/refusal"
)

// accessKey names a user and a tenant as the request does. Without a tenant it names the user alone.
type accessKey struct {
	user, tenant         string
	userByID, tenantByID bool // else by oauth_id, by slug
}

// keyOf returns the key of a user and a tenant. A zero tenant means none.
func keyOf(user hostdb.UserKey, tenant hostdb.TenantKey) accessKey {
	return accessKey{user: cmp.Or(user.ID, user.OAuthID), tenant: cmp.Or(tenant.ID, tenant.Slug),
		userByID: user.ID != "", tenantByID: tenant.ID != ""}
}

// userKey returns the user's name.
func (k accessKey) userKey() hostdb.UserKey {
	if k.userByID {
		return hostdb.UserKey{ID: k.user}
	}
	return hostdb.UserKey{OAuthID: k.user}
}

// tenantKey returns the tenant's name.
func (k accessKey) tenantKey() hostdb.TenantKey {
	if k.tenantByID {
		return hostdb.TenantKey{ID: k.tenant}
	}
	return hostdb.TenantKey{Slug: k.tenant}
}

// hash returns a hash of the names. An id and an oauth_id of the same text collide, which is harmless, since
// the cache compares keys.
func (k accessKey) hash(seed maphash.Seed) uint64 {
	const odd = 0x9e3779b97f4a7c15 // so that equal names don't cancel out
	return maphash.String(seed, k.user) ^ odd*maphash.String(seed, k.tenant)
}

// caller returns the key of the user alone.
func (k accessKey) caller() accessKey {
	return accessKey{user: k.user, userByID: k.userByID}
}

// sameColumns reports whether two keys name user and tenant by the same columns: one query finds both.
func (k accessKey) sameColumns(other accessKey) bool {
	return k.userByID == other.userByID && k.tenantByID == other.tenantByID &&
		(k.tenant == "") == (other.tenant == "")
}

// own copies the names, which may be parts of a request's header. Both are in one block, since they are read
// together.
func (k accessKey) own() accessKey {
	both, n := k.user+k.tenant, len(k.user)
	k.user, k.tenant = both[:n], both[n:]
	return k
}

// entry is a key and its facts in the cache.
type entry = coherent.Entry[accessKey, facts]

// facts are what the host database says about a key. Only db changes after they are loaded. What every
// request reads comes first.
type facts struct {
	db       atomic.Pointer[dbRef] // the tenant's database in the pool; nil before the first lease
	dateFree bool                  // neither dates nor rules can change entitled
	entitled entitlement           // if dateFree
	hostdb.Access
	onlyTenant string // if the key has no tenant: the id of the user's tenant, "" if there isn't just one
}

// judge returns the tenant's entitlement, or why the caller is refused.
func (f *facts) judge(p *policy, clock func() time.Time, rules Rules) (entitlement, error) {
	if f.dateFree {
		return f.entitled, nil
	}
	return p.decide(&f.Access, clock, rules)
}

// databaseOf retains the database of the tenant that an entry is about.
func databaseOf(found *entry, pool *Pool) (leaseRef, error) {
	f := found.Value()
	if ref, ok := f.db.Load().retain(); ok {
		return ref, nil
	}
	ref, err := pool.retain(f.Tenant, found.AsOf())
	if err == nil {
		f.db.Store(ref.tenant.ref)
	}
	return ref, err
}

// resolver finds out what the host database says about a user and a tenant. It has a cache that is told of
// changes.
type resolver struct {
	host   *hostdb.DB
	policy *policy
	cache  *coherent.Cache[accessKey, facts]
	rows   *sharedRows
	feed   feed
	watch  *watch

	lookupTimeout                time.Duration // how long the lookup of a changed tenant may take
	maxStaleness, maxStaleIfDown time.Duration // CacheConfig's
}

// maxBatch bounds how many keys one query looks up.
const maxBatch = 64

// newResolver returns a resolver whose cache isn't told of changes before [resolver.follow].
func newResolver(host *hostdb.DB, policy *policy, cfg CacheConfig, w *watch) *resolver {
	r := &resolver{host: host, policy: policy, rows: new(sharedRows), watch: w,
		lookupTimeout: cfg.LoadTimeout, maxStaleness: cfg.MaxStaleness,
		maxStaleIfDown: cfg.MaxStaleIfDown}
	r.cache = coherent.New(coherent.Config[accessKey, facts]{
		Load:           r.load,
		Hash:           func(seed maphash.Seed, k accessKey) uint64 { return k.hash(seed) },
		Own:            accessKey.own,
		Caller:         accessKey.caller,
		Alike:          accessKey.sameColumns,
		Capacity:       cfg.Size,
		Denials:        cfg.Denials,
		MaxStaleness:   cfg.MaxStaleness,
		MaxStaleIfDown: cfg.MaxStaleIfDown,
		MaxAge:         cfg.MaxAge,
		DenialAge:      cfg.DenialAge,
		LoadTimeout:    cfg.LoadTimeout,
		MaxLoads:       cfg.MaxLoads,
		MaxBatch:       maxBatch,
		Waits:          w.waits(),
	})
	return r
}

// find returns the facts about a user in a tenant, or about a user alone if the key has no tenant. They come
// from the identity's last answer if it is still valid, else from the cache or the host database. An error
// means that they can't be had now. at is the time; zero means unread.
func (r *resolver) find(ctx context.Context, id *Identity, key accessKey, at time.Time) (*entry, error) {
	if at.IsZero() {
		at = time.Now()
	}
	if e := id.lastAnswer(); e != nil && e.Key() == key && r.cache.Again(e, at) {
		return e, nil
	}
	e, err := r.cache.Get(ctx, key, at)
	if err != nil {
		return nil, refusal.WithCause(ErrHostUnavailable, err)
	}
	id.remember(e)
	return e, nil
}

// load loads a batch of keys from the host database.
func (r *resolver) load(ctx context.Context, batch []coherent.Load[accessKey, facts]) {
	keys := make([]hostdb.AccessKey, len(batch))
	for i := range batch {
		keys[i].User = batch[i].Key.userKey()
		if batch[i].Key.tenant != "" {
			keys[i].Tenant = batch[i].Key.tenantKey()
		}
	}
	answers, err := r.host.AccessAll(ctx, keys)
	for i := range batch {
		l := &batch[i]
		switch {
		case err != nil:
			l.Err = err
		case answers[i].Err != nil: // nobody can have that name
			l.Denied = true
		case l.Key.tenant == "":
			l.Loaded = readUser(l.Value, &answers[i])
		default:
			l.Loaded = r.readAccess(l.Value, &answers[i].Access)
		}
	}
}

// readAccess sets the facts about a user in a tenant. It returns what they depend on.
func (r *resolver) readAccess(f *facts, access *hostdb.Access) coherent.Loaded {
	r.rows.share(access)
	f.Access = *access
	f.entitled, f.dateFree = r.policy.precompute(access)
	l := coherent.Loaded{Denied: access.Membership == nil || !access.Membership.IsActive,
		AnyUser: access.User == nil, AnyTenant: access.Tenant == nil}
	if access.User != nil {
		l.User = access.User.ID
	}
	if access.Tenant != nil {
		l.Tenant = access.Tenant.ID
		l.Plans = append(l.Plans, access.Tenant.PlanTier)
	}
	for i := range access.Subscriptions {
		l.Plans = append(l.Plans, access.Subscriptions[i].PlanTier)
	}
	return l
}

// readUser sets the facts about a user alone. It returns what they depend on.
func readUser(f *facts, answer *hostdb.AccessAnswer) coherent.Loaded {
	if answer.User == nil {
		return coherent.Loaded{Denied: true, AnyUser: true}
	}
	f.User, f.onlyTenant = answer.User, answer.Sole
	return coherent.Loaded{User: answer.User.ID, Tenants: answer.Basis, AnyTenant: answer.BasisOpen}
}

// userExists looks up a user in the host database. If the user exists, the cache forgets that there was none.
func (r *resolver) userExists(ctx context.Context, key hostdb.UserKey) (bool, error) {
	answers, err := r.host.AccessAll(ctx, []hostdb.AccessKey{{User: key}})
	if err != nil || answers[0].User == nil {
		return false, err
	}
	r.cache.UserChanged(answers[0].User.ID)
	return true, nil
}

// close stops the feed, and the loads of the cache.
func (r *resolver) close() {
	r.feed.close()
	r.cache.Close()
}

// sharedRows keeps one copy of the rows that many cached facts contain: members of a tenant share its row,
// its subscriptions and its plans. That saves memory, and keeps the rows of a busy tenant in the processor's
// caches. Allocate it apart from the resolver: the pending cleanups of an [intern.Table] keep it reachable,
// and would keep the resolver and all its rows too.
type sharedRows struct {
	tenants intern.Table[tenantFacts]
	plans   intern.Table[hostdb.PricingPlan]
}

// tenantFacts are the facts about a tenant that don't depend on the caller.
type tenantFacts struct {
	tenant        hostdb.TenantCatalog
	plan          *hostdb.PricingPlan
	subscriptions []hostdb.Subscribed
}

// share replaces rows by the shared copies. It does so for members only, since others get no subscriptions.
func (s *sharedRows) share(a *hostdb.Access) {
	if a.Membership == nil {
		return
	}
	t := &tenantFacts{tenant: *a.Tenant, plan: s.plan(a.TenantPlan), subscriptions: a.Subscriptions}
	for i := range t.subscriptions {
		t.subscriptions[i].Plan = s.plan(t.subscriptions[i].Plan)
	}
	t = s.tenants.One(t.tenant.ID, t)
	// The pointer to the tenant's row keeps all of t reachable.
	a.Tenant, a.TenantPlan, a.Subscriptions = &t.tenant, t.plan, t.subscriptions
}

// plan returns the shared copy of a plan's row.
func (s *sharedRows) plan(p *hostdb.PricingPlan) *hostdb.PricingPlan {
	if p == nil {
		return nil
	}
	return s.plans.One(p.ID, p)
}

// feed delivers the host database's changes: to the cache first, then to the pool.
type feed struct {
	stop    context.CancelFunc
	running sync.WaitGroup
	failing atomic.Bool // the last poll failed

	mu      sync.Mutex          // guards changed
	changed map[string]struct{} // tenants of the pool that review must look up
	wake    chan struct{}       // holds a token while changed isn't empty
}

// follow applies changes to the cache and the pool until [feed.close].
func (r *resolver) follow(pool *Pool, logger *slog.Logger) {
	ctx, stop := context.WithCancel(context.Background())
	f := &r.feed
	f.stop, f.changed, f.wake = stop, make(map[string]struct{}), make(chan struct{}, 1)
	tell := r.watch.feed(ctx, &f.running)
	f.running.Go(func() {
		for delivery, err := range r.host.Changes(ctx) {
			if err != nil {
				tell(&delivery, err)
				if !f.failing.Swap(true) {
					logger.WarnContext(ctx, "can't follow the host database's changes",
						"cause", printable.Text(err.Error(), maxCause))
				}
				continue
			}
			if !delivery.PolledAt.IsZero() {
				f.failing.Store(false)
			}
			r.apply(delivery)
			f.note(pool, delivery)
			tell(&delivery, nil)
		}
		f.failing.Store(true)
	})
	f.running.Go(func() { r.review(ctx, pool) })
}

// apply invalidates what a delivery changed. Only then it reports the time of the poll to the cache.
func (r *resolver) apply(delivery hostdb.Delivery) {
	if delivery.Reset {
		r.cache.Reset()
	}
	for _, change := range delivery.Changes {
		switch change.Kind {
		case hostdb.ChangeUser:
			r.cache.UserChanged(change.UserID)
		case hostdb.ChangeTenant:
			r.cache.TenantChanged(change.TenantID)
		case hostdb.ChangeMembership:
			r.cache.MembershipChanged(change.UserID, change.TenantID)
		case hostdb.ChangeSubscription:
			r.cache.SubscriptionChanged(change.TenantID)
		case hostdb.ChangePlan:
			r.cache.PlanChanged(change.PlanID)
		default: // a kind that a later version has added
			r.cache.Reset()
		}
	}
	if !delivery.PolledAt.IsZero() {
		r.cache.Polled(delivery.PolledAt)
	}
}

// note adds the changed tenants of the pool to those that review looks up.
func (f *feed) note(pool *Pool, delivery hostdb.Delivery) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if delivery.Reset {
		for _, id := range pool.ids() {
			f.changed[id] = struct{}{}
		}
	}
	for _, change := range delivery.Changes {
		if change.Kind == hostdb.ChangeTenant && pool.has(change.TenantID) {
			f.changed[change.TenantID] = struct{}{}
		}
	}
	f.signal()
}

// signal wakes review if there are changed tenants. The caller holds f.mu.
func (f *feed) signal() {
	if len(f.changed) == 0 {
		return
	}
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// take removes and returns the changed tenants.
func (f *feed) take() map[string]struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	changed := f.changed
	f.changed = make(map[string]struct{})
	return changed
}

// putBack returns tenants that take removed.
func (f *feed) putBack(changed map[string]struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	maps.Copy(f.changed, changed)
	f.signal()
}

// review looks up the changed tenants, so that the pool drops those that were closed and reopens those that
// moved before anybody asks for them. It has a goroutine of its own, since the feed must not wait for it.
func (r *resolver) review(ctx context.Context, pool *Pool) {
	for {
		select {
		case <-r.feed.wake:
		case <-ctx.Done():
			return
		}
		changed := r.feed.take()
		for id := range changed {
			if r.reviewTenant(ctx, pool, id) != nil {
				break
			}
			delete(changed, id)
		}
		if len(changed) == 0 {
			continue
		}
		select {
		case <-time.After(reviewPause):
			r.feed.putBack(changed)
		case <-ctx.Done():
			return
		}
	}
}

// reviewPause is how long review waits after a lookup that failed.
const reviewPause = time.Second

// reviewTenant looks up a tenant and tells the pool. If the lookup fails, the pool keeps the tenant as it is.
func (r *resolver) reviewTenant(ctx context.Context, pool *Pool, id string) error {
	ctx, cancel := context.WithTimeout(ctx, r.lookupTimeout)
	defer cancel()
	asked := time.Now()
	tenant, err := r.host.Tenants.Get(ctx, id)
	switch {
	case errors.Is(err, hostdb.ErrNotFound),
		err == nil && !tenant.Open() && tenant.Status != hostdb.TenantProvisioning:
		pool.retireAsOf(id, sinceStart(asked))
	case err != nil:
		return err
	default:
		pool.renew(tenant, asked)
	}
	return nil
}

// close stops the feed and waits for its goroutines.
func (f *feed) close() {
	f.stop()
	f.running.Wait()
}
