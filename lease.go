package tenantdb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/checkout"
	"github.com/tenantdb/tenantdb/internal/keyedpool"
	"github.com/tenantdb/tenantdb/internal/pgdb"
	"github.com/tenantdb/tenantdb/internal/refusal"
	"github.com/tenantdb/tenantdb/internal/sqlitedb"
)

// tenantDB is one generation of a tenant's database. A tenant that moved or has a new password gets
// another. There may be tens of thousands of them, so what is needed only in use is made in use. What every
// lease reads comes first.
type tenantDB struct {
	checkout.Tenant
	used         atomic.Bool            // leased since Pool.victim last passed by
	compactLater atomic.Bool            // its last connection closed: Pool.compact is due with its last lease
	spares       atomic.Pointer[spares] // nil before a request's first handle
	pool         *Pool
	engine       engine
	ref          *dbRef

	cache atomic.Pointer[sync.Map] // key → *cached; nil before the first

	// asOf is when, since start, the host database was last asked for db_url; 0: nobody knows. It and schema,
	// the version that the host database had then, are guarded by Pool.mu.
	asOf   time.Duration
	schema int64
}

// engine is a tenant's database on one kind of server. Only Close does I/O.
type engine interface {
	Target() hostdb.Secret // the db_url
	Idle() bool            // it has no connection, and nobody waits for one
	Stats() keyedpool.TenantStats
	Close()

	writer() connector
	reader() connector // nil if the writer serves readers too
	postgres() *pgdb.DB
}

// pgEngine is a tenant's database on PostgreSQL.
type pgEngine struct{ *pgdb.DB }

func (e pgEngine) writer() connector  { return e.DB }
func (e pgEngine) reader() connector  { return nil }
func (e pgEngine) postgres() *pgdb.DB { return e.DB }

// sqliteEngine is a tenant's database on SQLite.
type sqliteEngine struct{ *sqlitedb.DB }

func (e sqliteEngine) writer() connector  { return e.Writer() }
func (e sqliteEngine) reader() connector  { return e.Reader() }
func (e sqliteEngine) postgres() *pgdb.DB { return nil }

// hasIdleHandle reports whether it has no connection, and may have spare handles, each with a goroutine. It
// reports false once [Cached] was used, since a cached value keeps handles of its own.
func (t *tenantDB) hasIdleHandle() bool {
	return t.spares.Load() != nil && t.cache.Load() == nil && t.engine.Idle()
}

// close closes a retired database that has no lease.
func (t *tenantDB) close() {
	t.ref.to.Store(nil)
	t.dropCached()
	if s := t.spares.Load(); s != nil {
		s.close()
	}
	t.engine.Close()
	t.Tenant.Close()
}

// dbRef refers to a database until it closes. Cached facts keep it rather than the database, which they would
// hold in memory.
type dbRef struct{ to atomic.Pointer[tenantDB] }

// retain returns a reference that is counted. It returns none if the database is retired or closed.
func (r *dbRef) retain() (ref leaseRef, retained bool) {
	if r == nil {
		return leaseRef{}, false
	}
	if t := r.to.Load(); t != nil {
		return t.retain()
	}
	return leaseRef{}, false
}

// leaseRef is one counted lease on a database; zero: none.
type leaseRef struct {
	tenant *tenantDB
	phase  checkout.Phase
}

// retain counts one more lease, unless the database is retired.
func (t *tenantDB) retain() (ref leaseRef, retained bool) {
	p, retained := t.Leases.Retain()
	if !retained {
		return leaseRef{}, false
	}
	return leaseRef{t, p}, true
}

// release ends the lease, and closes what nobody needs any more.
func (r leaseRef) release() {
	t := r.tenant
	if !t.used.Load() { // a cache line that every request writes would be slow on several cores
		t.used.Store(true)
	}
	last, retired := t.Tenant.Release(r.phase)
	switch {
	case !last:
	case retired:
		closeAll([]*tenantDB{t})
	default:
		if t.compactLater.Load() && t.compactLater.Swap(false) {
			t.pool.compact(t.ID)
		}
		if t.pool.overLimit.Load() {
			t.pool.evictUnused()
		}
	}
}

// Lease keeps a tenant's database open until [Lease.Release]. It takes no connection; queries do.
type Lease struct {
	tenant *tenantDB // nil: no lease
	phase  checkout.Phase
	over   atomic.Bool

	handles atomic.Pointer[handles] // nil before the first, and after Cached took them
}

// begin makes a counted reference the lease's own.
func (l *Lease) begin(ref leaseRef) { l.tenant, l.phase = ref.tenant, ref.phase }

// end gives the handles back and releases the reference.
func (l *Lease) end() {
	if l.handles.Load() != nil { // most have none, and a load is cheaper than a swap
		l.handles.Swap(nil).leave()
	}
	leaseRef{l.tenant, l.phase}.release()
}

// beginBeside begins another lease on the same database, with the same handles. If this one has ended and the
// database has closed, the new one is over too.
func (l *Lease) beginBeside(next *Lease) {
	p, retained := l.tenant.Leases.RetainBeside(l.phase)
	next.begin(leaseRef{l.tenant, p})
	next.over.Store(!retained)
	if h := l.handles.Load(); retained && h != nil && h.share() {
		next.handles.Store(h)
	}
}

// Release ends the lease. Further calls do nothing.
func (l *Lease) Release() {
	if !l.over.Swap(true) {
		l.end()
	}
}

// Close is [Lease.Release] for a caller that won't be back soon, such as a migration of all tenants. If no
// other lease holds the database, it closes, so that its connections make room for those that requests use.
func (l *Lease) Close() {
	t := l.tenant
	if l.over.Swap(true) {
		return
	}
	t.pool.mu.Lock()
	last := t.Leases.RetireAt(1)
	if last {
		t.pool.forget(t)
	}
	t.pool.mu.Unlock()
	l.end() // closes it if it was the last
	if last {
		t.pool.pg.Retire(t.ID)
	}
}

// Session returns a handle on one connection, for statements that follow each other without a reset of
// PostgreSQL's session between them, such as those of migrations. It takes the connection out of the budget
// with the first statement (on SQLite it is the one that writes), and keeps it until it is closed. Close it
// before the lease ends.
//
// On SQLite the connection is new, and closes with the handle, so that a PRAGMA such as foreign_keys reaches
// nobody else. It is confined to the tenant's file as those of requests are (see [DB]), but it may set the
// journal mode, and may run VACUUM as a statement of its own.
func (l *Lease) Session() *sql.DB {
	db := newHandle(l.tenant.engine.writer(), checkout.ForSessions).db
	db.SetMaxOpenConns(1)
	return db
}

// Vacuum has the database give space that rows no longer need back to the system. SQLite gives back all of
// it: it writes the file anew, while nobody else can write. PostgreSQL gives back what its VACUUM can.
func (l *Lease) Vacuum(ctx context.Context) error {
	db := l.Session()
	_, err := db.ExecContext(ctx, "VACUUM")
	return errors.Join(err, db.Close())
}

// DB returns a handle for writing, the lease's own until Release; see the function [DB]. It serves any
// context: whoever has a Lease has named the tenant.
func (l *Lease) DB() *sql.DB { return l.own(checkout.ForLeases).writer() }

// ReadDB returns a handle for reading, the lease's own until Release; see the function [ReadDB]. It serves
// any context.
func (l *Lease) ReadDB() *sql.DB { return l.own(checkout.ForLeases).reader() }

// PG returns the tenant's database in pgx's shape, or nil for a tenant on SQLite. It serves any context.
func (l *Lease) PG() *PGX { return l.postgres(checkout.ForLeases) }

// postgres returns the tenant's database in pgx's shape, or nil for a tenant on SQLite.
func (l *Lease) postgres(use checkout.Use) *PGX {
	db := l.tenant.engine.postgres()
	if db == nil {
		return nil
	}
	return &PGX{db, use}
}

// cached is a value that [Cached] keeps beside a tenant's database.
type cached struct {
	turn    chan struct{} // holds a token while somebody uses what follows
	built   bool
	gone    bool // the database has closed
	value   any
	close   func()
	handles *handles // those of the scope that built the value, which now belong to the value; nil: none
}

// Cached returns what build makes for the scope's tenant, such as a *gorm.DB, an ent client or prepared
// statements. The value is built once for each database and key, however many requests ask for it together.
// The key is any comparable value; use a type of your own, as for context keys. Cached panics if ctx has no
// scope with a tenant.
//
// The value is dropped when the tenant's database closes: after its last lease, or when the tenant moves.
// Then the function that build returned is called; it may be nil. An error of build is returned, and nothing
// is kept.
//
// A caller that waits for another's build gives up when ctx ends, or with [ErrBusy] after
// [PoolConfig.AcquireTimeout]. So does a build that asks for its own key, since it waits for itself.
//
// The value is this tenant's. With the context of another tenant, what it was built on fails with
// [ErrWrongTenant]. The handles that [DB] and [ReadDB] returned in the scope by the end of build belong to
// the value from then on, and outlive the scope. Many requests share them. If one limits a handle
// (SetMaxOpenConns), the next call of Cached lifts the limit. If one closes a handle, the next call drops the
// value and builds another. A connection can't be kept: it is closed with the scope.
func Cached[T any](ctx context.Context, key any, build func(*Scope) (T, func(), error)) (T, error) {
	var none T
	lease := leaseOf(ctx, "Cached")
	t := lease.tenant
	c := t.cachedAt(key)
	if err := c.wait(ctx, t.pool.cfg.AcquireTimeout); err != nil {
		return none, err
	}
	defer func() { <-c.turn }()
	if c.gone || t.Leases.Gone() { // the scope is over: nobody would close the value
		return none, refusal.WithCause(ErrTenantUnavailable, checkout.ErrScopeOver)
	}
	if c.built && c.handles.closed() {
		c.drop().leave()
	}
	if !c.built {
		scope, _ := scopeOf(ctx)
		// The value outlives the request, so it gets a Scope of its own.
		value, closer, err := build(scope.newScope(scope.access, scope.entitled))
		if err != nil {
			return none, err
		}
		c.value, c.close, c.built, c.handles = value, closer, true, lease.takeHandles()
	}
	c.handles.removeLimits()
	value, ok := c.value.(T)
	if !ok {
		return none, fmt.Errorf("tenantdb: Cached: key %v holds a %T, not a %T; use another key",
			key, c.value, none)
	}
	return value, nil
}

// cachedAt returns the place for the value of a key. It makes the place if there is none.
func (t *tenantDB) cachedAt(key any) *cached {
	entries := t.cache.Load()
	if entries == nil {
		t.cache.CompareAndSwap(nil, new(sync.Map))
		entries = t.cache.Load()
	}
	entry, ok := entries.Load(key)
	if !ok {
		entry, _ = entries.LoadOrStore(key, &cached{turn: make(chan struct{}, 1)})
	}
	return entry.(*cached)
}

// wait waits for the turn, at most for the timeout: builds may wait for each other, or for themselves.
func (c *cached) wait(ctx context.Context, timeout time.Duration) error {
	select {
	case c.turn <- struct{}{}:
		return nil
	default:
	}
	late := time.NewTimer(timeout)
	defer late.Stop()
	select {
	case c.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-late.C:
		return refusal.WithCause(ErrBusy, errBuilding)
	}
}

// errBuilding is the cause if the turn doesn't come in time.
var errBuilding = errors.New("Cached: the value is still being built; build must not ask for its own key")

// dropCached drops all values of a database that has no lease. It closes their handles last, since a value
// may be built on another's.
func (t *tenantDB) dropCached() {
	entries := t.cache.Load()
	if entries == nil {
		return
	}
	var dropped []*handles
	entries.Range(func(_, entry any) bool {
		c := entry.(*cached)
		c.turn <- struct{}{}
		defer func() { <-c.turn }()
		dropped = append(dropped, c.drop())
		c.gone = true
		return true
	})
	for _, h := range dropped {
		h.leave()
	}
}

// drop closes the value. It returns the value's handles, which the caller leaves. The caller has the turn.
func (c *cached) drop() *handles {
	if c.built && c.close != nil {
		closeSafely(c.close)
	}
	h := c.handles
	c.built, c.value, c.close, c.handles = false, nil, nil, nil
	return h
}

// closeSafely calls a program's function, whose panic must not keep other values and the database open.
func closeSafely(closer func()) {
	defer func() { _ = recover() }()
	closer()
}
