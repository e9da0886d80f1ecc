package tenantdb

import (
	"context"
	"database/sql"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/dburl"
)

// tenantDB is one generation of a tenant's database. A moved tenant, or one with a new password, gets
// another. There may be tens of thousands of them: what is needed only in use is made in use.
type tenantDB struct { // what every lease reads comes first, side by side
	leases  claims
	used    atomic.Bool            // leased since the rings last passed by
	slimmed atomic.Bool            // its last connection closed: its handle is to go with the last lease
	strays  atomic.Pointer[strays] // nil before the first
	spares  atomic.Pointer[spares] // nil before a request's first handle
	pool    *Pool
	engine  engine
	self    *shortcut

	id    string
	place place                    // in the pool's ring of all; guarded by Pool.mu, as the next is
	asOf  time.Duration            // when, since start, the host database was last asked and named its db_url; 0: nobody knows
	cache atomic.Pointer[sync.Map] // key → *cached; nil before the first
}

// claim is one lease on a database, counted; zero: none.
type claim struct {
	tenant *tenantDB
	phase  phase
}

// hold returns one more claim, unless the database is retired.
func (t *tenantDB) hold() (c claim, held bool) {
	p, held := t.leases.hold()
	if !held {
		return claim{}, false
	}
	return claim{t, p}, true
}

// at reports whether this is the database of a db_url.
func (t *tenantDB) at(url hostdb.Secret) bool {
	if f, ok := t.engine.(*sqliteDB); ok {
		path, ok := dburl.File(url.Reveal())
		return ok && path == f.path
	}
	return t.engine.(*PGX).lease.Target() == url
}

// url returns its db_url.
func (t *tenantDB) url() hostdb.Secret {
	if f, ok := t.engine.(*sqliteDB); ok {
		return hostdb.Secret("sqlite:" + f.path)
	}
	return t.engine.(*PGX).lease.Target()
}

// heavy reports whether it has no connection, but spare handles, which own goroutines. What Cached keeps has
// handles of its own.
func (t *tenantDB) heavy() bool {
	p, ok := t.engine.(*PGX)
	return ok && t.spares.Load() != nil && p.lease.Dormant() && t.cache.Load() == nil
}

// shortcut leads to a database until it closes. Cached facts keep it rather than the database, whose memory
// they would hold on to.
type shortcut struct{ to atomic.Pointer[tenantDB] }

// hold returns a claim on the database; none where there is no database, or it is retired.
func (s *shortcut) hold() (c claim, held bool) {
	if s == nil {
		return claim{}, false
	}
	if t := s.to.Load(); t != nil {
		return t.hold()
	}
	return claim{}, false
}

// release ends the claim and closes what nobody needs.
func (c claim) release() {
	t := c.tenant
	if !t.used.Load() { // a line that every request writes would be slow on several cores
		t.used.Store(true)
	}
	lastOfPhase, last, isRetired := t.leases.drop(c.phase)
	if lastOfPhase {
		if s := t.strays.Load(); s != nil {
			s.settle(&t.leases)
		}
	}
	switch {
	case !last:
	case isRetired:
		closeAll([]*tenantDB{t})
	default:
		if t.slimmed.Load() && t.slimmed.Swap(false) {
			t.pool.slim(t.id)
		}
		if t.pool.crowded.Load() {
			t.pool.trim()
		}
	}
	t.pool.sqlite.wake()
}

// Lease is a claim on a tenant's database: it stays open until Release. A lease takes no connection; queries
// do.
type Lease struct {
	tenant *tenantDB // nil: no lease
	phase  phase
	over   atomic.Bool

	handles atomic.Pointer[handles] // nil before the first, and after Cached took them
}

// begin has the lease be a claim.
func (l *Lease) begin(c claim) { l.tenant, l.phase = c.tenant, c.phase }

// end gives the handles back and ends the claim that the lease is.
func (l *Lease) end() {
	if l.handles.Load() != nil { // most have none, and a load is cheaper than a swap
		l.handles.Swap(nil).leave()
	}
	claim{l.tenant, l.phase}.release()
}

// again begins another lease on the same database, with the same handles. Where that has closed, since the
// lease has ended, the new one is over too.
func (l *Lease) again(next *Lease) {
	p, held := l.tenant.leases.again(l.phase)
	next.begin(claim{l.tenant, p})
	next.over.Store(!held)
	if h := l.handles.Load(); held && h != nil && h.share() {
		next.handles.Store(h)
	}
}

// Release ends the lease. Further calls do nothing.
func (l *Lease) Release() {
	if !l.over.Swap(true) {
		l.end()
	}
}

// Close is Release for one who passes by and won't be back soon, as a migration of all tenants: the database
// closes where no other lease holds it, and its connections make room for those that requests use.
func (l *Lease) Close() {
	t := l.tenant
	if l.over.Swap(true) {
		return
	}
	t.pool.mu.Lock()
	last := t.leases.retireAt(1)
	if last {
		t.pool.forget(t)
	}
	t.pool.mu.Unlock()
	l.end() // closes it where it was the last
	if !last {
		return
	}
	t.pool.pg.Retire(t.id)
}

// Session returns a handle on one connection, which it takes out of the budget (on SQLite it is the one that
// writes) with the first statement and keeps until it is closed: for statements that follow each other, as
// those of migrations do, without a reset of PostgreSQL's session between them. Close it before the lease
// ends. On SQLite the connection is new, and closes with the handle, so that a PRAGMA such as foreign_keys
// reaches nobody else. It is confined to the tenant's file as those of requests are (see the function DB),
// but it may set the journal mode and run VACUUM alone.
func (l *Lease) Session() *sql.DB {
	db := newHandle(l.tenant.engine.writer(), forSessions).db
	db.SetMaxOpenConns(1)
	return db
}

// Vacuum has the database give space that rows no longer need back to the system: all of it on SQLite, which
// writes the file anew while nobody else writes, and what PostgreSQL's VACUUM can.
func (l *Lease) Vacuum(ctx context.Context) error {
	db := l.Session()
	_, err := db.ExecContext(ctx, "VACUUM")
	return errors.Join(err, db.Close())
}

// DB returns a handle for writing, the lease's own until Release; see the function DB. It serves any context:
// who has a Lease has named the tenant.
func (l *Lease) DB() *sql.DB { return l.own(forLeases).writer() }

// ReadDB returns a handle for reading, the lease's own until Release; see the function ReadDB. It serves any
// context.
func (l *Lease) ReadDB() *sql.DB { return l.own(forLeases).reader() }

// PG returns the tenant's database in pgx's shape, nil for a tenant on SQLite. It serves any context.
func (l *Lease) PG() *PGX { return l.tenant.engine.native(forLeases) }

// ring is a clock over databases: its hand finds one that nobody has used for a while without an order that
// every lease would have to keep. Guarded by Pool.mu.
type ring struct {
	hand *tenantDB              // the one to be looked at next
	n    int                    // how many there are
	of   func(*tenantDB) *place // finds a database's place in this ring
}

// place is where a database stands in a ring; zero: not in it.
type place struct{ prev, next *tenantDB }

// add puts a database behind the hand, so that it is looked at last, unless it is there.
func (r *ring) add(t *tenantDB) {
	at := r.of(t)
	switch {
	case at.next != nil:
		return
	case r.hand == nil:
		r.hand = t
		*at = place{t, t}
	default:
		hand := r.of(r.hand)
		*at = place{hand.prev, r.hand}
		r.of(hand.prev).next, hand.prev = t, t
	}
	r.n++
}

// remove takes a database out, if it is there.
func (r *ring) remove(t *tenantDB) {
	at := r.of(t)
	if at.next == nil {
		return
	}
	if r.hand == t {
		r.hand = at.next
	}
	if r.n--; r.n == 0 {
		r.hand = nil
	}
	r.of(at.prev).next, r.of(at.next).prev = at.next, at.prev
	*at = place{}
}

// victim marks and returns a database that has no lease, and had none since the hand last passed; nil where
// all are in use.
func (r *ring) victim() *tenantDB {
	for range 2 * r.n {
		t := r.hand
		r.hand = r.of(t).next
		if t.leases.count() == 0 && !t.used.Swap(false) && t.leases.retireAt(0) {
			return t
		}
	}
	return nil
}
