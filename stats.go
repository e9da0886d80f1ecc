package tenantdb

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/tenantdb/tenantdb/internal/keyedpool"
)

// Stats is a snapshot of a Middleware's cache and pool. Its counters count since [New], those of the pool
// since [NewPool].
type Stats struct {
	// Entries and Denials are the numbers of grants and refusals in the cache.
	Entries, Denials int
	// Hits counts lookups that found a grant, and DenialHits those that found a refusal, both whether or not
	// it was still valid. Misses counts lookups that waited for a load.
	Hits, DenialHits, Misses uint64
	// Loads counts lookups in the host database, LoadFailures those that failed, and Refreshes those that
	// began in the background before an entry ended.
	Loads, LoadFailures, Refreshes uint64
	// StaleServes counts requests that were served with cached facts older than [CacheConfig.MaxStaleness],
	// because the host database didn't answer.
	StaleServes uint64
	// SincePoll is how long ago the last complete poll for changes began. No valid entry is older. It is
	// negative before the first poll.
	SincePoll time.Duration
	// FeedFailing reports whether the last poll for changes failed.
	FeedFailing bool
	// MaxOverdue is the [SubscriptionPolicy.MaxOverdue] of [Config.Subscription].
	MaxOverdue time.Duration
	// Pool is the snapshot of [Middleware.Pool].
	Pool PoolStats
}

// Stats returns a snapshot.
func (m *Middleware) Stats() Stats {
	c := m.resolver.cache.Stats()
	return Stats{Entries: c.Entries, Denials: c.Denials, Hits: c.Hits, DenialHits: c.DenialHits,
		Misses: c.Misses, Loads: c.Loads, LoadFailures: c.Failures, Refreshes: c.Refreshes,
		StaleServes: c.StaleServes, SincePoll: c.SincePoll, FeedFailing: m.resolver.feed.failing.Load(),
		MaxOverdue: m.policy.MaxOverdue, Pool: m.pool.Stats()}
}

// Invalidate forgets what is cached about a user and about a tenant, by their ids. An empty id is ignored.
// Changes of the host database are noticed without it.
func (m *Middleware) Invalidate(userID, tenantID string) {
	if userID != "" {
		m.resolver.cache.UserChanged(userID)
	}
	if tenantID != "" {
		m.resolver.cache.TenantChanged(tenantID)
	}
}

// PoolStats is a snapshot of a Pool. Its counters count since [NewPool]. It contains no secret.
type PoolStats struct {
	// Tenants is the number of tenants in the pool, and Leased the number of those with a lease.
	Tenants, Leased int
	// Servers are the PostgreSQL servers, sorted by host:port. Each is a snapshot of its own.
	Servers []ServerStats
	// SQLite is about the SQLite files.
	SQLite SQLiteStats
}

// ServerStats is a snapshot of a PostgreSQL server.
type ServerStats struct {
	// Server is the host:port. If the db_url names several hosts, it is the sorted list of all, separated by
	// commas.
	Server string
	// Budget is how many connections the pool may have there. Opening, Idle, Leased and Closing are the
	// numbers of connections in each state.
	Budget, Opening, Idle, Leased, Closing int
	// Waiting is the number of callers that wait for a connection. TenantsWithoutConn is the number of
	// tenants with a waiting caller but without a connection.
	Waiting, TenantsWithoutConn int
	// Acquires counts connections that callers got, Opens attempts to open one, and OpenFailures those that
	// failed.
	Acquires, Opens, OpenFailures uint64
	// Evictions counts idle connections that were closed for another tenant. Refusals counts callers that
	// got an error instead of a connection.
	Evictions, Refusals uint64
	// Unconfirmed counts closed connections whose end the server didn't confirm in time. The server may still
	// count them.
	Unconfirmed uint64
	// Waits counts waits for a connection by their length. Element 0 counts those below a millisecond,
	// element i those from 2^(i-1) to 2^i ms, and the last one all that were longer. A query that found an
	// idle connection hasn't waited. The time to open a connection counts, and so does a wait that ended in
	// a refusal.
	Waits [14]uint64
	// Breaker is "closed" if the server answers, "open" if it doesn't and the pool pauses, and "half-open" if
	// the next attempt decides.
	Breaker string
}

// SQLiteStats is a snapshot of the SQLite files.
type SQLiteStats struct {
	// Open is the number of open files, MaxOpen the limit.
	Open, MaxOpen int
	// Waiting is the number of callers that wait to open a file.
	Waiting int
	// Opens counts files that were opened, and Evictions those that were closed to open another.
	Opens, Evictions uint64
}

// TenantStats is a snapshot of one tenant. Its counters start at zero if the pool forgets the tenant.
type TenantStats struct {
	// TenantID is the tenant's id. Server is its server's host:port, or "" for SQLite.
	TenantID, Server string
	// Leases is the number of leases on the tenant's database: of requests, Enter, Detach and [Pool.Lease].
	Leases int
	// Opening, Idle, Leased and Closing are the numbers of connections in each state. On SQLite only Idle and
	// Leased are known.
	Opening, Idle, Leased, Closing int
	// Waiting is the number of callers that wait for a connection. This and all that follows is 0 on SQLite.
	Waiting int
	// Acquires counts connections that callers got, and Opens attempts to open one. Evictions counts the
	// tenant's idle connections that were closed for another tenant. Refusals counts callers that got an
	// error instead of a connection.
	Acquires, Opens, Evictions, Refusals uint64
	// Waits counts waits for a connection by their length, as [ServerStats.Waits] does.
	Waits [14]uint64
	// Backoff is how long the pool still waits before it opens a connection, after an attempt failed by the
	// tenant's own fault.
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
			Server: s.Server, Budget: s.Budget, Opening: s.Dialing, Idle: s.Idle, Leased: s.Leased,
			Closing: s.Closing, Waiting: s.Waiting, TenantsWithoutConn: s.Needy, Acquires: s.Acquires,
			Opens: s.Opens, OpenFailures: s.DialFailures, Evictions: s.Steals, Refusals: s.Refusals,
			Unconfirmed: s.Unconfirmed, Waits: s.Waits, Breaker: s.Breaker.String(),
		})
	}
	stats.SQLite = SQLiteStats(p.sqlite.Stats())
	return stats
}

// TenantStats returns the snapshots of tenants, sorted by id: those with the given ids, or all if none is
// given. Tenants that the pool doesn't know are left out.
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

// stats returns a snapshot of the tenant.
func (t *tenantDB) stats() TenantStats {
	s := t.engine.Stats()
	return TenantStats{TenantID: t.ID, Server: s.Server, Leases: t.Leases.Count(), Opening: s.Dialing,
		Idle: s.Idle, Leased: s.Leased, Closing: s.Closing, Waiting: s.Waiting, Acquires: s.Acquires,
		Opens: s.Opens, Evictions: s.Stolen, Refusals: s.Refusals, Waits: s.Waits, Backoff: s.Backoff}
}

// health is the body of Livez and Readyz.
type health struct {
	Status  string   `json:"status"`
	Reasons []string `json:"reasons,omitempty"`
}

// The statuses of a health.
const (
	healthOK          = "ok"
	healthDegraded    = "degraded"
	healthUnavailable = "unavailable"
)

// Livez answers 200 as long as the process serves requests. It asks no database, because to restart the
// process would bring back none, and would lose the cached facts that serve meanwhile.
//
// Serve it outside the middleware, or name its route in [Config.Skip].
func (m *Middleware) Livez(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, "application/json", health{Status: healthOK})
}

// Readyz answers whether the process should get requests, and why. It asks no database itself. The body's
// status is
//
//   - "ok", with 200.
//   - "degraded", with 200: the host database doesn't answer, but cached facts may still serve; or a server
//     of tenants doesn't answer, which concerns only its own tenants. All processes would say the same, so
//     taking one out of service would help nobody.
//   - "unavailable", with 503: the middleware was closed, the host database has not answered since the start,
//     or it hasn't answered for longer than [CacheConfig.MaxStaleIfDown].
//
// The reasons name no host and no tenant. Serve it outside the middleware, or name its route in
// [Config.Skip].
func (m *Middleware) Readyz(w http.ResponseWriter, _ *http.Request) {
	h := m.health()
	status := http.StatusOK
	if h.Status == healthUnavailable {
		status = http.StatusServiceUnavailable
	}
	writeJSON(w, status, "application/json", h)
}

// health judges the process by what it knows already.
func (m *Middleware) health() health {
	if m.closed.Load() {
		return health{healthUnavailable, []string{"the process is shutting down"}}
	}
	silent := m.resolver.cache.Stats().SincePoll
	left := m.resolver.maxStaleIfDown - silent
	switch {
	case silent < 0:
		return health{healthUnavailable, []string{"the host database has not answered yet"}}
	case left < 0:
		return health{healthUnavailable, []string{"the host database doesn't answer, and the cached facts " +
			"are too old to serve"}}
	}
	h := health{Status: healthOK}
	if silent > m.resolver.maxStaleness || m.resolver.feed.failing.Load() {
		h.Reasons = append(h.Reasons, fmt.Sprintf("the host database doesn't answer; cached facts serve for "+
			"another %s", left.Round(time.Second)))
	}
	servers, silentServers := m.pool.pg.Servers(), 0
	for _, server := range servers {
		if server.Breaker != keyedpool.BreakerClosed {
			silentServers++
		}
	}
	if silentServers > 0 {
		h.Reasons = append(h.Reasons, fmt.Sprintf("%d of %d servers of tenants don't answer", silentServers,
			len(servers)))
	}
	if len(h.Reasons) > 0 {
		h.Status = healthDegraded
	}
	return h
}

// ServeStats answers with [Middleware.Stats] as JSON. The names are those of the fields, and durations are
// in nanoseconds. The servers' addresses are among them, so serve it to operators only.
func (m *Middleware) ServeStats(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, "application/json", m.Stats())
}
