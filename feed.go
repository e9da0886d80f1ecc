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

// feed delivers the host database's changes: to the cache first, then to the pool.
type feed struct {
	stop    context.CancelFunc
	running sync.WaitGroup
	failing atomic.Bool // the last poll failed

	mu      sync.Mutex          // guards changed
	changed map[string]struct{} // tenants of the pool that review must look up
	wake    chan struct{}       // holds a token while changed isn't empty
}

// follow applies changes to the cache and the pool until [feed.close].
func (r *resolver) follow(pool *Pool, logger *slog.Logger) {
	ctx, stop := context.WithCancel(context.Background())
	f := &r.feed
	f.stop, f.changed, f.wake = stop, make(map[string]struct{}), make(chan struct{}, 1)
	tell := r.watch.feed(ctx, &f.running)
	f.running.Go(func() {
		for delivery, err := range r.host.Changes(ctx) {
			if err != nil {
				tell(&delivery, err)
				if !f.failing.Swap(true) {
					logger.WarnContext(ctx, "can't follow the host database's changes",
						"cause", printable.Text(err.Error(), maxCause))
				}
				continue
			}
			if !delivery.PolledAt.IsZero() {
				f.failing.Store(false)
			}
			r.apply(delivery)
			f.note(pool, delivery)
			tell(&delivery, nil)
		}
		f.failing.Store(true)
	})
	f.running.Go(func() { r.review(ctx, pool) })
}

// apply invalidates what a delivery changed. Only then it reports the time of the poll to the cache.
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
		default: // a kind that a later version has added
			r.cache.Reset()
		}
	}
	if !delivery.PolledAt.IsZero() {
		r.cache.Polled(delivery.PolledAt)
	}
}

// note adds the changed tenants of the pool to those that review looks up.
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
	f.signal()
}

// signal wakes review if there are changed tenants. The caller holds f.mu.
func (f *feed) signal() {
	if len(f.changed) == 0 {
		return
	}
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// take removes and returns the changed tenants.
func (f *feed) take() map[string]struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	changed := f.changed
	f.changed = make(map[string]struct{})
	return changed
}

// putBack returns tenants that take removed.
func (f *feed) putBack(changed map[string]struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	maps.Copy(f.changed, changed)
	f.signal()
}

// review looks up the changed tenants, so that the pool drops those that were closed and reopens those that
// moved before anybody asks for them. It has a goroutine of its own, since the feed must not wait for it.
func (r *resolver) review(ctx context.Context, pool *Pool) {
	for {
		select {
		case <-r.feed.wake:
		case <-ctx.Done():
			return
		}
		changed := r.feed.take()
		for id := range changed {
			if r.reviewTenant(ctx, pool, id) != nil {
				break
			}
			delete(changed, id)
		}
		if len(changed) == 0 {
			continue
		}
		select {
		case <-time.After(reviewPause):
			r.feed.putBack(changed)
		case <-ctx.Done():
			return
		}
	}
}

// reviewPause is how long review waits after a lookup that failed.
const reviewPause = time.Second

// reviewTenant looks up a tenant and tells the pool. If the lookup fails, the pool keeps the tenant as it is.
func (r *resolver) reviewTenant(ctx context.Context, pool *Pool, id string) error {
	ctx, cancel := context.WithTimeout(ctx, r.lookupTimeout)
	defer cancel()
	asked := time.Now()
	tenant, err := r.host.Tenants.Get(ctx, id)
	switch {
	case errors.Is(err, hostdb.ErrNotFound),
		err == nil && !tenant.Open() && tenant.Status != hostdb.TenantProvisioning:
		pool.retireAsOf(id, sinceStart(asked))
	case err != nil:
		return err
	default:
		pool.renew(tenant, asked)
	}
	return nil
}

// close stops the feed and waits for its goroutines.
func (f *feed) close() {
	f.stop()
	f.running.Wait()
}
