// Package sqlitedb opens the tenants' SQLite files and checks out connections to them. The number of open
// files is bounded: a file on which nothing runs closes to make room for another.
package sqlitedb

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/checkout"
	"github.com/tenantdb/tenantdb/internal/keyedpool"
	"github.com/tenantdb/tenantdb/internal/refusal"
)

// Config describes Files. Its errors name the fields of tenantdb.PoolConfig that set it.
type Config struct {
	// Dir is the folder of the files whose path is relative. It must be absolute.
	Dir string
	// MaxOpen is how many files may be open at once.
	MaxOpen int
	// Readers is how many connections for reading each file may have.
	Readers int
	// AcquireTimeout is how long a caller waits for a connection before it is refused.
	AcquireTimeout time.Duration
	// QueryTimeout is how long a statement may take. Zero is no limit.
	QueryTimeout time.Duration
	// AfterConnect is the product's hook, as PoolConfig.AfterConnectSQLite describes it. It may be nil.
	AfterConnect func(ctx context.Context, tenantID string, conn driver.ExecerContext) error
	// ConnectTimeout is how long AfterConnect may take.
	ConnectTimeout time.Duration
	// OnEvicted is called after a tenant's file was closed to make room for another. It is optional.
	OnEvicted func(tenantID string)
	// Observer is told what happens to connections and files. It is optional.
	Observer *keyedpool.Observer
}

// Files opens a bounded number of the tenants' files.
type Files struct {
	cfg     Config
	waiting atomic.Int32 // callers that wait for a place

	mu        sync.Mutex       // guards what follows and each DB's shut; no I/O under it
	open      map[*DB]struct{} // the files that hold a place
	closing   int              // places of files whose idle connections are being closed
	opens     uint64           // how often a file took a place
	evictions uint64           // how often a file lost its place to another
	freed     chan struct{}    // closed and replaced when a place may have become free
}

// New returns Files. It opens nothing.
func New(cfg Config) *Files {
	return &Files{cfg: cfg, open: make(map[*DB]struct{}), freed: make(chan struct{})}
}

// HandlesPerTenant returns how many file handles an open file takes. Each connection opens the file and its
// log, and all share the log's index.
func HandlesPerTenant(readers int) int { return 2*(1+readers) + 1 }

// Open returns a tenant's database without opening its file. A relative path must be the tenant's own. An
// absolute path may have any name.
func (s *Files) Open(t *checkout.Tenant, path string) (*DB, error) {
	f := &DB{files: s, path: path, fullPath: path, tenant: t}
	if filepath.IsAbs(path) {
		return f, nil
	}
	if path != t.ID+".db" || !hostdb.ValidID(t.ID) {
		return nil, errors.New("db_url: a relative SQLite path must be the tenant's id and .db; " +
			"give an absolute path for a file of another name")
	}
	f.fullPath = s.cfg.Dir + string(filepath.Separator) + path
	return f, nil
}

// Root returns the folder of the files whose path is relative, for those who create, rename and remove them.
// It creates a missing folder. The caller closes the root.
func (s *Files) Root() (*os.Root, error) {
	if err := os.MkdirAll(s.cfg.Dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("tenantdb: PoolConfig.SQLiteDir: %w", err)
	}
	root, err := os.OpenRoot(s.cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("tenantdb: PoolConfig.SQLiteDir: %w", err)
	}
	return root, nil
}

// Stats are the figures of all files at one instant.
type Stats struct {
	// Open is how many files are open, and MaxOpen how many may be.
	Open, MaxOpen int
	// Waiting is how many callers wait until their file may be opened.
	Waiting int
	// Opens counts the files opened. Evictions counts those closed to make room for another.
	Opens, Evictions uint64
}

// Stats returns the figures.
func (s *Files) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{s.taken(), s.cfg.MaxOpen, int(s.waiting.Load()), s.opens, s.evictions}
}

// taken returns how many places are taken. The caller holds s.mu.
func (s *Files) taken() int { return len(s.open) + s.closing }

// admit gives a file a place. It evicts another file or waits if there is none.
func (s *Files) admit(ctx context.Context, f *DB, timeout time.Duration) error {
	if admitted, err := s.tryAdmit(f); admitted || err != nil {
		return err // the usual case comes before anything is set up to wait
	}
	s.waiting.Add(1)
	defer s.waiting.Add(-1)
	end := s.observeWait(ctx, f.tenant.ID)
	err := s.awaitPlace(ctx, f, timeout)
	end(err)
	return err
}

// awaitPlace waits until the file has a place. It evicts another file if one may go.
func (s *Files) awaitPlace(ctx context.Context, f *DB, timeout time.Duration) error {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	for {
		s.mu.Lock()
		freed := s.freed // read before looking, so that a place that becomes free meanwhile isn't missed
		s.mu.Unlock()
		if admitted, err := s.tryAdmit(f); admitted || err != nil {
			return err
		}
		if s.evict() {
			continue
		}
		select {
		case <-freed:
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			return fmt.Errorf("%w: %d SQLite tenants have statements running, transactions open or rows "+
				"unread (PoolConfig.MaxOpenSQLite)", refusal.Busy, s.cfg.MaxOpen)
		}
	}
}

// tryAdmit gives a file a place if one is free.
func (s *Files) tryAdmit(f *DB) (admitted bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case f.shut:
		return false, refusal.WithCause(refusal.TenantUnavailable, refusal.ErrPoolClosed)
	case f.open.Load():
		return true, nil
	case s.taken() == s.cfg.MaxOpen:
		return false, nil
	}
	f.open.Store(true)
	s.open[f] = struct{}{}
	s.opens++
	return true, nil
}

// evict closes a file on which nothing runs. It reports false if there is none.
func (s *Files) evict() bool {
	f := s.victim()
	if f == nil {
		return false
	}
	f.closeIdle(fileID{})
	s.mu.Lock()
	s.closing--
	s.mu.Unlock()
	s.wake()
	if o := s.cfg.Observer; o != nil {
		o.Evicted(f.tenant.ID, "")
	}
	if s.cfg.OnEvicted != nil {
		s.cfg.OnEvicted(f.tenant.ID)
	}
	return true
}

// victim chooses a file on which nothing runs and takes its place away. Files of tenants without a lease
// come first, and among them those that weren't used since an earlier choice. This is the CLOCK algorithm;
// the random order in which Go ranges over a map replaces its hand.
func (s *Files) victim() *DB {
	s.mu.Lock()
	defer s.mu.Unlock()
	for pass := range 3 {
		for f := range s.open {
			switch {
			case pass < 2 && f.tenant.Leases.Count() > 0:
			case pass == 0 && f.used.Swap(false): // a second chance
			case f.rest():
				return f
			}
		}
	}
	return nil
}

// wake has those who wait for a place look again.
func (s *Files) wake() {
	if s.waiting.Load() == 0 {
		return
	}
	s.mu.Lock()
	close(s.freed)
	s.freed = make(chan struct{})
	s.mu.Unlock()
}
