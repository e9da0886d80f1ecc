package tenantdb_test

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
)

// staleWorld is a tenant, and a client of its database that no pool knows of, as psql is. The connection that
// was used last serves next.
type staleWorld struct {
	*world
	mw      *tenantdb.Middleware
	ctx     context.Context
	leave   func() // ends ctx
	outside *pgx.Conn
}

func newStaleWorld(t *testing.T) staleWorld {
	t.Helper()
	return newStaleWorldOf(t, tenantdb.PoolConfig{MaxConns: 3, MaxConnsPerTenant: 3})
}

func newStaleWorldOf(t *testing.T, cfg tenantdb.PoolConfig) staleWorld {
	t.Helper()
	w := newWorld(t, "postgres", cfg)
	acme := w.tenant("acme", w.user("ann"))
	mw := w.middleware(w.config())
	eventually(t, func() bool { return mw.Stats().SincePoll >= 0 })
	must(t, w.pool.Drain(t.Context(), acme.ID)) // the feed has nothing to tell of it from now on
	ctx, leave, err := mw.Enter(t.Context(), acme.ID)
	must(t, err)
	t.Cleanup(leave)
	outside, err := pgx.Connect(t.Context(), acme.DBURL.Reveal())
	must(t, err)
	t.Cleanup(func() { _ = outside.Close(context.Background()) })
	return staleWorld{w, mw, ctx, leave, outside}
}

// change runs statements outside the pool.
func (w staleWorld) change(t *testing.T, statements string) {
	t.Helper()
	if _, err := w.outside.Exec(t.Context(), statements); err != nil {
		t.Fatal(err)
	}
}

// count counts the rows of table it.
func (w staleWorld) count(t *testing.T) (n int) {
	t.Helper()
	must(t, w.outside.QueryRow(t.Context(), "SELECT count(*) FROM it", pgx.QueryExecModeExec).Scan(&n))
	return n
}

// retyped makes a type anew, as migrations do for which ALTER TYPE isn't enough.
func retyped(old, new string) string {
	return "ALTER TABLE it ALTER v TYPE text; DROP TYPE kind; CREATE " + new + "; ALTER TABLE it ALTER v TYPE kind USING v::" + old
}

// memories are what a connection may know of a statement that isn't so any more.
var memories = map[string]memoryOf{
	"a result with one more column": {
		before: "CREATE TABLE it (v int); INSERT INTO it VALUES (1)", statement: "SELECT * FROM it WHERE v = $1", first: []any{1},
		change: "ALTER TABLE it ADD note text", then: []any{1}},
	"a result of another type": {
		before: "CREATE TABLE it (v int); INSERT INTO it VALUES (1)", statement: "SELECT v FROM it WHERE $1 = 'x'", first: []any{"x"},
		change: "ALTER TABLE it ALTER v TYPE text", then: []any{"x"}},
	"a renamed result": {
		before: "CREATE TABLE it (a int, b int); INSERT INTO it VALUES (1, 2)", statement: "SELECT * FROM it WHERE $1 = 'x'", first: []any{"x"},
		change: "ALTER TABLE it RENAME a TO c; ALTER TABLE it RENAME b TO a", then: []any{"x"}},
	"a table made anew": {
		before: "CREATE TABLE it (v int); INSERT INTO it VALUES (1)", statement: "SELECT * FROM it WHERE $1 = 'x'", first: []any{"x"},
		change: "DROP TABLE it; CREATE TABLE it (v text, w int); INSERT INTO it VALUES ('1', 2)", then: []any{"x"}},
	"an enum made anew": {
		before:    "CREATE TYPE kind AS ENUM ('a', 'b'); CREATE TABLE it (v kind)",
		statement: "INSERT INTO it VALUES ($1) RETURNING v", first: []any{"a"},
		change: retyped("kind", "TYPE kind AS ENUM ('a', 'c')"), then: []any{"c"}},
	"a domain made anew": {
		before:    "CREATE DOMAIN kind AS text CHECK (VALUE <> 'b'); CREATE TABLE it (v kind)",
		statement: "INSERT INTO it VALUES ($1::kind) RETURNING v", first: []any{"a"},
		change: retyped("text", "DOMAIN kind AS text CHECK (VALUE <> 'c')"), then: []any{"b"}},
	"a composite made anew": {
		before:    "CREATE TYPE kind AS (n int); CREATE TABLE it (v kind)",
		statement: "INSERT INTO it VALUES ($1) RETURNING v::text", first: []any{"(1)"},
		change: "DROP TABLE it; DROP TYPE kind; CREATE TYPE kind AS (n int, m int); CREATE TABLE it (v kind)", then: []any{"(1,2)"}},
	"a parameter that was narrower": {
		before: "CREATE TABLE it (v int)", statement: "INSERT INTO it VALUES ($1) RETURNING v::text", first: []any{1},
		change: "ALTER TABLE it ALTER v TYPE bigint", then: []any{1 << 40}, encoded: true},
	"a parameter that was a number": {
		before: "CREATE TABLE it (v int)", statement: "INSERT INTO it VALUES ($1) RETURNING v::text", first: []any{1},
		change: "ALTER TABLE it ALTER v TYPE text", then: []any{"one"}},
	"an operator's parameter": {
		before: "CREATE TABLE it (v int, w text); INSERT INTO it VALUES (1, '1')", statement: "SELECT w FROM it WHERE v = $1", first: []any{1},
		change: "ALTER TABLE it ALTER v TYPE text", then: []any{"1"}},
	"a statement that the server has forgotten": {
		before: "CREATE TABLE it (v int)", statement: "INSERT INTO it VALUES ($1) RETURNING v", first: []any{1},
		change: "DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$", inside: true, then: []any{2}},
	"a statement that the server has and pgx hasn't": {
		before: "CREATE TABLE it (v int)", statement: "INSERT INTO it VALUES ($1) RETURNING v AS kept", first: nil,
		change: "DO $$ BEGIN EXECUTE 'PREPARE NAME AS SELECT 1'; END $$", inside: true, then: []any{2}},
}

// memoryOf is what a connection knows after a statement was sent with its first arguments, and what is
// changed then.
type memoryOf struct {
	before    string // makes table it
	statement string
	first     []any
	change    string
	inside    bool // the connection itself makes the change, by statements that leave no tag
	then      []any
	encoded   bool // arguments that don't fit are found out before the server is asked
}

// statementName is what pgx calls a statement that it keeps.
func statementName(text string) string {
	digest := sha256.Sum256([]byte(text))
	return "stmtcache_" + hex.EncodeToString(digest[:24])
}

// ways are the ways to send a statement outside a transaction: each returns how to send it again and again,
// and how to end.
var ways = map[string]func(ctx context.Context, text string) (send func(args ...any) error, end func() error){
	"DB.Exec": func(ctx context.Context, text string) (func(...any) error, func() error) {
		return func(args ...any) error { _, err := tenantdb.DB(ctx).ExecContext(ctx, text, args...); return err }, nil
	},
	"DB.Query": func(ctx context.Context, text string) (func(...any) error, func() error) {
		return func(args ...any) error {
			rows, err := tenantdb.DB(ctx).QueryContext(ctx, text, args...)
			if err != nil {
				return err
			}
			return drained(rows)
		}, nil
	},
	"DB.Prepare": func(ctx context.Context, text string) (func(...any) error, func() error) {
		stmt, err := tenantdb.DB(ctx).PrepareContext(ctx, text)
		return func(args ...any) error {
			if err != nil {
				return err
			}
			rows, err := stmt.QueryContext(ctx, args...)
			if err != nil {
				return err
			}
			return drained(rows)
		}, func() error { return stmt.Close() }
	},
	"DB.Conn": func(ctx context.Context, text string) (func(...any) error, func() error) {
		conn, err := tenantdb.DB(ctx).Conn(ctx)
		return func(args ...any) error {
			if err != nil {
				return err
			}
			rows, err := conn.QueryContext(ctx, text, args...)
			if err != nil {
				return err
			}
			return drained(rows)
		}, func() error { return conn.Close() }
	},
	"DB.Conn.Prepare": func(ctx context.Context, text string) (func(...any) error, func() error) {
		var stmt *sql.Stmt
		conn, err := tenantdb.DB(ctx).Conn(ctx)
		if err == nil {
			stmt, err = conn.PrepareContext(ctx, text)
		}
		return func(args ...any) error {
			if err != nil {
				return err
			}
			_, err := stmt.ExecContext(ctx, args...)
			return err
		}, func() error { return conn.Close() }
	},
	"PGX.Exec": func(ctx context.Context, text string) (func(...any) error, func() error) {
		return func(args ...any) error { _, err := tenantdb.PG(ctx).Exec(ctx, text, args...); return err }, nil
	},
	"PGX.Query": func(ctx context.Context, text string) (func(...any) error, func() error) {
		return func(args ...any) error {
			rows, err := tenantdb.PG(ctx).Query(ctx, text, args...)
			if err != nil {
				return err
			}
			_, err = pgx.CollectRows(rows, pgx.RowToMap)
			return err
		}, nil
	},
	"PGX.QueryRow": func(ctx context.Context, text string) (func(...any) error, func() error) {
		return func(args ...any) error {
			return tenantdb.PG(ctx).QueryRow(ctx, text, args...).Scan(anything{})
		}, nil
	},
	"PGX.SendBatch": func(ctx context.Context, text string) (func(...any) error, func() error) {
		return func(args ...any) error {
			b := new(pgx.Batch)
			b.Queue(text, args...)
			b.Queue(text, args...)
			return tenantdb.PG(ctx).SendBatch(ctx, b).Close()
		}, nil
	},
	"PGX.SendBatch, one by one": func(ctx context.Context, text string) (func(...any) error, func() error) {
		return func(args ...any) error {
			b := new(pgx.Batch)
			b.Queue(text, args...)
			b.Queue(text, args...)
			results := tenantdb.PG(ctx).SendBatch(ctx, b)
			_, err := results.Exec()
			if err == nil {
				var rows pgx.Rows
				if rows, err = results.Query(); err == nil {
					_, err = pgx.CollectRows(rows, pgx.RowToMap)
				}
			}
			if closed := results.Close(); err == nil {
				err = closed
			}
			return err
		}, nil
	},
}

// anything takes a row as it is.
type anything struct{}

func (anything) ScanRow(pgx.Rows) error { return nil }

// drained reads rows to their end.
func drained(rows *sql.Rows) error {
	defer rows.Close()
	for rows.Next() {
	}
	return rows.Err()
}

// TestNoStatementFailsOfWhatAConnectionKnew: another client changes the schema, and what was sent before is
// sent once more.
func TestNoStatementFailsOfWhatAConnectionKnew(t *testing.T) {
	newStaleWorld(t).staleStatements(t, func(m memoryOf, way string) bool {
		return !m.inside || !strings.HasPrefix(way, "DB.Conn") // that keeps its connection, and another one would make the change
	})
}

// staleStatements sends statements before and after a change.
func (w staleWorld) staleStatements(t *testing.T, applies func(m memoryOf, way string) bool) {
	for name, m := range memories {
		for way, through := range ways {
			if !applies(m, way) {
				continue
			}
			t.Run(name+"/"+way, func(t *testing.T) {
				w.change(t, "DROP TABLE IF EXISTS it; DROP TYPE IF EXISTS kind; DROP DOMAIN IF EXISTS kind")
				w.change(t, m.before)
				text := m.statement + " -- " + way
				send, end := through(w.ctx, text)
				if end != nil {
					defer func() { _ = end() }()
				}
				if m.first != nil {
					for range 2 {
						if err := send(m.first...); err != nil {
							t.Fatalf("before the change: %v", err)
						}
					}
				}
				before := w.count(t)
				if m.inside {
					_, err := tenantdb.PG(w.ctx).Exec(w.ctx, strings.Replace(m.change, "NAME", statementName(text), 1))
					must(t, err)
				} else {
					w.change(t, m.change)
				}
				for range 2 {
					if err := send(m.then...); err != nil {
						t.Errorf("after the change: %v", err)
					}
				}
				counts := m.first != nil && strings.HasPrefix(text, "INSERT") && !strings.Contains(m.change, "DROP TABLE")
				if added := w.count(t) - before; counts && added != before {
					t.Errorf("the statement had its effect %d times, and %d times before the change", added, before)
				}
			})
		}
	}
}

// TestATransactionThatMeetsAnOutdatedStatementIsToBeTriedAgain: what it did before can't be repeated for it.
func TestATransactionThatMeetsAnOutdatedStatementIsToBeTriedAgain(t *testing.T) {
	w := newStaleWorld(t)
	for name, m := range memories {
		if m.first == nil || m.inside || name == "a parameter that was a number" {
			continue
		}
		for way, run := range map[string]func() error{
			"sql.Tx": func() error {
				tx, err := tenantdb.DB(w.ctx).BeginTx(w.ctx, nil)
				must(t, err)
				defer func() { _ = tx.Rollback() }()
				rows, err := tx.QueryContext(w.ctx, m.statement, m.then...)
				if err != nil {
					return err
				}
				return drained(rows)
			},
			"pgx.Tx": func() error {
				return pgx.BeginFunc(w.ctx, tenantdb.PG(w.ctx), func(tx pgx.Tx) error {
					rows, err := tx.Query(w.ctx, m.statement, m.then...)
					if err != nil {
						return err
					}
					_, err = pgx.CollectRows(rows, pgx.RowToMap)
					return err
				})
			},
			"pgx.Tx.Exec": func() error {
				return pgx.BeginFunc(w.ctx, tenantdb.PG(w.ctx), func(tx pgx.Tx) error {
					_, err := tx.Exec(w.ctx, m.statement, m.then...)
					return err
				})
			},
		} {
			t.Run(name+"/"+way, func(t *testing.T) {
				w.change(t, "DROP TABLE IF EXISTS it; DROP TYPE IF EXISTS kind; DROP DOMAIN IF EXISTS kind")
				w.change(t, m.before)
				for range 2 {
					_, err := tenantdb.PG(w.ctx).Exec(w.ctx, m.statement, m.first...)
					must(t, err)
				}
				w.change(t, m.change)
				switch err := run(); {
				case m.encoded || name == "a domain made anew" && err == nil:
					must(t, err)
				default:
					w.wantTryAgain(t, err)
				}
				if err := run(); err != nil {
					t.Errorf("tried again: %v", err)
				}
			})
		}
	}
}

// TestCopyFromKnowsItsColumns: what pgx encodes by the types that a column once had may be other values of
// its new type.
func TestCopyFromKnowsItsColumns(t *testing.T) {
	w := newStaleWorld(t)
	pg := tenantdb.PG(w.ctx)
	rows := func() pgx.CopyFromSource { return pgx.CopyFromRows([][]any{{7}}) }
	for way, load := range map[string]func() (int64, error){
		"PGX": func() (int64, error) { return pg.CopyFrom(w.ctx, pgx.Identifier{"it"}, []string{"v"}, rows()) },
		"pgx.Tx": func() (n int64, err error) {
			return n, pgx.BeginFunc(w.ctx, pg, func(tx pgx.Tx) error {
				n, err = tx.CopyFrom(w.ctx, pgx.Identifier{"it"}, []string{"v"}, rows())
				return err
			})
		},
		"pgx's own": func() (int64, error) {
			c, err := pg.Acquire(w.ctx)
			must(t, err)
			defer c.Release()
			return c.Conn().CopyFrom(w.ctx, pgx.Identifier{"it"}, []string{"v"}, rows())
		},
	} {
		for _, change := range []string{"float4", "bigint", "numeric", "text"} {
			t.Run(way+"/"+change, func(t *testing.T) {
				w.change(t, "DROP TABLE IF EXISTS it; CREATE TABLE it (v int)")
				for range 2 {
					_, err := load()
					must(t, err)
				}
				w.change(t, "ALTER TABLE it ALTER v TYPE "+change)
				n, err := load()
				if change == "text" { // pgx has no text for a number
					if err == nil {
						t.Fatal("a number was taken for a text")
					}
					return
				}
				if err != nil || n != 1 {
					t.Fatalf("%d, %v", n, err)
				}
				var got string
				must(t, w.outside.QueryRow(t.Context(), "SELECT string_agg(v::text, ' ') FROM it").Scan(&got))
				if got != "7 7 7" {
					t.Errorf("the table holds %s", got)
				}
			})
		}
	}
}

// wantTryAgain checks how an error of a query is answered.
func (w staleWorld) wantTryAgain(t *testing.T, err error) {
	t.Helper()
	rec := httptest.NewRecorder()
	tenantdb.WriteError(rec, request("ann", "acme").WithContext(w.ctx), err)
	if rec.Code != 503 || code(t, rec) != "try_again" || rec.Header().Get("Retry-After") == "" {
		t.Errorf("%d %s of %v", rec.Code, rec.Body, err)
	}
}

// TestWhatBeganToRunIsNotRepeated, whatever its error says. A sequence counts what no rollback takes back.
func TestWhatBeganToRunIsNotRepeated(t *testing.T) {
	w := newStaleWorld(t)
	w.change(t, `CREATE SEQUENCE tries; CREATE TABLE it (v int);
		CREATE FUNCTION fail(code text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN
			PERFORM nextval('tries');
			RAISE EXCEPTION 'cached plan must not change result type' USING ERRCODE = code;
		END $$`)
	tries := func() (n int) {
		must(t, w.outside.QueryRow(t.Context(), "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM tries", pgx.QueryExecModeExec).Scan(&n))
		return n
	}
	want := 0
	for _, code := range []string{"0A000", "26000", "42P01", "22P02", "XX000", "08P01"} {
		for way, through := range ways {
			send, end := through(w.ctx, "SELECT fail($1)")
			for range 2 {
				want++
				if err := send(code); err == nil || tries() != want {
					t.Errorf("%s, %s: tried %d times in all, not %d: %v", code, way, tries(), want, err)
					want = tries()
				}
			}
			if end != nil {
				must(t, end())
			}
		}
	}
	// Of a batch the first statement has begun to run.
	w.change(t, "ALTER SEQUENCE tries RESTART; ALTER SEQUENCE tries START 1")
	batch := func() error {
		b := new(pgx.Batch)
		b.Queue("SELECT nextval('tries')")
		b.Queue("SELECT * FROM it")
		return tenantdb.PG(w.ctx).SendBatch(w.ctx, b).Close()
	}
	must(t, batch())
	w.change(t, "ALTER TABLE it ADD w int")
	w.wantTryAgain(t, batch())
	if tries() != 2 {
		t.Errorf("a batch was repeated after its first statement had run")
	}
	must(t, batch())
}

// TestAMistakenStatementIsItsHandlersFault: it fails as it did before, and costs no connection.
func TestAMistakenStatementIsItsHandlersFault(t *testing.T) {
	w := newStaleWorld(t)
	w.change(t, "CREATE TABLE it (v int)")
	server := pid(t, w.ctx)
	for _, wrong := range []struct {
		text string
		args []any
	}{
		{"SELECT v FROM it WHERE v = $1", []any{"many"}},
		{"SELECT v FROM it WHERE v = $1", []any{1 << 40}},
		{"SELECT v FROM it WHERE v = $1", []any{1, 2}},
		{"SELECT nothing FROM it WHERE v = $1", []any{1}},
		{"EXECUTE nothing", nil},
	} {
		for way, through := range ways {
			if way == "DB.Prepare" || way == "DB.Conn.Prepare" {
				continue // database/sql counts the arguments itself
			}
			send, end := through(w.ctx, wrong.text)
			for range 2 {
				rec := httptest.NewRecorder()
				tenantdb.WriteError(rec, request("ann", "acme").WithContext(w.ctx), send(wrong.args...))
				if rec.Code != 500 {
					t.Errorf("%s %v by %s: %d %s", wrong.text, wrong.args, way, rec.Code, rec.Body)
				}
			}
			if end != nil {
				must(t, end())
			}
		}
	}
	if got := pid(t, w.ctx); got != server {
		t.Error("it cost a connection")
	}
}

// TestWhatAFunctionKnewIsForgottenByTheNextTry: what PL/pgSQL keeps of a type only another connection doesn't
// know.
func TestWhatAFunctionKnewIsForgottenByTheNextTry(t *testing.T) {
	w := newStaleWorld(t)
	w.change(t, `CREATE TYPE kind AS ENUM ('a', 'b'); CREATE TABLE it (v kind);
		CREATE FUNCTION keep(word text) RETURNS text LANGUAGE plpgsql AS $$ DECLARE k kind := word; BEGIN RETURN k; END $$`)
	call := func() error { _, err := tenantdb.PG(w.ctx).Exec(w.ctx, "SELECT keep($1)", "a"); return err }
	must(t, call())
	w.change(t, retyped("kind", "TYPE kind AS ENUM ('a', 'c')"))
	w.wantTryAgain(t, call())
	must(t, call())
	w.change(t, retyped("kind", "TYPE kind AS ENUM ('a', 'c')"))
	c, err := tenantdb.PG(w.ctx).Acquire(w.ctx)
	must(t, err)
	_, err = c.Conn().Exec(w.ctx, "SELECT keep($1)", "a") // pgx's own connection, which nobody explains
	c.Release()
	w.wantTryAgain(t, err)
	must(t, call())
}

// TestOneErrorRenewsEveryConnection that is as old.
func TestOneErrorRenewsEveryConnection(t *testing.T) {
	w := newStaleWorld(t)
	ask := func() {
		_, err := tenantdb.PG(w.ctx).Exec(w.ctx, "SELECT * FROM me WHERE name = $1", "acme")
		must(t, err)
	}
	known := pids(t, w.ctx, 3)
	ask()
	w.change(t, "ALTER TABLE me ADD note text")
	ask()
	for _, again := range pids(t, w.ctx, 3) {
		if slices.Contains(known, again) {
			t.Errorf("connection %d serves still", again)
		}
	}
}

// TestANewSchemaVersionRenewsEveryConnection without an error.
func TestANewSchemaVersionRenewsEveryConnection(t *testing.T) {
	w := newStaleWorld(t)
	before := pid(t, w.ctx)
	row, err := w.host.Tenants.BySlug(t.Context(), "acme")
	must(t, err)
	w.update(row, func(row *hostdb.TenantCatalog) { row.SchemaVersion++ })
	eventually(t, func() bool { return pid(t, w.ctx) != before })
}

// TestSQLitePreparesAnewWhatAnotherProcessChanged by itself.
func TestSQLitePreparesAnewWhatAnotherProcessChanged(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	acme := w.tenant("acme", w.user("ann"))
	ctx, leave, err := w.middleware(w.config()).Enter(t.Context(), acme.ID)
	must(t, err)
	defer leave()
	conn, err := tenantdb.ReadDB(ctx).Conn(ctx)
	must(t, err)
	defer conn.Close()
	stmt, err := conn.PrepareContext(ctx, "SELECT * FROM me")
	must(t, err)
	columns := func() int {
		t.Helper()
		rows, err := stmt.QueryContext(ctx)
		must(t, err)
		defer rows.Close()
		names, err := rows.Columns()
		must(t, err)
		if !rows.Next() {
			t.Fatal("no row:", rows.Err())
		}
		values := make([]any, len(names))
		for i := range values {
			values[i] = &values[i]
		}
		must(t, rows.Scan(values...))
		return len(names)
	}
	if n := columns(); n != 1 {
		t.Fatalf("%d columns", n)
	}
	other, err := w.pool.Lease(acme)
	must(t, err)
	defer other.Release()
	_, err = other.DB().ExecContext(ctx, "ALTER TABLE me ADD note TEXT")
	must(t, err)
	if n := columns(); n != 2 {
		t.Errorf("%d columns after the change", n)
	}
}

// pids names all of the connections that there are.
func pids(t *testing.T, ctx context.Context, n int) (all []int) {
	t.Helper()
	var held []*tenantdb.Conn
	for range n {
		c, err := tenantdb.PG(ctx).Acquire(ctx)
		must(t, err)
		held = append(held, c)
		var id int
		must(t, c.Conn().QueryRow(ctx, "SELECT pg_backend_pid()").Scan(&id))
		all = append(all, id)
	}
	for _, c := range held {
		c.Release()
	}
	return all
}
