package tenantdb

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// memory tells whether a statement that failed was sent by what the connection had kept of it: pgx keeps the
// types of its parameters and columns, the server what they were when it was prepared. A migration that
// another process runs makes both wrong.
type memory struct {
	described bool // the statement under way was described anew
	issued    bool // it was sent to be run
	begun     bool // since the server was last ready something may have begun to run
	failed    bool // the statement under way has met an error
	early     bool // the last error came before anything had begun to run
	outdated  bool // an error has told that the connection keeps what isn't so any more
}

// begin forgets the last statement.
func (m *memory) begin() { m.described, m.issued, m.failed = false, false, false }

// Conditions that tell of what a connection keeps (PostgreSQL documentation, appendix A).
const (
	pgFeatureNotSupported = "0A000"
	pgProtocolViolation   = "08P01"
	pgUnknownStatement    = "26000"
	pgDuplicateStatement  = "42P05"
	pgInternalError       = "XX000"
)

// isOutdated reports whether an error can only come of what a connection keeps.
func isOutdated(err *pgconn.PgError) bool {
	switch err.Code {
	case pgFeatureNotSupported:
		return err.Routine == "RevalidateCachedQuery" // cached plan must not change result type
	case pgProtocolViolation:
		return err.Routine == "PortalSetResultFormat" // a format for each column that there was
	case pgUnknownStatement, pgDuplicateStatement:
		return strings.Contains(err.Message, "stmt_") || strings.Contains(err.Message, "stmtcache_") // pgx's names
	case pgInternalError:
		return strings.HasPrefix(err.Message, "cache lookup failed for type ") // which was dropped
	}
	return false
}

// mayBeOutdated reports whether an error that came before a statement began to run may come of what a
// connection keeps. Values may not fit a parameter's former type, nor an operator.
func mayBeOutdated(err *pgconn.PgError) bool {
	switch err.Code[:min(2, len(err.Code))] {
	case "0A", "22", "26", "42", "XX":
		return true
	}
	return err.Code == pgProtocolViolation
}

// again has what a connection keeps of a statement forgotten, and reports whether the statement, which
// failed, is to be sent once more: it had no effect, and may have failed because of that.
func (c *pooledConn) again(ctx context.Context, text string, err error) bool {
	conn, s := c.Conn.Conn(), c.session
	var pgErr *pgconn.PgError
	switch pg := conn.PgConn(); {
	case ctx.Err() != nil || pg.IsClosed() || pg.IsBusy() || isRefused(err):
		return false
	case !errors.As(err, &pgErr): // arguments that don't fit are found out before anything is sent
		return !s.described && !s.issued && conn.Deallocate(ctx, text) == nil
	case !s.early || pg.TxStatus() != 'I' || s.described && !isOutdated(pgErr) || !mayBeOutdated(pgErr):
		return false
	case pgErr.Code == pgDuplicateStatement:
		return conn.DeallocateAll(ctx) == nil
	}
	return conn.Deallocate(ctx, text) == nil // pgx itself forgets what it has prepared by itself
}

// misremembered reports whether an error ended a transaction because of what the connection keeps. Values
// that don't fit may be the caller's fault.
func (c *pooledConn) misremembered(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && (isOutdated(pgErr) ||
		c.session.early && !c.session.described && c.Conn.Conn().PgConn().TxStatus() == 'E' && mayBeOutdated(pgErr) && pgErr.Code[:2] != "22")
}

// again is pooledConn's.
func (l *pgLoan) again(ctx context.Context, text string, err error) bool {
	return l.conn.Value().again(ctx, text, err)
}

// again is pooledConn's.
func (c *Conn) again(ctx context.Context, text string, err error) bool {
	return err != nil && (*pgLoan)(c).again(ctx, text, err)
}

// suspect reports whether the last statement has failed before it began to run. pgx says so once its result
// is read.
func (c *Conn) suspect() bool {
	s := c.conn.Value().session
	return s.failed && s.early || !s.issued
}

// statements are what a connection and a transaction run.
type statements interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// exec runs a statement, once more where need be.
func (c *Conn) exec(ctx context.Context, on statements, sql string, args []any) (pgconn.CommandTag, error) {
	tag, err := on.Exec(ctx, sql, args...)
	if c.again(ctx, sql, err) {
		tag, err = on.Exec(ctx, sql, args...)
	}
	return tag, c.explain(ctx, err)
}

// query runs a query, once more where need be.
func (c *Conn) query(ctx context.Context, on statements, sql string, args []any) (pgx.Rows, error) {
	rows, err := on.Query(ctx, sql, args...)
	failure := err
	if err == nil && c.suspect() {
		rows.Close()
		failure = rows.Err()
	}
	if c.again(ctx, sql, failure) {
		return on.Query(ctx, sql, args...)
	}
	return rows, err
}

// queryRow runs a query for one row, once more where need be.
func (c *Conn) queryRow(ctx context.Context, on statements, sql string, args []any) pgx.Row {
	row := on.QueryRow(ctx, sql, args...)
	if c.suspect() && c.again(ctx, sql, row.Scan()) {
		return on.QueryRow(ctx, sql, args...)
	}
	return row
}

// again sends a batch once more, if its first statement failed because of what the connection keeps. A
// function that was to have the first result has been told of the failure.
func (b *batchResults) again(err error) bool {
	sent := b.fresh
	b.fresh = nil
	if err == nil || sent == nil || sent.Len() == 0 || sent.QueuedQueries[0].Fn != nil {
		return false
	}
	_ = b.BatchResults.Close() // reads to the batch's end; its error is known
	if !b.c.again(b.ctx, sent.QueuedQueries[0].SQL, err) {
		return false
	}
	next := new(pgx.Batch) // pgx notes in a batch what its statements were described as
	for _, q := range sent.QueuedQueries {
		forget(b.ctx, b.c.Conn(), q.SQL)
		next.QueuedQueries = append(next.QueuedQueries, &pgx.QueuedQuery{SQL: q.SQL, Arguments: q.Arguments, Fn: q.Fn})
	}
	b.BatchResults = b.c.Conn().SendBatch(b.ctx, next)
	return true
}

// forget has pgx forget a statement, by asking it to send the statement in no mode that there is. It sends
// nothing, but for telling the server what it had forgotten before.
func forget(ctx context.Context, conn *pgx.Conn, text string) {
	_, _ = conn.Exec(ctx, text, pgx.QueryExecMode(-1), nil)
}

// forgetColumns has pgx ask for the columns of a table that rows are about to be copied to. Otherwise it
// would go by what it keeps, which no error corrects: COPY has no types, and what was encoded for the former
// type of a column may be another value of the present one.
func forgetColumns(ctx context.Context, conn *pgx.Conn, table pgx.Identifier, columns []string) {
	quoted := make([]string, len(columns))
	for i, column := range columns {
		quoted[i] = pgx.Identifier{column}.Sanitize()
	}
	text := fmt.Sprintf("select %s from %s", strings.Join(quoted, ", "), table.Sanitize()) // pgx's own
	forget(ctx, conn, text)
	forget(ctx, conn, text) // tells the server, by whose word pgx would go else
}
