package keyedpool

import (
	"strings"
	"testing"

	"github.com/tenantdb/tenantdb/internal/mutant"
)

// mutation is a defect in one place.
func mutation(name, function, old, new string) mutant.Mutation {
	return mutant.Mutation{Name: name, Edits: []mutant.Edit{{Func: function, Old: old, New: new}}}
}

// mutations are defects that the invariants must notice.
var mutations = []mutant.Mutation{
	{Name: "a place is given back when the close begins", Edits: []mutant.Edit{
		{Func: "server.shut", Old: "s.closing++", New: "s.closing++\ns.used--"},
		{Func: "server.finish", Old: "s.closing--\ns.used--", New: "s.closing--"},
	}},
	mutation("a connection is dropped when its waiter leaves",
		"server.abandon", "s.giveBack(g.conn.conn, Healthy, s.pool.now())", "_ = g"),
	mutation("a lease with a new target changes nothing",
		"tenant.serves", "!t.retired && t.draining == 0 && t.target == target",
		"!t.retired && t.draining == 0"),
	mutation("a connection of an old generation goes back to the idle ones",
		"server.giveBack", "v != Healthy || db.stale", "v != Healthy"),
	mutation("the next generation takes over the connections",
		"tenant.renew", "db.counters = old.counters.clone()", `db.counters = old.counters.clone()
		for c := old.idle; c != nil && old.server == s; c = c.next {
			c.db = db
			db.live++
			old.live--
		}
		if old.server == s {
			db.idle, old.idle = old.idle, nil
			s.victims.remove(old)
			s.victims.add(db)
		}`),
	mutation("the cap is not kept", "server.queueFor", "db.live >= s.cap", "false"),
	mutation("the dial slots are not kept",
		"server.mayDial", "s.dialing < s.pool.cfg.DialSlots && !s.ended", "!s.ended"),
	mutation("the last in line is served first",
		"server.serveLine", "s.grant(c, c.db.waiting.first(), now)",
		"s.grant(c, c.db.waiting.back.value, now)"),
	{Name: "a second connection comes before another tenant's first", Edits: []mutant.Edit{
		{Func: "server.serveMore", Old: "s.waitFirst.n > 0 || s.waitMore.n+s.waitSteal.n == 0",
			New: "s.waitMore.n+s.waitSteal.n == 0"},
		{Func: "server.dispatch", Old: "s.serveFirst() || s.serveMore()",
			New: "s.serveMore() || s.serveFirst()"},
	}},
	mutation("nobody is stolen from", "server.steal", "victim == nil", "victim == nil || true"),
	mutation("the breaker lets every dial through",
		"breaker.allows", "state == BreakerClosed || state == BreakerHalfOpen && !b.probing",
		"state == state"),
	mutation("a half-open breaker lets several probes through",
		"breaker.start", "b.probing = b.state(now) == BreakerHalfOpen\nreturn b.probing",
		"return b.state(now) == BreakerHalfOpen"),
	mutation("a tenant does not back off", "server.queueFor", "db.backoff.pausing(now)", "false"),
	mutation("idle connections stay",
		"server.sweepBelow", "now >= c.idleUntil || now >= c.expires", "false && now >= c.idleUntil"),
	mutation("a tenant goes dormant while it has connections",
		"tenant.sleep", "if t.places.Load() > 0 { return false }", ""),
	mutation("a tenant goes dormant while somebody waits",
		"tenant.sleep", "db.waiting.n > 0 || db.backoff.pausing(s.pool.now())",
		"db.backoff.pausing(s.pool.now())"),
	mutation("a backoff ends when the tenant goes dormant",
		"tenant.sleep", "db.waiting.n > 0 || db.backoff.pausing(s.pool.now())", "db.waiting.n > 0"),
	mutation("a lease counts for nothing", "Pool.reapTenant", "t.refs == 0", "true"),
	mutation("a holder may give a connection back twice",
		"Conn.Release", "c.use == h.use && c.state == leased", "c.state == leased"),
	mutation("a nested acquire is suspected everywhere",
		"server.deadlocked", "(c.owner == nil || !db.awaitedBy(c.owner))", "false"),
	mutation("Close does not wait", "Pool.Close", "!await(ctx, gone)", "gone == nil"),
}

func TestMutation_everyOneIsCaught(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the package once for each mutation")
	}
	for _, m := range mutations {
		t.Run(strings.ReplaceAll(m.Name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			out, err := m.Test(t, "-timeout=5m", "-run=^TestPool_keepsItsInvariants", ".",
				"-rapid.checks=20000", "-rapid.shrinktime=0s", "-rapid.nofailfile")
			if err == nil {
				t.Fatalf("no invariant noticed it:\n%s", out)
			}
			// Whichever invariant: one defect breaks several, and the scenario decides which is seen first.
			// Nor need it be seen twice: a defect may show only by the order in which goroutines run.
			if !strings.Contains(out, broken) {
				t.Fatalf("it failed, but by no invariant: %v\n%s", err, out)
			}
		})
	}
}
