package keyedpool

import (
	"context"
	"fmt"
	"time"
)

// Verdict is the holder's report on a connection that it releases.
type Verdict uint8

const (
	// Healthy means that the connection may be used again.
	Healthy Verdict = iota
	// Destroy means that the connection must not be used again.
	Destroy
	// Outdated means that none of the tenant's present connections may be used again.
	Outdated
)

// Conn is an acquired connection. It is a small value. Copies stand for the same holder.
type Conn[T comparable, C any] struct {
	conn *conn[T, C]
	use  uint32
}

// connState is where a connection is in its life.
type connState uint8

const (
	idle connState = iota
	leased
	closing
)

// conn is an open connection. The first two fields don't change. The server's mutex guards the others.
type conn[T comparable, C any] struct {
	db    *database[T, C]
	value C

	state     connState
	edition   uint32 // its database's when it was opened
	stolen    bool   // its close makes room for another; does not change after that
	forced    bool   // its holder still had it when its close began; does not change after that
	use       uint32 // counts holders, so that one who gave it back is known
	turns     int32  // acquires served in a row while tenants without any connection waited
	index     int    // in the server's conns
	next      *conn[T, C]
	owner     *Owner
	waited    time.Duration // how long its holder had
	idleFor   time.Duration // how long it may lie idle
	idleUntil time.Duration // on the pool's clock, while it is idle
	expires   time.Duration // on the pool's clock
}

// Value returns the connection itself. It must not be used after Release.
func (h Conn[T, C]) Value() C {
	return h.conn.value
}

// Waited returns how long its holder waited for it, or 0 if it was idle. It must not be used after Release.
func (h Conn[T, C]) Waited() time.Duration {
	return h.conn.waited
}

// Release returns the connection to the pool. Further calls do nothing: the connection may have another
// holder by then.
func (h Conn[T, C]) Release(v Verdict) {
	c := h.conn
	if c == nil {
		return
	}
	s := c.db.server
	now := s.pool.now()
	s.mu.Lock()
	if c.use == h.use && c.state == leased {
		s.giveBack(c, v, now)
	}
	s.mu.Unlock()
}

// take gives the idle connection on top of its database's stack to a holder.
func (s *server[T, C]) take(c *conn[T, C], owner *Owner) Conn[T, C] {
	db := c.db
	db.idle = c.next
	c.turns, c.waited = 0, 0
	return s.hand(c, owner)
}

// hand gives a connection to a holder.
func (s *server[T, C]) hand(c *conn[T, C], owner *Owner) Conn[T, C] {
	c.state, c.next, c.owner = leased, nil, owner
	c.use++
	s.touch(c.db)
	return Conn[T, C]{c, c.use}
}

// giveBack closes a released connection, passes it on, or makes it idle.
func (s *server[T, C]) giveBack(c *conn[T, C], v Verdict, now time.Duration) {
	db := c.db
	c.owner = nil
	if v == Outdated && c.edition == db.edition {
		s.refresh(db)
	}
	switch {
	case v != Healthy || db.stale || c.edition != db.edition || now >= c.expires:
		s.shut(c)
	case db.waiting.n > 0:
		s.serveLine(c, now)
	default:
		s.park(c, now)
	}
	if s.waiting > 0 {
		s.requeue(db)
		s.dispatch()
	}
}

// refresh closes a database's idle connections, and the others when they are released. A dial under way goes
// on.
func (s *server[T, C]) refresh(db *database[T, C]) {
	db.edition++
	for db.idle != nil {
		s.shut(db.idle)
	}
}

// serveLine gives a connection to its tenant's first waiter. If tenants without a connection wait, it closes
// the connection instead: when the tenant has another one, or when it has had its Turn, can dial again, and
// no other connection is idle.
func (s *server[T, C]) serveLine(c *conn[T, C], now time.Duration) {
	c.turns++
	if !s.pressed() {
		c.turns = 0
	} else if c.db.live > 1 || int(c.turns) >= s.pool.cfg.Turn && !c.db.backoff.pausing(now) &&
		s.victims.first() == nil {
		s.shut(c)
		return
	}
	s.grant(c, c.db.waiting.first(), now)
}

// grant gives a connection to a waiter.
func (s *server[T, C]) grant(c *conn[T, C], w *waiter[T, C], now time.Duration) {
	c.waited = now - w.since
	s.waited(w.db, c.waited)
	s.wake(w, grant[T, C]{conn: s.hand(c, w.owner)})
}

// park makes a connection idle.
func (s *server[T, C]) park(c *conn[T, C], now time.Duration) {
	c.state = idle
	c.idleUntil = now + c.idleFor
	c.next, c.db.idle = c.db.idle, c
	s.victims.add(c.db)
}

// shut starts the close of a connection that nobody holds.
func (s *server[T, C]) shut(c *conn[T, C]) {
	db := c.db
	if c.state == idle {
		db.unpark(c)
	}
	c.state = closing
	db.live--
	s.closing++
	if db.live == 0 {
		s.victims.remove(db)
	}
	s.pool.work.Go(func() { s.finish(c) })
}

// unpark removes a connection from the idle ones.
func (db *database[T, C]) unpark(c *conn[T, C]) {
	at := &db.idle
	for *at != c {
		at = &(*at).next
	}
	*at, c.next = c.next, nil
}

// finish closes a connection and returns its place when the close is confirmed or DrainTimeout is over.
func (s *server[T, C]) finish(c *conn[T, C]) {
	t := c.db.tenant
	if c.forced && s.pool.cfg.BeforeForcedClose != nil {
		s.pool.cfg.BeforeForcedClose(c.value)
	}
	err := s.pool.close(c.value)
	s.mu.Lock()
	last := len(s.conns) - 1
	s.conns[c.index] = s.conns[last]
	s.conns[c.index].index = c.index
	s.conns[last] = nil
	s.conns = s.conns[:last]
	s.closing--
	s.used--
	if err != nil {
		s.unconfirmed++
	}
	left := t.places.Add(-1)
	if c.db.backoff.full {
		c.db.backoff = backoff{} // this made room
	}
	s.requeue(c.db)
	s.dispatch()
	s.mu.Unlock()
	s.observeClosed(c, err)
	if left == 0 {
		s.pool.reap(t)
	}
}

// close calls Config.Close. A panic counts as an unconfirmed close.
func (p *Pool[T, C]) close(value C) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), p.cfg.DrainTimeout)
	defer cancel()
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("close panicked: %v", r)
		}
	}()
	return p.cfg.Close(ctx, value)
}
