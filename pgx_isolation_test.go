package tenantdb_test

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenantdb/tenantdb"
)

// pgxUses are the ways through PGX.
var pgxUses = map[string]func(t *testing.T, own context.Context,
	pg *tenantdb.PGX) func(context.Context) error{
	"PGX": func(_ *testing.T, _ context.Context, pg *tenantdb.PGX) func(context.Context) error {
		return all(func(ctx context.Context) error {
			c, err := pg.Acquire(ctx)
			if err == nil {
				c.Release()
			}
			return err
		}, func(ctx context.Context) error {
			tx, err := pg.Begin(ctx)
			if err == nil {
				return tx.Rollback(ctx)
			}
			return err
		}, pgxQueries(pg))
	},
	"Conn": func(t *testing.T, own context.Context, pg *tenantdb.PGX) func(context.Context) error {
		c, err := pg.Acquire(own)
		must(t, err)
		t.Cleanup(c.Release)
		return all(pgxQueries(c.Conn()), func(ctx context.Context) error {
			_, err := c.Conn().Prepare(ctx, "", "SELECT 1")
			return err
		})
	},
	"Tx": func(t *testing.T, own context.Context, pg *tenantdb.PGX) func(context.Context) error {
		tx, err := pg.Begin(own)
		must(t, err)
		t.Cleanup(func() { must(t, tx.Rollback(own)) })
		return all(pgxQueries(tx), func(ctx context.Context) error {
			_, err := tx.Prepare(ctx, "", "SELECT 1")
			return err
		}, func(ctx context.Context) error {
			nested, err := tx.Begin(ctx)
			if err == nil {
				return nested.Commit(ctx)
			}
			return err
		}, func(ctx context.Context) error {
			objects := tx.LargeObjects()
			_, err := objects.Create(ctx, 0)
			return err
		})
	},
	"a transaction in another": func(t *testing.T, own context.Context,
		pg *tenantdb.PGX) func(context.Context) error {
		tx, err := pg.Begin(own)
		must(t, err)
		t.Cleanup(func() { must(t, tx.Rollback(own)) })
		nested, err := tx.Begin(own)
		must(t, err)
		return pgxQueries(nested)
	},
	"sql.Conn.Raw": func(t *testing.T, own context.Context, pg *tenantdb.PGX) func(context.Context) error {
		conn := connOf(t, own, tenantdb.DB(own))
		return func(ctx context.Context) error {
			return conn.Raw(func(driverConn any) error {
				return pgxQueries(driverConn.(interface{ Conn() *pgx.Conn }).Conn())(ctx)
			})
		}
	},
}

// pgxQueries uses what a PGX, a connection and a transaction have in common.
func pgxQueries(q interface {
	Exec(context.Context, string, ...any) (pgconn.CommandTag, error)
	Query(context.Context, string, ...any) (pgx.Rows, error)
	QueryRow(context.Context, string, ...any) pgx.Row
	SendBatch(context.Context, *pgx.Batch) pgx.BatchResults
	CopyFrom(context.Context, pgx.Identifier, []string, pgx.CopyFromSource) (int64, error)
}) func(context.Context) error {
	return all(func(ctx context.Context) error {
		_, err := q.Exec(ctx, "UPDATE me SET name = name")
		return err
	}, func(ctx context.Context) error {
		rows, err := q.Query(ctx, "SELECT name FROM me")
		if err == nil {
			rows.Close()
			err = rows.Err()
		}
		return err
	}, func(ctx context.Context) error {
		var name string
		return q.QueryRow(ctx, "SELECT name FROM me").Scan(&name)
	}, func(ctx context.Context) error {
		batch := new(pgx.Batch)
		batch.Queue("SELECT 1")
		batch.Queue("SELECT 2")
		return q.SendBatch(ctx, batch).Close()
	}, func(ctx context.Context) error {
		_, err := q.CopyFrom(ctx, pgx.Identifier{"me"}, []string{"name"}, pgx.CopyFromRows(nil))
		return err
	})
}

// all runs several uses with a context. Either none fails, or all fail for the same reason.
func all(uses ...func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		var first error
		for i, use := range uses {
			err := use(ctx)
			if i == 0 {
				first = err
			} else if errors.Is(err, tenantdb.ErrWrongTenant) != errors.Is(first, tenantdb.ErrWrongTenant) ||
				(err == nil) != (first == nil) {
				return errors.New("the uses differ: " + errors.Join(first, errors.New("and"), err).Error())
			}
		}
		return first
	}
}

func TestPGX_refusesTheContextOfAnotherTenant(t *testing.T) {
	w := newWorld(t, "postgres", tenantdb.PoolConfig{})
	s := scopesOf(t, w)
	for name, prepare := range pgxUses {
		t.Run(name, func(t *testing.T) {
			refusesOthers(t, s, prepare(t, s.own, tenantdb.PG(s.own)))
		})
	}
	tx, err := tenantdb.PG(s.own).Begin(s.own)
	must(t, err)
	_, err = tx.Exec(s.own, "UPDATE me SET name = 'changed'")
	must(t, err)
	if err := tx.Commit(s.other); !errors.Is(err, tenantdb.ErrWrongTenant) {
		t.Errorf("a commit with another tenant's context = %v", err)
	}
	if name := ask[string](t, s.own, "SELECT name FROM me"); name != "acme" {
		t.Errorf("it was committed: %s", name)
	}
}
