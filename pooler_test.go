package tenantdb_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
)

// throughPooler moves the tenant acme behind a PgBouncer whose clients share two server connections for each
// database and role. Each tenant signs in as its own role, whose password the pooler asks the server for.
func throughPooler(t *testing.T, cfg tenantdb.PoolConfig, settings ...string) (w staleWorld,
	ctx context.Context) {
	t.Helper()
	w = newStaleWorldOf(t, cfg)
	s := pgtest.Shared(t)
	super, err := url.Parse(s.URL("postgres"))
	must(t, err)
	b := pgtest.StartPgBouncer(t, s,
		append([]string{"default_pool_size=2", "auth_user=" + super.User.Username()}, settings...)...)
	pooler, err := url.Parse(b.Through(t, s.URL("postgres")))
	must(t, err)
	row, err := w.host.Tenants.BySlug(t.Context(), "acme")
	must(t, err)
	u, err := url.Parse(row.DBURL.Reveal())
	must(t, err)
	u.Host = pooler.Host
	w.update(row, func(row *hostdb.TenantCatalog) { row.DBURL = hostdb.Secret(u.String()) })
	w.leave()
	must(t, w.pool.Drain(t.Context(), row.ID))
	ctx, leave, err := w.mw.Enter(t.Context(), row.ID)
	must(t, err)
	t.Cleanup(leave)
	w.ctx = ctx
	return w, ctx
}

// poolModes are the modes of a pooler, and the configuration of the pool for each.
var poolModes = map[string]struct {
	cfg      tenantdb.PoolConfig
	settings []string
}{
	"transactions":             {tenantdb.PoolConfig{}, nil},
	"sessions, taken for less": {tenantdb.PoolConfig{}, []string{"pool_mode=session", "default_pool_size=8"}},
	"sessions": {
		tenantdb.PoolConfig{SessionPooler: true}, []string{"pool_mode=session", "default_pool_size=8"},
	},
}

func TestPooler_concurrentWorkGetsItsOwnAnswers(t *testing.T) {
	for mode, m := range poolModes {
		t.Run(mode, func(t *testing.T) {
			m.cfg.MaxConns, m.cfg.MaxConnsPerTenant = 8, 8
			w, ctx := throughPooler(t, m.cfg, m.settings...)
			w.change(t, "CREATE TABLE it (worker int, n int)")
			if who := ask[string](t, ctx, "SELECT current_user"); !strings.HasPrefix(who, "tenant_") {
				t.Errorf("the tenant is served as %s", who)
			}
			stmt, err := tenantdb.DB(ctx).PrepareContext(ctx, "SELECT $1::int * $2::int")
			must(t, err)
			defer stmt.Close()
			var wg sync.WaitGroup
			for worker := range 8 {
				wg.Go(func() {
					for n := range 6 {
						if err := roundOfWork(ctx, stmt, worker, n); err != nil {
							t.Errorf("worker %d, round %d: %v", worker, n, err)
							return
						}
					}
				})
			}
			wg.Wait()
			if n := ask[int](t, ctx, "SELECT count(*) FROM it"); n != 8*6*5 {
				t.Errorf("%d rows", n)
			}
		})
	}
}

// roundOfWork adds five rows in every possible way and checks each answer.
func roundOfWork(ctx context.Context, stmt *sql.Stmt, worker, n int) error {
	pg, db := tenantdb.PG(ctx), tenantdb.DB(ctx)
	insert := fmt.Sprintf("INSERT INTO it VALUES ($1, $2) RETURNING n -- %d", n%3) // several texts
	var got int
	if err := db.QueryRowContext(ctx, insert, worker, n).Scan(&got); err != nil || got != n {
		return fmt.Errorf("database/sql: %d, %w", got, err)
	}
	if err := pg.QueryRow(ctx, insert, worker, n).Scan(&got); err != nil || got != n {
		return fmt.Errorf("PGX: %d, %w", got, err)
	}
	if err := stmt.QueryRowContext(ctx, worker, n).Scan(&got); err != nil || got != worker*n {
		return fmt.Errorf("a statement: %d, %w", got, err)
	}
	b := new(pgx.Batch)
	b.Queue(insert, worker, n)
	b.Queue("SELECT $1::int + $2::int", worker, n)
	results := pg.SendBatch(ctx, b)
	_, err := results.Exec()
	if err = errors.Join(err, results.QueryRow().Scan(&got), results.Close()); err != nil || got != worker+n {
		return fmt.Errorf("a batch: %d, %w", got, err)
	}
	if _, err := pg.CopyFrom(ctx, pgx.Identifier{"it"}, []string{"worker", "n"},
		pgx.CopyFromRows([][]any{{worker, n}})); err != nil {
		return fmt.Errorf("COPY: %w", err)
	}
	return pgx.BeginFunc(ctx, pg, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET LOCAL application_name = 'mine'"); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, insert, worker, n); err != nil {
			return err
		}
		var name string
		if err := tx.QueryRow(ctx, "SELECT current_setting('application_name') WHERE $1::int = $1",
			n).Scan(&name); err != nil || name != "mine" {
			return fmt.Errorf("a transaction: %q, %w", name, err)
		}
		return nil
	})
}

func TestPooler_cancelsTheQueryAndNoOther(t *testing.T) {
	for mode, m := range poolModes {
		t.Run(mode, func(t *testing.T) {
			m.cfg.MaxConns, m.cfg.MaxConnsPerTenant = 8, 8
			w, ctx := throughPooler(t, m.cfg, m.settings...)
			var wg sync.WaitGroup
			for range 3 {
				wg.Go(func() {
					for range 3 {
						short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
						_, err := tenantdb.PG(ctx).Exec(short, "SELECT pg_sleep(60)")
						cancel()
						if !errors.Is(err, context.DeadlineExceeded) {
							t.Errorf("a query that was to end: %v", err)
						}
						if _, err := tenantdb.PG(ctx).Exec(ctx, "SELECT pg_sleep(0.01)"); err != nil {
							t.Errorf("another query: %v", err)
						}
					}
				})
			}
			wg.Wait()
			eventually(t, func() bool {
				var running int
				must(t, w.outside.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity
					WHERE query LIKE '%pg_sleep(60)' AND state = 'active'`).Scan(&running))
				return running == 0
			})
		})
	}
}

func TestPooler_transactionModeRefusesSessionState(t *testing.T) {
	w, ctx := throughPooler(t, tenantdb.PoolConfig{})
	w.change(t, "CREATE TABLE it (v int)")
	for _, text := range []string{
		"SET application_name = 'left'", "SELECT 1; SET work_mem = '1MB'", "/* a */ -- b\n SET ROLE none",
		"LISTEN ears", "PREPARE p AS SELECT 1",
		"SELECT pg_advisory_lock(7)", "SELECT set_config('work_mem', '1MB', false)",
		"CREATE TEMP TABLE t (n int)", "create or replace temp view v as select 1",
		"DECLARE c CURSOR WITH HOLD FOR SELECT 1", "LOAD 'plpgsql'",
	} {
		for way, through := range ways {
			send, end := through(ctx, text)
			if err := send(); err == nil || !strings.Contains(err.Error(), "SessionPooler") ||
				tenantdb.StatusCode(err) != 500 {
				t.Errorf("%s, %s: %v", text, way, err)
			}
			if end != nil && way != "DB.Prepare" {
				_ = end()
			}
		}
		tx, err := tenantdb.DB(ctx).BeginTx(ctx, nil)
		must(t, err)
		if _, err := tx.ExecContext(ctx, text); err == nil ||
			!strings.Contains(err.Error(), "SessionPooler") {
			t.Errorf("%s in a transaction: %v", text, err)
		}
		must(t, tx.Rollback())
	}
	for _, text := range []string{
		"SELECT set_config('work_mem', '1MB', true)", "SELECT pg_advisory_xact_lock(7)", "RESET work_mem",
		"INSERT INTO it VALUES (1); DELETE FROM it",
		"CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql " +
			"AS $$ BEGIN PERFORM 1; SET work_mem = '1MB'; END $$",
		"BEGIN; SET LOCAL work_mem = '1MB'; COMMIT",
	} {
		if _, err := tenantdb.PG(ctx).Exec(ctx, text); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestPooler_sessionModeResetsBetweenBorrowers(t *testing.T) {
	m := poolModes["sessions"]
	m.cfg.MaxConns, m.cfg.MaxConnsPerTenant = 1, 1
	_, ctx := throughPooler(t, m.cfg, m.settings...)
	for leave, look := range map[string]string{
		"SET application_name = 'left'": "SELECT current_setting('application_name') = 'left'",
		"SELECT pg_advisory_lock(7)":    locked,
		"LISTEN ears":                   "SELECT count(*) > 0 FROM pg_listening_channels()",
		"CREATE TEMP TABLE t (n int)":   "SELECT to_regclass('pg_temp.t') IS NOT NULL",
		"PREPARE p AS SELECT 1":         "SELECT count(*) > 0 FROM pg_prepared_statements WHERE name = 'p'",
	} {
		_, err := tenantdb.PG(ctx).Exec(ctx, leave)
		must(t, err)
		if ask[bool](t, ctx, look) {
			t.Errorf("%s: the next borrower finds it", leave)
		}
	}
}

// TestPooler_outdatedStatementsDoNotFail: behind a pooler pgx caches types, and the server keeps no
// statements.
func TestPooler_outdatedStatementsDoNotFail(t *testing.T) {
	w, _ := throughPooler(t, tenantdb.PoolConfig{})
	w.staleStatements(t, func(m memoryOf, way string) bool { return !m.inside })
}
