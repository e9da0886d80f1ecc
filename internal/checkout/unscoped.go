package checkout

import "sync"

// unscoped are the connections of a database that were checked out without a scope, by the phase that was
// current then.
type unscoped struct {
	mu     sync.Mutex // guards what follows; phases swap under it only
	lists  [2]*Checkout
	closed bool
}

// add keeps a checkout. It reports false if nothing would reclaim the connection: the database has closed,
// or it has no lease. A retired database without a lease is still closing what Cached kept, and may query.
func (u *unscoped) add(c *Checkout, leases *LeaseCount) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed || leases.unused() {
		return false
	}
	now, _, _ := leases.phases()
	c.add(&u.mu, &u.lists[now.index()])
	leases.swap()
	return true
}

// close reclaims what is left, and refuses what comes.
func (u *unscoped) close() {
	u.mu.Lock()
	u.closed = true
	left := takeAll(&u.lists[1], takeAll(&u.lists[0], nil))
	u.mu.Unlock()
	reclaim(left)
}

// reclaimEnded reclaims the connections of phases that have no leases left.
func (u *unscoped) reclaimEnded(leases *LeaseCount) {
	u.mu.Lock()
	left := u.ended(leases)
	u.mu.Unlock()
	reclaim(left)
}

// ended takes the connections out whose phases have no leases left. The caller holds u.mu.
func (u *unscoped) ended(leases *LeaseCount) (left []*Checkout) {
	for {
		now, inIt, inOther := leases.phases()
		if inOther {
			return left
		}
		left = takeAll(&u.lists[now.other().index()], left)
		if !inIt {
			return takeAll(&u.lists[now.index()], left)
		}
		if u.lists[now.index()] == nil || !leases.swap() {
			return left
		}
	}
}
