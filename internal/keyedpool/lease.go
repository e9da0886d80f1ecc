package keyedpool

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// Lease is a hold on a tenant. It is made by Pool.Lease, must not be copied once it is in use, and is safe
// for concurrent use. The zero Lease is one that was released.
type Lease[T comparable, C any] struct {
	tenant   *tenant[T, C]
	released atomic.Bool
}

// Owner identifies on whose behalf connections are acquired, as one HTTP request, by its address. With it the
// pool tells a wait that can't end (the owner holds what it waits for) from one that can.
type Owner struct {
	_ byte // variables of size zero may share an address
}

// Release ends the lease. Connections acquired from it may be given back later. Release after the first does
// nothing.
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

// Acquire returns a connection to the tenant's database, of its newest generation. The caller must Release
// it. owner may be nil, which only loses the detection of nested acquires.
//
// It fails with an *Error whose Reason is ErrBusy (AcquireTimeout, or the context's deadline while in line),
// ErrNested, ErrTenantUnavailable, ErrServerUnavailable, ErrClosed, ErrReleased, or context.Canceled.
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

// refused returns the error of an Acquire that can't begin.
func (l *Lease[T, C]) refused(ctx context.Context) error {
	if l.tenant == nil {
		return &Error{Reason: ErrReleased}
	}
	if l.released.Load() {
		return &Error{Reason: ErrReleased, Tenant: l.tenant.id}
	}
	return &Error{Reason: ctx.Err(), Tenant: l.tenant.id, Cause: context.Cause(ctx)}
}

// acquireSlowly acquires where no connection was idle. It starts over when the tenant gets a new target
// meanwhile, or went to rest, keeping its place in line.
func (l *Lease[T, C]) acquireSlowly(ctx context.Context, owner *Owner) (Conn[T, C], error) {
	t := l.tenant
	began := t.pool.now()
	for {
		db := t.activate()
		if db == nil {
			return Conn[T, C]{}, &Error{Reason: ErrReleased, Tenant: t.id}
		}
		w := &waiter[T, C]{db: db, owner: owner, since: began, ready: make(chan grant[T, C], 1)}
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

// wait stands in line until the waiter gets something or its context ends.
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
