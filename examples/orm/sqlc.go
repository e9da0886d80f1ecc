package orm

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/examples/orm/sqlc"
)

// Sqlc implements Notes with code in sqlc's form, on PostgreSQL. tenantdb.PG(ctx) is its DBTX.
type Sqlc struct{}

// List implements Notes.
func (Sqlc) List(ctx context.Context) ([]string, error) {
	return sqlc.New(tenantdb.PG(ctx)).ListNotes(ctx)
}

// Add implements Notes.
func (Sqlc) Add(ctx context.Context, bodies ...string) error {
	db := tenantdb.PG(ctx)
	return pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		queries := sqlc.New(db).WithTx(tx)
		for _, body := range bodies {
			if err := check(body); err != nil {
				return err
			}
			if err := queries.AddNote(ctx, body); err != nil {
				return err
			}
		}
		return nil
	})
}
