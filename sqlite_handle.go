package tenantdb

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"strings"
	"sync"
	"time"

	"modernc.org/sqlite"
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

// sqliteConn is what the driver's connections are.
type sqliteConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.Pinger
	driver.SessionResetter
	driver.Validator
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
	if err := h.wait(ctx); err != nil {
		return nil, err
	}
	conn, err := h.take(ctx)
	if err != nil {
		<-h.places
		return nil, err
	}
	return &borrowedSQLite{sqliteConn: conn, handle: h}, nil
}

// wait takes a place.
func (h *sqliteHandle) wait(ctx context.Context) error {
	select {
	case h.places <- struct{}{}:
		return nil
	default:
	}
	patience := time.NewTimer(h.file.files.patience)
	defer patience.Stop()
	select {
	case h.places <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-patience.C:
		return fmt.Errorf("%w: this tenant's %d SQLite connection(s) of this kind are in use; does a handler hold a transaction, or unread rows, while it waits for another connection?", ErrBusy, cap(h.places))
	}
}

// take returns an idle connection, or a new one.
func (h *sqliteHandle) take(ctx context.Context) (sqliteConn, error) {
	h.mu.Lock()
	if n := len(h.idle); n > 0 && !h.shut {
		conn := h.idle[n-1]
		h.idle = h.idle[:n-1]
		h.mu.Unlock()
		return conn, nil
	}
	h.mu.Unlock()
	if err := h.file.files.admit(ctx, h.file); err != nil {
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

// borrowedSQLite is a connection in the hands of database/sql, which closes it after each use: that gives it back.
type borrowedSQLite struct {
	sqliteConn
	handle *sqliteHandle
	began  bool // a statement may have begun a transaction that database/sql doesn't know of
	once   sync.Once
}

// Close implements driver.Conn.
func (c *borrowedSQLite) Close() error {
	c.once.Do(func() { c.handle.giveBack(c.sqliteConn, c.began) })
	return nil
}

// Unwrap returns the driver's own connection, which its helpers look for.
func (c *borrowedSQLite) Unwrap() driver.Conn { return c.sqliteConn }

// ExecContext implements driver.ExecerContext.
func (c *borrowedSQLite) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	c.began = c.began || mayBegin(query)
	return c.sqliteConn.ExecContext(ctx, query, args)
}

// QueryContext implements driver.QueryerContext.
func (c *borrowedSQLite) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	c.began = c.began || mayBegin(query)
	return c.sqliteConn.QueryContext(ctx, query, args)
}

// PrepareContext implements driver.ConnPrepareContext.
func (c *borrowedSQLite) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	c.began = c.began || mayBegin(query)
	return c.sqliteConn.PrepareContext(ctx, query)
}

// mayBegin reports whether a statement's text holds a word that begins a transaction. Where it is only a name or a value, the
// connection is looked at for nothing.
func mayBegin(query string) bool {
	for _, word := range []string{"begin", "savepoint"} {
		for i := 0; i+len(word) <= len(query); i++ {
			if strings.EqualFold(query[i:i+len(word)], word) {
				return true
			}
		}
	}
	return false
}
