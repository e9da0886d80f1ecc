package keyedpool

import "context"

// database is a tenant in one generation: one target on one server. The server's mutex guards all but the first four
// fields, which don't change.
type database[T comparable, C any] struct {
	tenant     *tenant[T, C]
	server     *server[T, C]
	target     T
	generation uint64

	stale   bool        // a newer generation, or nothing, has taken its place: its connections serve nobody else
	dialing bool        // its one dial is under way
	live    int32       // open connections, idle or leased, that are not being closed
	idle    *conn[T, C] // the one used last on top
	cancel  context.CancelFunc
	waiting list[*waiter[T, C]]
	backoff backoff
	figures figures

	// Its place in one of the server's queues, and in the heap of victims.
	queue   node[*database[T, C]]
	place   int32
	worth   float64
	era     int
	lastUse uint64
}

// figures are counted over all generations.
type figures struct {
	acquires, opens, stolen, refusals uint64
	waits                             *Histogram // nil until somebody has waited
}

// clone returns a copy that shares nothing.
func (f figures) clone() figures {
	if f.waits != nil {
		waits := *f.waits
		f.waits = &waits
	}
	return f
}

// settle closes what is idle if the tenant is retired, and tells whether the tenant has no place in any budget any more.
// The tenant has no lease.
func (db *database[T, C]) settle(retired bool) bool {
	s := db.server
	s.mu.Lock()
	defer s.mu.Unlock()
	if retired && !db.stale {
		s.supersede(db)
	}
	return db.tenant.places.Load() == 0
}

// forgettable tells whether nothing of the tenant is worth keeping, and if so buries it: the database serves nobody from
// then on. Otherwise the sweeper asks again. The tenant has neither lease nor place.
func (db *database[T, C]) forgettable() bool {
	s := db.server
	s.mu.Lock()
	defer s.mu.Unlock()
	if db.tenant.places.Load() > 0 || db.waiting.n > 0 || db.backoff.waiting(s.pool.now()) {
		s.lapsing[db.tenant] = struct{}{}
		return false
	}
	db.stale = true
	s.gauge.bury(db.tenant.hash, s.gauge.at(db.worth, db.era))
	return true
}
