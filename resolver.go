package tenantdb

import (
	"cmp"
	"context"
	"errors"
	"hash/maphash"
	"sync/atomic"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/coherent"
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

// own copies the strings, which may be parts of a request's header block, into one block of memory, since each is read after the other.
func (k accessKey) own() accessKey {
	both, n := k.user+k.tenant, len(k.user)
	k.user, k.tenant = both[:n], both[n:]
	return k
}

// entry is what the cache holds of a key.
type entry = coherent.Entry[accessKey, facts]

// facts are what the host database says about a key. They are immutable but for the shortcut. What every request reads comes first.
type facts struct {
	// db leads to the tenant's database in the middleware's pool, once it was asked for.
	db      atomic.Pointer[shortcut]
	settled bool
	grant   grant // where settled
	hostdb.Access
	asOf time.Time // when the host database was asked
	// sole is the id of the user's one tenant; "" where they have none or several, and for a key with a tenant.
	sole string
}

// database returns a claim on the tenant's database in the pool.
func (f *facts) database(pool *Pool) (claim, error) {
	if c, held := f.db.Load().hold(); held {
		return c, nil
	}
	c, err := pool.claim(f.Tenant, f.asOf)
	if err == nil {
		f.db.Store(c.tenant.self)
	}
	return c, err
}

// resolver answers what the host database says about a user and a tenant, from a cache that hears of changes.
type resolver struct {
	host   *hostdb.DB
	policy *policy
	cache  *coherent.Cache[accessKey, facts]
	rows   *sharedRows
	feed   feed
}

// newResolver makes the cache. It isn't told of changes before follow.
func newResolver(host *hostdb.DB, policy *policy, cfg CacheConfig) *resolver {
	r := &resolver{host: host, policy: policy, rows: new(sharedRows)}
	r.cache = coherent.New(coherent.Config[accessKey, facts]{
		Load:           r.load,
		Hash:           func(seed maphash.Seed, k accessKey) uint64 { return k.hash(seed) },
		Own:            accessKey.own,
		Capacity:       cfg.Size,
		Denials:        cfg.Denials,
		MaxStaleness:   cfg.MaxStaleness,
		MaxStaleIfDown: cfg.MaxStaleIfDown,
		MaxAge:         cfg.MaxAge,
		DenialAge:      cfg.DenialAge,
		LoadTimeout:    cfg.LoadTimeout,
		MaxLoads:       cfg.MaxLoads,
	})
	return r
}

// find returns the facts about a user in a tenant, or, for a key without one, about the user alone: those that the identity
// leads to, where they are still good, else what the cache has or loads. An error means that they can't be had now. at is when
// the clock was read, just now; zero: it wasn't.
func (r *resolver) find(ctx context.Context, id *Identity, key accessKey, at time.Time) (*entry, error) {
	if at.IsZero() {
		at = time.Now()
	}
	if e := id.lastFound(); e != nil && e.Key() == key && r.cache.Again(e, at) {
		return e, nil
	}
	e, err := r.cache.Get(ctx, key, at)
	if err != nil {
		return nil, because(ErrHostUnavailable, err)
	}
	id.found(e)
	return e, nil
}

// load asks the host database.
func (r *resolver) load(ctx context.Context, key accessKey, f *facts) (coherent.Loaded, error) {
	if key.tenant == "" {
		return r.loadUser(ctx, key, f)
	}
	f.asOf = time.Now()
	access, err := r.host.Access(ctx, key.userKey(), key.tenantKey())
	if errors.Is(err, hostdb.ErrInvalid) { // a name that nobody can have: a definite no
		return coherent.Loaded{Denied: true}, nil
	}
	if err != nil {
		return coherent.Loaded{}, err
	}
	r.rows.share(access)
	f.Access = *access
	r.policy.settle(f)
	l := coherent.Loaded{Denied: access.Membership == nil || !access.Membership.IsActive}
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
	return l, nil
}

// loadUser asks for a user alone.
func (r *resolver) loadUser(ctx context.Context, key accessKey, f *facts) (coherent.Loaded, error) {
	user, err := r.findUser(ctx, key.userKey())
	if errors.Is(err, hostdb.ErrNotFound) || errors.Is(err, hostdb.ErrInvalid) {
		return coherent.Loaded{Denied: true}, nil
	}
	if err != nil {
		return coherent.Loaded{}, err
	}
	sole, err := r.host.SoleTenants(ctx, key.userKey())
	if err != nil {
		return coherent.Loaded{}, err
	}
	user.PasswordHash = ""
	f.User = user
	if len(sole) == 1 {
		f.sole = sole[0]
	}
	return coherent.Loaded{User: user.ID, Any: true}, nil
}

// userExists asks the host database for a user, and has the cache forget that there was none.
func (r *resolver) userExists(ctx context.Context, key hostdb.UserKey) (bool, error) {
	user, err := r.findUser(ctx, key)
	switch {
	case errors.Is(err, hostdb.ErrNotFound), errors.Is(err, hostdb.ErrInvalid):
		return false, nil
	case err != nil:
		return false, err
	}
	r.cache.UserChanged(user.ID)
	return true, nil
}

// findUser returns a user's row.
func (r *resolver) findUser(ctx context.Context, key hostdb.UserKey) (*hostdb.GlobalUser, error) {
	if key.ID != "" {
		return r.host.Users.Get(ctx, key.ID)
	}
	return r.host.Users.ByOAuthID(ctx, key.OAuthID)
}

// close ends the feed and the loads.
func (r *resolver) close() {
	r.feed.close()
	r.cache.Close()
}
