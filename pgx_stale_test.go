package tenantdb_test

import (
	"context"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
)

// staleWorld is a tenant, and a client of its database outside every pool, like psql. The connection that was
// used last serves next.
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
	feedStarted(t, mw)
	must(t, w.pool.Drain(t.Context(), acme.ID)) // the feed has no more changes of it to deliver
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

// TestPGX_outdatedStatementsDoNotFail: another client changes the schema, and a statement that was sent
// before is sent again.
func TestPGX_outdatedStatementsDoNotFail(t *testing.T) {
	newStaleWorld(t).staleStatements(t, func(m memoryOf, way string) bool {
		// it keeps its connection, so another one would make the change
		return !m.inside || !strings.HasPrefix(way, "DB.Conn")
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
					_, err := tenantdb.PG(w.ctx).Exec(w.ctx,
						strings.Replace(m.change, "NAME", statementName(text), 1))
					must(t, err)
				} else {
					w.change(t, m.change)
				}
				for range 2 {
					if err := send(m.then...); err != nil {
						t.Errorf("after the change: %v", err)
					}
				}
				counts := m.first != nil && strings.HasPrefix(text, "INSERT") && !strings.Contains(m.change,
					"DROP TABLE")
				if added := w.count(t) - before; counts && added != before {
					t.Errorf("the statement had its effect %d times, and %d times before the change", added,
						before)
				}
			})
		}
	}
}

// TestPGX_outdatedStatementInATransactionIsTryAgain: the pool can't repeat what the transaction did before.
func TestPGX_outdatedStatementInATransactionIsTryAgain(t *testing.T) {
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

// TestPGX_CopyFrom_asksForItsColumnTypes: data encoded for a column's old type may mean other values in its
// new type.
func TestPGX_CopyFrom_asksForItsColumnTypes(t *testing.T) {
	w := newStaleWorld(t)
	pg := tenantdb.PG(w.ctx)
	rows := func() pgx.CopyFromSource { return pgx.CopyFromRows([][]any{{7}}) }
	for way, load := range map[string]func() (int64, error){
		"PGX": func() (int64, error) {
			return pg.CopyFrom(w.ctx, pgx.Identifier{"it"}, []string{"v"}, rows())
		},
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

// wantTryAgain checks that an error of a query is answered with try_again.
func (w staleWorld) wantTryAgain(t *testing.T, err error) {
	t.Helper()
	rec := httptest.NewRecorder()
	tenantdb.WriteError(rec, request("ann", "acme").WithContext(w.ctx), err)
	if rec.Code != 503 || code(t, rec) != "try_again" || rec.Header().Get("Retry-After") == "" {
		t.Errorf("%d %s of %v", rec.Code, rec.Body, err)
	}
}

// TestPGX_startedStatementIsNotRepeated raises errors that resemble those of outdated statements. A sequence
// counts the attempts, as no rollback resets it.
func TestPGX_startedStatementIsNotRepeated(t *testing.T) {
	w := newStaleWorld(t)
	w.change(t, `CREATE SEQUENCE tries; CREATE TABLE it (v int);
		CREATE FUNCTION fail(code text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN
			PERFORM nextval('tries');
			RAISE EXCEPTION 'cached plan must not change result type' USING ERRCODE = code;
		END $$`)
	tries := func() (n int) {
		must(t, w.outside.QueryRow(t.Context(),
			"SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM tries",
			pgx.QueryExecModeExec).Scan(&n))
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
	// The first statement of this batch has begun to run.
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

// TestPGX_mistakenStatementIsTheHandlersFault also checks that a mistake costs no connection.
func TestPGX_mistakenStatementIsTheHandlersFault(t *testing.T) {
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

// TestPGX_functionsOutdatedTypeIsTryAgain: PL/pgSQL caches types for each connection, so that only another
// connection helps.
func TestPGX_functionsOutdatedTypeIsTryAgain(t *testing.T) {
	w := newStaleWorld(t)
	w.change(t, `CREATE TYPE kind AS ENUM ('a', 'b'); CREATE TABLE it (v kind);
		CREATE FUNCTION keep(word text) RETURNS text LANGUAGE plpgsql
			AS $$ DECLARE k kind := word; BEGIN RETURN k; END $$`)
	call := func() error { _, err := tenantdb.PG(w.ctx).Exec(w.ctx, "SELECT keep($1)", "a"); return err }
	must(t, call())
	w.change(t, retyped("kind", "TYPE kind AS ENUM ('a', 'c')"))
	w.wantTryAgain(t, call())
	must(t, call())
	w.change(t, retyped("kind", "TYPE kind AS ENUM ('a', 'c')"))
	c, err := tenantdb.PG(w.ctx).Acquire(w.ctx)
	must(t, err)
	// pgx's own connection returns its errors unexplained
	_, err = c.Conn().Exec(w.ctx, "SELECT keep($1)", "a")
	c.Release()
	w.wantTryAgain(t, err)
	must(t, call())
}

// TestPool_oneErrorRenewsEveryConnection that was opened before the error.
func TestPool_oneErrorRenewsEveryConnection(t *testing.T) {
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

func TestPool_newSchemaVersionRenewsEveryConnection(t *testing.T) {
	w := newStaleWorld(t)
	before := pid(t, w.ctx)
	row, err := w.host.Tenants.BySlug(t.Context(), "acme")
	must(t, err)
	w.update(row, func(row *hostdb.TenantCatalog) { row.SchemaVersion++ })
	eventually(t, func() bool { return pid(t, w.ctx) != before })
}
