package tenantdb

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"reflect"
	"slices"
	"sync"
	"time"
)

// sqliteLoan is the loan of a connection to database/sql, which closes it after each use: that gives it back.
// The driver's connections must not be closed while something runs on them, so all that is done with one
// passes by here; one that is seized while something runs is closed as soon as that returns.
type sqliteLoan struct {
	loan
	conn   *fileConn
	handle *sqliteHandle
	keeps  bool          // the handle of database/sql keeps it until its own end
	limit  time.Duration // PoolConfig.QueryTimeout, or 0

	mu    sync.Mutex // held by whoever is in the driver; guards what follows
	open  []opened
	seen  bool // the file was looked at since the last statement
	inTx  bool // database/sql's transaction is open
	bare  bool // somebody has the driver's connection itself: it can't be seized
	ended bool
}

// opened are rows or a statement on a loan. Whoever calls its methods has entered.
type opened interface {
	// shut closes it, and what depends on it first.
	shut() error
}

// enterWith is enter for somebody with a context, which must not be another tenant's.
func (c *sqliteLoan) enterWith(ctx context.Context) error {
	if err := c.loan.check(ctx); err != nil {
		return err
	}
	return c.enter()
}

// enter is called before something is done with the connection. Where it returns nil, leave follows.
func (c *sqliteLoan) enter() error {
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		return because(ErrTenantUnavailable, errScopeOver)
	}
	c.bare = false // database/sql calls nothing while sql.Conn.Raw runs
	return nil
}

// ready is called before a statement: none runs in a file that lost its name.
func (c *sqliteLoan) ready(text string) error {
	seen := c.seen
	c.seen, c.conn.guard.text = false, text
	if seen {
		return nil
	}
	return c.conn.inPlace()
}

// done is called after a statement, or after a transaction: a write is reported only where the file that took
// it has its name.
func (c *sqliteLoan) done(err error) error {
	switch {
	case err != nil:
		return c.conn.failed(err)
	case c.conn.guard.wrote && !c.inTx:
		return c.conn.written()
	}
	return nil
}

// errQueryTimeout stands for what the driver says of a statement that it has interrupted, which tells of no
// server in trouble.
var errQueryTimeout = errors.New("the statement was cancelled: it took longer than PoolConfig.QueryTimeout")

// timedOut returns the error of a statement, errQueryTimeout where its limit has ended it.
func timedOut(ctx, limited context.Context, err error) error {
	if err != nil && expired(ctx, limited) {
		return errQueryTimeout
	}
	return err
}

// expired reports whether a statement's limit has ended, and its context hasn't.
func expired(ctx, limited context.Context) bool {
	return limited != ctx && limited.Err() != nil && ctx.Err() == nil
}

// leave is called after something was done with the connection.
func (c *sqliteLoan) leave() {
	c.mu.Unlock()
	if c.back.Load() {
		c.seize()
	}
}

// seize implements lent.
func (c *sqliteLoan) seize() {
	if !c.mu.TryLock() { // whoever is in the driver finds back set on leaving
		return
	}
	defer c.mu.Unlock()
	if c.ended || c.bare {
		return
	}
	c.ended = true
	for len(c.open) > 0 {
		_ = c.open[len(c.open)-1].shut()
	}
	_ = c.conn.Close() // rolls back; with something open it would wait for that
	c.handle.leave()
}

// Close implements driver.Conn.
func (c *sqliteLoan) Close() error {
	c.loan.giveBack()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ended {
		c.ended = true
		for len(c.open) > 0 { // left behind in sql.Conn.Raw
			_ = c.open[len(c.open)-1].shut()
		}
		c.handle.giveBack(c.conn)
	}
	return nil
}

// Unwrap returns the driver's own connection, which its helpers look for, while they have sql.Conn.Raw keep
// it. It can't be seized until something else is done with it.
func (c *sqliteLoan) Unwrap() driver.Conn {
	if c.enter() != nil {
		return nil
	}
	defer c.leave()
	c.bare = true
	c.conn.guard.changed = true // by whatever is done with it
	return c.conn.sqliteConn
}

// IsValid implements driver.Validator, which database/sql asks whether it may keep the connection.
func (c *sqliteLoan) IsValid() bool {
	if !c.keeps || c.enter() != nil {
		return false
	}
	defer c.leave()
	return c.conn.IsValid()
}

// ResetSession implements driver.SessionResetter: a handle that kept the connection gets another one where it
// was seized.
func (c *sqliteLoan) ResetSession(ctx context.Context) error {
	if c.enter() != nil {
		return driver.ErrBadConn
	}
	defer c.leave()
	return c.conn.ResetSession(ctx)
}

// Ping implements driver.Pinger.
func (c *sqliteLoan) Ping(ctx context.Context) error {
	if err := c.enterWith(ctx); err != nil {
		return err
	}
	defer c.leave()
	if err := c.ready(""); err != nil {
		return err
	}
	return c.done(c.conn.Ping(ctx))
}

// ExecContext implements driver.ExecerContext.
func (c *sqliteLoan) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if err := c.enterWith(ctx); err != nil {
		return nil, err
	}
	defer c.leave()
	if err := c.ready(query); err != nil {
		return nil, err
	}
	limited := within(ctx, c.limit)
	defer over(limited)
	kept, err := c.conn.compile(limited, query)
	if err != nil {
		return nil, timedOut(ctx, limited, c.conn.failed(err))
	}
	result, err := kept.ExecContext(limited, args)
	if closed := c.conn.putBack(kept, err); err == nil {
		err = closed
	}
	return result, timedOut(ctx, limited, c.done(err))
}

// QueryContext implements driver.QueryerContext.
func (c *sqliteLoan) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	if err := c.enterWith(ctx); err != nil {
		return nil, err
	}
	defer c.leave()
	if err := c.ready(query); err != nil {
		return nil, err
	}
	limited := within(ctx, c.limit)
	kept, err := c.conn.compile(limited, query)
	if err != nil {
		return nil, timedOut(ctx, limited, c.conn.failed(err))
	}
	rows, err := kept.QueryContext(limited, args)
	if err != nil {
		_ = c.conn.putBack(kept, err)
	}
	return c.rows(ctx, limited, nil, kept, rows, err)
}

// PrepareContext implements driver.ConnPrepareContext.
func (c *sqliteLoan) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	if err := c.enterWith(ctx); err != nil {
		return nil, err
	}
	defer c.leave()
	if err := c.ready(query); err != nil {
		return nil, err
	}
	stmt, err := c.conn.PrepareContext(ctx, query)
	if err != nil {
		return nil, c.conn.failed(err)
	}
	s := &sqliteStmt{c, query, stmt.(sqliteStatement)}
	c.open = append(c.open, s)
	return s, nil
}

// Prepare implements driver.Conn.
func (c *sqliteLoan) Prepare(query string) (driver.Stmt, error) {
	return c.PrepareContext(context.Background(), query)
}

// BeginTx implements driver.ConnBeginTx.
func (c *sqliteLoan) BeginTx(ctx context.Context, options driver.TxOptions) (driver.Tx, error) {
	if err := c.enterWith(ctx); err != nil {
		return nil, err
	}
	defer c.leave()
	if err := c.ready(""); err != nil {
		return nil, err
	}
	var tx driver.Tx
	err := c.own(func() (err error) {
		tx, err = c.conn.BeginTx(ctx, options)
		return err
	})
	if err != nil {
		return nil, c.conn.failed(err)
	}
	c.inTx = true
	return sqliteTx{c, tx}, nil
}

// own has database/sql begin or end its transaction.
func (c *sqliteLoan) own(do func() error) error {
	c.conn.guard.own = true
	defer func() { c.conn.guard.own = false }()
	return do()
}

// Begin implements driver.Conn.
func (c *sqliteLoan) Begin() (driver.Tx, error) {
	return c.BeginTx(context.Background(), driver.TxOptions{})
}

// close closes rows or a statement, once.
func (c *sqliteLoan) close(used opened) error {
	if c.enter() != nil {
		return nil // it was closed when the loan was seized
	}
	defer c.leave()
	if !slices.Contains(c.open, used) {
		return nil
	}
	return c.done(used.shut())
}

// drop forgets rows or a statement.
func (c *sqliteLoan) drop(used opened) {
	i := slices.Index(c.open, used)
	c.open = slices.Delete(c.open, i, i+1)
}

// sqliteTx is a transaction on a loan.
type sqliteTx struct {
	of *sqliteLoan
	tx driver.Tx
}

// Commit implements driver.Tx.
func (t sqliteTx) Commit() error {
	if err := t.of.enter(); err != nil {
		return err
	}
	defer t.of.leave()
	err := t.of.own(t.tx.Commit)
	t.of.inTx = false
	return t.of.done(err)
}

// Rollback implements driver.Tx.
func (t sqliteTx) Rollback() error {
	if t.of.enter() != nil {
		return nil // it was rolled back when it was taken
	}
	defer t.of.leave()
	t.of.inTx = false
	return t.of.own(t.tx.Rollback)
}

// sqliteStatement is what the driver's statements are.
type sqliteStatement interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

// sqliteStmt is a statement on a loan.
type sqliteStmt struct {
	of   *sqliteLoan
	text string
	sqliteStatement
}

// Close implements driver.Stmt.
func (s *sqliteStmt) Close() error { return s.of.close(s) }

// shut implements opened. The driver's rows read the memory of their statement.
func (s *sqliteStmt) shut() error {
	for _, used := range slices.Clone(s.of.open) {
		if rows, ok := used.(*sqliteRows); ok && rows.stmt == s {
			_ = rows.shut()
		}
	}
	s.of.drop(s)
	return s.sqliteStatement.Close()
}

// ExecContext implements driver.StmtExecContext.
func (s *sqliteStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	if err := s.of.enterWith(ctx); err != nil {
		return nil, err
	}
	defer s.of.leave()
	if err := s.of.ready(s.text); err != nil {
		return nil, err
	}
	limited := within(ctx, s.of.limit)
	defer over(limited)
	result, err := s.sqliteStatement.ExecContext(limited, args)
	return result, timedOut(ctx, limited, s.of.done(err))
}

// QueryContext implements driver.StmtQueryContext.
func (s *sqliteStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	if err := s.of.enterWith(ctx); err != nil {
		return nil, err
	}
	defer s.of.leave()
	if err := s.of.ready(s.text); err != nil {
		return nil, err
	}
	limited := within(ctx, s.of.limit)
	rows, err := s.sqliteStatement.QueryContext(limited, args)
	return s.of.rows(ctx, limited, s, nil, rows, err)
}

// sqliteResult is what the driver's rows are.
type sqliteResult interface {
	driver.Rows
	driver.RowsColumnTypeDatabaseTypeName
	driver.RowsColumnTypeLength
	driver.RowsColumnTypeNullable
	driver.RowsColumnTypePrecisionScale
	driver.RowsColumnTypeScanType
}

// sqliteRows are rows on a loan. What isn't below the driver knows without looking.
type sqliteRows struct {
	of   *sqliteLoan
	stmt *sqliteStmt    // nil without one
	kept *keptStatement // nil where there is a stmt
	// The query's context, and the one with its limit.
	ctx, limited context.Context
	sqliteResult
}

// rows wraps the rows of a query: of a borrower's statement, or of one that is put back with them. The caller
// has entered.
func (c *sqliteLoan) rows(ctx, limited context.Context, of *sqliteStmt, kept *keptStatement, rows driver.Rows, err error) (driver.Rows, error) {
	if err != nil {
		err = timedOut(ctx, limited, c.conn.failed(err))
		over(limited)
		return nil, err
	}
	r := &sqliteRows{c, of, kept, ctx, limited, rows.(sqliteResult)}
	c.open = append(c.open, r)
	return r, nil
}

// errRowsClosed: their statement was closed, and they with it.
var errRowsClosed = errors.New("tenantdb: the rows are closed")

// enter is called before the driver looks at the rows. Where it returns nil, the loan's leave follows.
func (r *sqliteRows) enter() error {
	if err := r.of.enter(); err != nil {
		return err
	}
	if !slices.Contains(r.of.open, opened(r)) {
		r.of.leave()
		return errRowsClosed
	}
	return nil
}

// Close implements driver.Rows.
func (r *sqliteRows) Close() error { return r.of.close(r) }

// shut implements opened.
func (r *sqliteRows) shut() error {
	over(r.limited)
	r.of.drop(r)
	err := r.sqliteResult.Close()
	if r.kept != nil {
		if closed := r.of.conn.putBack(r.kept, err); err == nil {
			err = closed
		}
	}
	return err
}

// Next implements driver.Rows.
func (r *sqliteRows) Next(dest []driver.Value) error {
	if err := r.enter(); err != nil {
		return err
	}
	defer r.of.leave()
	if expired(r.ctx, r.limited) {
		return errQueryTimeout
	}
	err := r.sqliteResult.Next(dest)
	if err != io.EOF {
		return timedOut(r.ctx, r.limited, r.of.conn.failed(err))
	}
	if lost := r.of.done(nil); lost != nil { // what RETURNING returned was written
		return lost
	}
	return err
}

// ColumnTypeLength implements driver.RowsColumnTypeLength.
func (r *sqliteRows) ColumnTypeLength(index int) (length int64, ok bool) {
	if r.enter() != nil {
		return 0, false
	}
	defer r.of.leave()
	return r.sqliteResult.ColumnTypeLength(index)
}

// ColumnTypeScanType implements driver.RowsColumnTypeScanType.
func (r *sqliteRows) ColumnTypeScanType(index int) reflect.Type {
	if r.enter() != nil {
		return reflect.TypeFor[string]()
	}
	defer r.of.leave()
	return r.sqliteResult.ColumnTypeScanType(index)
}
