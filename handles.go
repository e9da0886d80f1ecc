package tenantdb

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"sync"
	"sync/atomic"

	"github.com/tenantdb/tenantdb/internal/checkout"
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
