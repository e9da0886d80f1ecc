package tenantdb

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"sync"
	"time"

	"modernc.org/sqlite"

	"github.com/tenantdb/tenantdb/internal/keyedpool"
)

// sqliteHandle is a *sql.DB over a fixed number of connections to one file. They are counted here and not by database/sql, which
// would have a caller wait as long as its context lives.
type sqliteHandle struct {
	file   *sqliteDB
	option string        // of the driver's, for its connections
	places chan struct{} // one token for each connection that may be in use

	mu   sync.Mutex // guards what follows
	db   *sql.DB    // owns a goroutine, so it is made when first asked for
	idle []sqliteConn
	shut bool
}

// open returns the *sql.DB.
func (h *sqliteHandle) open() *sql.DB {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.db == nil {
		h.db = sql.OpenDB(h)
		h.db.SetMaxIdleConns(0) // idle ones are kept here
		if h.shut {
			_ = h.db.Close()
		}
	}
	return h.db
}

// Connect implements driver.Connector: it waits for one of the connections, at most as long as the pool's patience.
func (h *sqliteHandle) Connect(ctx context.Context) (driver.Conn, error) {
	of := borrower(ctx)
	patience, err := h.wait(ctx, of)
	if err != nil {
		return nil, err
	}
	conn, err := h.take(ctx, patience)
	if err != nil {
		<-h.places
		return nil, err
	}
	l := &sqliteLoan{conn: conn, handle: h}
	l.loan.conn = l
	if !h.file.tenant.lend(&l.loan, of) {
		h.giveBack(conn, false)
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
			return 0, because(ErrBusy, keyedpool.ErrNested)
		case left <= 0:
			return 0, fmt.Errorf("%w: this tenant's %d SQLite connection(s) of this kind are in use; does a handler hold a transaction, or unread rows, while it waits for another connection?", ErrBusy, cap(h.places))
		}
		timer.Reset(left)
	}
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

// take returns an idle connection, or a new one.
func (h *sqliteHandle) take(ctx context.Context, patience time.Duration) (sqliteConn, error) {
	h.mu.Lock()
	if n := len(h.idle); n > 0 && !h.shut {
		conn := h.idle[n-1]
		h.idle = h.idle[:n-1]
		h.mu.Unlock()
		return conn, nil
	}
	h.mu.Unlock()
	if err := h.file.files.admit(ctx, h.file, patience); err != nil {
		return nil, err
	}
	if err := h.file.check(); err != nil {
		return nil, because(ErrTenantUnavailable, err)
	}
	connector, err := sqlite.NewConnector(h.file.dsn(h.option))
	if err != nil {
		return nil, because(ErrTenantUnavailable, err)
	}
	conn, err := connector.Connect(ctx)
	if err != nil {
		return nil, because(ErrTenantUnavailable, err)
	}
	return conn.(sqliteConn), nil
}

// Driver implements driver.Connector.
func (h *sqliteHandle) Driver() driver.Driver { return new(sqlite.Driver) }

// giveBack keeps a connection for the next, or closes one that is of no more use.
func (h *sqliteHandle) giveBack(conn sqliteConn, began bool) {
	sound := conn.IsValid() && !(began && inTransaction(conn))
	h.mu.Lock()
	if sound && !h.shut {
		h.idle = append(h.idle, conn)
		conn = nil
	}
	h.mu.Unlock()
	if conn != nil {
		_ = conn.Close()
	}
	<-h.places
}

// inTransaction reports whether a borrower left a transaction open, as by a BEGIN of its own: then a second one is refused.
func inTransaction(conn sqliteConn) bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if _, err := conn.ExecContext(ctx, "BEGIN DEFERRED", nil); err != nil {
		return true
	}
	_, err := conn.ExecContext(ctx, "ROLLBACK", nil)
	return err != nil
}

// close closes the idle connections; those in use close when they are given back.
func (h *sqliteHandle) close() {
	h.mu.Lock()
	idle, db := h.idle, h.db
	h.idle, h.shut = nil, true
	h.mu.Unlock()
	for _, conn := range idle {
		_ = conn.Close()
	}
	if db != nil {
		_ = db.Close()
	}
}
