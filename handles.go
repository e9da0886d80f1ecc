package tenantdb

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"sync"
	"sync/atomic"

	"github.com/tenantdb/tenantdb/internal/checkout"
)

// connector hands out the connections of one kind that a tenant's database has.
type connector interface {
	Lend(ctx context.Context, use checkout.Use) (driver.Conn, error)
	Driver() driver.Driver
}

// handle is a *sql.DB, and the connector under it. The connections are pooled below: database/sql closes one
// after each use, which returns it. So what is set on the handle about idle connections and their age has no
// effect.
type handle struct {
	db     *sql.DB
	from   connector
	use    checkout.Use
	closed atomic.Bool // by its holder or by handles
}

// newHandle makes a handle, which owns a goroutine until it is closed.
func newHandle(from connector, use checkout.Use) *handle {
	h := &handle{from: from, use: use}
	h.db = sql.OpenDB(h)
	return h
}

// Connect implements driver.Connector.
func (h *handle) Connect(ctx context.Context) (driver.Conn, error) { return h.from.Lend(ctx, h.use) }

// Driver implements driver.Connector.
func (h *handle) Driver() driver.Driver { return h.from.Driver() }

// Close implements io.Closer: database/sql calls it when the handle is closed.
func (h *handle) Close() error {
	h.closed.Store(true)
	return nil
}

// pristine reports whether nobody closed the handle, limits it, or has a connection of it.
func (h *handle) pristine() bool {
	if h.closed.Load() {
		return false
	}
	stats := h.db.Stats()
	return stats.MaxOpenConnections == 0 && stats.OpenConnections == 0
}

// handles are those of one lease, so that a holder who closes one or limits its connections is the only one
// to feel it. They are made when first asked for. Those of a request go on to the tenant's next one where
// they are pristine.
type handles struct {
	tenant      *tenantDB
	use         checkout.Use
	write, read atomic.Pointer[handle]
	shares      atomic.Int32 // the leases that have them, more than one after Detach, or what Cached keeps
	shut        atomic.Bool
	next        *handles // in spares
}

// writer returns the handle for writing.
func (h *handles) writer() *sql.DB { return h.open(&h.write, h.tenant.engine.writer()) }

// reader returns the handle for reading, which is that for writing where the engine makes no difference.
func (h *handles) reader() *sql.DB {
	if from := h.tenant.engine.reader(); from != nil {
		return h.open(&h.read, from)
	}
	return h.writer()
}

// open returns a handle. One that its holder has closed makes way for another.
func (h *handles) open(at *atomic.Pointer[handle], from connector) *sql.DB {
	for {
		old := at.Load()
		if old != nil && !old.closed.Load() {
			return old.db
		}
		if h.shut.Load() {
			return closedDB()
		}
		fresh := newHandle(from, h.use)
		if at.CompareAndSwap(old, fresh) {
			if h.shut.Load() { // close may have come before it
				_ = fresh.db.Close()
			}
			return fresh.db
		}
		_ = fresh.db.Close()
	}
}

// closedDB is the handle of those whose tenant's database has closed.
var closedDB = sync.OnceValue(func() *sql.DB {
	db := sql.OpenDB(&handle{})
	_ = db.Close()
	return db
})

// each calls a function for each handle that there is.
func (h *handles) each(do func(*handle)) {
	if h == nil {
		return
	}
	for _, at := range []*atomic.Pointer[handle]{&h.write, &h.read} {
		if one := at.Load(); one != nil {
			do(one)
		}
	}
}

// share has one more lease have the handles, unless the last one's has ended.
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

// closed reports whether a holder closed one of the handles.
func (h *handles) closed() (yes bool) {
	h.each(func(one *handle) { yes = yes || one.closed.Load() })
	return yes
}

// unlimit lifts limits that a holder set.
func (h *handles) unlimit() {
	h.each(func(one *handle) { one.db.SetMaxOpenConns(0) })
}

// leave ends a share. After the last the handles go to the next request, or are closed.
func (h *handles) leave() {
	if h == nil || h.shares.Add(-1) > 0 {
		return
	}
	pristine := true
	h.each(func(one *handle) { pristine = pristine && one.pristine() })
	if h.use != checkout.ForRequests || !pristine || !h.tenant.spareHandles().put(h) {
		h.close()
	}
}

// close closes the handles. Who waits for a connection because of a limit stops waiting.
func (h *handles) close() {
	h.shut.Store(true)
	h.each(func(one *handle) { _ = one.db.Close() })
}

// own returns the lease's handles. A request whose lease is over gets those that all such have in common:
// what they ask is refused.
func (l *Lease) own(use checkout.Use) *handles {
	if h := l.handles.Load(); h != nil {
		return h
	}
	var h *handles
	switch over := l.over.Load(); {
	case use == checkout.ForRequests && over:
		return l.tenant.spareHandles().late(l.tenant)
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
	if !first || l.handles.CompareAndSwap(h, nil) { // else the lease's end has them
		h.leave()
	}
	return l.own(use)
}

// keep takes the handles from the lease, for somebody who leaves them later; nil where it has none.
func (l *Lease) keep() *handles {
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
	ended *handles // for requests whose lease is over
	shut  bool     // the database has closed
}

// spareHandles returns the tenant's spares, which it makes when first asked.
func (t *tenantDB) spareHandles() *spares {
	if t.spares.Load() == nil {
		t.spares.CompareAndSwap(nil, new(spares))
	}
	return t.spares.Load()
}

// take returns a request's handles.
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

// put keeps a request's handles; false where there are enough.
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

// late returns the handles for requests whose lease is over.
func (s *spares) late(t *tenantDB) *handles {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended == nil {
		s.ended = &handles{tenant: t, use: checkout.ForRequests}
		s.ended.shut.Store(s.shut)
	}
	return s.ended
}

// close closes what is left.
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
