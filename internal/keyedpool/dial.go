package keyedpool

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"
)

// dial starts a dial for a database. It takes a place in the budget.
func (s *server[T, C]) dial(db *database[T, C]) {
	db.queue.leave()
	db.dialing = true
	db.counters.opens++
	s.counters.opens++
	s.dialing++
	s.used++
	db.tenant.places.Add(1)
	probe := s.breaker.start(s.pool.now())
	ctx, cancel := context.WithTimeout(context.Background(), s.pool.cfg.DialTimeout)
	db.cancel = cancel
	var observed context.Context
	if w := db.waiting.first(); w != nil {
		observed = w.observed
	}
	s.pool.work.Go(func() {
		defer cancel()
		s.open(ctx, observed, db, probe)
	})
}

// open dials and gives the connection to the first waiter. If nobody waits any more, the connection becomes
// idle.
func (s *server[T, C]) open(ctx, observed context.Context, db *database[T, C], probe bool) {
	opened := s.observeOpen(observed, db, probe)
	value, fault, err := s.pool.dial(ctx, db)
	s.mu.Lock()
	before := s.breaker.state(s.pool.now())
	db.dialing, db.cancel = false, nil
	s.dialing--
	if err == nil {
		s.dialed(db, value)
	} else {
		s.dialFailed(db, probe, fault, err)
	}
	after, cause := s.breaker.state(s.pool.now()), s.breaker.trips.cause
	left := db.tenant.places.Load()
	s.dispatch()
	s.mu.Unlock()
	opened(err)
	s.observeBreaker(before, after, cause)
	if left == 0 {
		s.pool.reap(db.tenant)
	}
}

// dial calls Config.Dial and classifies a failure. A panic is the tenant's fault.
func (p *Pool[T, C]) dial(ctx context.Context, db *database[T, C]) (value C, fault Fault, err error) {
	defer func() {
		if r := recover(); r != nil {
			fault, err = TenantFault, fmt.Errorf("dial panicked: %v", r)
		}
	}()
	value, err = p.cfg.Dial(ctx, db.tenant.id, db.target)
	if err != nil {
		fault = p.cfg.Classify(err)
	}
	return value, fault, err
}

// dialed adds a new connection.
func (s *server[T, C]) dialed(db *database[T, C], value C) {
	now := s.pool.now()
	s.breaker.answered()
	s.roomSeen()
	db.backoff = backoff{}
	c := &conn[T, C]{edition: db.edition,
		db: db, value: value, state: leased, index: len(s.conns),
		idleFor: shorten(s.pool.cfg.IdleTimeout), expires: now + shorten(s.pool.cfg.MaxLifetime),
	}
	s.conns = append(s.conns, c)
	db.live++
	s.victims.sink(db)
	switch {
	case db.stale || s.ended:
		s.shut(c)
	case db.waiting.n > 0:
		s.grant(c, db.waiting.first(), now)
	default:
		s.park(c, now)
	}
	s.requeue(db)
}

// dialFailed returns the place and decides whose dials pause. The tenant's waiters fail, unless they can get
// another connection of the tenant or the server was only full.
func (s *server[T, C]) dialFailed(db *database[T, C], probe bool, fault Fault, err error) {
	now, cfg := s.pool.now(), &s.pool.cfg
	s.used--
	db.tenant.places.Add(-1)
	s.failures++
	if db.stale {
		if probe {
			s.breaker.probing = false
		}
		return
	}
	switch fault {
	case TenantFault, TenantFull, TenantAway:
		s.breaker.answered()
		most := cfg.BackoffMax
		if fault == TenantAway {
			most = cfg.ServerRetry
		}
		db.backoff.fail(now, cfg.BackoffMin, most, err)
		// those who wait for room are to see it before their time is over
		if db.backoff.full = fault == TenantFull; db.backoff.full {
			db.backoff.until = min(db.backoff.until, now+cfg.AcquireTimeout/4)
		}
	case Backpressure:
		s.breaker.answered()
		s.noRoom(now, err)
	default:
		s.breaker.failed(probe, now, cfg.BackoffMin, cfg.ServerRetry, err)
		if db.live == 0 {
			s.failAll(db, s.refusal(db, ErrServerUnavailable, err, 0))
		}
	}
	s.requeue(db)
	if fault == Backpressure && db.queue.list == &s.waitFirst {
		db.queue.leave()
		s.waitFirst.insert(&db.queue, nil)
	}
	if s.breaker.state(now) == BreakerOpen {
		s.failFirst()
	}
	s.setAlarm(now)
}

// failFirst fails the waiters of tenants without a connection, after the breaker opened.
func (s *server[T, C]) failFirst() {
	for s.waitFirst.n > 0 {
		s.requeue(s.waitFirst.first())
	}
	s.requeuePaused()
}

// requeuePaused requeues the databases whose dials pause.
func (s *server[T, C]) requeuePaused() {
	for e := s.paused.front; e != nil; {
		db := e.value
		e = e.next // the requeue may move it
		s.requeue(db)
	}
}

// outage returns why waiting for a dial is hopeless, or nil.
func (s *server[T, C]) outage(db *database[T, C], now time.Duration) *Error {
	switch {
	case s.ended:
		return s.refusal(db, ErrClosed, nil, 0)
	case db.backoff.pausing(now) && !db.backoff.full:
		return s.refusal(db, ErrTenantUnavailable, db.backoff.cause, db.backoff.until-now)
	case s.breaker.state(now) == BreakerOpen:
		return s.refusal(db, ErrServerUnavailable, s.breaker.trips.cause, s.breaker.trips.until-now)
	}
	return nil
}

// setAlarm sets the timer for the end of the next pause of dials: the server's, or that of a tenant with
// waiters.
func (s *server[T, C]) setAlarm(now time.Duration) {
	var next time.Duration
	sooner := func(b *backoff) {
		if b.pausing(now) && (next == 0 || b.until < next) {
			next = b.until
		}
	}
	sooner(&s.full)
	sooner(&s.above)
	sooner(&s.breaker.trips)
	for e := s.paused.front; e != nil; e = e.next {
		sooner(&e.value.backoff)
	}
	switch {
	case next == 0 || s.ended:
	case s.alarm == nil:
		s.alarm = time.AfterFunc(next-now, s.resume)
	default:
		s.alarm.Reset(next - now)
	}
}

// resume continues after a pause.
func (s *server[T, C]) resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.pool.now()
	s.requeuePaused()
	s.setAlarm(now)
	s.dispatch()
}

// shorten returns a duration that is shorter by a tenth to a fifth, at random.
func shorten(d time.Duration) time.Duration {
	return d - d/10 - rand.N(d/10+1)
}
