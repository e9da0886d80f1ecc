package sqlitedb

import (
	"context"
	"database/sql/driver"
	"fmt"
	"slices"
	"sync"
	"time"

	"modernc.org/sqlite"

	"github.com/tenantdb/tenantdb/internal/checkout"
	"github.com/tenantdb/tenantdb/internal/hook"
	"github.com/tenantdb/tenantdb/internal/keyedpool"
	"github.com/tenantdb/tenantdb/internal/refusal"
)

// Handle checks out a file's connections of one kind, of which there is a fixed number. It counts them
// itself, since database/sql would let a caller wait as long as its context lives.
type Handle struct {
	db     *DB
	option string        // the driver's option for its connections
	places chan struct{} // one token for each connection that is in use

	mu   sync.Mutex // guards what follows
	idle []*fileConn
	shut bool
}

// Driver returns the driver of the connections.
func (h *Handle) Driver() driver.Driver { return new(sqlite.Driver) }

// CheckOut returns a connection for database/sql. It waits for one at most Config.AcquireTimeout.
func (h *Handle) CheckOut(ctx context.Context, use checkout.Use) (driver.Conn, error) {
	by, err := h.db.tenant.Borrower(ctx, use)
	if err != nil {
		return nil, err
	}
	left, err := h.wait(ctx, by)
	if err != nil {
		return nil, err
	}
	h.db.enter()
	session := use == checkout.ForSessions
	conn, err := h.take(ctx, left, session)
	if err != nil {
		if !hook.WasLeft(err) { // else the hook's return gives the place back
			h.leave()
		}
		return nil, err
	}
	b := &borrowed{conn: conn, handle: h, checked: true, session: session}
	if !session {
		b.limit = h.db.files.cfg.QueryTimeout
	}
	b.Init(b)
	if !h.db.tenant.CheckOut(&b.Checkout, by, use) {
		h.giveBack(conn)
		return nil, refusal.WithCause(refusal.TenantUnavailable, checkout.ErrScopeOver)
	}
	return b, nil
}

// nestedAfter is how long a borrower waits for itself before that is reported as a deadlock.
const nestedAfter = time.Second

// wait takes a place. It returns how much of the timeout is left.
func (h *Handle) wait(ctx context.Context, by *checkout.Borrower) (left time.Duration, err error) {
	timeout := h.db.files.cfg.AcquireTimeout
	select {
	case h.places <- struct{}{}:
		return timeout, nil
	default:
	}
	end := h.db.files.observeWait(ctx, h.db.tenant.ID)
	left, err = h.waitInLine(ctx, by, timeout)
	end(err)
	return left, err
}

// waitInLine waits until a place is free. It returns how much of the timeout is left.
func (h *Handle) waitInLine(ctx context.Context, by *checkout.Borrower, timeout time.Duration) (
	left time.Duration, err error) {
	began, timer := time.Now(), time.NewTimer(min(nestedAfter, timeout))
	defer timer.Stop()
	for {
		select {
		case h.places <- struct{}{}:
			return timeout - time.Since(began), nil
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-timer.C:
		}
		left := timeout - time.Since(began)
		switch {
		case by.Count(h.isOwn) == cap(h.places):
			return 0, refusal.WithCause(refusal.Busy, h.nested())
		case left <= 0:
			return 0, fmt.Errorf("%w: this tenant's %d SQLite connection(s) of this kind are in use; does a "+
				"handler hold a transaction, or unread rows, while it waits for another connection?",
				refusal.Busy, cap(h.places))
		}
		timer.Reset(left)
	}
}

// isOwn reports whether a connection is this handle's.
func (h *Handle) isOwn(conn checkout.Reclaimer) bool {
	b, ok := conn.(*borrowed)
	return ok && b.handle == h
}

// nested returns the error of a borrower that has all connections and waits for another.
func (h *Handle) nested() error {
	if h.option == readerOption {
		return fmt.Errorf("%w: this request has all %d connections of ReadDB in use: finish or close their "+
			"rows first", keyedpool.ErrNested, cap(h.places))
	}
	return fmt.Errorf("%w: on SQLite a tenant has one connection that writes, and this request has it in "+
		"use: finish or close the rows first, run the statement in the open transaction, or read with ReadDB",
		keyedpool.ErrNested)
}

// take returns an idle connection, or opens one. A session always gets a new one, and the idle ones close to
// make room for it.
func (h *Handle) take(ctx context.Context, timeout time.Duration, session bool) (*fileConn, error) {
	now, err := h.db.stat()
	if err != nil {
		return nil, err // the idle ones stay open: the file may come back
	}
	if !h.db.open.Load() {
		if err := h.db.files.admit(ctx, h.db, timeout); err != nil {
			return nil, err
		}
	}
	option := h.option
	if session {
		option = sessionOption
		h.closeIdle(fileID{})
	}
	if conn := h.popIdle(now.fileID); conn != nil {
		return conn, nil
	}
	h.db.closeIdle(now.fileID)
	for {
		conn, err := h.db.dial(ctx, option)
		switch {
		case err == nil:
			if err := h.setUp(ctx, conn); err != nil {
				return nil, err
			}
			conn.guard.session = session
			return conn, nil
		case !h.db.outOfHandles():
			return nil, err
		case !h.db.files.evict():
			return nil, fmt.Errorf("%w: the process has no file handle left "+
				"(RLIMIT_NOFILE; PoolConfig.MaxOpenSQLite)", refusal.Busy)
		}
	}
}

// leave gives the place of a connection back.
func (h *Handle) leave() {
	<-h.places
	h.db.leave()
}

// popIdle returns an idle connection to a file, nil if there is none.
func (h *Handle) popIdle(now fileID) *fileConn {
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

// giveBack keeps a connection for the next borrower. It closes one that isn't as it was when it was new.
func (h *Handle) giveBack(conn *fileConn) {
	keep := conn.reusable()
	h.mu.Lock()
	if keep = keep && !h.shut; keep {
		h.idle = append(h.idle, conn)
	}
	h.mu.Unlock()
	if !keep {
		_ = conn.Close()
		if conn.broken { // the others may share the reason, such as a log that can't be written
			h.db.closeIdle(fileID{})
		}
	}
	h.leave()
}

// closeIdle closes the idle connections except those to a file. It closes all of them for the zero fileID.
func (h *Handle) closeIdle(except fileID) {
	h.mu.Lock()
	var closing []*fileConn
	h.idle = slices.DeleteFunc(h.idle, func(c *fileConn) bool {
		if c.serves(except) {
			return false
		}
		closing = append(closing, c)
		return true
	})
	h.mu.Unlock()
	for _, c := range closing {
		_ = c.Close()
	}
}

// close closes the idle connections. Those in use close when they are returned.
func (h *Handle) close() {
	h.mu.Lock()
	h.shut = true
	h.mu.Unlock()
	h.closeIdle(fileID{})
}
