package tenantdb

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/tenantdb/tenantdb/internal/keyedpool"
)

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
	writeJSON(w, http.StatusOK, health{Status: healthOK})
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
	writeJSON(w, status, h)
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
	writeJSON(w, http.StatusOK, m.Stats())
}

// writeJSON writes a response that no cache may keep.
func writeJSON(w http.ResponseWriter, status int, body any) {
	text, _ := json.Marshal(body) // the types here can always be encoded
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(append(text, '\n'))
}
