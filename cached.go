package tenantdb

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tenantdb/tenantdb/internal/refusal"
)

// cached is one thing kept beside a tenant's database.
type cached struct {
	turn  chan struct{} // holds a token while somebody builds, reads or drops what follows
	built bool
	gone  bool // the database has closed
	value any
	close func()
	kept  *handles // those of the scope that built it, which are the value's now; nil if it had none
}

// Cached returns what build makes of the scope's tenant, made once for each database and key however many
// requests ask together: a *gorm.DB, an ent client, prepared statements. It is dropped with the database
// (after its last lease, or when the tenant moves), through the function that build returns; nil where there
// is nothing to close. An error of build is returned and not kept. Who waits for another's build leaves when
// ctx ends, and after PoolConfig.AcquireTimeout with ErrBusy: a build that asks for its own key waits for
// itself until then. Key is any comparable value; use a type of your own, as with context keys. A connection
// can't be kept so: it goes with the request. It panics where no middleware ran.
//
// The value is this tenant's: with another tenant's context, what it was built on fails with ErrWrongTenant.
// The handles that DB and ReadDB returned in the scope by the end of build are the value's from then on, and
// outlive the scope. As many requests share them, a limit set on one (SetMaxOpenConns) is lifted by the next
// call of Cached, and where one was closed the next call drops the value and builds another.
func Cached[T any](ctx context.Context, key any, build func(*Scope) (T, func(), error)) (T, error) {
	var none T
	lease := leaseOf(ctx, "Cached")
	t := lease.tenant
	entries := t.cache.Load()
	if entries == nil {
		t.cache.CompareAndSwap(nil, new(sync.Map))
		entries = t.cache.Load()
	}
	entry, ok := entries.Load(key)
	if !ok {
		entry, _ = entries.LoadOrStore(key, &cached{turn: make(chan struct{}, 1)})
	}
	c := entry.(*cached)
	if err := c.wait(ctx, t.pool.cfg.AcquireTimeout); err != nil {
		return none, err
	}
	defer func() { <-c.turn }()
	if c.gone || t.Leases.Gone() { // the scope is over, and the database with it: nobody would ever close what is built
		return none, refusal.WithCause(ErrTenantUnavailable, refusal.PoolClosed)
	}
	if c.built && c.kept.closed() {
		c.drop().leave()
	}
	if !c.built {
		scope, _ := scopeOf(ctx)
		value, closer, err := build(scope.newScope(scope.access, scope.entitled)) // not the handler's own: what is built outlives the request
		if err != nil {
			return none, err
		}
		c.value, c.close, c.built, c.kept = value, closer, true, lease.keep()
	}
	c.kept.unlimit()
	value, ok := c.value.(T)
	if !ok {
		return none, fmt.Errorf("tenantdb: Cached: key %v holds a %T, not a %T; use another key", key, c.value, none)
	}
	return value, nil
}

// wait waits for the turn. The bound is for builds that wait for each other, or for themselves.
func (c *cached) wait(ctx context.Context, most time.Duration) error {
	select {
	case c.turn <- struct{}{}:
		return nil
	default:
	}
	late := time.NewTimer(most)
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

// errBuilding is why somebody doesn't get what Cached keeps.
var errBuilding = errors.New("Cached: it is still being built; a build function must not ask for its own key")

// dropCached closes what is kept beside a database that nobody holds. The handles come last: a value may be
// built on another's.
func (t *tenantDB) dropCached() {
	entries := t.cache.Load()
	if entries == nil {
		return
	}
	var kept []*handles
	entries.Range(func(_, entry any) bool {
		c := entry.(*cached)
		c.turn <- struct{}{}
		defer func() { <-c.turn }()
		kept = append(kept, c.drop())
		c.gone = true
		return true
	})
	for _, h := range kept {
		h.leave()
	}
}

// drop closes the value and returns its handles, to be left. The caller has the turn.
func (c *cached) drop() (kept *handles) {
	if c.built && c.close != nil {
		closeSafely(c.close)
	}
	kept = c.kept
	c.built, c.value, c.close, c.kept = false, nil, nil, nil
	return kept
}

// closeSafely calls a user's closer: its panic must keep neither the others nor the database open.
func closeSafely(closer func()) {
	defer func() { _ = recover() }()
	closer()
}
