package orm

import (
	"context"
	"errors"
	"net/http"
	"testing"

	"entgo.io/ent/dialect"
	"github.com/jmoiron/sqlx"
	"gorm.io/gorm"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/examples/orm/sqlc"
)

// within calls a function with the contexts of two concurrent requests, one in acme and one in globex.
func within(t *testing.T, p *product, do func(acme, globex context.Context)) {
	h := func(next func(context.Context)) http.Handler {
		return p.mw.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next(r.Context())
		}))
	}
	p.send(t, h(func(acme context.Context) {
		p.send(t, h(func(globex context.Context) {
			do(acme, globex)
		}), "globex", http.MethodGet, nil, http.StatusOK)
	}), "acme", http.MethodGet, nil, http.StatusOK)
}

// TestLibraries_reachNoOtherTenant uses by mistake in globex's request what a library built in acme's, or in
// acme's transaction.
func TestLibraries_reachNoOtherTenant(t *testing.T) {
	for engine, d := range map[string]string{"sqlite": dialect.SQLite, "postgres": dialect.Postgres} {
		t.Run(engine, func(t *testing.T) {
			within(t, newProduct(t, engine), func(acme, globex context.Context) {
				g, err := libraries[engine]["gorm"].(Gorm).db(acme)
				must(t, err)
				gormTx := g.Begin()
				must(t, gormTx.Error)
				must(t, gormTx.Create(&note{Body: "begun"}).Error)
				must(t, gormTx.Commit().Error)
				client, err := Ent{d}.client(acme)
				must(t, err)
				bySqlx := libraries[engine]["sqlx"].(Sqlx).db(acme)
				prepared := g.Session(&gorm.Session{PrepareStmt: true})
				uses := map[string]func(context.Context) error{
					"gorm": func(ctx context.Context) error {
						return g.WithContext(ctx).First(&note{}).Error
					},
					"gorm prepared": func(ctx context.Context) error {
						return prepared.WithContext(ctx).First(&note{}).Error
					},
					"ent": func(ctx context.Context) error {
						_, err := client.Note.Query().All(ctx)
						return err
					},
					"ent's transaction": func(ctx context.Context) error {
						tx, err := client.Tx(ctx)
						if err == nil {
							return tx.Rollback()
						}
						return err
					},
					"sqlx": func(ctx context.Context) error {
						return sqlx.SelectContext(ctx, bySqlx, &[]string{}, "SELECT body FROM notes")
					},
				}
				if engine == "postgres" {
					q := sqlc.New(tenantdb.PG(acme))
					uses["sqlc"] = func(ctx context.Context) error {
						_, err := q.ListNotes(ctx)
						return err
					}
				}
				for name, use := range uses {
					must(t, use(acme))
					if err := use(globex); !errors.Is(err, tenantdb.ErrWrongTenant) {
						t.Errorf("%s of acme in globex's request: %v", name, err)
					}
					must(t, use(acme))
				}
			})
		})
	}
}

// TestLibraries_mayTuneAndCloseTheirHandle does what GORM's documentation and ent's Close do. Neither other
// requests nor the library's next use are affected.
func TestLibraries_mayTuneAndCloseTheirHandle(t *testing.T) {
	for engine, library := range libraries {
		t.Run(engine, func(t *testing.T) {
			p := newProduct(t, engine)
			for range 3 {
				within(t, p, func(acme, _ context.Context) {
					g, err := library["gorm"].(Gorm).db(acme)
					must(t, err)
					pool, err := g.DB()
					must(t, err)
					pool.SetMaxOpenConns(1)
					pool.SetMaxIdleConns(10)
					if engine == "postgres" { // SQLite has one connection that writes
						held, err := pool.Conn(acme)
						must(t, err)
						defer held.Close()
					}
					others(t, p, library)
					must(t, pool.Close())
					client, err := library["ent"].(Ent).client(acme)
					must(t, err)
					must(t, client.Close())
					tenantdb.DB(acme).SetMaxOpenConns(1)
					others(t, p, library)
					must(t, tenantdb.DB(acme).Close())
					others(t, p, library)
				})
			}
		})
	}
}

// others makes every library read in another request to acme.
func others(t *testing.T, p *product, library map[string]Notes) {
	for _, notes := range library {
		p.send(t, p.mw.Handler(Handler(notes)), "acme", http.MethodGet, nil, http.StatusOK)
	}
}
