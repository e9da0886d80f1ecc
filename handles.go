package tenantdb

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenantdb/tenantdb/internal/checkout"
	"github.com/tenantdb/tenantdb/internal/pgdb"
)

// connector checks out connections of a tenant's database, either for writing or for reading.
type connector interface {
	CheckOut(ctx context.Context, use checkout.Use) (driver.Conn, error)
	Driver() driver.Driver
}

// handle is a *sql.DB and its connector. database/sql closes a connection after each use, which returns it to
// the pool below. So settings of the *sql.DB for idle connections and their age have no effect.
type handle struct {
	db     *sql.DB
	from   connector
	use    checkout.Use
	closed atomic.Bool
}

// newHandle returns a handle, which has a goroutine until it is closed.
func newHandle(from connector, use checkout.Use) *handle {
	h := &handle{from: from, use: use}
	h.db = sql.OpenDB(h)
	return h
}

// Connect implements [driver.Connector].
func (h *handle) Connect(ctx context.Context) (driver.Conn, error) {
	return h.from.CheckOut(ctx, h.use)
}

// Driver implements [driver.Connector].
func (h *handle) Driver() driver.Driver { return h.from.Driver() }

// Close implements [io.Closer]. database/sql calls it when the *sql.DB is closed.
func (h *handle) Close() error {
	h.closed.Store(true)
	return nil
}

// reusable reports whether the handle is open, without a limit and without connections.
func (h *handle) reusable() bool {
	if h.closed.Load() {
		return false
	}
	stats := h.db.Stats()
	return stats.MaxOpenConnections == 0 && stats.OpenConnections == 0
}

// handles are the *sql.DBs of one lease, so that closing or limiting one affects no other lease. Each is made
// when it is first asked for. The tenant's next request reuses those that are reusable.
type handles struct {
	tenant      *tenantDB
	use         checkout.Use
	write, read atomic.Pointer[handle]
	shares      atomic.Int32 // how many leases and values of Cached have them
	shut        atomic.Bool  // close was called
	next        *handles     // in spares
}

// writer returns the handle for writing.
func (h *handles) writer() *sql.DB { return h.open(&h.write, h.tenant.engine.writer()) }

// reader returns the handle for reading. It is the one for writing if the engine has no other.
func (h *handles) reader() *sql.DB {
	if from := h.tenant.engine.reader(); from != nil {
		return h.open(&h.read, from)
	}
	return h.writer()
}

// open returns the handle at a place. It replaces one that is closed, and makes one if there is none.
func (h *handles) open(place *atomic.Pointer[handle], from connector) *sql.DB {
	for {
		old := place.Load()
		if old != nil && !old.closed.Load() {
			return old.db
		}
		if h.shut.Load() {
			return closedDB()
		}
		fresh := newHandle(from, h.use)
		if place.CompareAndSwap(old, fresh) {
			if h.shut.Load() { // close may have missed it
				_ = fresh.db.Close()
			}
			return fresh.db
		}
		_ = fresh.db.Close()
	}
}

// closedDB returns a closed handle, for leases whose tenant's database has closed.
var closedDB = sync.OnceValue(func() *sql.DB {
	db := sql.OpenDB(&handle{})
	_ = db.Close()
	return db
})

// each calls a function with each handle.
func (h *handles) each(do func(*handle)) {
	if h == nil {
		return
	}
	for _, place := range []*atomic.Pointer[handle]{&h.write, &h.read} {
		if one := place.Load(); one != nil {
			do(one)
		}
	}
}

// share adds a lease. It reports false if the last one has left.
func (h *handles) share() bool {
	for {
		n := h.shares.Load()
		if n == 0 {
			return false
		}
		if h.shares.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// closed reports whether somebody closed one of the handles.
func (h *handles) closed() (yes bool) {
	h.each(func(one *handle) { yes = yes || one.closed.Load() })
	return yes
}

// removeLimits removes the limits that somebody has set.
func (h *handles) removeLimits() {
	h.each(func(one *handle) { one.db.SetMaxOpenConns(0) })
}

// leave removes a lease. After the last one the handles become spare, or are closed.
func (h *handles) leave() {
	if h == nil || h.shares.Add(-1) > 0 {
		return
	}
	reusable := h.use == checkout.ForRequests
	h.each(func(one *handle) { reusable = reusable && one.reusable() })
	if !reusable || !h.tenant.spareHandles().put(h) {
		h.close()
	}
}

// close closes the handles. Callers that wait behind a limit get an error.
func (h *handles) close() {
	h.shut.Store(true)
	h.each(func(one *handle) { _ = one.db.Close() })
}

// own returns the lease's handles. All requests of a tenant whose lease is over share the same ones, whose
// queries are refused.
func (l *Lease) own(use checkout.Use) *handles {
	if h := l.handles.Load(); h != nil {
		return h
	}
	var h *handles
	switch over := l.over.Load(); {
	case use == checkout.ForRequests && over:
		return l.tenant.spareHandles().endedHandles(l.tenant)
	case use == checkout.ForRequests:
		h = l.tenant.spareHandles().take(l.tenant)
	default:
		h = &handles{tenant: l.tenant, use: use}
		h.shut.Store(over)
		if over {
			return h
		}
	}
	h.shares.Store(1)
	first := l.handles.CompareAndSwap(nil, h)
	if first && !l.over.Load() {
		return h
	}
	if !first || l.handles.CompareAndSwap(h, nil) { // else Lease.end has taken them, and leaves them
		h.leave()
	}
	return l.own(use)
}

// takeHandles removes the handles from the lease. The caller leaves them later. They are nil if the lease has
// none.
func (l *Lease) takeHandles() *handles {
	if h := l.handles.Load(); h != nil && l.handles.CompareAndSwap(h, nil) {
		return h
	}
	return nil
}

// maxSpareHandles is how many requests' handles a tenant keeps, at about 3 kB each. A request that finds none
// makes its own.
const maxSpareHandles = 16

// spares are a tenant's handles that no lease has.
type spares struct {
	mu    sync.Mutex // guards what follows; no handle is closed under it
	first *handles
	n     int
	ended *handles // shared by the requests whose lease is over
	shut  bool     // the database has closed
}

// spareHandles returns the tenant's spares. It makes them when they are first needed.
func (t *tenantDB) spareHandles() *spares {
	if t.spares.Load() == nil {
		t.spares.CompareAndSwap(nil, new(spares))
	}
	return t.spares.Load()
}

// take returns spare handles for a request, or new ones.
func (s *spares) take(t *tenantDB) *handles {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.first
	if h == nil {
		return &handles{tenant: t, use: checkout.ForRequests}
	}
	s.first, h.next = h.next, nil
	s.n--
	return h
}

// put adds a request's handles. It reports false if there are enough.
func (s *spares) put(h *handles) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shut || s.n == maxSpareHandles {
		return false
	}
	s.first, h.next = h, s.first
	s.n++
	return true
}

// endedHandles returns the handles for requests whose lease is over.
func (s *spares) endedHandles(t *tenantDB) *handles {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended == nil {
		s.ended = &handles{tenant: t, use: checkout.ForRequests}
		s.ended.shut.Store(s.shut)
	}
	return s.ended
}

// close closes the spare handles.
func (s *spares) close() {
	s.mu.Lock()
	s.shut = true
	first, ended := s.first, s.ended
	s.first, s.n = nil, 0
	s.mu.Unlock()
	for h := first; h != nil; h = h.next {
		h.close()
	}
	if ended != nil {
		ended.close()
	}
}

// PGX is a tenant's PostgreSQL database in pgx's own shape, that of *pgxpool.Pool: sqlc calls it DBTX. Each
// method takes a connection from the pool's budget, and gives it back when its result is done with: rows when
// they are closed or read to the end, a row when it is scanned, a batch's results when they are closed, a
// transaction at Commit or Rollback.
//
// A connection that is not given back by the end of the scope is closed then, and a query under way is
// cancelled. The scope is the one whose context the connection was taken with. It ends with the handler's
// return, or with the function that [Scope.Detach] or [Middleware.Enter] returned. See [DB] for other
// contexts.
//
// The context of another tenant's scope is refused with [ErrWrongTenant], by each method and by what comes
// of it (transactions, batches, connections). What pgx's own connection does without a statement of its own
// isn't refused: WaitForNotification, Deallocate, Ping, PgConn.
//
// A method waits for a connection for up to PoolConfig.AcquireTimeout, and then fails with [ErrBusy].
// [ErrTenantUnavailable] says that the tenant's server can't be reached, or that it has become a standby;
// its connection is closed then. A statement that was cancelled because its context ended fails with the
// context's error, which wraps the server's. One that was sent by pgx's own connection fails with the
// server's alone.
//
// # What a borrower leaves behind
//
// A connection serves one tenant only. Between two borrowers of that tenant, the server's confirmations of
// what ran decide what is done, however it was sent. The times are those of BenchmarkPGX_betweenBorrowers,
// with the server on the same, busy two-core machine, where SELECT 1 took 0.06 ms:
//
//   - The session is reset after SET, CREATE (of a temporary table), DECLARE, DO, CALL and EXPLAIN. It is
//     also reset after a statement whose text names an advisory lock, pg_settings, an identifier with Unicode
//     escapes (U&"…"), or set_config without a plain true at its end. The reset does all that DISCARD ALL
//     does, but keeps prepared statements. It takes one round trip, 0.1 ms. SET LOCAL, SET TRANSACTION and
//     RESET need none (SET LOCAL as a statement of its own, not in a batch).
//   - The connection is closed after an open transaction, unread rows, LISTEN, LOAD, PREPARE, DEALLOCATE and
//     DISCARD. The next query opens one, which takes up to 12 ms.
//   - After a cancelled query the server confirms the cancellation, and answers once more before the
//     connection serves again. This takes 1 ms.
//   - What a function does inside leaves no trace that the server reports. The tenant's next borrower meets
//     it. Examples are a function of the tenant's own that takes a lock or makes a temporary table,
//     query_to_xml with such a text, setseed, and the sequence values that currval and lastval repeat.
//     PoolConfig.ResetAlways resets after every borrower, at 0.1 ms for each. setseed outlives that too.
//
// # What a connection remembers of a schema
//
// pgx prepares each statement once on a connection, and remembers the types of its parameters and columns. A
// migration by any other client may make that wrong. If the host database's schema_version tells of it, the
// tenant's connections are opened anew.
//
// Whatever tells of it, a statement outside a transaction that fails before it begins to run, because of
// what was remembered, is sent once more without that. This holds for [DB], [ReadDB], their statements and
// connections, and for PGX, except for the results of a batch after the first. Otherwise, as in a
// transaction and with pgx's own connection, the query fails with an error that [WriteError] answers as
// [ErrTryAgain], and the tenant's connections are opened anew. CopyFrom asks for the table's columns each
// time, in two round trips, since PostgreSQL can't notice values of another type.
//
// A value that no longer fits a parameter of a prepared statement is noticed by the server alone if the
// statement is part of a transaction. Its error says only that the value is malformed (22P02 and others of
// class 22). It is returned as it is.
type PGX struct {
	db  *pgdb.DB
	use checkout.Use
}

// Format implements fmt.Formatter. It prints the tenant's id, whatever the verb, since the database's URL
// holds a password.
func (p *PGX) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, "tenantdb.PGX of "+p.db.Tenant())
}

// Conn is a connection taken from the pool by [PGX.Acquire], for LISTEN, session settings and the like.
// Release it.
type Conn pgdb.Conn

// Conn returns pgx's connection, for use until [Conn.Release].
func (c *Conn) Conn() *pgx.Conn { return (*pgdb.Conn)(c).Conn() }

// Release gives the connection back. Further calls do nothing.
func (c *Conn) Release() { (*pgdb.Conn)(c).Release() }

// Acquire takes a connection out of the pool until its Release.
func (p *PGX) Acquire(ctx context.Context) (*Conn, error) {
	c, err := p.db.Acquire(ctx, p.use)
	return (*Conn)(c), err
}

// Exec runs a statement that returns no rows.
func (p *PGX) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return p.db.Exec(ctx, p.use, sql, args...)
}

// Query runs a query. Close the rows, or read them to the end.
func (p *PGX) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return p.db.Query(ctx, p.use, sql, args...)
}

// QueryRow runs a query for one row. Scan returns the error, such as [pgx.ErrNoRows].
func (p *PGX) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return p.db.QueryRow(ctx, p.use, sql, args...)
}

// SendBatch runs several statements in one round trip. Close the results.
func (p *PGX) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	return p.db.SendBatch(ctx, p.use, b)
}

// CopyFrom bulk-loads rows with the COPY protocol and returns how many it copied.
func (p *PGX) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string,
	source pgx.CopyFromSource) (int64, error) {
	return p.db.CopyFrom(ctx, p.use, table, columns, source)
}

// Begin starts a transaction with the server's defaults. End it with Commit or Rollback.
func (p *PGX) Begin(ctx context.Context) (pgx.Tx, error) {
	return p.db.Begin(ctx, p.use)
}

// BeginTx starts a transaction. End it with Commit or Rollback.
func (p *PGX) BeginTx(ctx context.Context, options pgx.TxOptions) (pgx.Tx, error) {
	return p.db.BeginTx(ctx, p.use, options)
}
