package tenantdb_test

import (
	"errors"
	"os"
	"testing"

	"github.com/tenantdb/tenantdb"
)

func TestNoSQLiteWriteByAStatementThatWasKeptIsReportedWhereTheFileIsGone(t *testing.T) {
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
			if err := run(func() { _ = os.Remove(w.sqliteFile(acme)) }); !errors.Is(err, tenantdb.ErrTenantUnavailable) {
				t.Errorf("= %v; want ErrTenantUnavailable", err)
			}
		})
	}
}

func TestAKeptSQLiteStatementFollowsTheSchema(t *testing.T) {
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

func TestASQLiteStatementIsCompiledOnce(t *testing.T) {
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
		t.Errorf("a statement that is kept makes %v allocations, one that is compiled each time %v", kept, compiled)
	}
}
