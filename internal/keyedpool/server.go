package keyedpool

import (
	"sync"
	"time"
)

// server is a database server with its budget, its connections, and the databases that wait for one.
type server[T comparable, C any] struct {
	pool    *Pool[T, C]
	key     string
	budget  int
	cap     int32 // of one tenant
	reserve int

	// mu guards the fields below, and every database, connection and waiter of this server. Nothing slow
	// happens under it: no I/O, no function of the Config, no waiting.
	mu      sync.Mutex
	conns   []*conn[T, C] // open, those being closed included
	used    int           // places taken: len(conns) + dialing
	dialing int
	closing int
	waiting int // Acquires in line
	// A database with waiters is in one of these queues. It is in none while it is being dialed for or is at
	// its cap.
	waitFirst list[*database[T, C]] // have no connection
	waitMore  list[*database[T, C]] // have some and are below the cap
	waitSteal list[*database[T, C]] // the same, after StealAfter
	paused    list[*database[T, C]] // their tenant's dials pause
	victims   victims[T, C]
	decay     decay
	breaker   breaker
	room
	alarm       *time.Timer
	ended       bool // the pool is closed: no dial starts any more
	lapsing     map[*tenant[T, C]]struct{}
	counters    counters
	failures    uint64 // dials
	unconfirmed uint64 // closes that nobody confirmed
}

// newServer returns a server without connections.
func newServer[T comparable, C any](p *Pool[T, C], key string) *server[T, C] {
	budget := p.cfg.budget(key)
	return &server[T, C]{
		pool:     p,
		key:      key,
		budget:   budget,
		cap:      int32(p.cfg.tenantCap(budget)),
		reserve:  p.cfg.reserve(budget),
		room:     room{ceiling: budget},
		decay:    newDecay(budget),
		breaker:  breaker{threshold: p.cfg.BreakerThreshold},
		lapsing:  make(map[*tenant[T, C]]struct{}),
		counters: counters{waits: new(Histogram)},
	}
}

// newDatabase returns a database for a tenant's present generation. A dormant or forgotten tenant keeps its
// score.
func (s *server[T, C]) newDatabase(t *tenant[T, C]) *database[T, C] {
	s.mu.Lock()
	defer s.mu.Unlock()
	db := &database[T, C]{
		tenant: t, server: s, target: t.target, generation: t.generation,
		place: -1, score: t.score, counters: unpack(t.counters),
	}
	if db.score == 0 {
		db.score = s.decay.recall(t.hash)
	}
	db.queue.value = db
	return db
}

// bury remembers the score of a tenant that is being forgotten.
func (s *server[T, C]) bury(t *tenant[T, C]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.decay.bury(t.hash, t.score)
}

// supersede ends a database's service. Idle connections close, waiters move to the tenant's next generation,
// and a dial under way is cancelled.
func (s *server[T, C]) supersede(db *database[T, C]) {
	db.stale = true
	for db.idle != nil {
		s.shut(db.idle)
	}
	if db.cancel != nil {
		db.cancel()
	}
	for db.waiting.n > 0 {
		s.wake(db.waiting.first(), grant[T, C]{err: errMoved})
	}
	db.queue.leave()
	s.dispatch()
}

// wake takes a waiter out of its line and gives it a grant.
func (s *server[T, C]) wake(w *waiter[T, C], g grant[T, C]) {
	s.unqueue(w)
	w.ready <- g
}

// requeue moves a database to the queue where it belongs. It runs after any change to the database's
// connections or waiters. Waiters fail if their tenant has no connection and can't be dialed.
func (s *server[T, C]) requeue(db *database[T, C]) {
	now := s.pool.now()
	if db.waiting.n > 0 && db.live == 0 && !db.dialing {
		if err := s.outage(db, now); err != nil {
			s.failAll(db, err)
		}
	}
	if want := s.queueFor(db, now); db.queue.list != want {
		db.queue.leave()
		if want != nil {
			want.push(&db.queue)
		}
		if want == &s.paused {
			s.setAlarm(now)
		}
	}
}

// queueFor returns the queue where a database belongs, or nil.
func (s *server[T, C]) queueFor(db *database[T, C], now time.Duration) *list[*database[T, C]] {
	switch {
	case db.waiting.n == 0 || db.dialing || db.stale:
		return nil
	case db.live >= s.cap:
		return nil
	case db.backoff.pausing(now):
		return &s.paused
	case db.live == 0:
		return &s.waitFirst
	case now-db.waiting.first().since >= s.pool.cfg.StealAfter:
		return &s.waitSteal
	}
	return &s.waitMore
}

// dispatch starts all dials and closes that waiters need. It runs after every change that may allow one.
func (s *server[T, C]) dispatch() {
	for s.serveFirst() || s.serveMore() {
	}
}

// serveFirst takes one step for the tenants without a connection: a dial if there is a place, otherwise the
// close of a victim. It reports whether there was anything to do.
func (s *server[T, C]) serveFirst() bool {
	db := s.waitFirst.first()
	if db == nil || !s.mayDial() {
		return false
	}
	if s.used < s.limit() {
		s.dial(db)
		return true
	}
	return s.mayClose(s.waitFirst.n) && s.steal()
}

// serveMore takes one step for the tenants that want one more connection, unless tenants without any wait. It
// reports whether there was anything to do.
func (s *server[T, C]) serveMore() bool {
	if s.waitFirst.n > 0 || s.waitMore.n+s.waitSteal.n == 0 || !s.mayDial() {
		return false
	}
	if db := s.waitSteal.first(); db != nil {
		if s.used < s.limit() {
			s.dial(db)
			return true
		}
		return s.mayClose(s.waitSteal.n) && s.steal()
	}
	if s.used+s.reserve >= s.limit() {
		return false
	}
	s.dial(s.waitMore.first())
	return true
}

// steal closes the idle connection with the lowest rank, if there is one.
func (s *server[T, C]) steal() bool {
	victim := s.victims.first()
	if victim == nil {
		return false
	}
	c := victim.idle
	for c.next != nil {
		c = c.next
	}
	victim.counters.stolen++
	s.counters.stolen++
	c.stolen = true
	s.shut(c)
	return true
}

// mayClose limits closes to the dials that can start now. wanted is how many tenants wait.
func (s *server[T, C]) mayClose(wanted int) bool {
	return s.closing < min(wanted, s.pool.cfg.DialSlots-s.dialing)
}

// pressed reports whether a tenant without a connection needs the place of one that is released now: more of
// them could be dialed for than places are free or about to be.
func (s *server[T, C]) pressed() bool {
	return s.mayDial() && s.mayClose(s.waitFirst.n-(s.limit()-s.used))
}

// mayDial reports whether a dial may start if there is a place in the budget.
func (s *server[T, C]) mayDial() bool {
	now := s.pool.now()
	return s.dialing < s.pool.cfg.DialSlots && !s.ended && !s.full.pausing(now) && s.breaker.allows(now)
}

// touch counts an acquire for a database.
func (s *server[T, C]) touch(db *database[T, C]) {
	s.counters.acquires++
	db.counters.acquires++
	db.score = db.score.add(s.decay.exponent(s.counters.acquires))
	db.lastUse = s.counters.acquires
}
