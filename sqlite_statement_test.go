package tenantdb_test

import (
	"errors"
	"os"
	"testing"

	"github.com/tenantdb/tenantdb"
)

// TestSQLite_rowsEndWithTheirStatement closes a statement whose memory the driver's rows read.
func TestSQLite_rowsEndWithTheirStatement(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	ctx, leave, err := w.middleware(w.config()).Enter(t.Context(), w.tenant("acme", w.user("ann")).ID)
	must(t, err)
	defer leave()
	tx, err := tenantdb.DB(ctx).BeginTx(ctx, nil)
	must(t, err)
	stmt, err := tx.PrepareContext(ctx, "SELECT name FROM me UNION ALL SELECT $1")
	must(t, err)
	closed, err := stmt.QueryContext(ctx, "closed before it")
	must(t, err)
	must(t, closed.Close())
	open, err := stmt.QueryContext(ctx, "open")
	must(t, err)
	other, err := tx.QueryContext(ctx, "SELECT 'another' UNION ALL SELECT 'one'")
	must(t, err)
	if !open.Next() || !other.Next() {
		t.Fatal("no rows")
	}
	must(t, stmt.Close())
	if open.Next() || open.Err() == nil {
		t.Errorf("the rows go on: %v", open.Err())
	}
	must(t, open.Close())
	if !other.Next() {
		t.Errorf("the rows of another query ended too: %v", other.Err())
	}
	must(t, other.Close())
	must(t, tx.Commit())
}

func TestSQLite_cachedStatementFailsWhenTheFileIsGone(t *testing.T) {
	const write = "INSERT INTO me VALUES (during())"
	for name, statement := range map[string]string{"Exec": write, "RETURNING": write + " RETURNING name"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
			acme := w.tenant("acme", w.user("ann"))
			lease, err := w.pool.Lease(acme)
			must(t, err)
			defer lease.Release()
			run := func(meanwhile func()) error {
				during.Store(&meanwhile)
				if name == "Exec" {
					_, err := lease.DB().ExecContext(t.Context(), statement)
					return err
				}
				var got string
				return lease.DB().QueryRowContext(t.Context(), statement).Scan(&got)
			}
			must(t, run(func() {}))
			if err := run(func() {
				_ = os.Remove(w.sqliteFile(acme))
			}); !errors.Is(err, tenantdb.ErrTenantUnavailable) {
				t.Errorf("= %v; want ErrTenantUnavailable", err)
			}
		})
	}
}

func TestSQLite_cachedStatementFollowsTheSchema(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	lease := sqliteLease(t, w, "acme")
	columns := func() int {
		rows, err := lease.DB().QueryContext(t.Context(), "SELECT * FROM me")
		must(t, err)
		defer rows.Close()
		list, err := rows.Columns()
		must(t, err)
		return len(list)
	}
	if n := columns(); n != 1 {
		t.Fatalf("%d columns; want 1", n)
	}
	_, err := lease.DB().ExecContext(t.Context(), "ALTER TABLE me ADD COLUMN age")
	must(t, err)
	if n := columns(); n != 2 {
		t.Errorf("%d columns after one was added; want 2", n)
	}
}

func TestSQLite_statementIsCompiledOnce(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	lease := sqliteLease(t, w, "acme")
	read := func(text string) float64 {
		return testing.AllocsPerRun(50, func() {
			var name string
			must(t, lease.ReadDB().QueryRowContext(t.Context(), text).Scan(&name))
		})
	}
	kept, compiled := read("SELECT name FROM me"), read("SELECT name FROM me; ")
	if kept >= compiled {
		t.Errorf("a statement that is kept makes %v allocations, one that is compiled each time %v", kept,
			compiled)
	}
}

func TestSQLite_preparesAgainAfterASchemaChange(t *testing.T) {
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
