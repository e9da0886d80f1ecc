package coherent

import (
	"hash/maphash"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
)

const (
	idStripes   = 1 << 14 // for users and for tenants: 128 KiB each; at most 1 << 16
	planStripes = 64      // one bit each in a stamp
)

// epochs numbers the changes. A stripe holds the number of the last change of any id that hashes to it.
type epochs struct {
	mu        sync.Mutex    // held by who numbers a change
	sequence  atomic.Uint64 // the latest change whose stripe holds its number
	users     []atomic.Uint64
	tenants   []atomic.Uint64
	plans     [planStripes]atomic.Uint64
	anyUser   atomic.Uint64 // a user came, went or changed
	anyTenant atomic.Uint64
	reset     atomic.Uint64 // everything may have changed
}

// stamp tells when an entry was loaded and which stripes end its validity.
type stamp struct {
	checked      atomic.Uint64 // the number up to which no change has ended it
	began        uint64
	plans        uint64   // a set of plan stripes
	others       []uint16 // stripes of further tenants
	user, tenant uint16   // stripes
	flags        flags
}

// flags tells which parts of a stamp count, and whether the answer is a denial.
type flags uint8

const (
	hasUser flags = 1 << iota
	hasTenant
	hasAnyUser // depends on users that may yet come to exist
	hasAnyTenant
	denies
)

// seed hashes ids to stripes. One per process is enough, since stripes are never stored.
var seed = maphash.MakeSeed()

// stripe returns the stripe of an id among n.
func stripe(id string, n int) uint16 {
	return uint16(maphash.String(seed, id) % uint64(n))
}

// now returns the number of the latest change.
func (p *epochs) now() uint64 {
	return p.sequence.Load()
}

// stamp fills in the stamp of facts whose load began at the number began.
func (p *epochs) stamp(s *stamp, began uint64, l *Loaded) {
	s.began = began
	s.checked.Store(began)
	if l.User != "" {
		s.user, s.flags = stripe(l.User, len(p.users)), s.flags|hasUser
	}
	if l.Tenant != "" {
		s.tenant, s.flags = stripe(l.Tenant, len(p.tenants)), s.flags|hasTenant
	}
	if n := len(l.Tenants); n > 0 {
		s.others = make([]uint16, n)
		for i, tenant := range l.Tenants {
			s.others[i] = stripe(tenant, len(p.tenants))
		}
	}
	for _, plan := range l.Plans {
		s.plans |= 1 << stripe(plan, planStripes)
	}
	if l.AnyUser {
		s.flags |= hasAnyUser
	}
	if l.AnyTenant {
		s.flags |= hasAnyTenant
	}
	if l.Denied {
		s.flags |= denies
	}
}

// valid reports whether nothing that a stamp depends on has changed since its load began. It reads no stripe
// if nothing at all has changed since the last call.
func (p *epochs) valid(s *stamp) bool {
	latest := p.sequence.Load() // before the stripes, which may then hold more
	if s.checked.Load() == latest {
		return true
	}
	if p.reset.Load() > s.began ||
		s.flags&hasUser != 0 && p.users[s.user].Load() > s.began ||
		s.flags&hasTenant != 0 && p.tenants[s.tenant].Load() > s.began ||
		s.flags&hasAnyUser != 0 && p.anyUser.Load() > s.began ||
		s.flags&hasAnyTenant != 0 && p.anyTenant.Load() > s.began {
		return false
	}
	for _, other := range s.others {
		if p.tenants[other].Load() > s.began {
			return false
		}
	}
	for set := s.plans; set != 0; set &= set - 1 {
		if p.plans[bits.TrailingZeros64(set)].Load() > s.began {
			return false
		}
	}
	s.checked.Store(latest)
	return true
}

// raise gives a stripe the next number before it publishes the number, so that a reader of the number finds
// it in the stripe.
func (p *epochs) raise(stripe *atomic.Uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	next := p.sequence.Load() + 1
	stripe.Store(next)
	p.sequence.Store(next)
}

// raiseID gives the next number to the stripe of an id.
func (p *epochs) raiseID(stripes []atomic.Uint64, id string) {
	p.raise(&stripes[stripe(id, len(stripes))])
}

// UserChanged tells the cache that a user was added, removed or changed.
func (c *Cache[K, V]) UserChanged(id string) {
	c.epochs.raiseID(c.epochs.users, id)
	c.epochs.raise(&c.epochs.anyUser)
}

// TenantChanged tells the cache that a tenant was added, removed or changed.
func (c *Cache[K, V]) TenantChanged(id string) {
	c.epochs.raiseID(c.epochs.tenants, id)
	c.epochs.raise(&c.epochs.anyTenant)
}

// MembershipChanged tells the cache that a user's membership of a tenant changed.
func (c *Cache[K, V]) MembershipChanged(user, tenant string) {
	c.epochs.raiseID(c.epochs.users, user)
	c.epochs.raiseID(c.epochs.tenants, tenant)
}

// SubscriptionChanged tells the cache that a tenant's subscription changed.
func (c *Cache[K, V]) SubscriptionChanged(tenant string) {
	c.epochs.raiseID(c.epochs.tenants, tenant)
}

// PlanChanged tells the cache that a plan was added, removed or changed.
func (c *Cache[K, V]) PlanChanged(id string) {
	c.epochs.raiseID(c.epochs.plans[:], id)
}

// Reset tells the cache that anything may have changed.
func (c *Cache[K, V]) Reset() {
	c.epochs.raise(&c.epochs.reset)
}

// Polled tells the cache that every change committed before began has been reported to it. Call it after
// reporting the changes that a poll of the database found, with the time at which that poll began. A time
// before the last one is ignored.
func (c *Cache[K, V]) Polled(began time.Time) {
	next := instantOf(began)
	for {
		old := c.polled.Load()
		if old != nil && old.mono >= next.mono || c.polled.CompareAndSwap(old, &next) {
			return
		}
	}
}
