package tenantdb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// sqliteFiles opens the tenants' SQLite files, a bounded number at a time.
type sqliteFiles struct {
	dir      string
	max      int
	readers  int
	patience time.Duration
	evict    func() bool // closes a file on which nothing runs; false where there is none
	waiting  atomic.Int32
	steals   atomic.Uint64 // files closed for others

	mu    sync.Mutex    // guards what follows and every sqliteDB's state; no I/O under it
	open  int           // files that hold a place, at most max
	opens uint64        // times that a file took one
	freed chan struct{} // closed, and replaced, when a place may have come free
}

// newSQLiteFiles makes the opener.
func newSQLiteFiles(cfg PoolConfig, evict func() bool) *sqliteFiles {
	return &sqliteFiles{dir: cfg.SQLiteDir, max: cfg.MaxOpenSQLite, readers: cfg.SQLiteReaders, patience: cfg.AcquireTimeout,
		evict: evict, freed: make(chan struct{})}
}

// sqliteDB is one tenant's file: one connection that writes, since SQLite has one writer, and a few that
// read.
type sqliteDB struct {
	files    *sqliteFiles
	path     string
	fullPath string
	tenant   *tenantDB
	place    place // in the pool's ring of open files; guarded by Pool.mu

	write, read atomic.Pointer[sqliteHandle] // nil before the first use

	opening sync.Mutex  // held while a connection to the file is opened or closed; guards conns
	conns   []*fileConn // all that are open

	open atomic.Bool  // it holds a place; written under files.mu
	busy atomic.Int32 // connections that are in use, or being made
	shut bool         // guarded by files.mu

	relative bool // path is a name in files.dir
}

// tenant prepares a tenant's database. A relative path must be the tenant's own, an absolute one is taken as
// it is.
func (s *sqliteFiles) tenant(path string, t *tenantDB) (engine, error) {
	f := &sqliteDB{files: s, path: path, relative: !filepath.IsAbs(path), fullPath: path, tenant: t}
	if f.relative && (path != t.id+".db" || !hostdb.ValidID(t.id)) {
		return nil, errors.New("db_url: a relative SQLite path must be the tenant's id and .db; give an absolute path for a file of another name")
	}
	if f.relative {
		f.fullPath = s.dir + string(filepath.Separator) + path
	}
	return f, nil
}

// admit gives a file a place among the open ones, where need be by closing an idle one, or waits for one.
func (s *sqliteFiles) admit(ctx context.Context, f *sqliteDB, patience time.Duration) error {
	if admitted, err := s.tryAdmit(f); admitted || err != nil {
		return err // the usual case, before anything is set up to wait
	}
	s.waiting.Add(1)
	defer s.waiting.Add(-1)
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		s.mu.Lock()
		freed := s.freed // before looking, so that a place that comes free meanwhile isn't missed
		s.mu.Unlock()
		if admitted, err := s.tryAdmit(f); admitted || err != nil {
			return err
		}
		if s.evict() {
			s.steals.Add(1)
			continue
		}
		select {
		case <-freed:
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			return fmt.Errorf("%w: %d SQLite tenants have statements running, transactions open or rows unread (PoolConfig.MaxOpenSQLite)", ErrBusy, s.max)
		}
	}
}

// tryAdmit gives a file a place where there is one.
func (s *sqliteFiles) tryAdmit(f *sqliteDB) (bool, error) {
	s.mu.Lock()
	shut, had, free := f.shut, f.open.Load(), s.open < s.max
	if !shut && !had && free {
		f.open.Store(true)
		s.open++
		s.opens++
	}
	s.mu.Unlock()
	switch {
	case shut:
		return false, because(ErrTenantUnavailable, errPoolClosed)
	case had:
		return true, nil
	case free:
		f.tenant.pool.opened(f.tenant)
	}
	return free, nil
}

// wake has those who wait look again: a lease ended, nothing runs on a file any more, or one closed.
func (s *sqliteFiles) wake() {
	if s.waiting.Load() == 0 {
		return
	}
	s.mu.Lock()
	close(s.freed)
	s.freed = make(chan struct{})
	s.mu.Unlock()
}

func (f *sqliteDB) writer() lender { return f.handle(&f.write, 1, writerOption) }

func (f *sqliteDB) reader() lender {
	return f.handle(&f.read, f.files.readers, readerOption)
}
func (f *sqliteDB) native(use) *PGX { return nil }

// handle returns a handle of at most n connections, opened with an option, which it makes when first asked
// for.
func (f *sqliteDB) handle(at *atomic.Pointer[sqliteHandle], n int, option string) *sqliteHandle {
	if h := at.Load(); h != nil {
		return h
	}
	f.files.mu.Lock()
	defer f.files.mu.Unlock()
	if at.Load() == nil {
		at.Store(&sqliteHandle{file: f, option: option, places: make(chan struct{}, n), shut: f.shut})
	}
	return at.Load()
}

// close closes the file and gives its place back.
func (f *sqliteDB) close() {
	s := f.files
	s.mu.Lock()
	f.shut = true
	s.mu.Unlock()
	for _, h := range f.handles() {
		h.close()
	}
	s.mu.Lock()
	had := f.open.Swap(false)
	s.mu.Unlock()
	if had {
		s.vacate()
	}
}

// handles returns those that have been asked for, the writer last: it merges the log into the file.
func (f *sqliteDB) handles() (list []*sqliteHandle) {
	for _, h := range []*sqliteHandle{f.read.Load(), f.write.Load()} {
		if h != nil {
			list = append(list, h)
		}
	}
	return list
}

// closeIdle closes the idle connections.
func (f *sqliteDB) closeIdle() {
	for _, h := range f.handles() {
		h.closeIdle()
	}
}

// rest has the file lose its place, if nothing runs on it: the caller closes its idle connections, and then
// vacates the place.
func (f *sqliteDB) rest() bool {
	f.files.mu.Lock()
	defer f.files.mu.Unlock()
	if !f.open.Load() {
		return false
	}
	f.open.Store(false) // before busy is read: whoever counts from now on looks for a place first
	if f.busy.Load() != 0 {
		f.open.Store(true)
		return false
	}
	return true
}

// leave is called when a connection is in use no more.
func (f *sqliteDB) leave() {
	if f.busy.Add(-1) == 0 {
		f.files.wake()
	}
}

// vacate gives a place back.
func (s *sqliteFiles) vacate() {
	s.mu.Lock()
	s.open--
	s.mu.Unlock()
	s.wake()
}

// SQLiteRoot returns the folder of the tenants' SQLite files, which it creates where it is missing, for those
// who create, rename and remove them. The caller closes it.
func (p *Pool) SQLiteRoot() (*os.Root, error) {
	if err := os.MkdirAll(p.cfg.SQLiteDir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("tenantdb: PoolConfig.SQLiteDir: %w", err)
	}
	root, err := os.OpenRoot(p.cfg.SQLiteDir)
	if err != nil {
		return nil, fmt.Errorf("tenantdb: PoolConfig.SQLiteDir: %w", err)
	}
	return root, nil
}
