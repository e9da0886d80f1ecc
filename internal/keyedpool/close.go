package keyedpool

import (
	"context"
	"slices"
	"strings"
)

// Close closes the pool. New leases are refused at once. Existing leases may still acquire, and each tenant's
// connections close with its last lease. Close returns nil when no lease, no connection and no goroutine of
// the pool is left.
//
// If its context ends first, Close ends the rest by force. Waiters get [ErrClosed], dials are cancelled, and
// connections are closed although they are in use. Close does not wait for that, and returns a
// [*HoldersError] that names the holders. Call Close again to wait.
func (p *Pool[T, C]) Close(ctx context.Context) error {
	for _, gone := range p.retireAll() {
		if !await(ctx, gone) {
			err := &HoldersError{Holders: p.holders(p.tenants()), Cause: context.Cause(ctx)}
			p.end()
			for _, t := range p.tenants() {
				t.force()
			}
			return err
		}
	}
	p.end()
	p.work.Wait()
	return nil
}

// await waits until a channel is closed or the context has ended. It reports whether the channel is closed.
func await(ctx context.Context, gone <-chan struct{}) bool {
	select {
	case <-gone:
		return true
	default:
	}
	select {
	case <-gone:
		return true
	case <-ctx.Done():
		return false
	}
}

// retireAll refuses new leases, retires all tenants, and returns channels that close when the tenants are
// gone.
func (p *Pool[T, C]) retireAll() []<-chan struct{} {
	var gone []<-chan struct{}
	for i := range p.shards {
		sh := &p.shards[i]
		sh.mu.Lock()
		sh.closed = true
		for _, t := range sh.tenants {
			gone = append(gone, t.retire())
		}
		sh.mu.Unlock()
	}
	for _, t := range p.tenants() {
		p.reap(t)
	}
	return gone
}

// end stops the sweeper and the servers' timers.
func (p *Pool[T, C]) end() {
	p.ended.Do(func() { close(p.stop) })
	for _, s := range p.all() {
		s.mu.Lock()
		s.ended = true
		if s.alarm != nil {
			s.alarm.Stop()
		}
		s.mu.Unlock()
	}
}

// force closes a tenant's connections, in use or not, and fails its waiters. No dial starts any more.
func (t *tenant[T, C]) force() {
	for _, s := range t.pool.all() {
		s.mu.Lock()
		for _, c := range s.conns {
			if c.db.tenant == t && c.state != closing {
				c.forced = c.state == leased
				s.shut(c)
			}
		}
		s.mu.Unlock()
	}
	db := t.current.Load()
	if db == nil {
		return
	}
	db.server.mu.Lock()
	defer db.server.mu.Unlock()
	if db.cancel != nil {
		db.cancel()
	}
	db.server.failAll(db, db.server.refusal(db, ErrClosed, nil, 0))
	db.queue.leave()
}

// holders returns the tenants with leases or connections.
func (p *Pool[T, C]) holders(tenants []*tenant[T, C]) []Holder {
	var list []Holder
	for _, t := range tenants {
		sh := p.shard(t.hash)
		sh.mu.Lock()
		leases := int(t.refs)
		sh.mu.Unlock()
		if conns := int(t.places.Load()); leases+conns > 0 {
			list = append(list, Holder{Tenant: t.id, Leases: leases, Conns: conns})
		}
	}
	slices.SortFunc(list, func(a, b Holder) int { return strings.Compare(a.Tenant, b.Tenant) })
	return list
}
