package pgdb

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenantdb/tenantdb/internal/refusal"
	"github.com/tenantdb/tenantdb/internal/sqlstate"
)

// A connection remembers its statements: pgx keeps the types of their parameters and columns, the server what
// they were when the statement was prepared. A migration by another process makes both wrong.

// progress tells how far the statement under way has come. One that failed before it began to run may have
// failed because of what the connection remembers of it.
type progress struct {
	described   bool // it was described anew
	sent        bool // it was sent to be run
	begun       bool // since the server was last ready something may have begun to run
	failed      bool // it has met an error
	failedEarly bool // the last error came before anything had begun to run
}

// begin forgets the last statement.
func (p *progress) begin() { p.described, p.sent, p.failed = false, false, false }

// mayBeOutdated reports whether an error that came before a statement began to run may come of what a
// connection remembers. Values may not fit a parameter's former type, nor an operator.
func mayBeOutdated(err *pgconn.PgError) bool {
	switch err.Code[:min(2, len(err.Code))] {
	case "0A", "22", "26", "42", "XX":
		return true
	}
	return err.Code == sqlstate.ProtocolViolation
}

// mayRetry reports whether a statement that failed is to be sent once more: it had no effect, and may have
// failed because of what the connection remembers of it. The connection has forgotten that then.
func (c *pooledConn) mayRetry(ctx context.Context, text string, err error) bool {
	conn, p := c.std.Conn(), &c.session.progress
	var pgErr *pgconn.PgError
	switch pg := conn.PgConn(); {
	case err == nil || ctx.Err() != nil || pg.IsClosed() || pg.IsBusy() || refusal.IsMisuse(err):
		return false
	case !errors.As(err, &pgErr): // pgx finds arguments that don't fit before it sends anything
		return !p.described && !p.sent && conn.Deallocate(ctx, text) == nil
	case !p.failedEarly || pg.TxStatus() != 'I' || !mayBeOutdated(pgErr):
		return false
	case p.described && !refusal.IsOutdated(pgErr):
		return false
	case pgErr.Code == sqlstate.DuplicatePreparedStatement:
		return conn.DeallocateAll(ctx) == nil
	}
	return conn.Deallocate(ctx, text) == nil // pgx itself forgets what it has prepared by itself
}

// outdated reports whether an error ended a transaction because of what the connection remembers. Values that
// don't fit may be the caller's fault.
func (c *pooledConn) outdated(err error) bool {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		return false
	}
	p := &c.session.progress
	return refusal.IsOutdated(pgErr) || p.failedEarly && !p.described && c.pg().TxStatus() == 'E' &&
		mayBeOutdated(pgErr) && pgErr.Code[:2] != "22"
}

// failedEarly reports whether the last statement has failed before it began to run. pgx says so once its
// result is read.
func (c *pooledConn) failedEarly() bool {
	p := &c.session.progress
	return p.failed && p.failedEarly || !p.sent
}

// withRetry sends a statement, and once more if the first failure came of what the connection remembers.
func withRetry[T any](ctx context.Context, c *pooledConn, text string, send func() (T, error)) (T, error) {
	result, err := send()
	if c.mayRetry(ctx, text, err) {
		result, err = send()
	}
	return result, c.explain(ctx, err)
}

// statements are what a connection and a transaction run.
type statements interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// exec runs a statement, with a retry.
func (c *pooledConn) exec(
	ctx context.Context, on statements, sql string, args []any,
) (pgconn.CommandTag, error) {
	return withRetry(ctx, c, sql, func() (pgconn.CommandTag, error) { return on.Exec(ctx, sql, args...) })
}

// query runs a query, with a retry.
func (c *pooledConn) query(ctx context.Context, on statements, sql string, args []any) (pgx.Rows, error) {
	rows, err := on.Query(ctx, sql, args...)
	failure := err
	if err == nil && c.failedEarly() {
		rows.Close()
		failure = rows.Err()
	}
	if c.mayRetry(ctx, sql, failure) {
		rows, err = on.Query(ctx, sql, args...)
	}
	return rows, c.explain(ctx, err)
}

// queryRow runs a query for one row, with a retry.
func (c *pooledConn) queryRow(ctx context.Context, on statements, sql string, args []any) pgx.Row {
	row := on.QueryRow(ctx, sql, args...)
	if c.failedEarly() && c.mayRetry(ctx, sql, row.Scan()) {
		return on.QueryRow(ctx, sql, args...)
	}
	return row
}

// mayRetry sends a batch once more if its first statement failed because of what the connection remembers.
// It doesn't where a function was to have the first result: that has been told of the failure.
func (b *batchResults) mayRetry(err error) bool {
	sent := b.retryable
	b.retryable = nil
	if err == nil || sent == nil || sent.Len() == 0 || sent.QueuedQueries[0].Fn != nil {
		return false
	}
	_ = b.BatchResults.Close() // reads to the batch's end; its error is known
	if !b.conn.pooled.mayRetry(b.ctx, sent.QueuedQueries[0].SQL, err) {
		return false
	}
	next := new(pgx.Batch) // pgx keeps in a batch what its statements were described as
	for _, q := range sent.QueuedQueries {
		b.conn.pooled.guard.forget(b.ctx, b.conn.Conn(), q.SQL)
		next.QueuedQueries = append(next.QueuedQueries,
			&pgx.QueuedQuery{SQL: q.SQL, Arguments: q.Arguments, Fn: q.Fn})
	}
	b.BatchResults = b.conn.Conn().SendBatch(b.ctx, next)
	return true
}

// forget has pgx forget a statement, by asking it to send the statement in a mode that doesn't exist. It
// sends nothing, but for telling the server what it had forgotten before. The product's tracer isn't told.
func (g *guard) forget(ctx context.Context, conn *pgx.Conn, text string) {
	g.quiet = true
	defer func() { g.quiet = false }()
	_, _ = conn.Exec(ctx, text, pgx.QueryExecMode(-1), nil)
}

// forgetColumns has pgx ask for the columns of a table that rows are about to be copied to. What it remembers
// of them no error would correct: COPY has no types, and what was encoded for the former type of a column may
// be another value of the present one.
func (g *guard) forgetColumns(ctx context.Context, conn *pgx.Conn, table pgx.Identifier, columns []string) {
	quoted := make([]string, len(columns))
	for i, column := range columns {
		quoted[i] = pgx.Identifier{column}.Sanitize()
	}
	// The text of pgx's own query.
	text := fmt.Sprintf("select %s from %s", strings.Join(quoted, ", "), table.Sanitize())
	g.forget(ctx, conn, text)
	g.forget(ctx, conn, text) // tells the server what the first call has forgotten
}
