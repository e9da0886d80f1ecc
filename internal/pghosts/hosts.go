// Package pghosts connects to PostgreSQL where a URL names several hosts of which one serves.
//
// The host that served last is tried first. Another one joins in when it fails, or after [Delay] without an
// answer. pgx makes each connection, TLS, authentication and target_session_attrs included. A primary on an
// older timeline than one seen before is refused: a standby has been promoted since, and what that primary
// knows is out of date.
package pghosts

import (
	"context"
	"errors"
	"fmt"
	"net"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// nextHostDelay is how long a host may take to accept a connection before the next one is tried beside it
	// (RFC 8305, section 8).
	nextHostDelay = 250 * time.Millisecond
	// Patience is how long a server that has other hosts beside it may take to answer a ping or a poll's
	// query.
	Patience = 2 * nextHostDelay
	// maxSets bounds how many lists of hosts are remembered, maxClusters how many clusters of each. Past that
	// all are forgotten.
	maxSets, maxClusters = 1024, 16
)

// Hosts remembers which host of each list served last, and on which timeline. The zero value is not usable:
// see [New].
type Hosts struct {
	running sync.WaitGroup

	mu   sync.Mutex // guards sets
	sets map[string]*set
}

// New returns a Hosts that remembers nothing yet.
func New() *Hosts {
	return &Hosts{sets: map[string]*set{}}
}

// Wait returns when every attempt has ended. Those that another one has outrun have been cancelled.
func (h *Hosts) Wait() { h.running.Wait() }

// Several reports whether a config names more than one host.
func Several(cfg *pgx.ConnConfig) bool { return len(split(cfg)) > 1 }

// split returns a config for each host. pgx lists a host twice where TLS is optional.
func split(cfg *pgx.ConnConfig) []*pgx.ConnConfig {
	var hosts []*pgx.ConnConfig
	all := append([]*pgconn.FallbackConfig{{Host: cfg.Host, Port: cfg.Port, TLSConfig: cfg.TLSConfig}},
		cfg.Fallbacks...)
	for _, next := range all {
		same := func(host *pgx.ConnConfig) bool { return host.Host == next.Host && host.Port == next.Port }
		if i := slices.IndexFunc(hosts, same); i >= 0 {
			hosts[i].Fallbacks = append(hosts[i].Fallbacks, next)
			continue
		}
		host := cfg.Copy()
		host.Host, host.Port, host.TLSConfig, host.Fallbacks = next.Host, next.Port, next.TLSConfig, nil
		hosts = append(hosts, host)
	}
	return hosts
}

// kind tells apart the functions by which pgx obeys target_session_attrs.
func kind(cfg *pgx.ConnConfig) uintptr { return reflect.ValueOf(cfg.ValidateConnect).Pointer() }

// of returns what is remembered of a list of hosts, whatever its order, by those who look for the same kind
// of server. It sorts the list; the order that it had is the one in which hosts of which nothing is known are
// tried.
func (h *Hosts) of(hosts []*pgx.ConnConfig) *set {
	given := slices.Clone(hosts)
	slices.SortFunc(hosts, func(a, b *pgx.ConnConfig) int { return strings.Compare(address(a), address(b)) })
	var name strings.Builder
	fmt.Fprintf(&name, "%x", kind(hosts[0]))
	for _, host := range hosts {
		fmt.Fprintf(&name, " %q", address(host))
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if known := h.sets[name.String()]; known != nil {
		return known
	}
	if len(h.sets) >= maxSets {
		clear(h.sets)
	}
	fresh := &set{several: len(hosts) > 1, timelines: map[string]uint64{}}
	for _, host := range given {
		fresh.order = append(fresh.order, slices.Index(hosts, host))
	}
	h.sets[name.String()] = fresh
	return fresh
}

// address returns a host's name and port.
func address(host *pgx.ConnConfig) string {
	return net.JoinHostPort(host.Host, strconv.Itoa(int(host.Port)))
}

// set is what is remembered of a list of hosts.
type set struct {
	several bool
	epoch   atomic.Uint64 // changes when another server serves, or when the one that did falls silent

	mu        sync.Mutex // guards what follows; never held across I/O
	order     []int      // the hosts: the last one that served first, the last one that failed last
	current   served
	timelines map[string]uint64 // the highest that was seen, by system identifier
}

// served says which host served, and as which server.
type served struct {
	host     int
	cluster  string // the system identifier; "" where it or the timeline can't be read
	timeline uint64
}

// same reports whether both may be the same server in the same life. Of two roles one may be refused the
// identity.
func (s served) same(as served) bool {
	return s.host == as.host && (s.cluster == "" || as.cluster == "" || s == as)
}

// hosts returns the order in which to try the hosts.
func (s *set) hosts() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.order)
}

// failed has a host tried after the others.
func (s *set) failed(host int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failedLocked(host)
}

func (s *set) failedLocked(host int) {
	i := slices.Index(s.order, host)
	s.order = append(slices.Delete(s.order, i, i+1), host)
}

// admit refuses a server that is on an older timeline than one seen before.
func (s *set) admit(as served) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.admitLocked(as)
}

func (s *set) admitLocked(as served) error {
	if as.cluster == "" {
		return nil
	}
	newest, known := s.timelines[as.cluster]
	if as.timeline < newest {
		return unfit{fmt.Errorf("the server is on timeline %d, and timeline %d has been seen: a standby has "+
			"taken over from it. "+
			"Where it was restored on purpose, start this process again", as.timeline, newest)}
	}
	if !known && len(s.timelines) >= maxClusters {
		clear(s.timelines)
	}
	s.timelines[as.cluster] = as.timeline
	return nil
}

// serves notes that a host serves. Connections to another server than this one are outdated from now on.
func (s *set) serves(as served) (Standing, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.admitLocked(as); err != nil { // one that has taken over may have been seen meanwhile
		return Standing{}, err
	}
	if s.epoch.Load() == 0 || !s.current.same(as) {
		s.epoch.Add(1)
	} else if as.cluster == "" {
		as = s.current
	}
	s.current = as
	i := slices.Index(s.order, as.host)
	s.order = slices.Insert(slices.Delete(s.order, i, i+1), 0, as.host)
	return Standing{set: s, epoch: s.epoch.Load()}, nil
}

// Standing tells whether a connection is still one to the server that serves. The zero value's always is.
type Standing struct {
	set   *set
	epoch uint64
	alone <-chan struct{} // closed once the attempts that this one outran have ended; nil: none did
}

// Alone returns once the attempts at other hosts that the connection outran have ended, each with its socket,
// or with ctx.
func (s Standing) Alone(ctx context.Context) error {
	if s.alone == nil {
		return nil
	}
	select {
	case <-s.alone:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Outdated reports whether another server serves now, or this one has fallen silent.
func (s Standing) Outdated() bool { return s.set != nil && s.set.epoch.Load() != s.epoch }

// Several reports whether there are other hosts.
func (s Standing) Several() bool { return s.set != nil && s.set.several }

// Silent says that the server doesn't answer on a connection: where there are other hosts all connections to
// it are outdated, and it is tried after the others.
func (s Standing) Silent() {
	if !s.Several() {
		return
	}
	s.set.mu.Lock()
	defer s.set.mu.Unlock()
	if s.set.epoch.CompareAndSwap(s.epoch, s.epoch+1) {
		s.set.failedLocked(s.set.current.host)
	}
}

// identity is the query for a server's cluster and timeline. The timeline of a standby isn't judged.
const identity = `SELECT system_identifier, CASE WHEN pg_catalog.pg_is_in_recovery() THEN ''
	ELSE pg_catalog.left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 8) END
	FROM pg_catalog.pg_control_system()`

// IdentityRefused reports whether a server refused to tell its cluster or timeline: the role has no right to
// it, the server doesn't support or know the function, or not in its state.
func IdentityRefused(err error) bool {
	var refused *pgconn.PgError
	return errors.As(err, &refused) &&
		slices.Contains([]string{"42501", "0A000", "42883", "55000"}, refused.Code)
}

// identify asks a server for its cluster and timeline. Some providers' servers and some roles are refused
// them, and the host is all that is known then.
func identify(ctx context.Context, conn *pgconn.PgConn, host int) (served, error) {
	as := served{host: host}
	results, err := conn.Exec(ctx, identity).ReadAll()
	switch {
	case IdentityRefused(err):
		return as, nil
	case err != nil:
		return as, err
	}
	row := results[0].Rows[0]
	if timeline, err := strconv.ParseUint(string(row[1]), 16, 64); err == nil {
		as.cluster, as.timeline = string(row[0]), timeline
	}
	return as, nil
}
