package tenantdb

import (
	"maps"
	"slices"
	"strings"
	"time"
)

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
		if t.leases.count() > 0 {
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
	stats.SQLite = p.sqlite.stats()
	return stats
}

// TenantStats returns the figures of the tenants with these ids, of all without any, sorted by id. Tenants
// that the pool doesn't know are left out.
func (p *Pool) TenantStats(ids ...string) []TenantStats {
	p.mu.Lock()
	tenants := slices.Collect(maps.Values(p.tenants))
	p.mu.Unlock()
	if len(ids) > 0 {
		tenants = slices.DeleteFunc(tenants, func(t *tenantDB) bool { return !slices.Contains(ids, t.id) })
	}
	slices.SortFunc(tenants, func(a, b *tenantDB) int { return strings.Compare(a.id, b.id) })
	list := make([]TenantStats, len(tenants))
	for i, t := range tenants {
		list[i] = t.stats()
	}
	return list
}

// stats returns the tenant's figures.
func (t *tenantDB) stats() TenantStats {
	stats := TenantStats{TenantID: t.id, Leases: t.leases.count()}
	if f, ok := t.engine.(*sqliteDB); ok {
		for _, h := range f.handles() {
			h.mu.Lock()
			stats.Idle += len(h.idle)
			h.mu.Unlock()
			stats.Leased += len(h.places)
		}
		return stats
	}
	k, _ := t.pool.pg.Tenant(t.id) // zero where it left between the two looks
	stats.Server, stats.Opening, stats.Idle, stats.Leased, stats.Closing = k.Server, k.Dialing, k.Idle, k.Leased, k.Closing
	stats.Waiting, stats.Acquires, stats.Opens, stats.Steals, stats.Refusals = k.Waiting, k.Acquires, k.Opens, k.Stolen, k.Refusals
	stats.Waits, stats.Backoff = k.Waits, k.Backoff
	return stats
}

// stats returns the files' figures.
func (s *sqliteFiles) stats() SQLiteStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return SQLiteStats{Open: s.open, MaxOpen: s.max, Waiting: int(s.waiting.Load()), Opens: s.opens, Steals: s.steals.Load()}
}
