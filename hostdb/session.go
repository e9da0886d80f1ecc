package hostdb

import (
	"context"
	"database/sql"
)

// dbtx is what *sql.DB and *sql.Tx have in common.
type dbtx interface {
	queryer
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// queryer runs queries.
type queryer interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// scanner reads the columns of one row.
type scanner interface {
	Scan(dest ...any) error
}

// reader returns where a read runs.
func (s session) reader() (dbtx, error) {
	return s.pick(s.db.read)
}

// writer returns where a write runs.
func (s session) writer() (dbtx, error) {
	return s.pick(s.db.write)
}

func (s session) pick(pool *sql.DB) (dbtx, error) {
	if err := s.db.usable(); err != nil {
		return nil, err
	}
	if s.tx == nil {
		return pool, nil
	}
	return s.tx.sql, s.tx.failed
}

// fail translates an error of a statement and makes it the transaction's. PostgreSQL ends a transaction at
// the first error, so SQLite has to as well.
func (s session) fail(ctx context.Context, err error, field conflictField) error {
	if s.tx != nil && s.tx.ctx.Err() != nil {
		ctx = s.tx.ctx
	}
	err = translate(ctx, err, field)
	if s.tx != nil && err != nil {
		s.tx.fail(err)
	}
	return err
}

// conflictField resolves a constraint error that SQLite leaves ambiguous. reported is "" for a foreign key,
// and otherwise one of the unique columns in conflict.
type conflictField func(reported string) string

// asReported is the conflictField of statements that can violate no foreign key and at most one unique
// constraint.
func asReported(reported string) string { return reported }

// query runs a read and calls each for every row.
func (s session) query(ctx context.Context, text string, args []any, each func(scanner) error) error {
	on, err := s.reader()
	if err != nil {
		return err
	}
	return s.queryRows(ctx, on, text, args, each)
}

// returning runs a write that returns rows.
func (s session) returning(ctx context.Context, text string, args []any, each func(scanner) error) error {
	return s.single(ctx, func(s session, on dbtx) error { return s.queryRows(ctx, on, text, args, each) })
}

// single runs one write. Outside a transaction PostgreSQL's statement is retried. SQLite's gets a Tx,
// because Begin limits the wait for the connection.
func (s session) single(ctx context.Context, run func(s session, on dbtx) error) error {
	on, err := s.writer()
	switch {
	case err != nil:
		return err
	case s.tx != nil:
		return run(s, on)
	case s.db.engine == sqlite:
		return s.db.InTx(ctx, func(tx *Tx) error { return run(session{s.db, tx}, tx.sql) })
	}
	return retry(ctx, func() error { return run(s, on) })
}

// queryRows runs a query and calls each for every row.
func (s session) queryRows(ctx context.Context, on queryer, text string, args []any,
	each func(scanner) error) error {
	return s.fail(ctx, eachRow(ctx, on, text, args, each), asReported)
}

// eachRow is queryRows without a session. Its errors are the driver's.
func eachRow(ctx context.Context, on queryer, text string, args []any, each func(scanner) error) error {
	rows, err := on.QueryContext(ctx, text, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := each(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// appendText returns a row function that appends the row's only column, a text.
func appendText(to *[]string) func(scanner) error {
	return func(row scanner) error {
		*to = append(*to, "")
		return row.Scan(&(*to)[len(*to)-1])
	}
}

// queryRow reads one row. Errors: ErrNotFound.
func (s session) queryRow(ctx context.Context, text string, args []any, dest ...any) error {
	found := false
	err := s.query(ctx, text, args, func(row scanner) error {
		found = true
		return row.Scan(dest...)
	})
	if err == nil && !found {
		return ErrNotFound
	}
	return err
}

// exec runs one write and returns how many rows it affected.
func (s session) exec(ctx context.Context, text string, args []any, field conflictField) (int64, error) {
	var touched int64
	err := s.single(ctx, func(s session, on dbtx) error {
		result, err := on.ExecContext(ctx, text, args...)
		if err == nil {
			touched, err = result.RowsAffected()
		}
		return s.fail(ctx, err, field)
	})
	return touched, err
}

// execBatches repeats a write of a limited number of rows until it affects none, and returns how many there
// were.
func (s session) execBatches(ctx context.Context, text string, args ...any) (total int64, err error) {
	for {
		n, err := s.exec(ctx, text, args, asReported)
		if total += n; err != nil || n == 0 {
			return total, err
		}
	}
}

// write runs fn in the session's transaction, or in a new one.
func (s session) write(ctx context.Context, fn func(*Tx) error) error {
	if s.tx != nil {
		if s.tx.failed != nil {
			return s.tx.failed
		}
		return fn(s.tx)
	}
	return s.db.InTx(ctx, fn)
}
