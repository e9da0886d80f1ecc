package tenantdb

import (
	"cmp"
	"context"
	"hash/maphash"
	"sync/atomic"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/coherent"
	"github.com/tenantdb/tenantdb/internal/intern"
	"github.com/tenantdb/tenantdb/internal/refusal"
)

// accessKey names a user and a tenant as the request did. Without a tenant it names the user alone.
type accessKey struct {
	user, tenant         string
	userByID, tenantByID bool // else by oauth_id, by slug
}

// keyOf makes a key; a zero tenant is none.
func keyOf(user hostdb.UserKey, tenant hostdb.TenantKey) accessKey {
	return accessKey{user: cmp.Or(user.ID, user.OAuthID), tenant: cmp.Or(tenant.ID, tenant.Slug), userByID: user.ID != "", tenantByID: tenant.ID != ""}
}

// userKey is the user's part.
func (k accessKey) userKey() hostdb.UserKey {
	if k.userByID {
		return hostdb.UserKey{ID: k.user}
	}
	return hostdb.UserKey{OAuthID: k.user}
}

// tenantKey is the tenant's part.
func (k accessKey) tenantKey() hostdb.TenantKey {
	if k.tenantByID {
		return hostdb.TenantKey{ID: k.tenant}
	}
	return hostdb.TenantKey{Slug: k.tenant}
}

// hash hashes the key. Names of different kinds may collide; they are compared as well.
func (k accessKey) hash(seed maphash.Seed) uint64 {
	const odd = 0x9e3779b97f4a7c15 // so that the halves don't cancel out
	return maphash.String(seed, k.user) ^ odd*maphash.String(seed, k.tenant)
}

// caller is the user's part of the key.
func (k accessKey) caller() accessKey {
	return accessKey{user: k.user, userByID: k.userByID}
}

// alike reports whether two keys name their parts by the same columns, so that one query finds both.
func (k accessKey) alike(other accessKey) bool {
	return k.userByID == other.userByID && k.tenantByID == other.tenantByID && (k.tenant == "") == (other.tenant == "")
}

// own copies the strings, which may be parts of a request's header block, into one block of memory, since
// each is read after the other.
func (k accessKey) own() accessKey {
	both, n := k.user+k.tenant, len(k.user)
	k.user, k.tenant = both[:n], both[n:]
	return k
}

// entry is what the cache holds of a key.
type entry = coherent.Entry[accessKey, facts]

// facts are what the host database says about a key. They are immutable but for the shortcut. What every
// request reads comes first.
type facts struct {
	// db leads to the tenant's database in the middleware's pool, once it was asked for.
	db       atomic.Pointer[dbRef]
	dateFree bool
	entitled entitlement // if dateFree
	hostdb.Access
	// onlyTenant is the id of the user's one tenant; "" where they have none or several, and for a key with a
	// tenant.
	onlyTenant string
}

// judge returns the caller's entitlement, or the reason to refuse.
func (f *facts) judge(p *policy, clock func() time.Time, rules Rules) (entitlement, error) {
	if f.dateFree {
		return f.entitled, nil
	}
	return p.decide(&f.Access, clock, rules)
}

// databaseOf returns a counted reference to the database of the tenant that was found.
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

// resolver answers what the host database says about a user and a tenant, from a cache that hears of changes.
type resolver struct {
	host   *hostdb.DB
	policy *policy
	cache  *coherent.Cache[accessKey, facts]
	rows   *sharedRows
	feed   feed

	patience time.Duration // how long the review of a tenant may take
}

// maxBatch is how many lookups go to the host database together.
const maxBatch = 64

// newResolver makes the cache. It isn't told of changes before follow.
func newResolver(host *hostdb.DB, policy *policy, cfg CacheConfig) *resolver {
	r := &resolver{host: host, policy: policy, rows: new(sharedRows), patience: cfg.LoadTimeout}
	r.cache = coherent.New(coherent.Config[accessKey, facts]{
		Load:           r.load,
		Hash:           func(seed maphash.Seed, k accessKey) uint64 { return k.hash(seed) },
		Own:            accessKey.own,
		Caller:         accessKey.caller,
		Alike:          accessKey.alike,
		Capacity:       cfg.Size,
		Denials:        cfg.Denials,
		MaxStaleness:   cfg.MaxStaleness,
		MaxStaleIfDown: cfg.MaxStaleIfDown,
		MaxAge:         cfg.MaxAge,
		DenialAge:      cfg.DenialAge,
		LoadTimeout:    cfg.LoadTimeout,
		MaxLoads:       cfg.MaxLoads,
		MaxBatch:       maxBatch,
	})
	return r
}

// find returns the facts about a user in a tenant, or, for a key without one, about the user alone: those
// that the identity leads to, where they are still good, else what the cache has or loads. An error means
// that they can't be had now. at is when the clock was read, just now; zero: it wasn't.
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

// load asks the host database about a batch of keys.
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
		case answers[i].Err != nil: // a name that nobody can have: a definite no
			l.Denied = true
		case l.Key.tenant == "":
			l.Loaded = readUser(l.Value, &answers[i])
		default:
			l.Loaded = r.readAccess(l.Value, &answers[i].Access)
		}
	}
}

// readAccess fills in the facts about a user in a tenant, and returns what they depend on.
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

// readUser fills in the facts about a user alone, and returns what they depend on.
func readUser(f *facts, answer *hostdb.AccessAnswer) coherent.Loaded {
	if answer.User == nil {
		return coherent.Loaded{Denied: true, AnyUser: true}
	}
	f.User, f.onlyTenant = answer.User, answer.Sole
	return coherent.Loaded{User: answer.User.ID, Tenants: answer.Basis, AnyTenant: answer.BasisOpen}
}

// userExists asks the host database for a user, and has the cache forget that there was none.
func (r *resolver) userExists(ctx context.Context, key hostdb.UserKey) (bool, error) {
	answers, err := r.host.AccessAll(ctx, []hostdb.AccessKey{{User: key}})
	if err != nil || answers[0].User == nil {
		return false, err
	}
	r.cache.UserChanged(answers[0].User.ID)
	return true, nil
}

// close ends the feed and the loads.
func (r *resolver) close() {
	r.feed.close()
	r.cache.Close()
}

// sharedRows lets cached facts have in common what they say alike: thousands of members of a tenant hold one
// copy of its row, its subscriptions and its plans. That takes less memory, and what requests read of a busy
// tenant is in the processor's caches. It must be memory of its own: the runtime keeps what its cleanups lead
// to, which may not be what holds the rows.
type sharedRows struct {
	tenants intern.Table[tenantFacts]
	plans   intern.Table[hostdb.PricingPlan]
}

// tenantFacts is what the host database says about a tenant, whoever asks.
type tenantFacts struct {
	tenant        hostdb.TenantCatalog
	plan          *hostdb.PricingPlan
	subscriptions []hostdb.Subscribed
}

// share replaces what others hold too. Only a member's answer is whole: to others no subscriptions are told.
func (s *sharedRows) share(a *hostdb.Access) {
	if a.Membership == nil {
		return
	}
	t := &tenantFacts{tenant: *a.Tenant, plan: s.plan(a.TenantPlan), subscriptions: a.Subscriptions}
	for i := range t.subscriptions {
		t.subscriptions[i].Plan = s.plan(t.subscriptions[i].Plan)
	}
	t = s.tenants.One(t.tenant.ID, t)
	a.Tenant, a.TenantPlan, a.Subscriptions = &t.tenant, t.plan, t.subscriptions // the tenant's row keeps all of t
}

// plan returns the one copy of a plan's row.
func (s *sharedRows) plan(p *hostdb.PricingPlan) *hostdb.PricingPlan {
	if p == nil {
		return nil
	}
	return s.plans.One(p.ID, p)
}
