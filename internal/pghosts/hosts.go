// Package pghosts connects to PostgreSQL by URLs that name several hosts of which one serves.
//
// The host that served last is tried first. The next one is tried beside it when it fails, or after 250 ms
// without an answer. pgx makes each connection, including TLS, authentication and target_session_attrs. A
// primary on an older timeline than one seen before is refused: a standby has been promoted since, and that
// primary's data is out of date.
package pghosts

import (
	"context"
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

	"github.com/tenantdb/tenantdb/internal/sqlstate"
)

const (
	// nextHostDelay is how long a host may take to accept a connection before the next one is tried beside
	// it (RFC 8305, section 8).
	nextHostDelay = 250 * time.Millisecond
	// Patience is how long a server with other hosts beside it may take to answer a ping or a poll's query.
	Patience = 2 * nextHostDelay
	// maxSets limits how many lists of hosts are remembered, maxClusters how many clusters of each. At the
	// limit all are forgotten.
	maxSets, maxClusters = 1024, 16
)

// Hosts remembers which host of each list served last, and on which timeline. Use [New] to create one.
type Hosts struct {
	running sync.WaitGroup

	mu   sync.Mutex // guards sets
	sets map[string]*set
}

// New returns an empty Hosts.
func New() *Hosts {
	return &Hosts{sets: map[string]*set{}}
}

// Wait returns when every attempt has ended, including those that were cancelled because another host was
// faster.
func (h *Hosts) Wait() { h.running.Wait() }

// Several reports whether a config names more than one host.
func Several(cfg *pgx.ConnConfig) bool { return len(split(cfg)) > 1 }

// split returns a config for each host. pgx lists a host twice if TLS is optional.
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

// kind identifies the function by which pgx checks target_session_attrs.
func kind(cfg *pgx.ConnConfig) uintptr { return reflect.ValueOf(cfg.ValidateConnect).Pointer() }

// of returns what is remembered of a list of hosts, in any order, for the same kind of server. It sorts the
// list. Hosts of which nothing is known are tried in the list's original order.
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
	epoch   atomic.Uint64 // changes when another server serves, or when the current one stops answering

	mu        sync.Mutex // guards the fields below; never held across I/O
	order     []int      // the host that served last comes first, the one that failed last comes last
	current   served
	timelines map[string]uint64 // the highest seen of each system identifier
}

// served identifies a server: its host and, if known, its cluster and timeline.
type served struct {
	host     int
	cluster  string // the system identifier; "" if it or the timeline can't be read
	timeline uint64
}

// same reports whether both may be the same server, not promoted since. A role may not be allowed to read
// the identity.
func (s served) same(as served) bool {
	return s.host == as.host && (s.cluster == "" || as.cluster == "" || s == as)
}

// hosts returns the order in which to try the hosts.
func (s *set) hosts() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.order)
}

// failed puts a host behind the others.
func (s *set) failed(host int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failedLocked(host)
}

func (s *set) failedLocked(host int) {
	i := slices.Index(s.order, host)
	s.order = append(slices.Delete(s.order, i, i+1), host)
}

// admit refuses a server on an older timeline than one seen before.
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

// serves records that a host serves. Connections to any other server are outdated from now on.
func (s *set) serves(as served) (Standing, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.admitLocked(as); err != nil { // another server may have taken over meanwhile
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

// Standing tells whether a connection's server still serves. That of the zero value always does.
type Standing struct {
	set   *set
	epoch uint64
	alone <-chan struct{} // closed once the slower attempts at other hosts have ended; nil if there were none
}

// Alone waits until the slower attempts at other hosts have ended and closed their sockets, or until ctx
// ends.
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

// Outdated reports whether another server serves now, or this one has stopped answering.
func (s Standing) Outdated() bool { return s.set != nil && s.set.epoch.Load() != s.epoch }

// Several reports whether there are other hosts.
func (s Standing) Several() bool { return s.set != nil && s.set.several }

// Silent records that the server doesn't answer. If there are other hosts, all connections to it are
// outdated, and it is tried after the others.
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

// identity is the query for a server's cluster and timeline. A standby's timeline isn't compared.
const identity = `SELECT system_identifier, CASE WHEN pg_catalog.pg_is_in_recovery() THEN ''
	ELSE pg_catalog.left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 8) END
	FROM pg_catalog.pg_control_system()`

// IdentityRefused reports whether a server refused to tell its cluster or timeline: the role has no right to
// it, or the server doesn't support or know the function, or not in its state.
func IdentityRefused(err error) bool {
	switch sqlstate.Of(err) {
	case sqlstate.InsufficientPrivilege, sqlstate.FeatureNotSupported, sqlstate.UndefinedFunction,
		sqlstate.ObjectNotInPrerequisiteState:
		return true
	}
	return false
}

// identify queries a server's cluster and timeline. If the server refuses them, only the host is known.
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
