package orm

import (
	"context"
	"database/sql"

	"gorm.io/driver/postgres"
	"gorm.io/driver/sqlite"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"

	"github.com/tenantdb/tenantdb"
)

// Gorm implements Notes with GORM. Dialect is GORMPostgres or GORMSQLite.
type Gorm struct{ Dialect func(*sql.DB) gorm.Dialector }

// GORMPostgres makes GORM's dialect for a PostgreSQL handle.
func GORMPostgres(db *sql.DB) gorm.Dialector { return postgres.New(postgres.Config{Conn: db}) }

// GORMSQLite makes GORM's dialect for a SQLite handle. The import links GORM's own SQLite driver, which isn't
// used.
func GORMSQLite(db *sql.DB) gorm.Dialector { return &sqlite.Dialector{Conn: db} }

// note is a row of the table.
type note struct {
	ID   int64
	Body string
}

// gormKey is the key under which tenantdb keeps the tenant's *gorm.DB, which is expensive to make.
type gormKey struct{}

// db returns the tenant's *gorm.DB for the context. It is dropped with the tenant's database.
func (g Gorm) db(ctx context.Context) (*gorm.DB, error) {
	db, err := tenantdb.Cached(ctx, gormKey{}, func(*tenantdb.Scope) (*gorm.DB, func(), error) {
		db, err := gorm.Open(g.Dialect(tenantdb.DB(ctx)),
			&gorm.Config{Logger: logger.Discard, DisableAutomaticPing: true})
		return db, nil, err
	})
	if err != nil {
		return nil, err
	}
	return db.WithContext(ctx), nil
}

// List implements Notes.
func (g Gorm) List(ctx context.Context) ([]string, error) {
	db, err := g.db(ctx)
	if err != nil {
		return nil, err
	}
	var bodies []string
	return bodies, db.Model(&note{}).Order("id").Pluck("body", &bodies).Error
}

// Add implements Notes.
func (g Gorm) Add(ctx context.Context, bodies ...string) error {
	db, err := g.db(ctx)
	if err != nil {
		return err
	}
	return db.Transaction(func(tx *gorm.DB) error {
		for _, body := range bodies {
			if err := check(body); err != nil {
				return err
			}
			if err := tx.Create(&note{Body: body}).Error; err != nil {
				return err
			}
		}
		return nil
	})
}
