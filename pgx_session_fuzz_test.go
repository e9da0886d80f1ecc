package tenantdb_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb"
)

// sessionState describes a PostgreSQL session as text: settings, roles, temporary objects, advisory locks,
// cursors, notification channels, prepared statements, and whether a transaction is open. Statements that pgx
// prepares for itself are left out.
const sessionState = `SELECT concat_ws(E'\n',
	(SELECT string_agg(name || '=' || setting, ' ' ORDER BY name) FROM pg_settings
		WHERE name NOT LIKE 'plpgsql.%'), -- they appear with the first DO block
	'x.mark=' || coalesce(current_setting('x.mark', true), ''),
	'user ' || current_user || ' ' || session_user,
	'temporary ' || (SELECT coalesce(string_agg(relname, ' ' ORDER BY relname), '')
		FROM pg_class WHERE relnamespace = pg_my_temp_schema()),
	'locks ' || (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),
	'cursors ' || (SELECT coalesce(string_agg(name, ' ' ORDER BY name), '') FROM pg_cursors WHERE name <> ''),
	'listens ' || (SELECT coalesce(string_agg(c, ' '), '') FROM pg_listening_channels() c),
	'prepared ' || (SELECT coalesce(string_agg(name, ' ' ORDER BY name), '')
		FROM pg_prepared_statements WHERE from_sql),
	'transaction ' || (SELECT xact_start <> query_start FROM pg_stat_activity WHERE pid = pg_backend_pid()))`

// sessionChanges are statements that change the session. A word in braces is a name that can be spelt in many
// ways. None changes the session inside a function of the tenant's own, which [tenantdb.PGX] documents as
// leaving no trace.
var sessionChanges = []string{
	"SET x.mark = 'left'",
	"SET LOCAL x.mark = 'left'; SET x.mark = 'stays'",
	"SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
	"SET ROLE pg_read_all_data",
	"SET SESSION AUTHORIZATION DEFAULT",
	"SELECT {set_config}('x.mark', 'left', false)",
	"SELECT {set_config}('work_mem', '3MB', true), {set_config}('x.mark', 'true', 1 > 2)",
	"SELECT {pg_advisory_lock}(7)",
	"SELECT {pg_try_advisory_lock_shared}(7, 8)",
	"UPDATE {pg_settings} SET setting = '3MB' WHERE name = 'work_mem'",
	"CREATE TEMP TABLE left_behind (n int)",
	"CREATE TABLE pg_temp.left_behind AS SELECT 1 AS n WHERE false",
	"SELECT 1 AS n INTO TEMP left_behind",
	"CREATE TEMP VIEW left_behind AS SELECT 1 AS n",
	"CREATE FUNCTION pg_temp.left_behind() RETURNS int LANGUAGE sql AS 'SELECT 1'",
	"DECLARE c CURSOR WITH HOLD FOR SELECT 1",
	"LISTEN ears",
	"PREPARE p AS SELECT {set_config}('x.mark', 'left', false); EXECUTE p",
	"PREPARE p AS SELECT 1",
	"DO $$ BEGIN PERFORM set_config('x.mark', 'left', false); END $$",
	"EXPLAIN ANALYZE SELECT {pg_advisory_lock}(9)",
	"BEGIN",
	"BEGIN; SAVEPOINT s",
	"COMMIT",
	"DISCARD ALL",
	"DEALLOCATE ALL",
	"RESET work_mem",
	"RESET ROLE",
	"UNLISTEN *",
	"CLOSE ALL",
	"SELECT 1",
	"SELECT 1/0",
}

// spell writes a name in one of the ways that PostgreSQL reads as the same name.
func spell(name string, way byte) string {
	escape := func(c string) string {
		return strings.ReplaceAll(strings.ReplaceAll(name, "_", c+"005f"), "g", c+"+000067")
	}
	switch way % 8 {
	case 1:
		return strings.ToUpper(name)
	case 2:
		return `"` + name + `"`
	case 3:
		return "pg_catalog . " + name
	case 4:
		return "pg_catalog/* of the system */.\n\"" + name + `"`
	case 5:
		return `U&"` + escape(`\`) + `"`
	case 6:
		return `u&"` + escape(`!`) + `" UESCAPE '!'`
	case 7:
		return `pg_catalog.U&"` + escape(`\`) + `"`
	}
	return name
}

// spellAll replaces the names in braces.
func spellAll(text string, way byte) string {
	for {
		before, rest, found := strings.Cut(text, "{")
		if !found {
			return text
		}
		name, after, _ := strings.Cut(rest, "}")
		text = before + spell(name, way) + after
	}
}

// sendings are the ways to send a statement. They ignore errors, as a failed statement may leave something
// too.
var sendings = []func(ctx context.Context, text string){
	func(ctx context.Context, text string) { _, _ = tenantdb.PG(ctx).Exec(ctx, text) },
	func(ctx context.Context, text string) { _, _ = tenantdb.DB(ctx).ExecContext(ctx, text) },
	func(ctx context.Context, text string) { _ = tenantdb.PG(ctx).QueryRow(ctx, text).Scan() },
	func(ctx context.Context, text string) {
		onConn(ctx, func(c *pgx.Conn) { _ = c.PgConn().Exec(ctx, text).Close() })
	},
	func(ctx context.Context, text string) {
		onConn(ctx, func(c *pgx.Conn) {
			_, _ = c.Exec(ctx, text, pgx.QueryExecModeExec)
			_, _ = c.Prepare(ctx, "by_name", text)
			_, _ = c.Exec(ctx, "by_name")
			_, _ = c.Exec(ctx, "by_name")
			_ = c.Deallocate(ctx, "by_name")
		})
	},
	func(ctx context.Context, text string) {
		batch := new(pgx.Batch)
		batch.Queue("SELECT 1")
		batch.Queue(text)
		batch.Queue("SELECT 2")
		_ = tenantdb.PG(ctx).SendBatch(ctx, batch).Close()
	},
	func(ctx context.Context, text string) { inTx(ctx, text, pgx.Tx.Commit) },
	func(ctx context.Context, text string) { inTx(ctx, text, pgx.Tx.Rollback) },
	func(ctx context.Context, text string) {
		if stmt, err := tenantdb.DB(ctx).PrepareContext(ctx, text); err == nil {
			_, _ = stmt.ExecContext(ctx)
			_, _ = stmt.ExecContext(ctx)
			_ = stmt.Close()
		}
	},
}

// onConn runs f with a connection of its own.
func onConn(ctx context.Context, f func(*pgx.Conn)) {
	c, err := tenantdb.PG(ctx).Acquire(ctx)
	if err != nil {
		return
	}
	defer c.Release()
	f(c.Conn())
}

// inTx runs a statement in a transaction and ends it.
func inTx(ctx context.Context, text string, end func(pgx.Tx, context.Context) error) {
	tx, err := tenantdb.PG(ctx).Begin(ctx)
	if err != nil {
		return
	}
	_, _ = tx.Exec(ctx, text)
	_ = end(tx, ctx)
}

// FuzzPGX_leavesNothingToTheNextBorrower lets one borrower send statements in many spellings and in many
// ways. The next borrower's session must look like that of a new connection.
func FuzzPGX_leavesNothingToTheNextBorrower(f *testing.F) {
	for i := range sessionChanges {
		for way := range byte(8) {
			for how := range sendings {
				if (i+int(way)+how)%7 == 0 || strings.Contains(sessionChanges[i], "{") && how == int(way)%4 {
					f.Add([]byte{byte(i), way, byte(how)})
				}
			}
		}
	}
	ctx := oneConn(f, tenantdb.PoolConfig{})
	state := func(t testing.TB) (s string) {
		t.Helper()
		must(t, tenantdb.PG(ctx).QueryRow(ctx, sessionState).Scan(&s))
		return s
	}
	fresh := state(f)
	f.Fuzz(func(t *testing.T, program []byte) {
		// A connection with a pending LISTEN is closed, so that each program begins on a new one. One that
		// once prepared a setter is reset after each use, which would hide what follows.
		_, err := tenantdb.PG(ctx).Exec(ctx, "LISTEN ears")
		must(t, err)
		var sent []string
		for step := range slices.Chunk(program[:min(len(program), 12)], 3) {
			if len(step) < 3 {
				break
			}
			text := spellAll(sessionChanges[int(step[0])%len(sessionChanges)], step[1])
			how := int(step[2]) % len(sendings)
			sendings[how](ctx, text)
			sent = append(sent, fmt.Sprintf("%d: %s", how, text))
		}
		if got := state(t); got != fresh {
			t.Errorf("after %s:\n%s\nfresh:\n%s", strings.Join(sent, " | "), difference(got, fresh),
				difference(fresh, got))
		}
	})
}

// difference returns the words of a text that the other text lacks.
func difference(of, other string) string {
	known := strings.Fields(other)
	var words []string
	for _, word := range strings.Fields(of) {
		if !slices.Contains(known, word) {
			words = append(words, word)
		}
	}
	return strings.Join(words, " ")
}
