package keyedpool

import (
	"context"
	"errors"
	"time"
)

// waiter is an Acquire that waits. Its links are guarded by the mutex of db's server.
type waiter[T comparable, C any] struct {
	db    *database[T, C]
	owner *Owner
	// observed has the values of the context with which a dial for this waiter is observed; nil: nobody does
	observed context.Context
	since    time.Duration       // when the Acquire began: it decides its place, even when the target changes
	place    node[*waiter[T, C]] // in the line of db
	ready    chan grant[T, C]    // takes one grant, without blocking
}

// grant is what a waiter gets: a connection or an error.
type grant[T comparable, C any] struct {
	conn Conn[T, C]
	err  error
}

// join puts a waiter in its tenant's line, behind all that began before it. It is the last one unless its
// tenant has moved.
func (w *waiter[T, C]) join() {
	line := &w.db.waiting
	after := line.back
	for after != nil && after.value.since > w.since {
		after = after.prev
	}
	line.insert(&w.place, after)
}

// enqueue puts a waiter in line and starts what it needs. It returns false, without the waiter in line, if
// the database has been superseded.
func (s *server[T, C]) enqueue(w *waiter[T, C]) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	db := w.db
	switch {
	case db.stale:
		return false
	case db.idle != nil:
		w.ready <- grant[T, C]{conn: s.take(db.idle, w.owner)}
		return true
	}
	w.join()
	s.waiting++
	s.requeue(db)
	s.dispatch()
	return true
}

// unqueue removes a waiter from its line.
func (s *server[T, C]) unqueue(w *waiter[T, C]) {
	w.place.leave()
	s.waiting--
}

// abandon ends the wait of an Acquire whose context has ended. A connection that was granted at the same
// moment goes to the next waiter.
func (s *server[T, C]) abandon(w *waiter[T, C], ctx context.Context) grant[T, C] {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.place.list != nil {
		s.unqueue(w)
		s.requeue(w.db)
		s.dispatch()
	} else if g := <-w.ready; g.err == nil {
		s.giveBack(g.conn.conn, Healthy, s.pool.now())
	} else if !errors.Is(g.err, errMoved) {
		return g
	}
	reason := ctx.Err()
	if errors.Is(reason, context.DeadlineExceeded) {
		reason = s.lateness(w.db)
	}
	return grant[T, C]{err: s.refused(w, s.refusal(w.db, reason, context.Cause(ctx), 0))}
}

// nextCheck returns how long a waiter waits until its next recheck.
func (s *server[T, C]) nextCheck(waited time.Duration) time.Duration {
	cfg := &s.pool.cfg
	next := min(cfg.AcquireTimeout, (waited/cfg.NestedAfter+1)*cfg.NestedAfter)
	if waited < cfg.StealAfter {
		next = min(next, cfg.StealAfter)
	}
	return max(next-waited, 0)
}

// recheck ends a wait that is too long or deadlocked, and steals for one that is long enough. It returns the
// time until the next recheck.
func (s *server[T, C]) recheck(w *waiter[T, C]) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	waited := s.pool.now() - w.since
	if w.place.list == nil {
		return s.nextCheck(waited)
	}
	var err *Error
	switch holds := s.holds(w); {
	case waited >= s.pool.cfg.AcquireTimeout:
		err = s.refusal(w.db, s.lateness(w.db), s.full.cause, 0)
		if w.db.backoff.full {
			err.Cause = w.db.backoff.cause
		}
		if holds {
			err.Cause = ErrNested
		}
	case holds && waited >= s.pool.cfg.NestedAfter && s.deadlocked(w.db):
		err = s.refusal(w.db, ErrNested, nil, 0)
	}
	if err != nil {
		s.refuse(w, err)
	}
	s.requeue(w.db)
	s.dispatch()
	return s.nextCheck(waited)
}

// lateness returns the reason for a wait that was too long: [ErrBusy], or [ErrServerUnavailable] if the
// waiter could only wait for dials that the server does not answer.
func (s *server[T, C]) lateness(db *database[T, C]) error {
	slots := s.dialing >= s.pool.cfg.DialSlots && s.used < s.ceiling
	if db.live == 0 && !db.backoff.full && (db.dialing || slots || s.dialing > 0 && s.dialing == s.used) {
		return ErrServerUnavailable
	}
	return ErrBusy
}

// holds reports whether a waiter's owner holds a connection of the tenant.
func (s *server[T, C]) holds(w *waiter[T, C]) bool {
	for _, c := range s.conns {
		if c.db == w.db && c.state == leased && c.owner == w.owner && w.owner != nil {
			return true
		}
	}
	return false
}

// awaitedBy reports whether a waiter of the tenant has this owner.
func (db *database[T, C]) awaitedBy(owner *Owner) bool {
	for e := db.waiting.front; e != nil; e = e.next {
		if e.value.owner == owner {
			return true
		}
	}
	return false
}

// deadlocked reports whether a tenant is at its cap and every holder of a connection waits for another.
func (s *server[T, C]) deadlocked(db *database[T, C]) bool {
	if db.live < s.cap {
		return false
	}
	for _, c := range s.conns {
		if c.db == db && c.state == leased && (c.owner == nil || !db.awaitedBy(c.owner)) {
			return false
		}
	}
	return true
}

// failAll fails all waiters of a tenant.
func (s *server[T, C]) failAll(db *database[T, C], err *Error) {
	for db.waiting.n > 0 {
		own := *err
		s.refuse(db.waiting.first(), &own)
	}
}

// refuse fails a waiter.
func (s *server[T, C]) refuse(w *waiter[T, C], err *Error) {
	s.wake(w, grant[T, C]{err: s.refused(w, err)})
}

// refused counts the failure of an Acquire and completes its error.
func (s *server[T, C]) refused(w *waiter[T, C], err *Error) *Error {
	err.Waited = s.pool.now() - w.since
	s.waited(w.db, err.Waited)
	w.db.counters.refusals++
	s.counters.refusals++
	return err
}

// refusal returns an error about a tenant.
func (s *server[T, C]) refusal(db *database[T, C], reason, cause error, retry time.Duration) *Error {
	return &Error{Reason: reason, Tenant: db.tenant.id, Server: s.key, RetryAfter: retry, Cause: cause}
}
