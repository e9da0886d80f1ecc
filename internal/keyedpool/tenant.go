package keyedpool

import "sync/atomic"

// tenant is what the pool knows of a tenant across its generations. It exists while it is leased, has
// connections, or backs off. While it has no connection, and nobody waits for one, it rests: its database is
// dropped, and what a new one is made of stands here, since thousands of tenants may be known and few of them
// busy.
type tenant[T comparable, C any] struct {
	id      string
	hash    uint64
	pool    *Pool[T, C]
	current atomic.Pointer[database[T, C]] // nil while it rests; stored under the shard's mutex
	places  atomic.Int32                   // places it takes in budgets, over all generations; changed under the servers' mutexes

	// The shard's mutex guards the rest.
	refs       int32
	draining   int32 // Drains that wait
	generation uint32
	server     *server[T, C] // of the present generation, as is target
	target     T
	gone       chan struct{} // closed once there is neither lease nor connection; nil unless somebody waits for it
	retired    bool          // the last lease's release closes everything

	// What the dropped database knew; zero while there is one.
	score    score
	counters string // packed
}

// serves tells whether a lease with this target needs no new generation.
func (t *tenant[T, C]) serves(target T) bool {
	return !t.retired && t.draining == 0 && t.target == target
}

// renew starts a new generation. An old one on the same server passes on its worth; one with the same target
// also its backoff, which a retirement must not shorten.
func (t *tenant[T, C]) renew(s *server[T, C], target T) {
	moved, same := t.server != s, t.target == target
	t.generation++
	t.server, t.target, t.retired = s, target, false
	if moved {
		t.score = 0
	}
	old := t.current.Load()
	if old == nil {
		return
	}
	db := s.newDatabase(t)
	old.server.mu.Lock()
	defer old.server.mu.Unlock()
	// Those who leave the old generation late are counted there, under its own server's mutex.
	db.counters = old.counters.clone()
	if !moved {
		db.score = old.score
		if same {
			db.backoff = old.backoff
		}
	}
	t.current.Store(db)
	old.server.supersede(old)
}

// activate returns the tenant's database, a new one where it rests; nil where the pool has forgotten the tenant.
func (t *tenant[T, C]) activate() *database[T, C] {
	sh := t.pool.shard(t.hash)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if db := t.current.Load(); db != nil || sh.tenants[t.id] != t {
		return db
	}
	db := t.server.newDatabase(t)
	t.score, t.counters = 0, ""
	t.current.Store(db)
	return db
}

// retire marks the tenant and returns the channel that closes when nothing of it is left.
func (t *tenant[T, C]) retire() <-chan struct{} {
	t.retired = true
	if t.gone == nil {
		t.gone = make(chan struct{})
	}
	return t.gone
}

// reap does what is due when a tenant may have lost its last lease or connection: a retired one closes what
// is idle, one without connections rests, and one that nothing refers to is forgotten. Whoever takes away the
// last of either calls it, without a lock.
func (p *Pool[T, C]) reap(t *tenant[T, C]) {
	if p.reapTenant(t) && p.cfg.OnDormant != nil {
		p.cfg.OnDormant(t.id)
	}
}

// reapTenant does so, and tells whether the tenant is leased and has come to rest.
func (p *Pool[T, C]) reapTenant(t *tenant[T, C]) bool {
	sh := p.shard(t.hash)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.tenants[t.id] != t {
		return false
	}
	unused, db := t.refs == 0, t.current.Load()
	if db != nil && !t.sleep(db, unused && t.retired) {
		return false
	}
	resting := t.current.Load() == nil
	if !unused {
		return resting && db != nil
	}
	t.end()
	if resting {
		t.server.bury(t)
		delete(sh.tenants, t.id)
	}
	return false
}

// end tells those who wait that nothing of the tenant is left.
func (t *tenant[T, C]) end() {
	if t.gone != nil {
		close(t.gone)
		t.gone = nil
	}
}

// sleep closes what is idle if the tenant is retired and unused, and tells whether the tenant has no place in
// any budget any more. If so, and nothing else is worth keeping, its database is dropped: it serves nobody
// from then on. Otherwise the sweeper asks again.
func (t *tenant[T, C]) sleep(db *database[T, C], retired bool) bool {
	s := db.server
	s.mu.Lock()
	defer s.mu.Unlock()
	if retired && !db.stale {
		s.supersede(db)
	}
	if t.places.Load() > 0 {
		return false
	}
	if db.waiting.n > 0 || db.backoff.pausing(s.pool.now()) {
		s.lapsing[t] = struct{}{}
		return true
	}
	db.stale = true
	t.score, t.counters = db.score, db.counters.pack()
	t.current.Store(nil)
	return true
}
