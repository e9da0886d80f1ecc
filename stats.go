package tenantdb

import (
	"maps"
	"slices"
	"strings"
	"time"
)

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

// PoolStats is a snapshot of a Pool. Counters run from NewPool. It holds no secret.
type PoolStats struct {
	// Tenants is how many tenants' databases are known, Leased how many of them have a lease.
	Tenants, Leased int
	// Servers are the PostgreSQL servers, sorted by host:port. Each is exact for its own instant.
	Servers []ServerStats
	// SQLite tells of the files.
	SQLite SQLiteStats
}

// Waits counts waits by length. The first counts those below a millisecond, number i those from 2^(i-1) to
// 2^i ms, the last all that are longer. Only who found no idle connection has waited; the time to open one
// counts, and a wait that was refused.
type Waits = [14]uint64

// ServerStats are the figures of a PostgreSQL server.
type ServerStats struct {
	// Server is its host:port; where db_url names several hosts, those of all, sorted, with commas between
	// them.
	Server string
	// Budget is how many connections it may have; Opening, Idle, Leased and Closing are what takes them.
	Budget, Opening, Idle, Leased, Closing int
	// Waiting is how many callers wait for a connection, NeedyTenants how many tenants have callers who wait
	// and no connection at all.
	Waiting, NeedyTenants int
	// Acquires counts who got a connection, Opens the attempts to open one, OpenFailures those that failed.
	Acquires, Opens, OpenFailures uint64
	// Steals counts idle connections closed for the sake of another tenant; Refusals who failed instead of
	// getting a connection.
	Steals, Refusals uint64
	// Unconfirmed counts connections whose end the server didn't confirm in time: it may still count them.
	Unconfirmed uint64
	// Waits tells how long callers waited.
	Waits Waits
	// Breaker is "closed" where the server answers, "open" while it is left alone because it doesn't,
	// "half-open" when the next attempt decides.
	Breaker string
}

// SQLiteStats are the figures of the SQLite files.
type SQLiteStats struct {
	// Open is how many are open, MaxOpen how many may be.
	Open, MaxOpen int
	// Waiting is how many callers wait until one may be opened.
	Waiting int
	// Opens counts the files opened, Steals those closed for the sake of others.
	Opens, Steals uint64
}

// TenantStats are the figures of one tenant, counted as long as the pool remembers it.
type TenantStats struct {
	// TenantID is its id, Server its server's host:port, "" for SQLite.
	TenantID, Server string
	// Leases is how many requests, Enters and Detaches hold its database.
	Leases int
	// Opening, Idle, Leased and Closing are its connections. On SQLite only Idle and Leased are told, those
	// that read included.
	Opening, Idle, Leased, Closing int
	// Waiting is how many callers wait for one of them. This and what follows is 0 on SQLite.
	Waiting int
	// Acquires counts who got a connection, Opens the attempts to open one, Steals its idle connections
	// closed for the sake of others, Refusals who failed instead of getting one.
	Acquires, Opens, Steals, Refusals uint64
	// Waits tells how long callers waited.
	Waits Waits
	// Backoff is how long no connection will be opened, since the last attempt failed by the tenant's own
	// fault.
	Backoff time.Duration
}

// Stats returns a snapshot.
func (p *Pool) Stats() PoolStats {
	var stats PoolStats
	p.mu.Lock()
	stats.Tenants = len(p.tenants)
	for _, t := range p.tenants {
		if t.Leases.Count() > 0 {
			stats.Leased++
		}
	}
	p.mu.Unlock()
	for _, s := range p.pg.Servers() {
		stats.Servers = append(stats.Servers, ServerStats{
			Server: s.Server, Budget: s.Budget, Opening: s.Dialing, Idle: s.Idle, Leased: s.Leased, Closing: s.Closing,
			Waiting: s.Waiting, NeedyTenants: s.Needy, Acquires: s.Acquires, Opens: s.Opens, OpenFailures: s.DialFailures,
			Steals: s.Steals, Refusals: s.Refusals, Unconfirmed: s.Unconfirmed, Waits: s.Waits, Breaker: s.Breaker.String(),
		})
	}
	stats.SQLite = SQLiteStats(p.sqlite.Stats())
	return stats
}

// TenantStats returns the figures of the tenants with these ids, of all without any, sorted by id. Tenants
// that the pool doesn't know are left out.
func (p *Pool) TenantStats(ids ...string) []TenantStats {
	p.mu.Lock()
	tenants := slices.Collect(maps.Values(p.tenants))
	p.mu.Unlock()
	if len(ids) > 0 {
		tenants = slices.DeleteFunc(tenants, func(t *tenantDB) bool { return !slices.Contains(ids, t.ID) })
	}
	slices.SortFunc(tenants, func(a, b *tenantDB) int { return strings.Compare(a.ID, b.ID) })
	list := make([]TenantStats, len(tenants))
	for i, t := range tenants {
		list[i] = t.stats()
	}
	return list
}

// stats returns the tenant's counters.
func (t *tenantDB) stats() TenantStats {
	s := t.engine.Stats()
	return TenantStats{TenantID: t.ID, Leases: t.Leases.Count(), Server: s.Server, Opening: s.Dialing, Idle: s.Idle,
		Leased: s.Leased, Closing: s.Closing, Waiting: s.Waiting, Acquires: s.Acquires, Opens: s.Opens, Steals: s.Stolen,
		Refusals: s.Refusals, Waits: s.Waits, Backoff: s.Backoff}
}
