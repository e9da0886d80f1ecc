package tenantdb

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/printable"
)

// feed listens to the host database's changes: the cache hears of them first, then the pool.
type feed struct {
	stop    context.CancelFunc
	running sync.WaitGroup
	failing atomic.Bool // the last poll failed

	mu      sync.Mutex          // guards changed
	changed map[string]struct{} // tenants that the pool holds and that are to be looked at
	wake    chan struct{}       // holds a token while changed has any
}

// follow has the cache and the pool told of changes until close.
func (r *resolver) follow(pool *Pool, logger *slog.Logger) {
	ctx, stop := context.WithCancel(context.Background())
	f := &r.feed
	f.stop, f.changed, f.wake = stop, make(map[string]struct{}), make(chan struct{}, 1)
	f.running.Go(func() {
		for delivery, err := range r.host.Changes(ctx) {
			if err != nil {
				if !f.failing.Swap(true) {
					logger.WarnContext(ctx, "the host database's changes can't be relied on", "cause", printable.Text(err.Error(), maxCause))
				}
				continue
			}
			if !delivery.PolledAt.IsZero() {
				f.failing.Store(false)
			}
			r.apply(delivery)
			f.note(pool, delivery)
		}
		f.failing.Store(true)
	})
	f.running.Go(func() { r.review(ctx, pool) })
}

// apply tells the cache what changed, and only then up to when it has been told.
func (r *resolver) apply(delivery hostdb.Delivery) {
	if delivery.Reset {
		r.cache.Reset()
	}
	for _, change := range delivery.Changes {
		switch change.Kind {
		case hostdb.ChangeUser:
			r.cache.UserChanged(change.UserID)
		case hostdb.ChangeTenant:
			r.cache.TenantChanged(change.TenantID)
		case hostdb.ChangeMembership:
			r.cache.MembershipChanged(change.UserID, change.TenantID)
		case hostdb.ChangeSubscription:
			r.cache.SubscriptionChanged(change.TenantID)
		case hostdb.ChangePlan:
			r.cache.PlanChanged(change.PlanID)
		default: // a kind of a later version
			r.cache.Reset()
		}
	}
	if !delivery.PolledAt.IsZero() {
		r.cache.Polled(delivery.PolledAt)
	}
}

// note remembers the changed tenants whose databases the pool holds.
func (f *feed) note(pool *Pool, delivery hostdb.Delivery) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if delivery.Reset {
		for _, id := range pool.ids() {
			f.changed[id] = struct{}{}
		}
	}
	for _, change := range delivery.Changes {
		if change.Kind == hostdb.ChangeTenant && pool.has(change.TenantID) {
			f.changed[change.TenantID] = struct{}{}
		}
	}
	f.rouse()
}

// rouse wakes the review if there is something for it. The caller holds f.mu.
func (f *feed) rouse() {
	if len(f.changed) == 0 {
		return
	}
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// take returns the tenants that are to be looked at, and forgets them.
func (f *feed) take() map[string]struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	changed := f.changed
	f.changed = make(map[string]struct{})
	return changed
}

// again has tenants looked at once more.
func (f *feed) again(changed map[string]struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	maps.Copy(f.changed, changed)
	f.rouse()
}

// review looks at the changed tenants, apart from the feed, which must not wait for it: those that were
// closed leave the pool at once, those that moved get a new generation, not only when somebody asks for them.
func (r *resolver) review(ctx context.Context, pool *Pool) {
	for {
		select {
		case <-r.feed.wake:
		case <-ctx.Done():
			return
		}
		changed := r.feed.take()
		for id := range changed {
			if r.reviewed(ctx, pool, id) != nil {
				break
			}
			delete(changed, id)
		}
		if len(changed) == 0 {
			continue
		}
		select {
		case <-time.After(reviewPause):
			r.feed.again(changed)
		case <-ctx.Done():
			return
		}
	}
}

// reviewPause is how long reviews rest after one that failed.
const reviewPause = time.Second

// reviewed looks at a tenant. A lookup that fails says nothing about it: it is served as it was, and looked
// at again.
func (r *resolver) reviewed(ctx context.Context, pool *Pool, id string) error {
	ctx, cancel := context.WithTimeout(ctx, r.patience)
	defer cancel()
	asked := time.Now()
	tenant, err := r.host.Tenants.Get(ctx, id)
	switch {
	case errors.Is(err, hostdb.ErrNotFound), err == nil && !tenant.Open() && tenant.Status != hostdb.TenantProvisioning:
		pool.retireAsOf(id, sinceStart(asked))
	case err != nil:
		return err
	default:
		pool.renew(tenant, asked)
	}
	return nil
}

// close ends the feed.
func (f *feed) close() {
	f.stop()
	f.running.Wait()
}
