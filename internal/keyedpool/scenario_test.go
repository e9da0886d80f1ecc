package keyedpool

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// plan is one scenario: a configuration and what happens.
type plan struct {
	tenants, servers          int
	budget, tenantCap         int
	reserve, slots, turn      int
	threshold                 int
	dialTime, closeTime       time.Duration
	idleTimeout, lifetime     time.Duration
	backoffMin                time.Duration
	acquireTimeout, steal     time.Duration
	nested                    time.Duration
	dialTimeout, drainTimeout time.Duration
	faults, gentle            bool
	steps                     []uint32
}

// cap is a tenant's cap as the documentation promises it.
func (p *plan) cap() int {
	if p.tenantCap == 0 {
		return min(max(2, p.budget/4), p.budget)
	}
	return min(p.tenantCap, p.budget)
}

// drawPlan draws a scenario. Times are odd, so that different things seldom happen at the same instant by
// accident.
func drawPlan(t *rapid.T) plan {
	few := func(low, high int, name string) int {
		return low + int(spread(rapid.Uint32().Draw(t, name)))%(high-low+1)
	}
	ms := func(low, high int, name string) time.Duration {
		return time.Duration(few(low, high, name))*time.Millisecond + 137*time.Microsecond
	}
	return plan{
		tenants: few(1, 6, "tenants"), servers: few(1, 2, "servers"), budget: few(1, 5, "budget"),
		tenantCap: few(0, 3, "cap"),
		reserve:   few(-1, 1, "reserve"), slots: few(1, 3, "slots"), turn: few(1, 3, "turn"),
		threshold: few(1, 3, "threshold"),
		dialTime:  ms(1, 8, "dial"), closeTime: ms(0, 4, "close"),
		idleTimeout: ms(60, 300, "idle"), lifetime: ms(60, 300, "lifetime"),
		backoffMin:     10 * time.Millisecond,
		acquireTimeout: ms(100, 300, "acquire"), steal: ms(5, 15, "steal"), nested: ms(20, 50, "nested"),
		dialTimeout: 53*time.Millisecond + 311*time.Microsecond, drainTimeout: 21*time.Millisecond +
			77*time.Microsecond,
		faults: few(0, 1, "faults") == 1, gentle: few(0, 1, "gentle") == 1,
		steps: rapid.SliceOfN(rapid.Uint32Range(0, 1<<24-1), 20, 45).Draw(t, "steps"),
	}
}

// spread mixes a number's bits: rapid draws small ones more often than large ones, and most steps would be
// alike.
func spread(word uint32) uint32 {
	word = (word ^ word>>15) * 0x9E3779B1
	word = (word ^ word>>13) * 0x85EBCA6B
	return word >> 8
}

// run is a scenario under way: the driver of clients against a pool and a world.
type run struct {
	*world
	pool *Pool[target, *socket]
	hold map[string]int // leases per tenant
	seq  int
}

// play runs a scenario in a bubble of its own, counts what it saw, and returns the first violation.
func play(t *testing.T, p plan, seen map[string]int) error {
	w := newWorld(p)
	synctest.Test(t, func(*testing.T) {
		pool, err := New(Config[target, *socket]{
			Dial: w.dial, Close: w.close, Server: w.server, Classify: classify,
			Budget: p.budget, TenantCap: p.tenantCap, Reserve: p.reserve, DialSlots: p.slots, Turn: p.turn,
			AcquireTimeout: p.acquireTimeout, StealAfter: p.steal, NestedAfter: p.nested,
			DialTimeout: p.dialTimeout, DrainTimeout: p.drainTimeout, IdleTimeout: p.idleTimeout,
			MaxLifetime: p.lifetime,
			BackoffMin:  p.backoffMin, BackoffMax: 8 * p.backoffMin, ServerRetry: 8 * p.backoffMin,
			BreakerThreshold: p.threshold,
		})
		if err != nil {
			w.violated("New: %v", err)
			return
		}
		r := &run{world: w, pool: pool, hold: make(map[string]int)}
		for _, step := range p.steps {
			r.step(step)
			if w.broken != nil {
				break
			}
		}
		r.finish(p.gentle)
		r.tally(seen)
	})
	return w.broken
}

// tally counts what a scenario put to the test.
func (r *run) tally(seen map[string]int) {
	seen["scenarios"]++
	seen[map[bool]string{true: "forced closes", false: "peaceful closes"}[r.forced]]++
	for _, st := range r.pool.Servers() {
		seen["opens"] += int(st.Opens)
		seen["steals"] += int(st.Steals)
		seen["failures"] += int(st.DialFailures)
		seen["unconfirmed"] += int(st.Unconfirmed)
	}
	for _, c := range r.clients {
		var e *Error
		switch {
		case errors.As(c.err, &e):
			seen[e.Reason.Error()]++
		case c.ended.After(c.began.Add(r.plan.dialTime)):
			seen["shared waits"]++
			fallthrough
		default:
			seen["grants"]++
		}
	}
}

// step does one thing, lets everything reap that needs no time, and checks what must hold then.
func (r *run) step(word uint32) {
	word = spread(word)
	kind, tenant, a, b := word%32, fmt.Sprintf("tenant%d", int(word>>5)%r.plan.tenants), int(word>>10)%64,
		int(word>>16)%256
	switch {
	case kind < 9:
		r.start(tenant, a, nil)
	case kind < 11:
		r.nest(a)
	case kind < 15:
		r.release(a, b)
	case kind < 16:
		r.abandon(a)
	case kind < 18:
		r.race(a, b)
	case kind < 22:
		time.Sleep(time.Duration(a%8+1)*time.Millisecond + 11*time.Microsecond)
	case kind < 24:
		time.Sleep(time.Duration(b/2)*time.Millisecond + 11*time.Microsecond)
	case kind < 26:
		r.move(tenant, a)
	case kind < 27:
		r.retire(tenant, a)
	case kind < 28:
		r.leaseOnly(tenant)
	case r.plan.faults:
		r.fault(tenant, a, b)
	}
	synctest.Wait()
	r.check()
}

// target returns a tenant's target, making one up for the first time.
func (r *run) target(tenant string) target {
	if _, ok := r.targets[tenant]; !ok {
		r.targets[tenant] = target{server: fmt.Sprintf("server%d", len(r.targets)%r.plan.servers), version: 1}
	}
	return r.targets[tenant]
}

// lease takes a lease on a tenant at its newest target.
func (r *run) lease(tenant string) *Lease[target, *socket] {
	r.mu.Lock()
	to := r.target(tenant)
	draining := r.drains[tenant] > 0
	r.mu.Unlock()
	lease, err := r.pool.Lease(tenant, to)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		closed := !r.forceAt.IsZero() && errors.Is(err, ErrClosed)
		if !closed && !(draining && errors.Is(err, ErrTenantUnavailable)) {
			r.violated("lease on %s: %v", tenant, err)
		}
		return nil
	}
	r.hold[tenant]++
	return &lease
}

// start starts a client. Each starts at an instant of its own, so that the order is beyond doubt.
func (r *run) start(tenant string, a int, owner *Owner) {
	time.Sleep(time.Microsecond)
	lease := r.lease(tenant)
	if lease == nil {
		return
	}
	synctest.Wait()
	ctx, cancel := context.WithCancel(context.Background())
	r.mu.Lock()
	r.seq++
	c := &client{
		seq: r.seq, tenant: tenant, server: r.targets[tenant].server, episode: r.episode[tenant],
		owner: owner, lease: lease, cancel: cancel, began: time.Now(),
	}
	if owner == nil {
		c.owner = &Owner{}
	}
	if a%5 == 0 {
		c.deadline = c.began.Add(time.Duration(a+1)*time.Millisecond + 29*time.Microsecond)
		ctx, c.cancel = context.WithDeadline(ctx, c.deadline)
	}
	r.clients = append(r.clients, c)
	r.need()
	r.mu.Unlock()
	go func() {
		conn, err := lease.Acquire(ctx, c.owner)
		r.acquired(c, conn, err)
	}()
}

// acquired takes note of an Acquire's end.
func (r *run) acquired(c *client, conn Conn[target, *socket], err error) {
	r.mu.Lock()
	c.ended, c.conn, c.err = time.Now(), conn, err
	if err == nil {
		c.socket = conn.Value()
		r.checkGrant(c)
		c.socket.holder = c
	} else {
		r.checkRefusal(c)
	}
	r.need()
	r.mu.Unlock()
	if err != nil {
		r.giveLease(c)
	}
}

// pick returns the n-th client that a test is true for, or nil.
func (r *run) pick(n int, test func(*client) bool) *client {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []*client
	for _, c := range r.clients {
		if test(c) {
			list = append(list, c)
		}
	}
	if len(list) == 0 {
		return nil
	}
	return list[n%len(list)]
}

func holds(c *client) bool { return c.socket != nil }
func waits(c *client) bool { return c.ended.IsZero() && !c.canceled }

// nest makes a holder acquire once more.
func (r *run) nest(n int) {
	if c := r.pick(n, holds); c != nil {
		r.start(c.tenant, 1, c.owner)
	}
}

// release makes a holder give back its connection, and now and then its lease before it.
func (r *run) release(n, how int) {
	c := r.pick(n, holds)
	if c == nil {
		return
	}
	if how%4 == 0 {
		r.giveLease(c)
	}
	r.giveConn(c, how)
	r.giveLease(c)
}

// healthily is a way in which giveConn gives back a connection that may serve the next one, once.
const healthily = 2

// giveConn gives back a client's connection, sometimes to be destroyed, alone or with all others, sometimes
// twice.
func (r *run) giveConn(c *client, how int) {
	verdict := Healthy
	switch how % 7 {
	case 0:
		verdict = Destroy
	case 1:
		verdict = Outdated
	}
	r.mu.Lock()
	c.socket.holder, c.socket.freed, c.socket = nil, time.Now(), nil
	r.mu.Unlock()
	c.conn.Release(verdict)
	if how%3 == 0 {
		c.conn.Release(Destroy)
	}
	c.cancel()
}

// giveLease gives back a client's lease.
func (r *run) giveLease(c *client) {
	if c.lease != nil {
		r.mu.Lock()
		r.hold[c.tenant]--
		r.mu.Unlock()
		c.lease.Release()
		c.lease.Release()
		c.lease = nil
	}
}

// abandon cancels a waiter. Its lease is given back when the Acquire has returned.
func (r *run) abandon(n int) {
	if c := r.pick(n, waits); c != nil {
		r.mu.Lock()
		c.canceled = true
		r.mu.Unlock()
		c.cancel()
	}
}

// race cancels the first waiter of a tenant at the very moment when a connection comes to it, or the tenant
// moves.
func (r *run) race(n, how int) {
	holder := r.pick(n, func(c *client) bool { return holds(c) && r.waiting(c.tenant) > 0 })
	if holder == nil {
		return
	}
	first := r.pick(0, func(c *client) bool { return waits(c) && c.tenant == holder.tenant })
	if first == nil {
		return
	}
	r.mu.Lock()
	first.canceled = true
	r.mu.Unlock()
	if how%4 > 0 {
		first.cancel()
	}
	if how%4 == 3 {
		r.move(holder.tenant, how/4)
		return
	}
	r.giveConn(holder, healthily)
	first.cancel()
	r.giveLease(holder)
}

// move gives a tenant a new target, on the same server or another, and lets the pool know by a lease.
func (r *run) move(tenant string, a int) {
	r.mu.Lock()
	old := r.target(tenant)
	if r.drains[tenant] > 0 {
		r.mu.Unlock()
		return
	}
	to := target{server: fmt.Sprintf("server%d", a%r.plan.servers), version: old.version + 1}
	r.targets[tenant] = to
	delete(r.refusedAt, tenant)
	delete(r.fullAt, tenant)
	r.renewed(tenant)
	r.mu.Unlock()
	r.leaseOnly(tenant)
}

// renewed notes that a tenant's next lease starts a new generation.
func (r *run) renewed(tenant string) {
	r.episode[tenant]++
	r.changed[tenant] = time.Now()
	r.need()
}

// leaseOnly takes a lease, and keeps or releases it.
func (r *run) leaseOnly(tenant string) {
	if lease := r.lease(tenant); lease != nil {
		r.mu.Lock()
		r.hold[tenant]--
		r.mu.Unlock()
		lease.Release()
	}
	lease, err := r.pool.Lease(tenant, target{})
	lease.Release()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !errors.Is(err, errInvalid) || !errors.Is(err, ErrTenantUnavailable) {
		r.violated("15: a target that is not valid: %v", err)
	}
}

// retire retires or drains a tenant. Where it is only retired, a lease follows and starts a new generation.
func (r *run) retire(tenant string, a int) {
	r.mu.Lock()
	r.target(tenant)
	if r.drains[tenant] > 0 {
		r.mu.Unlock()
		return
	}
	if a%2 == 0 {
		r.mu.Unlock()
		r.renew(tenant, func() { r.pool.Retire(tenant) })
		return
	}
	r.drains[tenant]++
	r.mu.Unlock()
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(a)*time.Millisecond)
		defer cancel()
		err := r.pool.Drain(ctx, tenant)
		r.mu.Lock()
		r.checkDrained(tenant, err)
		r.drains[tenant]--
		r.mu.Unlock()
		r.renew(tenant, func() {})
	}()
}

// renew makes a tenant's next generation begin with a lease, after what calls for it.
func (r *run) renew(tenant string, begin func()) {
	begin()
	r.mu.Lock()
	ending := !r.forceAt.IsZero()
	if !ending {
		r.renewed(tenant)
	}
	r.mu.Unlock()
	if !ending {
		r.leaseOnly(tenant)
	}
}

// fault changes how a server or a tenant behaves.
func (r *run) fault(tenant string, a, b int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faulty = true
	server := fmt.Sprintf("server%d", b%r.plan.servers)
	switch a % 8 {
	case 0, 1:
		r.serverMode[server] = []mode{refuses, hangs, full}[b%3]
	case 2, 3:
		r.tenantMode[tenant] = []mode{refuses, panics, full}[b%3]
	case 4:
		r.slow[server] = true
	default:
		r.heal()
	}
}

// heal ends all faults.
func (r *run) heal() {
	clear(r.serverMode)
	clear(r.tenantMode)
	clear(r.slow)
}
