// Package sqlc has the shape of what sqlc generates for pgx/v5 (sql_package: "pgx/v5").
package sqlc

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// DBTX is what sqlc's code runs on: a pool, a connection, a transaction, or tenantdb.PG(ctx).
type DBTX interface {
	Exec(context.Context, string, ...interface{}) (pgconn.CommandTag, error)
	Query(context.Context, string, ...interface{}) (pgx.Rows, error)
	QueryRow(context.Context, string, ...interface{}) pgx.Row
}

// New returns the queries on a database.
func New(db DBTX) *Queries { return &Queries{db: db} }

// Queries are the statements of the product.
type Queries struct{ db DBTX }

// WithTx returns the queries in a transaction.
func (q *Queries) WithTx(tx pgx.Tx) *Queries { return &Queries{db: tx} }

const addNote = `INSERT INTO notes (body) VALUES ($1)`

// AddNote is addNote.
func (q *Queries) AddNote(ctx context.Context, body string) error {
	_, err := q.db.Exec(ctx, addNote, body)
	return err
}

const listNotes = `SELECT body FROM notes ORDER BY id`

// ListNotes is listNotes.
func (q *Queries) ListNotes(ctx context.Context) ([]string, error) {
	rows, err := q.db.Query(ctx, listNotes)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var items []string
	for rows.Next() {
		var body string
		if err := rows.Scan(&body); err != nil {
			return nil, err
		}
		items = append(items, body)
	}
	return items, rows.Err()
}
