package orm

import (
	"context"

	"github.com/jmoiron/sqlx"

	"github.com/tenantdb/tenantdb"
)

// Sqlx implements Notes with sqlx, which wraps tenantdb.DB(ctx). Driver is the name by which sqlx knows the
// form of placeholders: "pgx" or "sqlite3".
type Sqlx struct{ Driver string }

// db wraps the tenant's handle. That costs one allocation, so nothing is kept.
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
