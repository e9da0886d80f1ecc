package tenantdb

import (
	"context"
	"database/sql/driver"
	"fmt"
	"sync"
	"time"

	"modernc.org/sqlite"

	"github.com/tenantdb/tenantdb/internal/keyedpool"
)

// sqliteHandle lends the connections of one kind to one file, of which there is a fixed number. They are
// counted here and not by database/sql, which would have a caller wait as long as its context lives.
type sqliteHandle struct {
	file   *sqliteDB
	option string        // of the driver's, for its connections
	places chan struct{} // one token for each connection that may be in use

	mu   sync.Mutex // guards what follows
	idle []*fileConn
	shut bool
}

// lend implements lender: it waits for one of the connections, at most as long as the pool's patience.
func (h *sqliteHandle) lend(ctx context.Context, to use) (driver.Conn, error) {
	of, err := h.file.tenant.borrower(ctx, to)
	if err != nil {
		return nil, err
	}
	patience, err := h.wait(ctx, of)
	if err != nil {
		return nil, err
	}
	h.file.busy.Add(1)
	conn, err := h.take(ctx, patience, to == forSessions)
	if err != nil {
		h.leave()
		return nil, err
	}
	l := &sqliteLoan{conn: conn, handle: h, seen: true, keeps: to == forSessions}
	if !l.keeps {
		l.limit = h.file.tenant.pool.cfg.QueryTimeout
	}
	l.loan.conn = l
	if !h.file.tenant.lend(&l.loan, of, to) {
		h.giveBack(conn)
		return nil, because(ErrTenantUnavailable, errScopeOver)
	}
	return l, nil
}

// nestedAfter is how long somebody waits beside connections of their own before that is called a deadlock.
const nestedAfter = time.Second

// wait takes a place, and tells how much patience is left.
func (h *sqliteHandle) wait(ctx context.Context, of *loans) (patience time.Duration, err error) {
	patience = h.file.files.patience
	select {
	case h.places <- struct{}{}:
		return patience, nil
	default:
	}
	began, timer := time.Now(), time.NewTimer(min(nestedAfter, patience))
	defer timer.Stop()
	for {
		select {
		case h.places <- struct{}{}:
			return patience - time.Since(began), nil
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-timer.C:
		}
		left := patience - time.Since(began)
		switch {
		case of.count(h) == cap(h.places):
			return 0, because(ErrBusy, h.nested())
		case left <= 0:
			return 0, fmt.Errorf("%w: this tenant's %d SQLite connection(s) of this kind are in use; does a handler hold a transaction, or unread rows, while it waits for another connection?", ErrBusy, cap(h.places))
		}
		timer.Reset(left)
	}
}

// nested says what somebody does wrong who waits for a connection beside all that there are.
func (h *sqliteHandle) nested() error {
	if h.option == readerOption {
		return fmt.Errorf("%w: this request has all %d connections of ReadDB in use: finish or close their rows first", keyedpool.ErrNested, cap(h.places))
	}
	return fmt.Errorf("%w: on SQLite a tenant has one connection that writes, and this request has it in use: finish or close the rows first, "+
		"run the statement in the open transaction, or read with ReadDB", keyedpool.ErrNested)
}

// count returns how many of the scope's loans are a handle's.
func (s *loans) count(h *sqliteHandle) (n int) {
	if s == nil {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for l := s.list; l != nil; l = l.next {
		if c, ok := l.conn.(*sqliteLoan); ok && c.handle == h {
			n++
		}
	}
	return n
}

// take returns an idle connection, or a new one; for a session always a new one, which the idle ones make
// room for.
func (h *sqliteHandle) take(ctx context.Context, patience time.Duration, session bool) (*fileConn, error) {
	now, err := h.file.look()
	if err != nil {
		return nil, err // the idle ones stay: the file may come back
	}
	if !h.file.open.Load() {
		if err := h.file.files.admit(ctx, h.file, patience); err != nil {
			return nil, err
		}
	}
	if session {
		h.closeIdle()
	}
	if conn := h.popIdle(now.fileID); conn != nil {
		return conn, nil
	}
	h.file.dropStale(now.fileID)
	option := h.option
	if session {
		option = sessionOption
	}
	conn, err := h.file.dial(ctx, option)
	for err != nil && h.file.outOfHandles() {
		if !h.file.files.evict() {
			return nil, fmt.Errorf("%w: the process has no file handle left (RLIMIT_NOFILE; PoolConfig.MaxOpenSQLite)", ErrBusy)
		}
		h.file.files.steals.Add(1)
		conn, err = h.file.dial(ctx, option)
	}
	if err != nil {
		return nil, err
	}
	conn.guard.session = session
	return conn, nil
}

// leave gives the place back.
func (h *sqliteHandle) leave() {
	<-h.places
	h.file.leave()
}

// popIdle returns an idle connection to the file that has the name now, nil where there is none.
func (h *sqliteHandle) popIdle(now fileID) *fileConn {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := len(h.idle)
	if n == 0 || h.shut || !h.idle[n-1].serves(now) {
		return nil
	}
	conn := h.idle[n-1]
	h.idle = h.idle[:n-1]
	return conn
}

// Driver implements lender.
func (h *sqliteHandle) Driver() driver.Driver { return new(sqlite.Driver) }

// giveBack keeps a connection for the next, or closes one that isn't as it was when it was new.
func (h *sqliteHandle) giveBack(conn *fileConn) {
	sound := conn.sound()
	h.mu.Lock()
	if sound && !h.shut {
		h.idle = append(h.idle, conn)
		conn = nil
	}
	h.mu.Unlock()
	if conn != nil {
		_ = conn.Close()
		if conn.spoiled { // the others may share what made it so, as a log that can't be written
			h.file.dropStale(fileID{})
		}
	}
	h.leave()
}

// closeIdle closes the idle connections.
func (h *sqliteHandle) closeIdle() {
	h.mu.Lock()
	idle := h.idle
	h.idle = nil
	h.mu.Unlock()
	for _, conn := range idle {
		_ = conn.Close()
	}
}

// close closes the idle connections; those in use close when they are given back.
func (h *sqliteHandle) close() {
	h.mu.Lock()
	h.shut = true
	h.mu.Unlock()
	h.closeIdle()
}
