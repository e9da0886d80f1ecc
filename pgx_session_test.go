package tenantdb_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenantdb/tenantdb"
)

func TestPGX_sessionStateDoesNotReachTheNextBorrower(t *testing.T) {
	ctx := oneConn(t, tenantdb.PoolConfig{})
	_, err := tenantdb.PG(ctx).Exec(ctx,
		`CREATE PROCEDURE leave_behind() LANGUAGE plpgsql AS $$ BEGIN SET work_mem = '3MB'; END $$`)
	must(t, err)
	for _, test := range []struct {
		leave    string // what the handler runs
		look     string // a query, true if the next borrower finds it
		reopened bool   // the connection is closed instead of reset
	}{
		{"SET application_name = 'left'", "SELECT current_setting('application_name') = 'left'", false},
		{"SELECT 1; SET statement_timeout = 4321; SELECT 2",
			"SELECT current_setting('statement_timeout') = '4321ms'", false},
		{"/* SET LOCAL */ SET search_path = nowhere", "SELECT current_setting('search_path') = 'nowhere'",
			false},
		{"SET LOCAL work_mem = '1MB'; SET work_mem = '2MB'", "SELECT current_setting('work_mem') = '2MB'",
			false},
		{"SET ROLE pg_read_all_data", "SELECT current_user = 'pg_read_all_data'", false},
		{"CREATE TEMP TABLE left_behind (n int)", "SELECT to_regclass('pg_temp.left_behind') IS NOT NULL",
			false},
		{"CREATE TEMP TABLE left_behind AS SELECT 1 AS n",
			"SELECT to_regclass('pg_temp.left_behind') IS NOT NULL", false},
		{"SELECT 1 AS n INTO TEMP left_behind", "SELECT to_regclass('pg_temp.left_behind') IS NOT NULL",
			false},
		{"CREATE TEMP VIEW left_behind AS SELECT 1 AS n",
			"SELECT to_regclass('pg_temp.left_behind') IS NOT NULL", false},
		{"DECLARE c CURSOR WITH HOLD FOR SELECT 1", "SELECT count(*) > 0 FROM pg_cursors WHERE name = 'c'",
			false},
		{"CREATE TEMP TABLE left_behind AS SELECT 1 AS n WHERE false",
			"SELECT to_regclass('pg_temp.left_behind') IS NOT NULL", false},
		{"CREATE TEMP TABLE left_behind AS SELECT 1 AS n WITH NO DATA",
			"SELECT to_regclass('pg_temp.left_behind') IS NOT NULL", false},
		{"SELECT 1; CREATE TEMP TABLE left_behind AS SELECT 1 AS n WHERE false; SELECT 2",
			"SELECT to_regclass('pg_temp.left_behind') IS NOT NULL", false},
		{"EXPLAIN ANALYZE CREATE TEMP TABLE left_behind AS SELECT 1 AS n",
			"SELECT to_regclass('pg_temp.left_behind') IS NOT NULL", false},
		{"SELECT pg_advisory_lock(7)", locked, false},
		{"SELECT Pg_Try_Advisory_Lock(7)", locked, false},
		{"SELECT pg_catalog.\"pg_advisory_lock\" (7)", locked, false},
		{"SELECT /* one\n */ PG_ADVISORY_LOCK_SHARED -- two\n (7, 8)", locked, false},
		{"DO $$ BEGIN EXECUTE 'SELECT pg_advisory' || '_lock(7)'; END $$", locked, false},
		{"DO $$ BEGIN SET work_mem = '3MB'; END $$", "SELECT current_setting('work_mem') = '3MB'", false},
		{"CALL leave_behind()", "SELECT current_setting('work_mem') = '3MB'", false},
		{"SELECT set_config('work_mem', '3MB', false)", "SELECT current_setting('work_mem') = '3MB'", false},
		{"SELECT pg_catalog . Set_Config\n('work_mem', '3MB', 1 > 2)",
			"SELECT current_setting('work_mem') = '3MB'", false},
		{"PREPARE p AS SELECT set_config('work_mem', '3MB', false); EXECUTE p",
			"SELECT current_setting('work_mem') = '3MB'", true},
		{"LISTEN ears", "SELECT count(*) > 0 FROM pg_listening_channels()", true},
		{"PREPARE p AS SELECT 1", "SELECT count(*) > 0 FROM pg_prepared_statements WHERE name = 'p'", true},
		{"DEALLOCATE ALL", "SELECT false", true}, // pgx still believes in its statements
		{"DISCARD ALL", "SELECT false", true},
	} {
		for shape, run := range map[string]func(string) error{
			"pgx": func(sql string) error {
				c, err := tenantdb.PG(ctx).Acquire(ctx)
				must(t, err)
				defer c.Release()
				_, err = c.Conn().Exec(ctx, sql)
				return err
			},
			"database/sql": func(sql string) error {
				_, err := tenantdb.DB(ctx).ExecContext(ctx, sql)
				return err
			},
			"the protocol": func(sql string) error {
				c, err := tenantdb.PG(ctx).Acquire(ctx)
				must(t, err)
				defer c.Release()
				return c.Conn().PgConn().Exec(ctx, sql).Close()
			},
		} {
			t.Run(test.leave+"/"+shape, func(t *testing.T) {
				before := pid(t, ctx)
				must(t, run(test.leave))
				if ask[bool](t, ctx, test.look) {
					t.Error("the next borrower finds it")
				}
				if got := pid(t, ctx); (got != before) != test.reopened {
					t.Errorf("reopened: %v", got != before)
				}
			})
		}
	}
}

func TestPGX_transactionLocalStateCostsNoReset(t *testing.T) {
	ctx := oneConn(t, tenantdb.PoolConfig{})
	mark := marker(t, ctx)
	marked := func() bool {
		return ask[bool](t, ctx, "SELECT coalesce(current_setting('x.mark', true), '') = 'here'")
	}
	mark()
	for name, work := range map[string]func(tx pgx.Tx) error{
		"SET LOCAL": func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "SET LOCAL work_mem = '1MB';")
			return err
		},
		"SET TRANSACTION": func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "set  transaction read only")
			return err
		},
		"set_config": func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "SELECT Set_Config('work_mem', $1, TRUE)", "1MB")
			return err
		},
		"a lock that ends with it": func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", 7)
			return err
		},
		"no rows": func(tx pgx.Tx) error {
			for range 3 { // prepared, then by name, then in text
				if _, err := tx.Exec(ctx, "SELECT name FROM me WHERE name = $1", "nobody"); err != nil {
					return err
				}
			}
			return tx.Conn().PgConn().Exec(ctx,
				"SELECT name FROM me WHERE false; SELECT FROM me WHERE false").Close()
		},
		"LOCK":  func(tx pgx.Tx) error { _, err := tx.Exec(ctx, "LOCK TABLE me"); return err },
		"RESET": func(tx pgx.Tx) error { _, err := tx.Exec(ctx, "RESET work_mem"); return err },
	} {
		tx, err := tenantdb.PG(ctx).Begin(ctx)
		must(t, err)
		must(t, work(tx))
		must(t, tx.Commit(ctx))
		if !marked() {
			t.Errorf("%s: the session was reset", name)
			mark()
		}
	}
	_, err := tenantdb.PG(ctx).Exec(ctx, "SET work_mem = '1MB'")
	must(t, err)
	if marked() {
		t.Error("the mark outlived a reset: it proves nothing")
	}
}

// marker makes a SQL function that changes the session without a trace, and returns a call of it.
func marker(t *testing.T, ctx context.Context) (mark func()) {
	t.Helper()
	_, err := tenantdb.PG(ctx).Exec(ctx, "CREATE FUNCTION mark() RETURNS text LANGUAGE sql "+
		"AS $$ SELECT set_config('x.mark', 'here', false) $$")
	must(t, err)
	return func() { ask[string](t, ctx, "SELECT mark()") }
}

func TestPool_ResetAlways_removesWhatLeavesNoTrace(t *testing.T) {
	ctx := oneConn(t, tenantdb.PoolConfig{ResetAlways: true})
	mark := marker(t, ctx)
	before := pid(t, ctx)
	mark()
	if ask[string](t, ctx, "SELECT coalesce(current_setting('x.mark', true), '')") != "" {
		t.Error("it is still there")
	}
	for range 3 { // the statements that pgx keeps prepared still work
		ask[int](t, ctx, "SELECT $1::int", 1)
	}
	if pid(t, ctx) != before {
		t.Error("the connection was given up")
	}
}

func TestPGX_preparedStatementIsResetAfterEachUse(t *testing.T) {
	ctx := oneConn(t, tenantdb.PoolConfig{})
	for range 3 { // prepared first, then sent by name
		ask[bool](t, ctx, "SELECT pg_Try_advisory_lock($1)", 7)
		if ask[bool](t, ctx, locked) {
			t.Fatal("the lock is held still")
		}
	}
	other := oneConn(t, tenantdb.PoolConfig{})
	for range 3 {
		ask[string](t, other, "SELECT set_config('work_mem', $1, $2)", "3MB", false)
		if ask[string](t, other, "SELECT current_setting('work_mem')") == "3MB" {
			t.Fatal("the setting is in force still")
		}
	}
}

func TestPGX_cancelledQueryCostsNoConnection(t *testing.T) {
	ctx := oneConn(t, tenantdb.PoolConfig{})
	rounds, step := 1000, 500*time.Microsecond
	if underRace { // a query takes milliseconds to begin
		rounds, step = 200, 5*time.Millisecond
	}
	sleep := fmt.Sprintf("SELECT pg_sleep(%f)", (10 * step).Seconds())
	before, cancelled := pid(t, ctx), 0
	for i := range rounds {
		leaving, leave := context.WithTimeout(ctx, time.Duration(i%10)*step)
		_, err := tenantdb.PG(ctx).Exec(leaving, sleep)
		leave()
		var pgErr *pgconn.PgError
		switch {
		case errors.As(err, &pgErr) && pgErr.Code == "57014":
			cancelled++
		case err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, tenantdb.ErrBusy):
			t.Fatal(err)
		}
		if got := pid(t, ctx); got != before { // fails if the late cancel request hits this query
			t.Fatalf("round %d: the connection was given up", i)
		}
	}
	if cancelled == 0 {
		t.Error("no query was cancelled in its middle: it proves nothing")
	}
	t.Logf("%d of %d queries were cancelled in their middle", cancelled, rounds)
}

// BenchmarkPGX_betweenBorrowers measures each way to leave a session, the statement included.
func BenchmarkPGX_betweenBorrowers(b *testing.B) {
	for name, bench := range map[string]struct {
		cfg tenantdb.PoolConfig
		sql string
	}{
		"as it was":           {tenantdb.PoolConfig{}, "SELECT 1"},
		"reset after SET":     {tenantdb.PoolConfig{}, "SET work_mem = '1MB'"},
		"ResetAlways":         {tenantdb.PoolConfig{ResetAlways: true}, "SELECT 1"},
		"closed after LISTEN": {tenantdb.PoolConfig{}, "LISTEN ears"},
	} {
		b.Run(name, func(b *testing.B) {
			ctx := oneConn(b, bench.cfg)
			for b.Loop() {
				_, err := tenantdb.PG(ctx).Exec(ctx, bench.sql)
				must(b, err)
			}
		})
	}
}
