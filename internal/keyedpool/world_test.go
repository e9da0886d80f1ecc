package keyedpool

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// target is what the tests' tenants are connected to.
type target struct {
	server  string
	version int
}

// mode is how a fake server, or a tenant's database there, behaves.
type mode int

const (
	sound   mode = iota
	refuses      // a dial fails
	hangs        // a dial takes until its timeout
	full         // a dial fails with Backpressure, or TenantFull
	panics       // a dial panics
	cut          // a close is never confirmed
)

// The causes that the fake's dials fail with.
var (
	errServerDown   = errors.New("server down")
	errTenantBroken = errors.New("tenant broken")
	errServerFull   = errors.New("server full")
	errTenantFull   = errors.New("no place for this tenant")
	errTenantAway   = errors.New("nobody serves this tenant")
	errUnconfirmed  = errors.New("close not confirmed")
	errInvalid      = errors.New("target not valid")
)

// classify is the tests' Config.Classify.
func classify(err error) Fault {
	switch {
	case errors.Is(err, errTenantBroken):
		return TenantFault
	case errors.Is(err, errServerFull):
		return Backpressure
	case errors.Is(err, errTenantFull):
		return TenantFull
	case errors.Is(err, errTenantAway):
		return TenantAway
	}
	return ServerFault
}

// socketState is where a socket is in its life, as the fake server sees it.
type socketState int

const (
	connecting socketState = iota
	connected
	disconnecting
	disconnected
)

// socket is a connection as the fake server sees it: from the first packet of a dial to the confirmed end.
type socket struct {
	tenant  string
	target  target
	episode int // the tenant's episode at its dial
	state   socketState
	over    map[string]time.Time // tenants that its dial seemed to overtake
	holder  *client
	dialed  time.Time // when its dial began
	born    time.Time
	freed   time.Time // when it was last laid down
}

// client is one Acquire and what follows it.
type client struct {
	seq      int
	tenant   string
	server   string // where it began to wait
	episode  int    // the tenant's episode when it began
	owner    *Owner
	lease    *Lease[target, *socket]
	cancel   context.CancelFunc
	began    time.Time
	deadline time.Time // of its context; zero: none
	canceled bool
	ended    time.Time // when Acquire returned; zero: it waits
	conn     Conn[target, *socket]
	socket   *socket // held
	err      error
}

// world is the oracle: fake servers that count sockets by themselves, and what is known of clients. It shares
// nothing with the pool but the calls between them. Within one instant of the bubble's clock, things that
// happen on different goroutines have no order; where that matters the checks compare times strictly.
type world struct {
	plan plan

	mu         sync.Mutex // guards all below
	sockets    map[*socket]struct{}
	clients    []*client
	targets    map[string]target
	changed    map[string]time.Time // when a tenant's target, or generation, last changed
	episode    map[string]int       // counts its generations
	drains     map[string]int
	serverMode map[string]mode
	tenantMode map[string]mode
	slow       map[string]bool // servers that confirm no close
	health     map[string]*health
	refusedAt  map[string]time.Time // when a tenant's dial last failed by its own fault
	dialedAt   map[string]time.Time // when a dial of a server last ended
	fullAt     map[string]time.Time // when it last failed for want of room for the tenant
	needSince  map[string]time.Time // since when a tenant waits without any connection
	faulty     bool                 // some fault was ever switched on
	forceAt    time.Time            // when a Close runs out of time; zero: not yet
	forced     bool                 // a Close ran out of time
	broken     error                // the first violation
}

// health is what the oracle knows of a server's failures.
type health struct {
	inRow   int
	tripped time.Time // when the breaker had to open; zero: closed
	probes  int       // dials begun since then and under way
}

// newWorld returns a world without sockets.
func newWorld(p plan) *world {
	return &world{
		plan: p, sockets: make(map[*socket]struct{}), targets: make(map[string]target),
		changed: make(map[string]time.Time),
		episode: make(map[string]int), drains: make(map[string]int), serverMode: make(map[string]mode),
		tenantMode: make(map[string]mode),
		slow:       make(map[string]bool), health: make(map[string]*health),
		refusedAt: make(map[string]time.Time),
		fullAt:    make(map[string]time.Time),
		dialedAt:  make(map[string]time.Time),
		needSince: make(map[string]time.Time),
	}
}

// violated records a violation of an invariant. Only the first counts: the rest may follow from it.
func (w *world) violated(format string, args ...any) {
	if w.broken == nil {
		w.broken = fmt.Errorf(format, args...)
	}
}

// on counts the sockets of a server by state.
func (w *world) on(server string) (n [disconnected]int, all int) {
	for s := range w.sockets {
		if s.target.server == server {
			n[s.state]++
			all++
		}
	}
	return n, all
}

// of counts the sockets of a tenant's present generation by state, and those of them that nobody holds.
func (w *world) of(tenant string) (n [disconnected]int, idle int) {
	for s := range w.sockets {
		if s.tenant == tenant && s.target == w.targets[tenant] && s.episode == w.episode[tenant] {
			n[s.state]++
			if s.state == connected && s.holder == nil {
				idle++
			}
		}
	}
	return n, idle
}

// waiting counts the clients of a tenant that wait.
func (w *world) waiting(tenant string) int {
	n := 0
	for _, c := range w.clients {
		if c.tenant == tenant && c.ended.IsZero() {
			n++
		}
	}
	return n
}

// need notes which tenants wait without any connection. It runs after every change that the world hears of.
func (w *world) need() {
	for tenant := range w.targets {
		n, _ := w.of(tenant)
		needs := w.waiting(tenant) > 0 && n[connecting]+n[connected] == 0
		if since, ok := w.needSince[tenant]; !needs {
			delete(w.needSince, tenant)
		} else if !ok || since.Before(w.changed[tenant]) {
			w.needSince[tenant] = time.Now()
		}
	}
}

// dial is Config.Dial.
func (w *world) dial(ctx context.Context, tenant string, to target) (*socket, error) {
	s, probe := w.connect(tenant, to)
	w.mu.Lock()
	server, own := w.serverMode[to.server], w.tenantMode[tenant]
	w.mu.Unlock()
	if server == hangs {
		<-ctx.Done()
		return nil, w.failed(ctx, s, probe, errServerDown)
	}
	time.Sleep(w.plan.dialTime)
	switch {
	case server == refuses:
		return nil, w.failed(ctx, s, probe, errServerDown)
	case server == full:
		return nil, w.failed(ctx, s, probe, errServerFull)
	case own == refuses:
		return nil, w.failed(ctx, s, probe, errTenantBroken)
	case own == full:
		return nil, w.failed(ctx, s, probe, errTenantFull)
	case own == panics:
		panic(w.failed(ctx, s, probe, errTenantBroken))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.checkCap(s)
	w.checkTurn(s)
	w.answered(to.server)
	w.dialedAt[to.server] = time.Now()
	s.state, s.born, s.freed = connected, time.Now(), time.Now()
	w.need()
	return s, nil
}

// connect begins a socket and checks that it may begin.
func (w *world) connect(tenant string, to target) (*socket, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	s := &socket{tenant: tenant, target: to, episode: w.episode[tenant], dialed: now}
	for other := range w.sockets {
		if other.state == connecting && other.tenant == tenant && other.target == to &&
			other.episode == s.episode {
			w.violated("10: %s is dialed twice at once", tenant)
		}
	}
	for _, failed := range []map[string]time.Time{w.refusedAt, w.fullAt} {
		if at, ok := failed[tenant]; ok && now.After(at) && now.Before(at.Add(w.plan.backoffMin/2)) {
			w.violated("9: %s is dialed %v after its failure, in its backoff", tenant, now.Sub(at))
		}
	}
	s.over = w.passedOver(tenant, to)
	probe := w.checkBreaker(to.server)
	w.sockets[s] = struct{}{}
	n, all := w.on(to.server)
	if all > w.plan.budget {
		w.violated("1: %d sockets on %s, budget %d", all, to.server, w.plan.budget)
	}
	if n[connecting] > w.plan.slots {
		w.violated("9: %d dials at once on %s, slots %d", n[connecting], to.server, w.plan.slots)
	}
	w.need()
	return s, probe
}

// checkCap checks a tenant's cap at the end of a dial. A connection that the pool has begun to close no
// longer counts, but the world hears of that only when the close's goroutine runs. This is sure once time has
// passed since the dial began. A dial that is called off at the instant when it began may end before, while
// the connection that it replaces still looks open: it proves nothing.
func (w *world) checkCap(s *socket) {
	own, _ := w.of(s.tenant)
	if time.Now().After(s.dialed) && own[connecting]+own[connected] > w.plan.cap() {
		w.violated("2: %s has %v, cap %d", s.tenant, own, w.plan.cap())
	}
}

// passedOver returns the tenants without a connection that the one now dialed for seems to overtake, with
// when their need began.
func (w *world) passedOver(tenant string, to target) map[string]time.Time {
	since, needs := w.needSince[tenant]
	over := make(map[string]time.Time)
	for other, earlier := range w.needSince {
		if other != tenant && w.targets[other].server == to.server && earlier.Before(time.Now()) &&
			(!needs || earlier.Before(since)) {
			over[other] = earlier
		}
	}
	return over
}

// checkTurn checks, at the end of a dial, that none of them is still in the same need: those that were dialed
// for at the same instant are not.
func (w *world) checkTurn(s *socket) {
	for other, since := range s.over {
		if !w.faulty && w.needSince[other].Equal(since) {
			w.violated("8: %s is dialed before %s, which has nothing and waits longer", s.tenant, other)
		}
	}
}

// checkBreaker checks that the server may be dialed, and tells whether the dial is one after the breaker
// opened.
func (w *world) checkBreaker(server string) bool {
	h := w.healthOf(server)
	if h.tripped.IsZero() || !time.Now().After(h.tripped) {
		return false
	}
	if time.Now().Before(h.tripped.Add(w.plan.backoffMin / 2)) {
		w.violated("9: %s is dialed while its breaker is open", server)
	}
	if h.probes > 0 {
		w.violated("9: %s is probed twice at once", server)
	}
	h.probes++
	return true
}

// healthOf returns what is known of a server's failures.
func (w *world) healthOf(server string) *health {
	if w.health[server] == nil {
		w.health[server] = &health{}
	}
	return w.health[server]
}

// answered notes that a server answered a dial.
func (w *world) answered(server string) {
	*w.healthOf(server) = health{}
}

// failed ends a socket whose dial fails. One that was called off proves nothing.
func (w *world) failed(ctx context.Context, s *socket, probe bool, err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	defer w.need()
	w.checkCap(s)
	delete(w.sockets, s)
	w.dialedAt[s.target.server] = time.Now()
	h := w.healthOf(s.target.server)
	if errors.Is(context.Cause(ctx), context.Canceled) {
		h.probes = 0
		return err
	}
	switch {
	case errors.Is(err, errServerDown):
		if h.inRow++; probe || h.tripped.IsZero() && h.inRow >= w.plan.threshold {
			*h = health{inRow: h.inRow, tripped: time.Now()}
		}
	case errors.Is(err, errTenantBroken):
		w.answered(s.target.server)
		if s.episode == w.episode[s.tenant] {
			w.refusedAt[s.tenant] = time.Now()
		}
	case errors.Is(err, errTenantFull):
		w.answered(s.target.server)
		if s.episode == w.episode[s.tenant] {
			w.fullAt[s.tenant] = time.Now()
		}
	default:
		w.answered(s.target.server)
	}
	return err
}

// close is Config.Close.
func (w *world) close(ctx context.Context, s *socket) error {
	w.mu.Lock()
	if s.state != connected {
		w.violated("3: a connection of %s is closed in state %d", s.tenant, s.state)
	}
	if s.holder != nil && !w.forcedNow() {
		w.violated("4: a connection of %s is closed in its holder's hands", s.tenant)
	}
	if age := time.Since(s.freed); s.holder == nil && age > w.plan.idleTimeout {
		w.violated("12: a connection of %s was idle for %v, limit %v", s.tenant, age, w.plan.idleTimeout)
	}
	s.state = disconnecting
	slow := w.slow[s.target.server]
	w.need()
	w.mu.Unlock()
	if slow {
		<-ctx.Done()
	} else {
		time.Sleep(w.plan.closeTime)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s.state = disconnected
	delete(w.sockets, s)
	delete(w.fullAt, s.tenant) // that made room
	if slow {
		return errUnconfirmed
	}
	return nil
}

// server is Config.Server.
func (w *world) server(tenant string, to target) (string, error) {
	if to.server == "" {
		return "", errInvalid
	}
	return to.server, nil
}
