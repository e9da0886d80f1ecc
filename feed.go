package tenantdb

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
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
					logger.WarnContext(ctx, "the host database's changes can't be relied on", "cause", printable(err.Error(), maxCause))
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
		for _, id := range pool.held() {
			f.changed[id] = struct{}{}
		}
	}
	for _, change := range delivery.Changes {
		if change.Kind == hostdb.ChangeTenant && pool.holds(change.TenantID) {
			f.changed[change.TenantID] = struct{}{}
		}
	}
	if len(f.changed) > 0 {
		select {
		case f.wake <- struct{}{}:
		default:
		}
	}
}

// review looks at the changed tenants, apart from the feed, which must not wait for it: those that were closed leave the pool at
// once, those that moved get a new generation, not only when somebody asks for them.
func (r *resolver) review(ctx context.Context, pool *Pool) {
	for {
		select {
		case <-r.feed.wake:
		case <-ctx.Done():
			return
		}
		r.feed.mu.Lock()
		changed := r.feed.changed
		r.feed.changed = make(map[string]struct{})
		r.feed.mu.Unlock()
		for id := range changed {
			asked := time.Now()
			tenant, err := r.host.Tenants.Get(ctx, id)
			if err != nil || !tenant.Open() && tenant.Status != hostdb.TenantProvisioning {
				pool.shut(id, asked.Sub(start)) // where in doubt too: who comes next opens it anew
			} else {
				pool.renew(tenant, asked)
			}
		}
	}
}

// close ends the feed.
func (f *feed) close() {
	f.stop()
	f.running.Wait()
}
