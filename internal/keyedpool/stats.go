package keyedpool

import (
	"math/bits"
	"slices"
	"strings"
	"time"
)

// Histogram counts waits by length. Bucket 0 counts waits below a millisecond, bucket i those from 2^(i-1) to
// 2^i ms, and the last one all that are longer. An Acquire that finds an idle connection does not wait. A
// wait includes the time of a dial.
type Histogram [14]uint64

// add counts a wait.
func (h *Histogram) add(wait time.Duration) {
	h[min(bits.Len64(uint64(max(wait, 0)/time.Millisecond)), len(h)-1)]++
}

// ServerStats is a snapshot of a server.
type ServerStats struct {
	// Server is the server's key.
	Server string
	// Budget is the number of places. Dialing, Idle, Leased and Closing are how many of them are taken by
	// connections in each state.
	Budget, Dialing, Idle, Leased, Closing int
	// Waiting is how many Acquires wait. Needy is how many tenants with waiters have no connection and are
	// not being dialed for.
	Waiting, Needy int
	// Acquires counts the Acquires that got a connection, Opens the dials, DialFailures those that failed.
	Acquires, Opens, DialFailures uint64
	// Steals counts idle connections that were closed for a waiter.
	Steals uint64
	// Refusals counts the Acquires that failed, whatever the reason.
	Refusals uint64
	// Unconfirmed counts the closes that failed: the server may not have seen them.
	Unconfirmed uint64
	// Waits counts the waits, those refused included.
	Waits Histogram
	// Breaker is the state of the breaker. BreakerCause is why it is not closed, or nil.
	Breaker      BreakerState
	BreakerCause error
}

// TenantStats is a snapshot of a tenant. It counts from when the pool came to know the tenant until it
// forgets it.
type TenantStats struct {
	// Tenant is the tenant's id, Server the key of its server.
	Tenant, Server string
	// Generation counts its targets, from 1.
	Generation uint64
	// Leases is how many leases there are on it.
	Leases int
	// Dialing, Idle, Leased and Closing are its connections on its present server, including old
	// generations'.
	Dialing, Idle, Leased, Closing int
	// Waiting is how many Acquires wait for it.
	Waiting int
	// Acquires counts those that got a connection, Opens the dials begun for it.
	Acquires, Opens uint64
	// Stolen counts its idle connections that were closed for waiters, Refusals its Acquires that failed.
	Stolen, Refusals uint64
	// Waits counts the waits, those refused included.
	Waits Histogram
	// Backoff is how long it will not be dialed. BackoffCause is the reason.
	Backoff      time.Duration
	BackoffCause error
}

// waited counts a finished wait.
func (s *server[T, C]) waited(db *database[T, C], wait time.Duration) {
	if db.counters.waits == nil {
		db.counters.waits = new(Histogram)
	}
	db.counters.waits.add(wait)
	s.counters.waits.add(wait)
}

// Servers returns snapshots of all servers, sorted by key. Each is exact for its own instant.
func (p *Pool[T, C]) Servers() []ServerStats {
	var list []ServerStats
	for _, s := range p.all() {
		list = append(list, s.stats())
	}
	slices.SortFunc(list, func(a, b ServerStats) int { return strings.Compare(a.Server, b.Server) })
	return list
}

// stats returns the server's counters.
func (s *server[T, C]) stats() ServerStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := ServerStats{
		Server: s.key, Budget: s.budget, Dialing: s.dialing, Closing: s.closing, Needy: s.waitFirst.n,
		Acquires: s.counters.acquires, Opens: s.counters.opens, DialFailures: s.failures,
		Steals:   s.counters.stolen,
		Refusals: s.counters.refusals, Unconfirmed: s.unconfirmed, Waiting: s.waiting,
		Waits:   *s.counters.waits,
		Breaker: s.breaker.state(s.pool.now()), BreakerCause: s.breaker.trips.cause,
	}
	var closings int
	for _, c := range s.conns {
		c.state.count(&st.Idle, &st.Leased, &closings)
	}
	return st
}

// count adds a connection to the count of its state.
func (state connState) count(idleConns, leasedConns, closingConns *int) {
	switch state {
	case idle:
		*idleConns++
	case leased:
		*leasedConns++
	case closing:
		*closingConns++
	}
}

// Tenants returns snapshots of all known tenants, sorted by id, taken one after the other.
func (p *Pool[T, C]) Tenants() []TenantStats {
	var list []TenantStats
	for _, t := range p.tenants() {
		list = append(list, t.stats())
	}
	slices.SortFunc(list, func(a, b TenantStats) int { return strings.Compare(a.Tenant, b.Tenant) })
	return list
}

// Tenant returns a snapshot of one tenant. It returns false if the pool does not know the tenant.
func (p *Pool[T, C]) Tenant(id string) (TenantStats, bool) {
	t := p.known(id)
	if t == nil {
		return TenantStats{}, false
	}
	return t.stats(), true
}

// stats returns the tenant's counters.
func (t *tenant[T, C]) stats() TenantStats {
	sh := t.pool.shard(t.hash)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	s := t.server
	st := TenantStats{Tenant: t.id, Server: s.key, Generation: uint64(t.generation), Leases: int(t.refs)}
	db := t.current.Load()
	if db == nil {
		st.count(unpack(t.counters))
		return st
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st.Waiting = db.waiting.n
	st.count(db.counters)
	if db.dialing {
		st.Dialing = 1
	}
	for _, c := range s.conns {
		if c.db.tenant == t {
			c.state.count(&st.Idle, &st.Leased, &st.Closing)
		}
	}
	if now := s.pool.now(); db.backoff.pausing(now) {
		st.Backoff, st.BackoffCause = db.backoff.until-now, db.backoff.cause
	}
	return st
}

// count fills in what is counted.
func (st *TenantStats) count(f counters) {
	st.Acquires, st.Opens, st.Stolen, st.Refusals = f.acquires, f.opens, f.stolen, f.refusals
	if f.waits != nil {
		st.Waits = *f.waits
	}
}
