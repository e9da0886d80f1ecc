package pgdb

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/checkout"
	"github.com/tenantdb/tenantdb/internal/keyedpool"
)

// DB is a tenant's database. It holds no connection, and little memory: there may be tens of thousands that
// nobody uses. It must be closed.
//
// Its methods for statements have the shape of *pgxpool.Pool's. Each checks a connection out and releases it
// when its result is done with: rows when closed or read to the end, a row when scanned, a batch's results
// when closed, a transaction at Commit or Rollback. use says whose handle asks.
type DB struct {
	tenant *checkout.Tenant
	pool   *Pool
	lease  keyedpool.Lease[hostdb.Secret, *pooledConn] // remembers the tenant's backoff and connections
}

// Target returns the address of the tenant's database, the newest that its DBs were opened with.
func (d *DB) Target() hostdb.Secret { return d.lease.Target() }

// Idle reports whether the tenant has no connection, and nobody waits for one.
func (d *DB) Idle() bool { return d.lease.Dormant() }

// Stats returns the tenant's figures, zero where the pool doesn't know it any more.
func (d *DB) Stats() keyedpool.TenantStats {
	stats, _ := d.pool.conns.Tenant(d.tenant.ID)
	return stats
}

// Close gives the database up. Connections that are checked out may be released later. Further calls do
// nothing.
func (d *DB) Close() { d.lease.Release() }

// Exec runs a statement that returns no rows.
func (d *DB) Exec(
	ctx context.Context, use checkout.Use, sql string, args ...any,
) (pgconn.CommandTag, error) {
	c, err := d.Acquire(ctx, use)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	defer c.Release()
	return c.pooled.exec(ctx, c.Conn(), sql, args)
}

// Query runs a query.
func (d *DB) Query(ctx context.Context, use checkout.Use, sql string, args ...any) (pgx.Rows, error) {
	c, err := d.Acquire(ctx, use)
	if err != nil {
		return failedRows{err}, err
	}
	inner, err := c.pooled.query(ctx, c.Conn(), sql, args)
	if err != nil {
		c.Release()
		return inner, err
	}
	return &rows{Rows: inner, conn: c, ctx: ctx}, nil
}

// QueryRow runs a query for one row, whose Scan returns the error, pgx.ErrNoRows among them.
func (d *DB) QueryRow(ctx context.Context, use checkout.Use, sql string, args ...any) pgx.Row {
	c, err := d.Acquire(ctx, use)
	if err != nil {
		return failedRows{err}
	}
	return row{c.pooled.queryRow(ctx, c.Conn(), sql, args), c, ctx, false}
}

// SendBatch runs several statements in one round trip.
func (d *DB) SendBatch(ctx context.Context, use checkout.Use, b *pgx.Batch) pgx.BatchResults {
	c, err := d.Acquire(ctx, use)
	if err != nil {
		return failedBatch{err}
	}
	results := &batchResults{BatchResults: c.Conn().SendBatch(ctx, b), conn: c, ctx: ctx, retryable: b}
	if inner := results.BatchResults.Tx(); inner != nil { // the batch begins with BEGIN
		results.tx, results.kept, results.retryable = &tx{inner, c, false}, true, nil
	}
	return results
}

// CopyFrom bulk-loads rows with the COPY protocol, and returns how many it copied.
func (d *DB) CopyFrom(
	ctx context.Context, use checkout.Use, table pgx.Identifier, columns []string, source pgx.CopyFromSource,
) (int64, error) {
	c, err := d.Acquire(ctx, use)
	if err != nil {
		return 0, err
	}
	defer c.Release()
	n, err := c.Conn().CopyFrom(ctx, table, columns, source)
	return n, c.pooled.explain(ctx, err)
}

// Begin starts a transaction with the server's defaults.
func (d *DB) Begin(ctx context.Context, use checkout.Use) (pgx.Tx, error) {
	return d.BeginTx(ctx, use, pgx.TxOptions{})
}

// BeginTx starts a transaction.
func (d *DB) BeginTx(ctx context.Context, use checkout.Use, options pgx.TxOptions) (pgx.Tx, error) {
	c, err := d.Acquire(ctx, use)
	if err != nil {
		return nil, err
	}
	inner, err := c.Conn().BeginTx(ctx, options)
	if err != nil {
		defer c.Release()
		return nil, c.pooled.explain(ctx, err)
	}
	return &tx{inner, c, false}, nil
}

// Tenant returns the tenant's id.
func (d *DB) Tenant() string { return d.tenant.ID }
