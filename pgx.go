package tenantdb

import (
	"context"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenantdb/tenantdb/internal/checkout"
	"github.com/tenantdb/tenantdb/internal/pgdb"
)

// PGX is a tenant's PostgreSQL database in pgx's own shape, that of *pgxpool.Pool: sqlc calls it DBTX. Each
// method takes a connection from the pool's budget, and gives it back when its result is done with: rows when
// they are closed or read to the end, a row when it is scanned, a batch's results when they are closed, a
// transaction at Commit or Rollback.
//
// A connection that is not given back by the end of the scope is closed then, and a query under way is
// cancelled. The scope is the one whose context the connection was taken with. It ends with the handler's
// return, or with the function that [Scope.Detach] or [Middleware.Enter] returned. See [DB] for other
// contexts.
//
// The context of another tenant's scope is refused with [ErrWrongTenant], by each method and by what comes
// of it (transactions, batches, connections). What pgx's own connection does without a statement of its own
// isn't refused: WaitForNotification, Deallocate, Ping, PgConn.
//
// A method waits for a connection for up to PoolConfig.AcquireTimeout, and then fails with [ErrBusy].
// [ErrTenantUnavailable] says that the tenant's server can't be reached, or that it has become a standby;
// its connection is closed then. A statement that was cancelled because its context ended fails with the
// context's error, which wraps the server's. One that was sent by pgx's own connection fails with the
// server's alone.
//
// # What a borrower leaves behind
//
// A connection serves one tenant only. Between two borrowers of that tenant, the server's confirmations of
// what ran decide what is done, however it was sent. The times are those of BenchmarkPGX_betweenBorrowers,
// with the server on the same, busy two-core machine, where SELECT 1 took 0.06 ms:
//
//   - The session is reset after SET, CREATE (of a temporary table), DECLARE, DO, CALL and EXPLAIN. It is
//     also reset after a statement whose text names an advisory lock, pg_settings, an identifier with Unicode
//     escapes (U&"…"), or set_config without a plain true at its end. The reset does all that DISCARD ALL
//     does, but keeps prepared statements. It takes one round trip, 0.1 ms. SET LOCAL, SET TRANSACTION and
//     RESET need none (SET LOCAL as a statement of its own, not in a batch).
//   - The connection is closed after an open transaction, unread rows, LISTEN, LOAD, PREPARE, DEALLOCATE and
//     DISCARD. The next query opens one, which takes up to 12 ms.
//   - After a cancelled query the server confirms the cancellation, and answers once more before the
//     connection serves again. This takes 1 ms.
//   - What a function does inside leaves no trace that the server reports. The tenant's next borrower meets
//     it. Examples are a function of the tenant's own that takes a lock or makes a temporary table,
//     query_to_xml with such a text, setseed, and the sequence values that currval and lastval repeat.
//     PoolConfig.ResetAlways resets after every borrower, at 0.1 ms for each. setseed outlives that too.
//
// # What a connection remembers of a schema
//
// pgx prepares each statement once on a connection, and remembers the types of its parameters and columns. A
// migration by any other client may make that wrong. If the host database's schema_version tells of it, the
// tenant's connections are opened anew.
//
// Whatever tells of it, a statement outside a transaction that fails before it begins to run, because of
// what was remembered, is sent once more without that. This holds for [DB], [ReadDB], their statements and
// connections, and for PGX, except for the results of a batch after the first. Otherwise, as in a
// transaction and with pgx's own connection, the query fails with an error that [WriteError] answers as
// [ErrTryAgain], and the tenant's connections are opened anew. CopyFrom asks for the table's columns each
// time, in two round trips, since PostgreSQL can't notice values of another type.
//
// A value that no longer fits a parameter of a prepared statement is noticed by the server alone if the
// statement is part of a transaction. Its error says only that the value is malformed (22P02 and others of
// class 22). It is returned as it is.
type PGX struct {
	db  *pgdb.DB
	use checkout.Use
}

// Format implements fmt.Formatter. It prints the tenant's id, whatever the verb, since the database's URL
// holds a password.
func (p *PGX) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, "tenantdb.PGX of "+p.db.Tenant())
}

// Conn is a connection taken from the pool by [PGX.Acquire], for LISTEN, session settings and the like.
// Release it.
type Conn pgdb.Conn

// Conn returns pgx's connection, for use until [Conn.Release].
func (c *Conn) Conn() *pgx.Conn { return (*pgdb.Conn)(c).Conn() }

// Release gives the connection back. Further calls do nothing.
func (c *Conn) Release() { (*pgdb.Conn)(c).Release() }

// Acquire takes a connection out of the pool until its Release.
func (p *PGX) Acquire(ctx context.Context) (*Conn, error) {
	c, err := p.db.Acquire(ctx, p.use)
	return (*Conn)(c), err
}

// Exec runs a statement that returns no rows.
func (p *PGX) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return p.db.Exec(ctx, p.use, sql, args...)
}

// Query runs a query. Close the rows, or read them to the end.
func (p *PGX) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return p.db.Query(ctx, p.use, sql, args...)
}

// QueryRow runs a query for one row. Scan returns the error, such as [pgx.ErrNoRows].
func (p *PGX) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return p.db.QueryRow(ctx, p.use, sql, args...)
}

// SendBatch runs several statements in one round trip. Close the results.
func (p *PGX) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	return p.db.SendBatch(ctx, p.use, b)
}

// CopyFrom bulk-loads rows with the COPY protocol and returns how many it copied.
func (p *PGX) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string,
	source pgx.CopyFromSource) (int64, error) {
	return p.db.CopyFrom(ctx, p.use, table, columns, source)
}

// Begin starts a transaction with the server's defaults. End it with Commit or Rollback.
func (p *PGX) Begin(ctx context.Context) (pgx.Tx, error) {
	return p.db.Begin(ctx, p.use)
}

// BeginTx starts a transaction. End it with Commit or Rollback.
func (p *PGX) BeginTx(ctx context.Context, options pgx.TxOptions) (pgx.Tx, error) {
	return p.db.BeginTx(ctx, p.use, options)
}
