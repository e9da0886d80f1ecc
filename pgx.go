package tenantdb

import (
	"context"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// PGX is a tenant's PostgreSQL database in pgx's own shape, that of *pgxpool.Pool: what sqlc calls DBTX. Each
// method takes a connection from the pool's budget and gives it back when its result is done with: rows when
// closed or read to the end, a row when scanned, a batch's results when closed, a transaction at Commit or
// Rollback.
//
// What is not given back by the end of the scope whose context it was taken with (the handler's return,
// Detach's or Enter's function) is closed then, a query under way cancelled; see DB for other contexts.
//
// The context of another tenant's scope is refused with ErrWrongTenant: by each method, and by what comes of
// it (transactions, batches, connections), but for what pgx's own connection does without a statement of its
// own: WaitForNotification, Deallocate, Ping, PgConn.
//
// # What a borrower leaves behind
//
// Connections serve one tenant only, whatever happens. Between two borrowers of the same tenant, the server's
// confirmations of what ran decide, however it was sent. With the server on the same, busy two-core machine
// (BenchmarkBetweenBorrowers), where SELECT 1 took 0.06 ms:
//
//   - SET, CREATE (a temporary table), DECLARE, DO, CALL, EXPLAIN, and a statement whose text names an advisory lock,
//     pg_settings, an identifier with Unicode escapes (U&"…"), or set_config without a plain true at its end: the session
//     is reset by all that DISCARD ALL does, but prepared statements stay. One round trip, 0.1 ms. SET LOCAL,
//     SET TRANSACTION and RESET need none (SET LOCAL as a statement of its own, not in a batch).
//   - an open transaction, unread rows, LISTEN, LOAD, PREPARE, DEALLOCATE, DISCARD: the connection is closed, and the next
//     query opens one, up to 12 ms.
//   - a cancelled query: the server confirms the cancellation and answers once more before the connection serves again. 1 ms.
//   - what a function does inside leaves no trace that the server reports. Examples are a function of the tenant's own
//     that takes a lock or makes a temporary table, query_to_xml with such a text, setseed, and the sequence
//     values that currval and lastval repeat. The tenant's next borrower meets it. PoolConfig.ResetAlways
//     resets after every borrower, 0.1 ms for each; setseed outlives that too.
//
// # What a connection keeps of a schema
//
// pgx prepares each statement once on a connection, and keeps the types of its parameters and columns. A
// migration by any other client may make that wrong. Where the host database's schema_version tells of it,
// the tenant's connections are opened anew. Whatever tells of it, a statement outside a transaction that
// fails before it begins to run, because of what was kept, is sent once more without that: this holds for DB,
// ReadDB, their statements and connections, and for PGX but for the results of a batch after the first.
// Otherwise, as in a transaction and with pgx's own connection, the query fails with an error that WriteError
// answers as ErrTryAgain, and the tenant's connections are opened anew. CopyFrom asks for the table's columns
// each time, in two round trips, since PostgreSQL can't notice values of another type.
//
// A value that no longer fits a parameter of a kept statement is found out by the server in a transaction
// alone, whose error says only that the value is malformed (22P02 and others of class 22): it stays the
// handler's.
//
// A method waits for a connection up to PoolConfig.AcquireTimeout and then fails with ErrBusy.
// ErrTenantUnavailable says that the tenant's server can't be reached, or that it has become a standby, whose
// connection is closed then. A statement that was cancelled because its context ended fails with the
// context's error, which wraps the server's, unless it was sent by pgx's own connection: that returns the
// server's alone.
type PGX struct {
	tenant *tenantDB
	// What follows only the tenant's engine has. Another PGX serves leases by way of that one.
	lease  pgLease // kept until close: it remembers the tenant's backoff and connections
	schema int64   // the schema's version, as the host database had it last; guarded by Pool.mu
}

// Format implements fmt.Formatter: a database is printed by its tenant's id, whatever the verb, since its URL
// holds a password.
func (p *PGX) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, "tenantdb.PGX of "+p.tenant.id)
}

// Conn is a connection taken from the pool by Acquire, for LISTEN, session settings and the like. Release it.
type Conn pgLoan

// Conn returns pgx's connection, for use until Release.
func (c *Conn) Conn() *pgx.Conn { return c.conn.Value().Conn.Conn() }

// Release gives the connection back. Further calls do nothing.
func (c *Conn) Release() { (*pgLoan)(c).giveBack() }

// Acquire takes a connection out of the pool until its Release.
func (p *PGX) Acquire(ctx context.Context) (*Conn, error) {
	of, to := p, forRequests
	if own := p.tenant.engine.(*PGX); own != p {
		of, to = own, forLeases
	}
	l, err := of.acquire(ctx, to)
	if err != nil {
		return nil, err
	}
	return (*Conn)(l), nil
}

// Exec runs a statement that returns no rows.
func (p *PGX) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	c, err := p.Acquire(ctx)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	defer c.Release()
	return c.exec(ctx, c.Conn(), sql, args)
}

// Query runs a query. Close the rows, or read them to the end.
func (p *PGX) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	c, err := p.Acquire(ctx)
	if err != nil {
		return failedRows{err: err}, err
	}
	inner, err := c.query(ctx, c.Conn(), sql, args)
	if err != nil {
		defer c.Release()
		return inner, c.explain(ctx, err)
	}
	return &rows{Rows: inner, c: c, ctx: ctx}, nil
}

// QueryRow runs a query for one row, whose Scan returns the error, pgx.ErrNoRows among them.
func (p *PGX) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	c, err := p.Acquire(ctx)
	if err != nil {
		return failedRows{err: err}
	}
	return row{c.queryRow(ctx, c.Conn(), sql, args), c, ctx, false}
}

// SendBatch runs several statements in one round trip. Close the results.
func (p *PGX) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	c, err := p.Acquire(ctx)
	if err != nil {
		return failedBatch{err}
	}
	results := &batchResults{BatchResults: c.Conn().SendBatch(ctx, b), c: c, ctx: ctx, fresh: b}
	if inner := results.BatchResults.Tx(); inner != nil { // the batch begins with BEGIN: its transaction keeps the connection
		results.tx, results.keep, results.fresh = &tx{inner, c, false}, true, nil
	}
	return results
}

// CopyFrom bulk-loads rows with the COPY protocol and returns how many it copied.
func (p *PGX) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, source pgx.CopyFromSource) (int64, error) {
	c, err := p.Acquire(ctx)
	if err != nil {
		return 0, err
	}
	defer c.Release()
	n, err := c.Conn().CopyFrom(ctx, table, columns, source)
	return n, c.explain(ctx, err)
}

// Begin starts a transaction with the server's defaults.
func (p *PGX) Begin(ctx context.Context) (pgx.Tx, error) {
	return p.BeginTx(ctx, pgx.TxOptions{})
}

// BeginTx starts a transaction. End it with Commit or Rollback.
func (p *PGX) BeginTx(ctx context.Context, options pgx.TxOptions) (pgx.Tx, error) {
	c, err := p.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	inner, err := c.Conn().BeginTx(ctx, options)
	if err != nil {
		defer c.Release()
		return nil, c.explain(ctx, err)
	}
	return &tx{inner, c, false}, nil
}
