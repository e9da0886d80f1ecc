package keyedpool

import "sync/atomic"

// tenant is what the pool knows of a tenant across its generations. It exists while it is leased, has
// connections, or backs off. A tenant is dormant while it has no connection and nobody waits for one. Its
// database is then dropped, and only what a new one needs is kept here: thousands of tenants may be known and
// few of them busy.
type tenant[T comparable, C any] struct {
	id      string
	hash    uint64
	pool    *Pool[T, C]
	current atomic.Pointer[database[T, C]] // nil while it rests; stored under the shard's mutex
	// places it takes in budgets, over all generations; changed under the servers' mutexes
	places atomic.Int32

	// The shard's mutex guards the rest.
	refs       int32
	draining   int32 // Drains that wait
	generation uint32
	server     *server[T, C] // of the present generation, as is target
	target     T
	// closed once there is neither lease nor connection; nil unless somebody waits for it
	gone    chan struct{}
	retired bool // the last lease's release closes everything

	// What the dropped database knew; zero while there is one.
	score    score
	counters string // packed
}

// serves reports whether the present generation can serve a lease with this target.
func (t *tenant[T, C]) serves(target T) bool {
	return !t.retired && t.draining == 0 && t.target == target
}

// renew starts a new generation. On the same server it keeps the score. With the same target it also keeps
// the backoff, which a retirement must not shorten.
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

// activate returns the tenant's database, or a new one if the tenant is dormant. It returns nil if the pool
// has forgotten the tenant.
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

// retire marks the tenant and returns a channel that closes when it has neither leases nor connections.
func (t *tenant[T, C]) retire() <-chan struct{} {
	t.retired = true
	if t.gone == nil {
		t.gone = make(chan struct{})
	}
	return t.gone
}

// reap is called without a lock after a tenant has lost what may be its last lease or connection. A retired
// tenant closes its idle connections, one without connections goes dormant, and one without leases and
// connections is forgotten.
func (p *Pool[T, C]) reap(t *tenant[T, C]) {
	if p.reapTenant(t) && p.cfg.OnDormant != nil {
		p.cfg.OnDormant(t.id)
	}
}

// reapTenant does so, and reports whether the tenant is leased and went dormant.
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

// end wakes those who wait for the tenant's end.
func (t *tenant[T, C]) end() {
	if t.gone != nil {
		close(t.gone)
		t.gone = nil
	}
}

// sleep closes the idle connections if the tenant is retired and unused. It reports whether the tenant has no
// place in any budget. Then it drops the database, which serves nobody from then on. If there are waiters or
// a backoff, the sweeper tries later.
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
