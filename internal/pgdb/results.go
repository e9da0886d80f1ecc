package pgdb

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// rows release the connection once they are done with, unless a transaction or a batch keeps it.
type rows struct {
	pgx.Rows
	conn *Conn
	ctx  context.Context // the query's
	kept bool
	done bool
	err  error // once they are done with
}

// Close implements pgx.Rows.
func (r *rows) Close() {
	r.Rows.Close()
	if r.done {
		return
	}
	r.done, r.err = true, r.conn.pooled.explain(r.ctx, r.Rows.Err())
	if !r.kept {
		r.conn.Release()
	}
}

// Err implements pgx.Rows.
func (r *rows) Err() error {
	if r.done && r.err != nil {
		return r.err
	}
	return r.Rows.Err()
}

// Next implements pgx.Rows.
func (r *rows) Next() bool {
	more := r.Rows.Next()
	if !more {
		r.Close()
	}
	return more
}

// Scan implements pgx.Rows; an error closes them, as in pgx.
func (r *rows) Scan(dest ...any) error {
	err := r.Rows.Scan(dest...)
	if err != nil {
		r.Close()
	}
	return err
}

// Values implements pgx.Rows; an error closes them, as in pgx.
func (r *rows) Values() ([]any, error) {
	values, err := r.Rows.Values()
	if err != nil {
		r.Close()
	}
	return values, err
}

// row releases the connection when scanned, unless a transaction or a batch keeps it.
type row struct {
	pgx.Row
	conn *Conn
	ctx  context.Context // the query's
	kept bool
}

// Scan implements pgx.Row.
func (r row) Scan(dest ...any) error {
	if !r.kept {
		defer r.conn.Release() // also where a destination's Scan panics
	}
	return r.conn.pooled.explain(r.ctx, r.Row.Scan(dest...))
}

// batchResults release the connection when closed, unless a transaction keeps it.
type batchResults struct {
	pgx.BatchResults
	conn      *Conn
	ctx       context.Context // the batch's
	tx        *tx             // that the batch began
	kept      bool
	retryable *pgx.Batch // the batch until its first result, if it may be sent once more
}

// Exec implements pgx.BatchResults.
func (b *batchResults) Exec() (pgconn.CommandTag, error) {
	tag, err := b.BatchResults.Exec()
	if b.mayRetry(err) {
		tag, err = b.BatchResults.Exec()
	}
	return tag, b.conn.pooled.explain(b.ctx, err)
}

// Query implements pgx.BatchResults.
func (b *batchResults) Query() (pgx.Rows, error) {
	inner, err := b.BatchResults.Query()
	if b.mayRetry(err) {
		inner, err = b.BatchResults.Query()
	}
	if err != nil {
		return inner, b.conn.pooled.explain(b.ctx, err)
	}
	return &rows{Rows: inner, conn: b.conn, ctx: b.ctx, kept: true}, nil
}

// QueryRow implements pgx.BatchResults.
func (b *batchResults) QueryRow() pgx.Row {
	inner := b.BatchResults.QueryRow()
	if b.conn.pooled.failedEarly() && b.mayRetry(inner.Scan()) {
		inner = b.BatchResults.QueryRow()
	}
	return row{inner, b.conn, b.ctx, true}
}

// Close implements pgx.BatchResults.
func (b *batchResults) Close() error {
	if !b.kept {
		defer b.conn.Release()
	}
	err := b.BatchResults.Close()
	if b.mayRetry(err) {
		err = b.BatchResults.Close()
	}
	return b.conn.pooled.explain(b.ctx, err)
}

// Tx implements pgx.BatchResults.
func (b *batchResults) Tx() pgx.Tx {
	if b.tx == nil {
		return nil
	}
	return b.tx
}

// tx releases the connection at its end, unless it is a savepoint.
type tx struct {
	pgx.Tx
	conn   *Conn
	nested bool
}

// Begin implements pgx.Tx.
func (t *tx) Begin(ctx context.Context) (pgx.Tx, error) {
	inner, err := t.Tx.Begin(ctx)
	if err != nil {
		return nil, t.conn.pooled.explain(ctx, err)
	}
	return &tx{inner, t.conn, true}, nil
}

// Commit implements pgx.Tx.
func (t *tx) Commit(ctx context.Context) error { return t.end(ctx, t.Tx.Commit) }

// Rollback implements pgx.Tx.
func (t *tx) Rollback(ctx context.Context) error { return t.end(ctx, t.Tx.Rollback) }

// end commits or rolls back.
func (t *tx) end(ctx context.Context, how func(context.Context) error) error {
	if !t.nested {
		defer t.conn.Release()
	}
	err := how(ctx)
	if t.conn.checkout.Returned() { // it has ended before
		return err
	}
	return t.conn.pooled.explain(ctx, err)
}

// CopyFrom implements pgx.Tx.
func (t *tx) CopyFrom(
	ctx context.Context, table pgx.Identifier, columns []string, source pgx.CopyFromSource,
) (int64, error) {
	n, err := t.Tx.CopyFrom(ctx, table, columns, source)
	return n, t.conn.pooled.explain(ctx, err)
}

// SendBatch implements pgx.Tx.
func (t *tx) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	return &batchResults{BatchResults: t.Tx.SendBatch(ctx, b), conn: t.conn, ctx: ctx, kept: true}
}

// Prepare implements pgx.Tx.
func (t *tx) Prepare(ctx context.Context, name, sql string) (*pgconn.StatementDescription, error) {
	description, err := t.Tx.Prepare(ctx, name, sql)
	return description, t.conn.pooled.explain(ctx, err)
}

// Exec implements pgx.Tx.
func (t *tx) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return t.conn.pooled.exec(ctx, t.Tx, sql, args)
}

// Query implements pgx.Tx.
func (t *tx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	inner, err := t.conn.pooled.query(ctx, t.Tx, sql, args)
	if err != nil {
		return inner, err
	}
	return &rows{Rows: inner, conn: t.conn, ctx: ctx, kept: true}, nil
}

// QueryRow implements pgx.Tx.
func (t *tx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return row{t.conn.pooled.queryRow(ctx, t.Tx, sql, args), t.conn, ctx, true}
}

// failedRows are the rows, or the row, of a query that got no connection.
type failedRows struct{ err error }

func (failedRows) Close()                                       {}
func (f failedRows) Err() error                                 { return f.err }
func (failedRows) CommandTag() pgconn.CommandTag                { return pgconn.CommandTag{} }
func (failedRows) FieldDescriptions() []pgconn.FieldDescription { return nil }
func (failedRows) Next() bool                                   { return false }
func (f failedRows) Scan(...any) error                          { return f.err }
func (f failedRows) Values() ([]any, error)                     { return nil, f.err }
func (failedRows) RawValues() [][]byte                          { return nil }
func (failedRows) Conn() *pgx.Conn                              { return nil }
func (failedRows) TypeMap() *pgtype.Map                         { return nil }

// failedBatch are the results of a batch that got no connection.
type failedBatch struct{ err error }

func (f failedBatch) Exec() (pgconn.CommandTag, error) { return pgconn.CommandTag{}, f.err }
func (f failedBatch) Query() (pgx.Rows, error)         { return failedRows(f), f.err }
func (f failedBatch) QueryRow() pgx.Row                { return failedRows(f) }
func (f failedBatch) Close() error                     { return f.err }
func (failedBatch) Tx() pgx.Tx                         { return nil }
