package tenantdb

import (
	"net"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// What tests of package tenantdb_test need from inside.
var (
	VectorDir   = vectorDir
	CallsSetter = callsSetter
	Printable   = printable

	ClassifyQuery = classifyQuery
)

// Watched tells what a session notes of what its server sends.
func Watched(pieces ...[]byte) (changed, spoiled bool) {
	var s session
	for _, p := range pieces {
		s.watch(p)
	}
	return s.changed, s.spoiled
}

// Peek tells what there is to read from a socket: "silent", "speaks" or "ended".
func Peek(conn net.Conn) string {
	return [...]string{"silent", "speaks", "ended"}[newPeeker(conn).peek()]
}

// Ledger is a database's leases and the connections that were taken from it outside any scope.
type Ledger struct {
	leases claims
	strays strays
}

// Hold begins a lease, Again one more for its holder.
func (l *Ledger) Hold() (phase int64, held bool) {
	p, held := l.leases.hold()
	return int64(p), held
}

func (l *Ledger) Again(of int64) (int64, bool) {
	p, held := l.leases.again(phase(of))
	return int64(p), held
}

// Drop ends one.
func (l *Ledger) Drop(of int64) (last, retired bool) {
	lastOfPhase, last, retired := l.leases.drop(phase(of))
	if lastOfPhase {
		l.strays.settle(&l.leases)
	}
	return last, retired
}

// Count returns how many there are.
func (l *Ledger) Count() int { return l.leases.count() }

// Retire marks the database, and reports whether nobody holds it.
func (l *Ledger) Retire() bool { return l.leases.retire() }

// Lend files a loan, unless it is refused. It returns what gives it back.
func (l *Ledger) Lend(seized func()) (giveBack func() bool, ok bool) {
	it := &loan{conn: seizure(seized)}
	ok = l.strays.file(it, &l.leases)
	return it.giveBack, ok
}

// Close is what follows when a retired database has no lease.
func (l *Ledger) Close() { l.strays.close() }

type seizure func()

func (s seizure) seize() { s() }

// SharedRows counts the tenants and plans whose rows the cached facts have in common.
func (m *Middleware) SharedRows() (tenants, plans int) {
	return m.resolver.rows.tenants.count(), m.resolver.rows.plans.count()
}

// SharedBy returns the rows in the cache that a Scope was copied from.
func (s *Scope) SharedBy() (*hostdb.Access, *hostdb.Subscription, *hostdb.PricingPlan) {
	return s.ctx.access, s.ctx.grant.subscription, s.ctx.grant.plan
}

func (s *shared[T]) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.byID)
}

// Reporter is the limit of the log's lines.
type Reporter struct{ reporter }

// Allow reports whether a caller may have a line.
func (r *Reporter) Allow(caller string, now time.Time) (leftOut int, ok bool) {
	return r.allow(reportKey{caller: caller}, now)
}

// Keys counts the callers in the table.
func (r *Reporter) Keys() int { return len(r.tallies) }

// Cutoffs say how old facts about tenants may be.
type Cutoffs struct{ c cutoffs }

// Drained notes that a tenant was drained.
func (c *Cutoffs) Drained(tenantID string, at time.Duration) { c.c.raise(tenantID, at) }

// Refuses reports whether facts are too old.
func (c *Cutoffs) Refuses(tenantID string, asOf time.Duration) bool {
	return c.c.refuses(tenantID, asOf)
}

// Len is how many tenants have a cutoff of their own.
func (c *Cutoffs) Len() int { return len(c.c.tenants) }

// Decide tells by which plan's tier, and with which features, a policy lets somebody in at a time, and
// whether it does.
func Decide(p SubscriptionPolicy, a *hostdb.Access, now time.Time) (tier int, features []string, in bool) {
	g, err := (&policy{SubscriptionPolicy: p}).decide(a, func() time.Time { return now }, Rules{})
	if g.plan != nil {
		features = g.plan.Features
	}
	return tierOf(g.plan), features, err == nil
}
