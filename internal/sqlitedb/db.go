package sqlitedb

import (
	"sync"
	"sync/atomic"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/checkout"
	"github.com/tenantdb/tenantdb/internal/keyedpool"
)

// DB is a tenant's file. One connection writes, since SQLite allows one writer, and a few others read.
type DB struct {
	files    *Files
	path     string // as given
	fullPath string
	tenant   *checkout.Tenant

	write, read atomic.Pointer[Handle] // nil before the first use

	opening sync.Mutex  // held while a connection to the file is opened or closed; guards conns
	conns   []*fileConn // all that are open

	open atomic.Bool  // the file holds a place; written under files.mu
	busy atomic.Int32 // connections that are in use or being opened
	used atomic.Bool  // a connection was checked out since the file was last considered for eviction
	shut bool         // guarded by files.mu
}

// Writer returns the handle of the connection that writes.
func (f *DB) Writer() *Handle { return f.handle(&f.write, 1, writerOption) }

// Reader returns the handle of the connections that only read.
func (f *DB) Reader() *Handle { return f.handle(&f.read, f.files.cfg.Readers, readerOption) }

// handle returns a handle of at most n connections, which it makes on the first call. Thousands of tenants
// may be known that nobody uses.
func (f *DB) handle(at *atomic.Pointer[Handle], n int, option string) *Handle {
	if h := at.Load(); h != nil {
		return h
	}
	f.files.mu.Lock()
	defer f.files.mu.Unlock()
	if at.Load() == nil {
		at.Store(&Handle{db: f, option: option, places: make(chan struct{}, n), shut: f.shut})
	}
	return at.Load()
}

// handles returns the handles that have been made. The writer is the last: its close merges the log into the
// file.
func (f *DB) handles() (list []*Handle) {
	for _, h := range []*Handle{f.read.Load(), f.write.Load()} {
		if h != nil {
			list = append(list, h)
		}
	}
	return list
}

// Target returns the database's address.
func (f *DB) Target() hostdb.Secret { return hostdb.Secret("sqlite:" + f.path) }

// Idle reports whether no connection to the file is open. It holds no place then.
func (f *DB) Idle() bool { return !f.open.Load() }

// Stats returns how many connections are idle and how many are leased. The other fields are zero.
func (f *DB) Stats() (stats keyedpool.TenantStats) {
	for _, h := range f.handles() {
		h.mu.Lock()
		stats.Idle += len(h.idle)
		h.mu.Unlock()
		stats.Leased += len(h.places)
	}
	return stats
}

// Close closes the file and gives its place back. A connection that is in use closes when it is returned.
func (f *DB) Close() {
	s := f.files
	s.mu.Lock()
	f.shut = true
	s.mu.Unlock()
	for _, h := range f.handles() {
		h.close()
	}
	s.mu.Lock()
	delete(s.open, f)
	f.open.Store(false)
	s.mu.Unlock()
	s.wake()
}

// closeIdle closes the idle connections except those to a file. It closes all of them for the zero fileID.
func (f *DB) closeIdle(except fileID) {
	for _, h := range f.handles() {
		h.closeIdle(except)
	}
}

// rest takes the file's place away if nothing runs on it. The caller holds files.mu. After unlocking it,
// the caller closes the idle connections and then lowers files.closing, which frees the place.
func (f *DB) rest() bool {
	f.open.Store(false) // before busy is read: whoever counts from now on looks for a place first
	if f.busy.Load() != 0 {
		f.open.Store(true)
		return false
	}
	delete(f.files.open, f)
	f.files.closing++
	f.files.evictions++
	return true
}

// enter counts a connection that is about to be in use. [DB.leave] follows.
func (f *DB) enter() {
	f.busy.Add(1)
	if !f.used.Load() {
		f.used.Store(true)
	}
}

// leave counts a connection that is no longer in use.
func (f *DB) leave() {
	if f.busy.Add(-1) == 0 {
		f.files.wake()
	}
}
