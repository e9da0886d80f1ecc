package sqlitedb

import (
	"context"
	"database/sql/driver"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/tenantdb/tenantdb/internal/checkout"
	"github.com/tenantdb/tenantdb/internal/refusal"
)

// borrowed is a connection that is checked out by database/sql, which closes it after each use and so returns
// it. The driver's connection must not be closed while something runs on it. So everything done with it goes
// through here. If it is reclaimed while something runs, it closes as soon as that returns.
type borrowed struct {
	checkout.Checkout
	conn    *fileConn
	handle  *Handle
	session bool          // database/sql keeps the connection until its handle is closed
	limit   time.Duration // how long a statement may take; zero is no limit

	mu      sync.Mutex // held by whoever is in the driver; guards what follows
	open    []closer
	checked bool // the file was looked at since the last statement
	inTx    bool // database/sql's transaction is open
	raw     bool // sql.Conn.Raw has the driver's own connection, so it can't be reclaimed
	ended   bool
}

// closer is rows or a statement of a borrowed connection. Whoever calls its methods has entered.
type closer interface {
	// shut closes it, and first what depends on it.
	shut() error
}

// begin is called before a statement. It refuses the context of another tenant, and a file that lost its
// name. If it returns nil, leave follows.
func (c *borrowed) begin(ctx context.Context, text string) error {
	if err := c.Check(ctx); err != nil {
		return err
	}
	if err := c.enter(); err != nil {
		return err
	}
	checked := c.checked
	c.checked, c.conn.guard.text = false, text
	if checked {
		return nil
	}
	err := c.conn.inPlace()
	if err != nil {
		c.leave()
	}
	return err
}

// enter is called before something is done with the connection. If it returns nil, leave follows.
func (c *borrowed) enter() error {
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		return refusal.WithCause(refusal.TenantUnavailable, checkout.ErrScopeOver)
	}
	c.raw = false // database/sql calls nothing while sql.Conn.Raw runs
	return nil
}

// leave is called after something was done with the connection.
func (c *borrowed) leave() {
	c.mu.Unlock()
	if c.Returned() {
		c.Reclaim()
	}
}

// done is called after a statement or a transaction. It reports a write as done only if the file that took
// it still has its name.
func (c *borrowed) done(err error) error {
	switch {
	case err != nil:
		return c.conn.failed(err)
	case c.conn.guard.wrote && !c.inTx:
		return c.conn.written()
	}
	return nil
}

// errQueryTimeout replaces the driver's error of a statement that it has interrupted, which would blame the
// database.
var errQueryTimeout = errors.New("the statement was cancelled: it took longer than PoolConfig.QueryTimeout")

// timedOut returns the error of a statement. It is errQueryTimeout if the statement's limit has ended it.
func timedOut(ctx, limited context.Context, err error) error {
	if err != nil && expired(ctx, limited) {
		return errQueryTimeout
	}
	return err
}

// expired reports whether a statement's limit has ended but its context hasn't.
func expired(ctx, limited context.Context) bool {
	return limited != ctx && limited.Err() != nil && ctx.Err() == nil
}

// Reclaim implements [checkout.Reclaimer].
func (c *borrowed) Reclaim() {
	if !c.mu.TryLock() { // whoever is in the driver reclaims the connection on leaving
		return
	}
	reclaimed := !c.ended && !c.raw
	if reclaimed {
		c.end()
	}
	c.mu.Unlock()
	if reclaimed { // nobody else uses the connection after end
		_ = c.conn.Close() // rolls back
		c.handle.leave()
	}
}

// Close implements driver.Conn.
func (c *borrowed) Close() error {
	c.Return()
	c.mu.Lock()
	returned := !c.ended
	if returned {
		c.end()
	}
	c.mu.Unlock()
	if returned {
		c.handle.giveBack(c.conn)
	}
	return nil
}

// end closes what is open on the connection, for which its close would wait. Functions of sql.Conn.Raw may
// leave something open. The caller holds c.mu.
func (c *borrowed) end() {
	c.ended = true
	for len(c.open) > 0 {
		_ = c.open[len(c.open)-1].shut()
	}
}

// Unwrap returns the driver's own connection. The driver's helpers look for it while sql.Conn.Raw has the
// connection. It can't be reclaimed until something else is done with it.
func (c *borrowed) Unwrap() driver.Conn {
	if c.enter() != nil {
		return nil
	}
	defer c.leave()
	c.raw = true
	c.conn.guard.changed = true // by whatever is done with it
	return c.conn.driverConn
}

// IsValid implements driver.Validator. It tells database/sql whether to keep the connection.
func (c *borrowed) IsValid() bool {
	if !c.session || c.enter() != nil {
		return false
	}
	defer c.leave()
	return c.conn.IsValid()
}

// ResetSession implements driver.SessionResetter. A session whose connection was reclaimed gets another one.
func (c *borrowed) ResetSession(ctx context.Context) error {
	if c.enter() != nil {
		return driver.ErrBadConn
	}
	defer c.leave()
	return c.conn.ResetSession(ctx)
}

// Ping implements driver.Pinger.
func (c *borrowed) Ping(ctx context.Context) error {
	if err := c.begin(ctx, ""); err != nil {
		return err
	}
	defer c.leave()
	return c.done(c.conn.Ping(ctx))
}

// ExecContext implements driver.ExecerContext.
func (c *borrowed) ExecContext(ctx context.Context, query string, args []driver.NamedValue,
) (driver.Result, error) {
	if err := c.begin(ctx, query); err != nil {
		return nil, err
	}
	defer c.leave()
	limited := checkout.WithLimit(ctx, c.limit)
	defer checkout.EndLimit(limited)
	stmt, err := c.conn.compile(limited, query)
	if err != nil {
		return nil, timedOut(ctx, limited, c.conn.failed(err))
	}
	result, err := stmt.ExecContext(limited, args)
	err = c.conn.putBack(stmt, err)
	return result, timedOut(ctx, limited, c.done(err))
}

// QueryContext implements driver.QueryerContext.
func (c *borrowed) QueryContext(ctx context.Context, query string, args []driver.NamedValue,
) (driver.Rows, error) {
	if err := c.begin(ctx, query); err != nil {
		return nil, err
	}
	defer c.leave()
	limited := checkout.WithLimit(ctx, c.limit)
	stmt, err := c.conn.compile(limited, query)
	if err != nil {
		return c.newRows(ctx, limited, nil, nil, nil, err)
	}
	rows, err := stmt.QueryContext(limited, args)
	if err != nil {
		err = c.conn.putBack(stmt, err)
	}
	return c.newRows(ctx, limited, nil, stmt, rows, err)
}

// PrepareContext implements driver.ConnPrepareContext.
func (c *borrowed) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	if err := c.begin(ctx, query); err != nil {
		return nil, err
	}
	defer c.leave()
	stmt, err := c.conn.PrepareContext(ctx, query)
	if err != nil {
		return nil, c.conn.failed(err)
	}
	s := &statement{stmt.(driverStmt), c, query}
	c.open = append(c.open, s)
	return s, nil
}

// Prepare implements driver.Conn.
func (c *borrowed) Prepare(query string) (driver.Stmt, error) {
	return c.PrepareContext(context.Background(), query)
}

// BeginTx implements driver.ConnBeginTx.
func (c *borrowed) BeginTx(ctx context.Context, options driver.TxOptions) (driver.Tx, error) {
	if err := c.begin(ctx, ""); err != nil {
		return nil, err
	}
	defer c.leave()
	c.conn.guard.own = true
	tx, err := c.conn.BeginTx(ctx, options)
	c.conn.guard.own = false
	if err != nil {
		return nil, c.conn.failed(err)
	}
	c.inTx = true
	return transaction{c, tx}, nil
}

// Begin implements driver.Conn.
func (c *borrowed) Begin() (driver.Tx, error) {
	return c.BeginTx(context.Background(), driver.TxOptions{})
}

// close closes rows or a statement once.
func (c *borrowed) close(used closer) error {
	if c.enter() != nil {
		return nil // it was closed when the connection was reclaimed
	}
	defer c.leave()
	if !slices.Contains(c.open, used) {
		return nil
	}
	return c.done(used.shut())
}

// remove takes rows or a statement out of those that are open.
func (c *borrowed) remove(used closer) {
	i := slices.Index(c.open, used)
	c.open = slices.Delete(c.open, i, i+1)
}

// transaction is a transaction on a borrowed connection.
type transaction struct {
	conn *borrowed
	tx   driver.Tx
}

// Commit implements driver.Tx.
func (t transaction) Commit() error {
	if err := t.conn.enter(); err != nil {
		return err
	}
	defer t.conn.leave()
	return t.conn.done(t.end(t.tx.Commit))
}

// Rollback implements driver.Tx.
func (t transaction) Rollback() error {
	if t.conn.enter() != nil {
		return nil // it was rolled back when the connection was reclaimed
	}
	defer t.conn.leave()
	return t.end(t.tx.Rollback)
}

// end commits or rolls back. The caller has entered.
func (t transaction) end(how func() error) error {
	t.conn.inTx, t.conn.conn.guard.own = false, true
	err := how()
	t.conn.conn.guard.own = false
	return err
}
