package hostdb

import (
	"context"
	"database/sql"
)

// querier is what *sql.DB and *sql.Tx have in common.
type querier interface {
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
func (s session) reader() (querier, error) {
	return s.pick(s.db.read)
}

// writer returns where a single write runs.
func (s session) writer() (querier, error) {
	return s.pick(s.db.write)
}

func (s session) pick(pool *sql.DB) (querier, error) {
	if err := s.db.usable(); err != nil {
		return nil, err
	}
	if s.tx == nil {
		return pool, nil
	}
	return s.tx.sql, s.tx.failed
}

// fail translates an error of a statement. In PostgreSQL it has ended the transaction, so it does in SQLite.
func (s session) fail(ctx context.Context, err error, about conflictField) error {
	if s.tx != nil && s.tx.ctx.Err() != nil {
		ctx = s.tx.ctx
	}
	err = translate(ctx, err, about)
	if s.tx != nil && err != nil {
		s.tx.fail(err)
	}
	return err
}

// conflictField names the field that a statement's conflict is about, where SQLite doesn't say ("", a foreign
// key), or says one of the several unique ones that are taken.
type conflictField func(said string) string

// asReported is the culprit of statements that can't violate a foreign key, nor several unique ones.
func asReported(said string) string { return said }

// query runs a read and hands each row to each.
func (s session) query(ctx context.Context, text string, args []any, each func(scanner) error) error {
	on, err := s.reader()
	if err != nil {
		return err
	}
	return s.queryRows(ctx, on, text, args, each)
}

// returning runs a write that returns rows.
func (s session) returning(ctx context.Context, text string, args []any, each func(scanner) error) error {
	return s.single(ctx, func(s session, on querier) error { return s.queryRows(ctx, on, text, args, each) })
}

// single runs one write. Outside a transaction the statement is retried in PostgreSQL, and gets a Tx in
// SQLite: Begin bounds the wait for the connection.
func (s session) single(ctx context.Context, run func(s session, on querier) error) error {
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

// queryRows runs a query and hands each row to each.
func (s session) queryRows(ctx context.Context, on queryer, text string, args []any,
	each func(scanner) error) error {
	return s.fail(ctx, eachRow(ctx, on, text, args, each), asReported)
}

// eachRow runs a query outside of any session.
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

// appendText returns a function for query that appends each row's only column, a text.
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

// exec runs one write and returns how many rows it touched.
func (s session) exec(ctx context.Context, text string, args []any, conflict conflictField) (int64, error) {
	var touched int64
	err := s.single(ctx, func(s session, on querier) error {
		result, err := on.ExecContext(ctx, text, args...)
		if err == nil {
			touched, err = result.RowsAffected()
		}
		return s.fail(ctx, err, conflict)
	})
	return touched, err
}

// write runs fn in the session's transaction, or in one of its own.
func (s session) write(ctx context.Context, fn func(*Tx) error) error {
	if s.tx != nil {
		if s.tx.failed != nil {
			return s.tx.failed
		}
		return fn(s.tx)
	}
	return s.db.InTx(ctx, fn)
}
