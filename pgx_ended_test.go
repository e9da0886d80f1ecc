package tenantdb_test

import (
	"context"
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/internal/refusal"
)

// TestPGX_connectionEndedByTheServerIsUnavailable ends a connection that is checked out. Either driver
// reports it as unavailable, the first time and afterwards.
func TestPGX_connectionEndedByTheServerIsUnavailable(t *testing.T) {
	w := newStaleWorld(t)
	w.change(t, "CREATE TABLE it (v int)")
	const who = "SELECT pg_backend_pid()"
	for name, hold := range map[string]func(ctx context.Context) (server int, use func() error, end func()){
		"sql.Conn": func(ctx context.Context) (server int, use func() error, end func()) {
			conn, err := tenantdb.DB(ctx).Conn(ctx)
			must(t, err)
			must(t, conn.QueryRowContext(ctx, who).Scan(&server))
			return server, func() error { _, err := conn.ExecContext(ctx, "SELECT 1"); return err },
				func() { _ = conn.Close() }
		},
		"sql.Stmt of a sql.Conn": func(ctx context.Context) (server int, use func() error, end func()) {
			conn, err := tenantdb.DB(ctx).Conn(ctx)
			must(t, err)
			must(t, conn.QueryRowContext(ctx, who).Scan(&server))
			stmt, err := conn.PrepareContext(ctx, "SELECT 1")
			must(t, err)
			return server, func() error {
				_, err := stmt.ExecContext(ctx)
				return err
			}, func() { _ = conn.Close() }
		},
		"sql.Tx": func(ctx context.Context) (server int, use func() error, end func()) {
			tx, err := tenantdb.DB(ctx).BeginTx(ctx, nil)
			must(t, err)
			must(t, tx.QueryRowContext(ctx, who).Scan(&server))
			return server, func() error { _, err := tx.ExecContext(ctx, "SELECT 1"); return err },
				func() { _ = tx.Rollback() }
		},
		"sql.Tx, its end": func(ctx context.Context) (server int, use func() error, end func()) {
			tx, err := tenantdb.DB(ctx).BeginTx(ctx, nil)
			must(t, err)
			must(t, tx.QueryRowContext(ctx, who).Scan(&server))
			return server, tx.Commit, nil
		},
		"pgx.Tx": func(ctx context.Context) (server int, use func() error, end func()) {
			tx, err := tenantdb.PG(ctx).Begin(ctx)
			must(t, err)
			must(t, tx.QueryRow(ctx, who).Scan(&server))
			return server, func() error { return tx.QueryRow(ctx, "SELECT 1").Scan(new(int)) },
				func() { _ = tx.Rollback(ctx) }
		},
		"pgx.Tx, COPY": func(ctx context.Context) (server int, use func() error, end func()) {
			tx, err := tenantdb.PG(ctx).Begin(ctx)
			must(t, err)
			must(t, tx.QueryRow(ctx, who).Scan(&server))
			return server, func() error {
				_, err := tx.CopyFrom(ctx, pgx.Identifier{"it"}, []string{"v"},
					pgx.CopyFromRows([][]any{{1}}))
				return err
			}, func() { _ = tx.Rollback(ctx) }
		},
		"pgx.Tx, its end": func(ctx context.Context) (server int, use func() error, end func()) {
			tx, err := tenantdb.PG(ctx).Begin(ctx)
			must(t, err)
			must(t, tx.QueryRow(ctx, who).Scan(&server))
			return server, func() error { return tx.Commit(ctx) }, nil
		},
		"pgx's own": func(ctx context.Context) (server int, use func() error, end func()) {
			c, err := tenantdb.PG(ctx).Acquire(ctx)
			must(t, err)
			must(t, c.Conn().QueryRow(ctx, who).Scan(&server))
			return server, func() error { _, err := c.Conn().Exec(ctx, "SELECT 1"); return err }, c.Release
		},
		"pgx's own, a batch": func(ctx context.Context) (server int, use func() error, end func()) {
			c, err := tenantdb.PG(ctx).Acquire(ctx)
			must(t, err)
			must(t, c.Conn().QueryRow(ctx, who).Scan(&server))
			return server, func() error {
				b := new(pgx.Batch)
				b.Queue("SELECT 1")
				return c.Conn().SendBatch(ctx, b).Close()
			}, c.Release
		},
		"pgx's own, a notification": func(ctx context.Context) (server int, use func() error, end func()) {
			c, err := tenantdb.PG(ctx).Acquire(ctx)
			must(t, err)
			must(t, c.Conn().QueryRow(ctx, who).Scan(&server))
			return server, func() error { _, err := c.Conn().WaitForNotification(ctx); return err }, c.Release
		},
	} {
		server, use, end := hold(w.ctx)
		admin(t, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = "+strconv.Itoa(server))
		eventually(t, func() bool {
			var there int
			must(t, w.outside.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE pid = $1",
				server).Scan(&there))
			return there == 0
		})
		first := use()
		if tenantdb.StatusCode(refusal.OfQuery(w.ctx, first)) != 503 {
			t.Errorf("%s: %T %v", name, first, first)
		}
		if name == "sql.Stmt of a sql.Conn" { // database/sql then only reports a closed connection
			end()
		} else if end != nil {
			second := use()
			if tenantdb.StatusCode(refusal.OfQuery(w.ctx, second)) != 503 {
				t.Errorf("%s, the second time: %T %v", name, second, second)
			}
			end()
		}
	}
}
