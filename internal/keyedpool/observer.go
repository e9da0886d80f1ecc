package keyedpool

import "context"

// Observer is told what happens to connections. All of its functions are set. They may be called
// concurrently, run without any lock of the pool, and must not panic. One that blocks delays only the
// Acquire, the dial or the close that it is told of.
type Observer struct {
	// Wait is called when an Acquire begins to wait, on the caller's goroutine. end is called when the wait
	// has ended, with its error. A dial that is begun for this Acquire is observed with the returned
	// context's values.
	Wait func(ctx context.Context, tenant, server string) (observed context.Context, end func(error))
	// Open is called before a dial, and end after it.
	Open func(ctx context.Context, tenant, server string) (end func(error))
	// Closed is called after a connection was closed. err is why the close isn't confirmed.
	Closed func(tenant, server string, err error)
	// Evicted is called after an idle connection was closed to make room for another.
	Evicted func(tenant, server string)
	// BreakerChanged is called after a server's breaker has changed. cause is why it isn't closed.
	BreakerChanged func(server string, from, to BreakerState, cause error)
}

// observedWait is [Lease.waitInLine], of which the observer is told.
func (l *Lease[T, C]) observedWait(ctx context.Context, owner *Owner) (Conn[T, C], error) {
	t := l.tenant
	sh := t.pool.shard(t.hash)
	sh.mu.Lock()
	server := t.server.key
	sh.mu.Unlock()
	observed, end := t.pool.cfg.Observer.Wait(ctx, t.id, server)
	conn, err := l.waitInLine(ctx, context.WithoutCancel(observed), owner)
	end(err)
	return conn, err
}

// observeOpen tells the observer, if there is one, that a dial begins. end is called after the dial.
func (s *server[T, C]) observeOpen(observed context.Context, db *database[T, C], probe bool) (
	end func(error)) {
	o := s.pool.cfg.Observer
	if o == nil {
		return func(error) {}
	}
	if probe {
		o.BreakerChanged(s.key, BreakerOpen, BreakerHalfOpen, nil)
	}
	if observed == nil {
		observed = context.Background()
	}
	return o.Open(observed, db.tenant.id, s.key)
}

// observeBreaker tells the observer, if there is one, that a dial has changed the breaker.
func (s *server[T, C]) observeBreaker(from, to BreakerState, cause error) {
	if o := s.pool.cfg.Observer; o != nil && from != to {
		o.BreakerChanged(s.key, from, to, cause)
	}
}

// observeClosed tells the observer, if there is one, that a connection has closed.
func (s *server[T, C]) observeClosed(c *conn[T, C], err error) {
	o := s.pool.cfg.Observer
	if o == nil {
		return
	}
	if c.stolen {
		o.Evicted(c.db.tenant.id, s.key)
	}
	o.Closed(c.db.tenant.id, s.key, err)
}
