package keyedpool

import (
	"context"
	"errors"
	"slices"
	"time"
)

// checkGrant checks a connection that a client has just got.
func (r *run) checkGrant(c *client) {
	s, now := c.socket, time.Now()
	if s.holder != nil {
		r.violated("3: a connection of %s has two holders", s.tenant)
	}
	if s.state != connected && !r.forcedNow() {
		r.violated("3: %s gets a connection in state %d", c.tenant, s.state)
	}
	current := s.target == r.targets[c.tenant] && s.episode == r.episode[c.tenant]
	if s.tenant != c.tenant || !current && !r.changed[c.tenant].Equal(now) {
		r.violated("5: %s gets a connection of %s %v, generation %d, instead of %v, %d",
			c.tenant, s.tenant, s.target, s.episode, r.targets[c.tenant], r.episode[c.tenant])
	}
	if age := now.Sub(s.born); age > r.plan.lifetime {
		r.violated("12: %s gets a connection of age %v, limit %v", c.tenant, age, r.plan.lifetime)
	}
	if waited := now.Sub(c.began); waited > r.plan.acquireTimeout {
		r.violated("6: %s got a connection after %v", c.tenant, waited)
	}
}

// checkRefusal checks that a client's error has a reason that the oracle knows of.
func (r *run) checkRefusal(c *client) {
	waited := c.ended.Sub(c.began)
	late := !c.deadline.IsZero() && !c.ended.Before(c.deadline)
	var e *Error
	if !errors.As(c.err, &e) || e.Tenant != c.tenant || e.Waited != waited {
		r.violated("an Acquire of %s failed after %v with %v", c.tenant, waited, c.err)
		return
	}
	ok := false
	switch e.Reason {
	case ErrBusy:
		ok = waited == r.plan.acquireTimeout || late
	case context.Canceled:
		ok = c.canceled || r.forcedNow()
	case ErrNested:
		ok = waited >= r.plan.nested && r.deadlocked(c)
	case ErrTenantUnavailable:
		ok = r.faulty && errors.Is(c.err, errTenantBroken) || e.Cause != nil &&
			r.tenantMode[c.tenant] == panics
		ok = ok || r.faulty && !r.refusedAt[c.tenant].IsZero()
	case ErrServerUnavailable:
		ok = r.faulty && errors.Is(c.err, errServerDown) || (waited == r.plan.acquireTimeout || late) &&
			r.awaitsDial(c)
	case ErrClosed:
		ok = r.forcedNow()
	}
	if !ok || waited > r.plan.acquireTimeout {
		r.violated("7: an Acquire of %s failed after %v with %v", c.tenant, waited, c.err)
	}
}

// awaitsDial tells whether what a client waits for can be a dial that is under way: its tenant has no
// connection, and some dial of the server lasted until now.
func (r *run) awaitsDial(c *client) bool {
	server := r.targets[c.tenant].server
	lasts := r.dialedAt[server].Equal(time.Now())
	for s := range r.sockets {
		if s.tenant == c.tenant && s.episode == r.episode[c.tenant] && s.state == connected &&
			s.born.Before(time.Now()) {
			return false
		}
		lasts = lasts || s.state == connecting && s.target.server == server
	}
	return lasts
}

// deadlocked tells whether a client waits for ever: its tenant is at its cap, and every holder waits, the
// client's owner too.
func (r *run) deadlocked(c *client) bool {
	held, mine := 0, false
	for s := range r.sockets {
		if s.tenant != c.tenant || s.holder == nil || s.episode != r.episode[c.tenant] {
			continue
		}
		held++
		mine = mine || s.holder.owner == c.owner
		if !slices.ContainsFunc(r.clients, func(o *client) bool {
			return o.owner == s.holder.owner && (o.ended.IsZero() || o.ended.Equal(time.Now())) &&
				o.tenant == c.tenant
		}) {
			return false
		}
	}
	return mine && held >= r.plan.cap()
}

// forcedNow tells whether the time of a Close is over.
func (w *world) forcedNow() bool {
	return !w.forceAt.IsZero() && !time.Now().Before(w.forceAt)
}

// checkDrained checks what a Drain promises.
func (r *run) checkDrained(tenant string, err error) {
	left := 0
	for s := range r.sockets {
		if s.tenant == tenant {
			left++
		}
	}
	var held *HoldersError
	switch {
	case err == nil && left+r.hold[tenant] > 0:
		r.violated("11: %s is drained with %d sockets and %d leases", tenant, left, r.hold[tenant])
	case err != nil && !errors.As(err, &held):
		r.violated("a Drain failed with %v", err)
	}
}

// check checks what must hold whenever everything has settled.
func (r *run) check() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for s := range r.sockets {
		if s.state == connected && s.holder == nil && time.Since(s.freed) > r.plan.idleTimeout {
			r.violated("12: a connection of %s is idle for %v, limit %v", s.tenant, time.Since(s.freed),
				r.plan.idleTimeout)
		}
	}
	for s := range r.sockets {
		if s.state == connected && s.holder == nil && s.episode != r.episode[s.tenant] {
			r.violated("5: a connection of an old generation of %s is left idle", s.tenant)
		}
	}
	r.checkStats()
	if !r.faulty {
		for i := range r.plan.servers {
			r.checkQuiescence([]string{"server0", "server1"}[i])
		}
	}
}

// checkStats compares the pool's counters with the oracle's.
func (r *run) checkStats() {
	for _, st := range r.pool.Servers() {
		n, all := r.on(st.Server)
		held, waiting := 0, 0
		for s := range r.sockets {
			if s.target.server == st.Server && s.holder != nil && s.state == connected {
				held++
			}
		}
		for tenant, to := range r.targets {
			if to.server == st.Server {
				waiting += r.waiting(tenant)
			}
		}
		if st.Dialing != n[connecting] || st.Leased != held || st.Idle != n[connected]-held ||
			st.Closing != n[disconnecting] ||
			st.Waiting != waiting || st.Budget != r.plan.budget {
			r.violated("14: %+v, but %v of %d sockets by state, %d held, %d waiting", st, n, all, held,
				waiting)
		}
	}
	seen := make(map[string]bool)
	for _, st := range r.pool.Tenants() {
		seen[st.Tenant] = true
		r.checkTenant(st)
	}
	for tenant, hold := range r.hold {
		if n, _ := r.of(tenant); !seen[tenant] && hold+n[connecting]+n[connected] > 0 {
			r.violated("14: %s is forgotten with %d leases and sockets %v", tenant, hold, n)
		}
	}
}

// checkTenant compares the pool's counters of one tenant with the oracle's.
func (r *run) checkTenant(st TenantStats) {
	var idle, held, ending, beginning, elsewhere int
	for s := range r.sockets {
		switch {
		case s.tenant != st.Tenant:
		case s.target.server != r.targets[st.Tenant].server:
			elsewhere++
		case s.state == connecting:
			beginning++
		case s.state == disconnecting:
			ending++
		case s.holder != nil:
			held++
		default:
			idle++
		}
	}
	if st.Leases != r.hold[st.Tenant] || st.Idle != idle || st.Leased != held || st.Closing != ending ||
		st.Dialing > beginning ||
		st.Waiting != r.waiting(st.Tenant) || st.Server != r.targets[st.Tenant].server {
		r.violated("14: %+v, but %d leases, %d idle, %d held, %d ending", st, r.hold[st.Tenant], idle, held,
			ending)
	}
	if st.Leases+idle+held+ending+beginning+elsewhere == 0 && !r.faulty {
		r.violated("14: %s is not forgotten", st.Tenant)
	}
}

// checkQuiescence checks that nobody waits on a server who could be served. It needs servers that never
// failed.
func (r *run) checkQuiescence(server string) {
	n, all := r.on(server)
	spare, waitFirst, waitMore, waitSteal := 0, 0, 0, 0
	for tenant, to := range r.targets {
		if to.server != server {
			continue
		}
		own, idle := r.of(tenant)
		waiting := r.waiting(tenant)
		spare += idle
		switch {
		case waiting > 0 && idle > 0:
			r.violated("6: %s waits with an idle connection of its own", tenant)
		case waiting == 0 || own[connecting] > 0:
		case own[connected] == 0:
			waitFirst++
		case own[connected] < r.plan.cap():
			waitMore++
			if r.longestWait(tenant) > r.plan.steal {
				waitSteal++
			}
		}
	}
	if n[connecting] >= r.plan.slots {
		return
	}
	free, ending := r.plan.budget-all, n[disconnecting]
	dials := r.plan.slots - n[connecting] // that can start: no more need be closed for
	switch {
	case waitFirst > 0 && (free > 0 || ending < min(waitFirst, dials) && spare > 0):
		r.violated("6: %d tenants wait with nothing on %s: %d places free, %d connections idle, %d ending",
			waitFirst, server, free, spare, ending)
	case waitFirst == 0 && waitMore > 0 && free > r.reserve():
		r.violated("6: %d tenants wait for one more on %s: %d places free", waitMore, server, free)
	case waitFirst == 0 && waitSteal > 0 && (free > 0 || ending < min(waitSteal, dials) && spare > 0):
		r.violated("6: %d tenants wait long for one more on %s: %d places free, %d connections idle, %d "+
			"ending", waitSteal, server, free, spare, ending)
	}
}

// reserve is how many places only tenants without a connection may take.
func (r *run) reserve() int {
	return max(0, min(r.plan.reserve, r.plan.budget-1))
}

// longestWait returns how long the first in a tenant's line has waited.
func (r *run) longestWait(tenant string) time.Duration {
	for _, c := range r.clients {
		if c.tenant == tenant && c.ended.IsZero() {
			return time.Since(c.began)
		}
	}
	return 0
}

// checkOrder checks that nobody overtook in a tenant's line. Those that woke at the same instant have no
// order.
func (r *run) checkOrder() {
	for i, early := range r.clients {
		for _, late := range r.clients[i+1:] {
			if early.tenant == late.tenant && late.err == nil && !late.ended.IsZero() &&
				early.ended.After(late.ended) {
				r.violated("8: client %d of %s is served before client %d, which came first", late.seq,
					late.tenant, early.seq)
			}
		}
	}
}

// finish ends a scenario: what was disturbed recovers, and Close keeps its promises.
func (r *run) finish(gentle bool) {
	if r.broken == nil && gentle {
		r.settleDown()
	}
	r.mu.Lock()
	r.heal()
	grace := 5*time.Millisecond + 3*time.Microsecond
	held := make(map[string]bool)
	for tenant, n := range r.hold {
		held[tenant] = n > 0
	}
	r.forceAt = time.Now().Add(grace)
	r.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	err := r.pool.Close(ctx)
	r.forced = err != nil
	r.checkClosed(err, held)
	r.abandonAll()
	if err := r.pool.Close(context.Background()); err != nil {
		r.violated("13: the second Close: %v", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.sockets) > 0 {
		r.violated("13: %d sockets are left after Close", len(r.sockets))
	}
	r.checkOrder()
}

// settleDown gives everything back, lets time pass, and checks that every tenant can be served again.
func (r *run) settleDown() {
	r.mu.Lock()
	r.heal()
	r.mu.Unlock()
	for c := r.pick(0, holds); c != nil; c = r.pick(0, holds) {
		r.release(0, healthily)
	}
	time.Sleep(r.plan.acquireTimeout + 20*r.plan.backoffMin)
	for c := r.pick(0, holds); c != nil; c = r.pick(0, holds) {
		r.release(0, healthily)
	}
	time.Sleep(r.plan.acquireTimeout + 20*r.plan.backoffMin)
	if c := r.pick(0, waits); c != nil {
		r.violated("6: client %d still waits after AcquireTimeout", c.seq)
	}
	for tenant := range r.targets {
		lease := r.lease(tenant)
		conn, err := lease.Acquire(context.Background(), nil)
		if err != nil {
			r.violated("7: %s does not recover: %v", tenant, err)
			continue
		}
		conn.Release(Destroy)
		r.hold[tenant]--
		lease.Release()
	}
}

// checkClosed checks the answer of a Close that had a little time: an error iff something was held, that
// names who.
func (r *run) checkClosed(err error, held map[string]bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var holders *HoldersError
	if err != nil && !errors.As(err, &holders) {
		r.violated("13: Close: %v", err)
	}
	named := make(map[string]bool)
	if holders != nil {
		for _, h := range holders.Holders {
			named[h.Tenant] = h.Leases > 0
		}
	}
	for tenant, is := range held {
		if is && r.hold[tenant] > 0 && !named[tenant] {
			r.violated("13: Close does not name %s, which is held: %v", tenant, err)
		}
	}
	if err == nil && len(r.sockets) > 0 {
		r.violated("13: Close returns nil with %d sockets", len(r.sockets))
	}
}

// abandonAll makes every client go away.
func (r *run) abandonAll() {
	for c := r.pick(0, waits); c != nil; c = r.pick(0, waits) {
		r.abandon(0)
	}
	time.Sleep(r.plan.drainTimeout + time.Millisecond)
	for c := r.pick(0, holds); c != nil; c = r.pick(0, holds) {
		r.release(0, healthily)
	}
}
