package tenantdb

import (
	"context"
	"database/sql/driver"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

// stdConn is pgx's connection for database/sql. By this name a struct that embeds it has its method Conn.
type stdConn = stdlib.Conn

// borrowedConn is a connection in the hands of a *sql.DB, which closes it after each use: that gives it back.
type borrowedConn struct {
	*stdConn
	loan  *pgLoan
	keeps bool // the handle keeps it until its own end
}

// lend implements lender.
func (p *PGX) lend(ctx context.Context, to use) (driver.Conn, error) {
	l, err := p.acquire(ctx, to)
	if err != nil {
		return nil, err
	}
	return &borrowedConn{l.conn.Value().Conn, l, to == forSessions}, nil
}

// Driver implements lender.
func (p *PGX) Driver() driver.Driver { return stdlib.GetDefaultDriver() }

// Close implements driver.Conn.
func (c *borrowedConn) Close() error {
	c.loan.giveBack()
	return nil
}

// IsValid implements driver.Validator, which database/sql asks whether it may keep the connection.
func (c *borrowedConn) IsValid() bool { return c.keeps }

// explain is pooledConn's.
func (c *borrowedConn) explain(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	return c.loan.conn.Value().explain(ctx, err)
}

// check refuses what pgGuard refuses.
func (c *borrowedConn) check(ctx context.Context, query string) error {
	if err := c.loan.check(ctx); err != nil {
		return err
	}
	return c.loan.conn.Value().guard.admits(query)
}

// What follows checks contexts before pgx does, by pgGuard: database/sql takes pgx's refusal for a broken
// connection and tries again.

// Ping implements driver.Pinger.
func (c *borrowedConn) Ping(ctx context.Context) error {
	if err := c.loan.check(ctx); err != nil {
		return err
	}
	return c.explain(ctx, c.stdConn.Ping(ctx))
}

// ExecContext implements driver.ExecerContext.
func (c *borrowedConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if err := c.check(ctx, query); err != nil {
		return nil, err
	}
	result, err := c.stdConn.ExecContext(ctx, query, args)
	if err != nil && c.loan.again(ctx, query, err) {
		result, err = c.stdConn.ExecContext(ctx, query, args)
	}
	return result, c.explain(ctx, err)
}

// QueryContext implements driver.QueryerContext.
func (c *borrowedConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	if err := c.check(ctx, query); err != nil {
		return nil, err
	}
	rows, err := c.stdConn.QueryContext(ctx, query, args)
	if err != nil && c.loan.again(ctx, query, err) {
		rows, err = c.stdConn.QueryContext(ctx, query, args)
	}
	return rows, c.explain(ctx, err)
}

// BeginTx implements driver.ConnBeginTx.
func (c *borrowedConn) BeginTx(ctx context.Context, options driver.TxOptions) (driver.Tx, error) {
	if err := c.loan.check(ctx); err != nil {
		return nil, err
	}
	tx, err := c.stdConn.BeginTx(ctx, options)
	return tx, c.explain(ctx, err)
}

// PrepareContext implements driver.ConnPrepareContext.
func (c *borrowedConn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	if err := c.check(ctx, query); err != nil {
		return nil, err
	}
	if c.loan.conn.Value().guard.nameless() {
		described, err := c.Conn().Prepare(ctx, "", query)
		if err != nil {
			return nil, c.explain(ctx, err)
		}
		return &sharedStmt{c, query, len(described.ParamOIDs)}, nil
	}
	stmt, err := c.stdConn.PrepareContext(ctx, query)
	if err != nil {
		return nil, c.explain(ctx, err)
	}
	return &borrowedStmt{stmt.(*stdlib.Stmt), c, query}, nil
}

// borrowedStmt is a statement on a borrowed connection.
type borrowedStmt struct {
	*stdlib.Stmt
	on   *borrowedConn
	text string
}

// ExecContext implements driver.StmtExecContext.
func (s *borrowedStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	if err := s.on.loan.check(ctx); err != nil {
		return nil, err
	}
	result, err := s.Stmt.ExecContext(ctx, args)
	if err != nil && s.on.loan.again(ctx, s.text, err) {
		result, err = s.Stmt.ExecContext(ctx, args)
	}
	return result, s.on.explain(ctx, err)
}

// QueryContext implements driver.StmtQueryContext.
func (s *borrowedStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	if err := s.on.loan.check(ctx); err != nil {
		return nil, err
	}
	rows, err := s.Stmt.QueryContext(ctx, args)
	if err != nil && s.on.loan.again(ctx, s.text, err) {
		rows, err = s.Stmt.QueryContext(ctx, args)
	}
	return rows, s.on.explain(ctx, err)
}

// pgGuard refuses contexts of other tenants' scopes on a connection that is on loan, whichever way they reach
// it: a transaction, a savepoint, a batch, pgx's own connection. It is pgx's tracer, whose context a
// statement goes on with; a refused one goes on with a context that is done, by whose error pgx gives up
// before it sends anything.
//
// It bounds the time of a statement, too. Where a pooler stands before the server it refuses statements, too,
// that would change a session which other clients share.
type pgGuard struct {
	loan    *loan
	session *session
	config  *pgx.ConnConfig // the connection's own
	shared  bool            // other clients may run their transactions in the session
	limit   time.Duration   // PoolConfig.QueryTimeout, or 0
}

// limitedContext is the context of a statement that has a limit.
type limitedContext struct {
	context.Context
	cancel context.CancelFunc
}

// within returns a context that ends with the time that a statement may take, unless it ends sooner.
func within(ctx context.Context, limit time.Duration) context.Context {
	if limit == 0 {
		return ctx
	}
	if sooner, ok := ctx.Deadline(); ok && time.Until(sooner) <= limit {
		return ctx
	}
	limited, cancel := context.WithTimeout(ctx, limit)
	return &limitedContext{limited, cancel}
}

// over ends what within began.
func over(ctx context.Context) {
	if limited, ok := ctx.(*limitedContext); ok {
		limited.cancel()
	}
}

// refusedContext is the context of a statement that is refused.
type refusedContext struct {
	context.Context
	err error
}

var closedChannel = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// Done implements context.Context.
func (refusedContext) Done() <-chan struct{} { return closedChannel }

// Err implements context.Context.
func (c refusedContext) Err() error { return c.err }

// isRefused reports whether pgGuard has refused a statement. pgx calls that safe to try again.
func isRefused(err error) bool {
	return errors.Is(err, ErrWrongTenant) || errors.Is(err, errSharedSession)
}

// check returns the context to go on with.
func (g *pgGuard) check(ctx context.Context) context.Context {
	if g.loan == nil { // the connection is being opened
		return ctx
	}
	if err := g.loan.check(ctx); err != nil {
		return refusedContext{ctx, err}
	}
	return ctx
}

// TraceQueryStart implements pgx.QueryTracer.
func (g *pgGuard) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	g.session.begin()
	if err := g.admits(data.SQL); err != nil {
		return refusedContext{ctx, err}
	}
	return within(g.check(ctx), g.limit)
}

// TraceQueryEnd implements pgx.QueryTracer.
func (g *pgGuard) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryEndData) { over(ctx) }

// TraceBatchStart implements pgx.BatchTracer.
func (g *pgGuard) TraceBatchStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	g.session.begin()
	for _, query := range data.Batch.QueuedQueries {
		if err := g.admits(query.SQL); err != nil {
			return refusedContext{ctx, err}
		}
	}
	return within(g.check(ctx), g.limit)
}

// TraceBatchQuery implements pgx.BatchTracer.
func (g *pgGuard) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}

// TraceBatchEnd implements pgx.BatchTracer.
func (g *pgGuard) TraceBatchEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchEndData) { over(ctx) }

// TraceCopyFromStart implements pgx.CopyFromTracer.
func (g *pgGuard) TraceCopyFromStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceCopyFromStartData) context.Context {
	ctx = g.check(ctx)
	forgetColumns(ctx, conn, data.TableName, data.ColumnNames)
	return ctx
}

// TraceCopyFromEnd implements pgx.CopyFromTracer.
func (g *pgGuard) TraceCopyFromEnd(context.Context, *pgx.Conn, pgx.TraceCopyFromEndData) {}

// TracePrepareStart implements pgx.PrepareTracer.
func (g *pgGuard) TracePrepareStart(ctx context.Context, _ *pgx.Conn, data pgx.TracePrepareStartData) context.Context {
	if err := g.admits(data.SQL); err != nil {
		return refusedContext{ctx, err}
	}
	if data.Name != "" && g.nameless() {
		return refusedContext{ctx, errSharedSession}
	}
	return g.check(ctx)
}

// TracePrepareEnd implements pgx.PrepareTracer.
func (g *pgGuard) TracePrepareEnd(context.Context, *pgx.Conn, pgx.TracePrepareEndData) {}
