package tenantdb

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tenantdb/tenantdb/internal/checkout"
	"github.com/tenantdb/tenantdb/internal/refusal"
)

// cached is a value that [Cached] keeps beside a tenant's database.
type cached struct {
	turn    chan struct{} // holds a token while somebody uses what follows
	built   bool
	gone    bool // the database has closed
	value   any
	close   func()
	handles *handles // those of the scope that built the value, which now belong to the value; nil: none
}

// Cached returns what build makes for the scope's tenant, such as a *gorm.DB, an ent client or prepared
// statements. The value is built once for each database and key, however many requests ask for it together.
// The key is any comparable value; use a type of your own, as for context keys. Cached panics if ctx has no
// scope with a tenant.
//
// The value is dropped when the tenant's database closes: after its last lease, or when the tenant moves.
// Then the function that build returned is called; it may be nil. An error of build is returned, and nothing
// is kept.
//
// A caller that waits for another's build gives up when ctx ends, or with [ErrBusy] after
// [PoolConfig.AcquireTimeout]. So does a build that asks for its own key, since it waits for itself.
//
// The value is this tenant's. With the context of another tenant, what it was built on fails with
// [ErrWrongTenant]. The handles that [DB] and [ReadDB] returned in the scope by the end of build belong to
// the value from then on, and outlive the scope. Many requests share them. If one limits a handle
// (SetMaxOpenConns), the next call of Cached lifts the limit. If one closes a handle, the next call drops the
// value and builds another. A connection can't be kept: it is closed with the scope.
func Cached[T any](ctx context.Context, key any, build func(*Scope) (T, func(), error)) (T, error) {
	var none T
	lease := leaseOf(ctx, "Cached")
	t := lease.tenant
	c := t.cachedAt(key)
	if err := c.wait(ctx, t.pool.cfg.AcquireTimeout); err != nil {
		return none, err
	}
	defer func() { <-c.turn }()
	if c.gone || t.Leases.Gone() { // the scope is over: nobody would close the value
		return none, refusal.WithCause(ErrTenantUnavailable, checkout.ErrScopeOver)
	}
	if c.built && c.handles.closed() {
		c.drop().leave()
	}
	if !c.built {
		scope, _ := scopeOf(ctx)
		// The value outlives the request, so it gets a Scope of its own.
		value, closer, err := build(scope.newScope(scope.access, scope.entitled))
		if err != nil {
			return none, err
		}
		c.value, c.close, c.built, c.handles = value, closer, true, lease.takeHandles()
	}
	c.handles.removeLimits()
	value, ok := c.value.(T)
	if !ok {
		return none, fmt.Errorf("tenantdb: Cached: key %v holds a %T, not a %T; use another key",
			key, c.value, none)
	}
	return value, nil
}

// cachedAt returns the place for the value of a key. It makes the place if there is none.
func (t *tenantDB) cachedAt(key any) *cached {
	entries := t.cache.Load()
	if entries == nil {
		t.cache.CompareAndSwap(nil, new(sync.Map))
		entries = t.cache.Load()
	}
	entry, ok := entries.Load(key)
	if !ok {
		entry, _ = entries.LoadOrStore(key, &cached{turn: make(chan struct{}, 1)})
	}
	return entry.(*cached)
}

// wait waits for the turn, at most for the timeout: builds may wait for each other, or for themselves.
func (c *cached) wait(ctx context.Context, timeout time.Duration) error {
	select {
	case c.turn <- struct{}{}:
		return nil
	default:
	}
	late := time.NewTimer(timeout)
	defer late.Stop()
	select {
	case c.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-late.C:
		return refusal.WithCause(ErrBusy, errBuilding)
	}
}

// errBuilding is the cause if the turn doesn't come in time.
var errBuilding = errors.New("Cached: the value is still being built; build must not ask for its own key")

// dropCached drops all values of a database that has no lease. It closes their handles last, since a value
// may be built on another's.
func (t *tenantDB) dropCached() {
	entries := t.cache.Load()
	if entries == nil {
		return
	}
	var dropped []*handles
	entries.Range(func(_, entry any) bool {
		c := entry.(*cached)
		c.turn <- struct{}{}
		defer func() { <-c.turn }()
		dropped = append(dropped, c.drop())
		c.gone = true
		return true
	})
	for _, h := range dropped {
		h.leave()
	}
}

// drop closes the value. It returns the value's handles, which the caller leaves. The caller has the turn.
func (c *cached) drop() *handles {
	if c.built && c.close != nil {
		closeSafely(c.close)
	}
	h := c.handles
	c.built, c.value, c.close, c.handles = false, nil, nil, nil
	return h
}

// closeSafely calls a program's function, whose panic must not keep other values and the database open.
func closeSafely(closer func()) {
	defer func() { _ = recover() }()
	closer()
}
