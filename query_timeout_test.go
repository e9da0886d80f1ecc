package tenantdb_test

import (
	"context"
	"database/sql"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb"
)

// TestQueryTimeout_endsAStatement tries each way to send a statement, and checks that the connection remains
// usable.
func TestQueryTimeout_endsAStatement(t *testing.T) {
	for engine, slow := range endless {
		t.Run(engine, func(t *testing.T) {
			w := newWorld(t, engine, tenantdb.PoolConfig{QueryTimeout: 100 * time.Millisecond})
			w.tenant("acme", w.user("ann"))
			ways := map[string]func(context.Context) error{
				"exec": func(ctx context.Context) error {
					_, err := tenantdb.DB(ctx).ExecContext(ctx, slow)
					return err
				},
				"query": func(ctx context.Context) error {
					var n any
					return tenantdb.DB(ctx).QueryRowContext(ctx, slow).Scan(&n)
				},
				"prepared": func(ctx context.Context) error {
					stmt, err := tenantdb.DB(ctx).PrepareContext(ctx, slow)
					if err != nil {
						return err
					}
					defer stmt.Close()
					_, err = stmt.ExecContext(ctx)
					return err
				},
				"transaction": func(ctx context.Context) error {
					tx, err := tenantdb.DB(ctx).BeginTx(ctx, nil)
					if err != nil {
						return err
					}
					defer tx.Rollback()
					_, err = tx.ExecContext(ctx, slow)
					return err
				},
			}
			if engine == "postgres" {
				ways["pgx"] = func(ctx context.Context) error {
					_, err := tenantdb.PG(ctx).Exec(ctx, slow)
					return err
				}
				ways["batch"] = func(ctx context.Context) error {
					batch := new(pgx.Batch)
					batch.Queue(slow)
					return tenantdb.PG(ctx).SendBatch(ctx, batch).Close()
				}
			}
			for name, way := range ways {
				h := w.middleware(w.config()).Handler(
					http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
						tenantdb.WriteError(rw, r, way(r.Context()))
					}))
				began := time.Now()
				rec := do(h, request("ann", "acme"))
				if took := time.Since(began); rec.Code != 500 || rec.Header().Get("Retry-After") != "" ||
					took < 100*time.Millisecond || took > 5*time.Second {
					t.Errorf("%s: %d %s after %v", name, rec.Code, rec.Body, took)
				}
			}
			h := w.middleware(w.config()).Handler(http.HandlerFunc(whoami))
			if rec := do(h, request("ann", "acme")); rec.Code != 200 || rec.Body.String() != "acme" {
				t.Errorf("afterwards: %d %s", rec.Code, rec.Body)
			}
		})
	}
}

// TestQueryTimeout_sparesSessionsCopyAndNotifications also checks that a context with an earlier deadline
// keeps it.
func TestQueryTimeout_sparesSessionsCopyAndNotifications(t *testing.T) {
	const limit, longer = 50 * time.Millisecond, 150 * time.Millisecond
	w := newWorld(t, "postgres", tenantdb.PoolConfig{QueryTimeout: limit})
	acme := w.tenant("acme", w.user("ann"))
	lease, err := w.pool.Lease(acme)
	must(t, err)
	defer lease.Release()
	session := lease.Session()
	defer session.Close()
	_, err = session.ExecContext(t.Context(), "SELECT pg_sleep($1)", longer.Seconds())
	must(t, err)

	sent := 0
	_, err = lease.PG().CopyFrom(t.Context(), pgx.Identifier{"me"}, []string{"name"},
		pgx.CopyFromFunc(func() ([]any, error) {
			if sent++; sent > 1 {
				return nil, nil
			}
			<-time.After(longer)
			return []any{"copied"}, nil
		}))
	must(t, err)

	conn, err := lease.PG().Acquire(t.Context())
	must(t, err)
	defer conn.Release()
	_, err = conn.Conn().Exec(t.Context(), "LISTEN news")
	must(t, err)
	time.AfterFunc(longer, func() { _, _ = lease.PG().Exec(context.Background(), "NOTIFY news") })
	_, err = conn.Conn().WaitForNotification(t.Context())
	must(t, err)

	hasty, cancel := context.WithTimeout(t.Context(), limit/5)
	defer cancel()
	if _, err := lease.PG().Exec(hasty, "SELECT pg_sleep(1)"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a context that ended sooner: %v", err)
	}
}

// TestQueryTimeout_countsTheReadingOfRows waits between one row and the next.
func TestQueryTimeout_countsTheReadingOfRows(t *testing.T) {
	for engine, rows := range map[string]string{
		"postgres": "SELECT repeat('x', 8000) FROM generate_series(1, 10000)",
		"sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000) " +
			"SELECT i FROM n",
	} {
		t.Run(engine, func(t *testing.T) {
			w := newWorld(t, engine, tenantdb.PoolConfig{QueryTimeout: 100 * time.Millisecond})
			acme := w.tenant("acme", w.user("ann"))
			lease, err := w.pool.Lease(acme)
			must(t, err)
			defer lease.Release()
			found, err := lease.DB().QueryContext(t.Context(), rows)
			must(t, err)
			defer found.Close()
			if !found.Next() {
				t.Fatal(found.Err())
			}
			<-time.After(200 * time.Millisecond)
			for found.Next() {
				var row sql.RawBytes
				must(t, found.Scan(&row))
			}
			if err := found.Err(); err == nil || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("read to the end: %v", err)
			}
		})
	}
}
