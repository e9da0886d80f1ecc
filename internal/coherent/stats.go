package coherent

import (
	"sync/atomic"
	"time"
)

// counters are written on misses only. The store counts hits.
type counters struct {
	misses, loads, failures, refreshes, staleServes atomic.Uint64
}

// Stats is a snapshot of a cache.
type Stats struct {
	// Entries and Denials are how many grants and denials are cached.
	Entries, Denials int
	// Hits and DenialHits count the lookups that found a grant or a denial, valid or not.
	Hits, DenialHits uint64
	// Misses counts the answers that waited for a load.
	Misses uint64
	// Loads counts the loads, Failures those that failed, Refreshes those that began early in the background.
	Loads, Failures, Refreshes uint64
	// StaleServes counts the answers older than MaxStaleness that were given because loads failed.
	StaleServes uint64
	// SincePoll is how long ago the last completed poll began. It is negative before the first.
	SincePoll time.Duration
}

// Stats returns a snapshot.
func (c *Cache[K, V]) Stats() Stats {
	s := c.store.totals()
	s.Misses, s.Loads, s.Failures = c.stats.misses.Load(), c.stats.loads.Load(), c.stats.failures.Load()
	s.Refreshes, s.StaleServes = c.stats.refreshes.Load(), c.stats.staleServes.Load()
	s.SincePoll = -1
	if p := c.polled.Load(); p != nil {
		s.SincePoll = instantOf(time.Now()).since(*p)
	}
	return s
}
