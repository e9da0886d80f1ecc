package keyedpool

import "sync/atomic"

// tenant is what the pool knows of a tenant across its generations. It exists while it is leased, has connections, or
// backs off.
type tenant[T comparable, C any] struct {
	id      string
	hash    uint64
	pool    *Pool[T, C]
	current atomic.Pointer[database[T, C]] // stored under the shard's mutex
	places  atomic.Int32                   // places it takes in budgets, over all generations; changed under the servers' mutexes

	// The shard's mutex guards the rest.
	refs     int
	knownAt  uint64        // the newest asOf that came with the current target
	retired  bool          // the last lease's release closes everything
	draining int           // Drains that wait
	gone     chan struct{} // closed once there is neither lease nor connection; nil unless somebody waits for it
}

// serves tells whether a lease with this target needs no new generation.
func (t *tenant[T, C]) serves(target T, asOf uint64) bool {
	if t.retired || t.draining > 0 {
		return false
	}
	if t.current.Load().target == target {
		t.knownAt = max(t.knownAt, asOf)
		return true
	}
	return asOf < t.knownAt
}

// renew starts a new generation. An old one on the same server passes on its worth; one with the same target also its
// backoff, which a retirement must not shorten.
func (t *tenant[T, C]) renew(s *server[T, C], target T, asOf uint64) {
	old := t.current.Load()
	db := s.adopt(t, target, old.generation+1)
	old.server.mu.Lock()
	defer old.server.mu.Unlock()
	// Those who leave the old generation late are counted there, under its own server's mutex.
	db.figures = old.figures.clone()
	if old.server == s {
		db.worth, db.era = old.worth, old.era
		if old.target == target {
			db.backoff = old.backoff
		}
	}
	t.current.Store(db)
	t.knownAt, t.retired = asOf, false
	old.server.supersede(old)
}

// retire marks the tenant and returns the channel that closes when nothing of it is left.
func (t *tenant[T, C]) retire() <-chan struct{} {
	t.retired = true
	if t.gone == nil {
		t.gone = make(chan struct{})
	}
	return t.gone
}

// settle does what is due when a tenant may have lost its last lease or connection: a retired one closes what is idle, and
// one that nothing refers to is forgotten. Whoever takes away the last of either calls it, without a lock.
func (p *Pool[T, C]) settle(t *tenant[T, C]) {
	sh := p.shard(t.hash)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if t.refs > 0 || sh.tenants[t.id] != t {
		return
	}
	if !t.current.Load().settle(t.retired) {
		return
	}
	if t.gone != nil {
		close(t.gone)
		t.gone = nil
	}
	if t.current.Load().forgettable() {
		delete(sh.tenants, t.id)
	}
}
