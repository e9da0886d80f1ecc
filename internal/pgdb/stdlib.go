package pgdb

import (
	"context"
	"database/sql/driver"

	"github.com/jackc/pgx/v5/stdlib"

	"github.com/tenantdb/tenantdb/internal/checkout"
)

// stdConn is pgx's connection for database/sql. By this name a struct that embeds it has its method Conn.
type stdConn = stdlib.Conn

// sqlConn is a connection that a *sql.DB has checked out. The *sql.DB closes it after each use, which
// releases it.
type sqlConn struct {
	*stdConn
	out   *Conn
	keeps bool // the handle keeps it until its own end
}

// CheckOut checks a connection out for database/sql.
func (d *DB) CheckOut(ctx context.Context, use checkout.Use) (driver.Conn, error) {
	c, err := d.Acquire(ctx, use)
	if err != nil {
		return nil, err
	}
	return &sqlConn{c.pooled.std, c, use == checkout.ForSessions}, nil
}

// Driver returns the driver of the connections that CheckOut returns.
func (d *DB) Driver() driver.Driver { return stdlib.GetDefaultDriver() }

// Close implements driver.Conn.
func (c *sqlConn) Close() error {
	c.out.Release()
	return nil
}

// IsValid implements driver.Validator, which database/sql asks whether it may keep the connection.
func (c *sqlConn) IsValid() bool { return c.keeps }

// check refuses what the guard refuses. Each method below calls it before pgx does: database/sql would take
// pgx's refusal for a broken connection, and try again.
func (c *sqlConn) check(ctx context.Context, text string) error {
	return c.out.pooled.guard.check(ctx, text)
}

// Ping implements driver.Pinger.
func (c *sqlConn) Ping(ctx context.Context) error {
	if err := c.check(ctx, ""); err != nil {
		return err
	}
	return c.out.pooled.explain(ctx, c.stdConn.Ping(ctx))
}

// ExecContext implements driver.ExecerContext.
func (c *sqlConn) ExecContext(
	ctx context.Context, query string, args []driver.NamedValue,
) (driver.Result, error) {
	if err := c.check(ctx, query); err != nil {
		return nil, err
	}
	return withRetry(ctx, c.out.pooled, query, func() (driver.Result, error) {
		return c.stdConn.ExecContext(ctx, query, args)
	})
}

// QueryContext implements driver.QueryerContext.
func (c *sqlConn) QueryContext(
	ctx context.Context, query string, args []driver.NamedValue,
) (driver.Rows, error) {
	if err := c.check(ctx, query); err != nil {
		return nil, err
	}
	return withRetry(ctx, c.out.pooled, query, func() (driver.Rows, error) {
		return c.stdConn.QueryContext(ctx, query, args)
	})
}

// BeginTx implements driver.ConnBeginTx.
func (c *sqlConn) BeginTx(ctx context.Context, options driver.TxOptions) (driver.Tx, error) {
	if err := c.check(ctx, ""); err != nil {
		return nil, err
	}
	tx, err := c.stdConn.BeginTx(ctx, options)
	return tx, c.out.pooled.explain(ctx, err)
}

// PrepareContext implements driver.ConnPrepareContext.
func (c *sqlConn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	if err := c.check(ctx, query); err != nil {
		return nil, err
	}
	if c.out.pooled.guard.forbidsNames() {
		described, err := c.Conn().Prepare(ctx, "", query)
		if err != nil {
			return nil, c.out.pooled.explain(ctx, err)
		}
		return &unnamedStmt{c, query, len(described.ParamOIDs)}, nil
	}
	stmt, err := c.stdConn.PrepareContext(ctx, query)
	if err != nil {
		return nil, c.out.pooled.explain(ctx, err)
	}
	return &sqlStmt{stmt.(*stdlib.Stmt), c, query}, nil
}

// sqlStmt is a statement that a *sql.DB has prepared.
type sqlStmt struct {
	*stdlib.Stmt
	on   *sqlConn
	text string
}

// ExecContext implements driver.StmtExecContext.
func (s *sqlStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	if err := s.on.check(ctx, ""); err != nil {
		return nil, err
	}
	return withRetry(ctx, s.on.out.pooled, s.text, func() (driver.Result, error) {
		return s.Stmt.ExecContext(ctx, args)
	})
}

// QueryContext implements driver.StmtQueryContext.
func (s *sqlStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	if err := s.on.check(ctx, ""); err != nil {
		return nil, err
	}
	return withRetry(ctx, s.on.out.pooled, s.text, func() (driver.Rows, error) {
		return s.Stmt.QueryContext(ctx, args)
	})
}
