package tenantdb

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// errOutdated is why a tenant's database isn't given out on facts that are older than the tenant's last
// Drain.
var errOutdated = errors.New("the tenant was drained since it was looked up")

// maxReloads is how often one request looks a tenant up anew because it was drained meanwhile.
const maxReloads = 3

// maxCutoffs bounds how many tenants have a cutoff of their own, at about 100 bytes each.
const maxCutoffs = 4096

// cutoffs say how old facts may be by which a lease begins. Times are since start. Guarded by Pool.mu.
type cutoffs struct {
	tenants map[string]time.Duration // when each was last drained
	others  time.Duration            // the cutoff of every other tenant
}

// raise has a tenant's facts from before that time refused. A table that is full becomes the cutoff of all
// tenants, whose facts are then loaded once more.
func (c *cutoffs) raise(tenantID string, at time.Duration) {
	if _, known := c.tenants[tenantID]; !known && len(c.tenants) == maxCutoffs {
		for _, other := range c.tenants { // the caller's time may be older than theirs
			c.others = max(c.others, other)
		}
		clear(c.tenants)
	}
	if c.tenants == nil {
		c.tenants = make(map[string]time.Duration)
	}
	c.tenants[tenantID] = max(c.tenants[tenantID], at)
}

// refuses reports whether facts about a tenant are too old. Zero: nobody knows how old they are, since no
// request asks.
func (c *cutoffs) refuses(tenantID string, asOf time.Duration) bool {
	return asOf != 0 && asOf < max(c.tenants[tenantID], c.others)
}

// Retire has a tenant's database closed as soon as no lease holds it; whoever comes next opens it anew. It
// returns at once.
func (p *Pool) Retire(tenantID string) {
	p.shut(tenantID, 0)
}

// shut retires a tenant's database. No request begins on facts from before the cutoff from now on.
func (p *Pool) shut(tenantID string, cutoff time.Duration) {
	p.mu.Lock()
	if cutoff > 0 {
		p.cutoffs.raise(tenantID, cutoff)
	}
	var unused []*tenantDB
	if t := p.tenants[tenantID]; t != nil {
		unused = p.retire(t)
	}
	p.mu.Unlock()
	closeAll(unused)
	p.pg.Retire(tenantID)
}

// Drain is Retire that waits until every lease on the tenant's database has ended and it is closed, or ctx
// has. See to it first that nobody is let in any more, by a change of the tenant's row.
//
// Requests of this pool's Middlewares that come after the call of Drain, and those that have been let in by
// then but have no lease yet, look the tenant up anew: they don't begin on facts from before the call. Where
// the host database can't be reached they are refused. [Middleware.Enter] looks the tenant up anew too.
// [Pool.Lease] doesn't look, so that who drained the tenant can work on its database. Other processes are not
// waited for: each notices the change within its CacheConfig.MaxStaleness, or, while it is cut off from the
// host database, within MaxStaleIfDown.
func (p *Pool) Drain(ctx context.Context, tenantID string) error {
	p.shut(tenantID, time.Since(start))
	for {
		gone := p.leaving(tenantID)
		if gone == nil {
			break
		}
		select {
		case <-gone:
		case <-ctx.Done():
			return fmt.Errorf("tenantdb: draining tenant %s: requests still hold its database: %w", tenantID, ctx.Err())
		}
	}
	if err := p.pg.Drain(ctx, tenantID); err != nil {
		return fmt.Errorf("tenantdb: draining tenant %s: %w", tenantID, err)
	}
	return nil
}
