package tenantdb

import "time"

// Stats is a snapshot of a Middleware's cache and pool. Counters run from New, the pool's from NewPool.
type Stats struct {
	// Entries and Denials are how many grants and refusals are cached.
	Entries, Denials int
	// Hits counts the lookups that found a grant, DenialHits a refusal, valid or not; Misses the answers that
	// waited for a load.
	Hits, DenialHits, Misses uint64
	// Loads counts the lookups in the host database, LoadFailures those that failed, Refreshes those begun
	// early in the background.
	Loads, LoadFailures, Refreshes uint64
	// StaleServes counts the requests served with cached facts past MaxStaleness because the host database
	// didn't answer.
	StaleServes uint64
	// SincePoll is how long ago the last complete look for changes began: no valid entry is staler. Negative
	// before the first.
	SincePoll time.Duration
	// FeedFailing says that the last look for changes failed.
	FeedFailing bool
	// MaxOverdue is that of Config.Subscription; zero: a subscription that is active by its status admits
	// whatever its period.
	MaxOverdue time.Duration
	// Pool are the figures of Config.Pool, or of the pool that New made.
	Pool PoolStats
}

// Stats returns a snapshot.
func (m *Middleware) Stats() Stats {
	c := m.resolver.cache.Stats()
	return Stats{Entries: c.Entries, Denials: c.Denials, Hits: c.Hits, DenialHits: c.DenialHits, Misses: c.Misses, Loads: c.Loads,
		LoadFailures: c.Failures, Refreshes: c.Refreshes, StaleServes: c.StaleServes, SincePoll: c.SincePoll,
		FeedFailing: m.resolver.feed.failing.Load(), MaxOverdue: m.policy.MaxOverdue, Pool: m.pool.Stats()}
}

// Invalidate forgets what is cached about a user and about a tenant, by their ids; "" leaves that one out.
// Changes in the host database are noticed without it.
func (m *Middleware) Invalidate(userID, tenantID string) {
	if userID != "" {
		m.resolver.cache.UserChanged(userID)
	}
	if tenantID != "" {
		m.resolver.cache.TenantChanged(tenantID)
	}
}
