package keyedpool

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// Lease keeps a tenant known to the pool. [Pool.Lease] returns one. It is safe for concurrent use, but must
// not be copied once it is in use. The zero Lease is a released one.
type Lease[T comparable, C any] struct {
	tenant   *tenant[T, C]
	released atomic.Bool
}

// Owner identifies by its address for whom connections are acquired, such as one HTTP request. With it the
// pool detects a deadlock of an owner that holds what it waits for.
type Owner struct {
	_ byte // variables of size zero may share an address
}

// Release ends the lease. Its connections may be released later. Further calls do nothing.
func (l *Lease[T, C]) Release() {
	t := l.tenant
	if t == nil || l.released.Swap(true) {
		return
	}
	sh := t.pool.shard(t.hash)
	sh.mu.Lock()
	t.refs--
	due := t.refs == 0 && (t.retired || t.places.Load() == 0)
	sh.mu.Unlock()
	if due {
		t.pool.reap(t)
	}
}

// Target returns the tenant's target in its newest generation.
func (l *Lease[T, C]) Target() T {
	sh := l.tenant.pool.shard(l.tenant.hash)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return l.tenant.target
}

// Dormant reports whether the tenant has no connection and nobody waits for one.
func (l *Lease[T, C]) Dormant() bool {
	return l.tenant.current.Load() == nil
}

// Acquire returns a connection to the tenant's database in its newest generation. The caller must release it.
// owner may be nil. Nested acquires are then not detected.
//
// It fails with an [*Error] whose Reason is [ErrBusy] (after AcquireTimeout, or the context's deadline while
// waiting), [ErrNested], [ErrTenantUnavailable], [ErrServerUnavailable], [ErrClosed], [ErrReleased], or
// context.Canceled.
func (l *Lease[T, C]) Acquire(ctx context.Context, owner *Owner) (Conn[T, C], error) {
	if l.tenant == nil || l.released.Load() || ctx.Err() != nil {
		return Conn[T, C]{}, l.refused(ctx)
	}
	if db := l.tenant.current.Load(); db != nil {
		s := db.server
		s.mu.Lock()
		if c := db.idle; c != nil {
			conn := s.take(c, owner)
			s.mu.Unlock()
			return conn, nil
		}
		s.mu.Unlock()
	}
	return l.acquireSlowly(ctx, owner)
}

// refused returns the error of an Acquire that can't start.
func (l *Lease[T, C]) refused(ctx context.Context) error {
	if l.tenant == nil {
		return &Error{Reason: ErrReleased}
	}
	if l.released.Load() {
		return &Error{Reason: ErrReleased, Tenant: l.tenant.id}
	}
	return &Error{Reason: ctx.Err(), Tenant: l.tenant.id, Cause: context.Cause(ctx)}
}

// acquireSlowly acquires if no connection was idle.
func (l *Lease[T, C]) acquireSlowly(ctx context.Context, owner *Owner) (Conn[T, C], error) {
	if l.tenant.pool.cfg.Observer != nil {
		return l.observedWait(ctx, owner)
	}
	return l.waitInLine(ctx, nil, owner)
}

// waitInLine waits for a connection. It starts over, with its place in line, if the tenant gets a new target
// or went dormant meanwhile.
func (l *Lease[T, C]) waitInLine(ctx, observed context.Context, owner *Owner) (Conn[T, C], error) {
	t := l.tenant
	began := t.pool.now()
	for {
		db := t.activate()
		if db == nil {
			return Conn[T, C]{}, &Error{Reason: ErrReleased, Tenant: t.id}
		}
		w := &waiter[T, C]{db: db, owner: owner, observed: observed, since: began,
			ready: make(chan grant[T, C], 1)}
		w.place.value = w
		g := grant[T, C]{err: errMoved}
		if db.server.enqueue(w) {
			g = w.wait(ctx)
		} else if t.current.Load() == db {
			g.err = &Error{Reason: ErrReleased, Tenant: t.id}
		}
		if g.err == nil {
			return g.conn, nil
		}
		if !errors.Is(g.err, errMoved) {
			t.pool.reap(t)
			return Conn[T, C]{}, g.err
		}
	}
}

// wait waits until the waiter gets a grant or its context ends.
func (w *waiter[T, C]) wait(ctx context.Context) grant[T, C] {
	s := w.db.server
	timer := time.NewTimer(s.nextCheck(s.pool.now() - w.since))
	defer timer.Stop()
	for {
		select {
		case g := <-w.ready:
			return g
		case <-ctx.Done():
			return s.abandon(w, ctx)
		case <-timer.C:
			timer.Reset(s.recheck(w))
		}
	}
}
