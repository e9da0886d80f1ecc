package orm

import (
	"context"

	"github.com/jmoiron/sqlx"

	"github.com/tenantdb/tenantdb"
)

// Sqlx are notes by sqlx, which wraps tenantdb.DB(ctx). Driver is the name by which sqlx knows the
// placeholders: "pgx" or "sqlite3".
type Sqlx struct{ Driver string }

// db costs an allocation: there is nothing to keep.
func (s Sqlx) db(ctx context.Context) *sqlx.DB {
	return sqlx.NewDb(tenantdb.DB(ctx), s.Driver)
}

// List implements Notes.
func (s Sqlx) List(ctx context.Context) (bodies []string, err error) {
	err = s.db(ctx).SelectContext(ctx, &bodies, `SELECT body FROM notes ORDER BY id`)
	return bodies, err
}

// Add implements Notes.
func (s Sqlx) Add(ctx context.Context, bodies ...string) error {
	tx, err := s.db(ctx).BeginTxx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	for _, body := range bodies {
		if err := check(body); err != nil {
			return err
		}
		if _, err := tx.NamedExecContext(ctx, `INSERT INTO notes (body) VALUES (:body)`,
			map[string]any{"body": body}); err != nil {
			return err
		}
	}
	return tx.Commit()
}
