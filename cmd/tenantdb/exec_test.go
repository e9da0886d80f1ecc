package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestExec_readsOneTenantOrAll(t *testing.T) {
	onBothEngines(t, func(t *testing.T, o *operator) {
		o.tenants("acme", "globex")
		o.ok("exec", "-t", "acme", "--write", "INSERT INTO notes VALUES (1, 'milk'), (2, NULL)")
		rows := o.list("exec", "-t", "acme", "SELECT id, body FROM notes ORDER BY id")
		if got := rows[0]["rows"].([]any); len(rows) != 1 || len(got) != 2 || got[0].([]any)[0] != 1.0 ||
			got[0].([]any)[1] != "milk" || got[1].([]any)[1] != nil {
			t.Errorf("rows: %v", rows)
		}
		if got := table(o.ok("exec", "-t", "acme",
			"SELECT id, body FROM notes ORDER BY id")); !slices.Equal(got[0], []string{"id", "body"}) ||
			!slices.Equal(got[1], []string{"1", "milk"}) {
			t.Errorf("table: %v", got)
		}
		code, out, _ := o.typing("SELECT count(*) FROM notes\n", "exec", "--all")
		if got := table(out); code != 0 || len(got) != 6 || !slices.Contains([]string{"acme", "globex"},
			got[0][1]) || got[2][0]+got[5][0] != "20" && got[2][0]+got[5][0] != "02" {
			t.Errorf("all: exit %d, %q", code, out)
		}
		limited := o.list("exec", "-t", "acme", "--rows=1", "SELECT id FROM notes")
		if len(limited[0]["rows"].([]any)) != 1 || limited[0]["truncated"] != true {
			t.Errorf("limited: %v", limited)
		}
		if got := o.list("exec", "-t", "acme", "--write",
			"UPDATE notes SET body = 'tea'")[0]; got["affected"] != 2.0 {
			t.Errorf("update: %v", got)
		}
	})
}

// escapes are statements that try to write without --write.
var escapes = map[string][]string{
	"sqlite": {"DELETE FROM notes", "PRAGMA query_only = 0; DELETE FROM notes", "COMMIT; DELETE FROM notes",
		"CREATE TABLE x (n INTEGER)",
		"VACUUM INTO '%DIR%/stolen.db'", "ATTACH '%DIR%/stolen.db' AS y", "PRAGMA user_version = 7"},
	"postgres": {"DELETE FROM notes", "COMMIT; DELETE FROM notes",
		"SET TRANSACTION READ WRITE; DELETE FROM notes", "CREATE TABLE x (n int)",
		"WITH gone AS (DELETE FROM notes RETURNING id) SELECT * FROM gone",
		"SELECT set_config('transaction_read_only', 'off', false)",
		"DO $$ BEGIN COMMIT; SET TRANSACTION READ WRITE; DELETE FROM notes; END $$",
		"SELECT nextval('numbers')"},
}

func TestExec_withoutWriteCanNotWrite(t *testing.T) {
	onBothEngines(t, func(t *testing.T, o *operator) {
		o.tenants("acme")
		o.ok("exec", "-t", "acme", "--write", "INSERT INTO notes VALUES (1, 'milk')")
		if o.engine == "postgres" {
			o.ok("exec", "-t", "acme", "--write", "CREATE SEQUENCE numbers")
		}
		before := o.list("audit", "tail", "-n", "1000")
		for _, statement := range escapes[o.engine] {
			o.fails(2, "acme", "exec", "-t", "acme", strings.ReplaceAll(statement, "%DIR%", o.dir))
			rows := o.list("exec", "-t", "acme", "SELECT count(*) FROM notes")[0]["rows"].([]any)
			if left := rows[0].([]any)[0]; left != 1.0 {
				t.Fatalf("%s: %v rows are left", statement, left)
			}
		}
		if _, err := os.Stat(filepath.Join(o.dir, "stolen.db")); err == nil {
			t.Error("a file was written")
		}
		if after := o.list("audit", "tail", "-n", "1000"); len(after) != len(before) {
			t.Error("a read is in the audit log")
		}
	})
}

// A session setting must not allow the next statement to write.
func TestExec_keepsNoSettingOfARead(t *testing.T) {
	onBothEngines(t, func(t *testing.T, o *operator) {
		o.tenants("acme")
		if o.engine == "postgres" {
			o.ok("exec", "-t", "acme", "-t", "acme", "--parallel=1",
				"SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE")
		}
		o.fails(2, "acme", "exec", "-t", "acme", "DELETE FROM notes")
	})
}

func TestExec_namesFailingTenants(t *testing.T) {
	onBothEngines(t, func(t *testing.T, o *operator) {
		o.tenants("acme", "globex", "hooli")
		o.ok("exec", "-t", "globex", "--write", "DROP TABLE notes")
		code, out, complaint := o.run("exec", "--all", "SELECT count(*) FROM notes")
		if code != 2 || strings.Count(out, "-- ") != 2 || !strings.Contains(complaint, "globex") ||
			!strings.Contains(complaint, "1 of 3 tenants") || strings.Contains(complaint, "hooli") {
			t.Errorf("exit %d, %q, %q", code, out, complaint)
		}
		code, out, _ = o.run("exec", "--all", "-o", "json", "SELECT count(*) FROM notes")
		var rows []map[string]any
		decode(t, out, &rows)
		failed := slices.DeleteFunc(rows, func(row map[string]any) bool { return row["error"] == nil })
		if code != 2 || len(failed) != 1 || failed[0]["slug"] != "globex" {
			t.Errorf("exit %d, %v", code, failed)
		}
	})
}

func TestExec_asksBeforeItWritesEverywhere(t *testing.T) {
	onBothEngines(t, func(t *testing.T, o *operator) {
		o.tenants("acme", "globex")
		code, _, complaint := o.typing("yes\n", "exec", "--all", "--write", "DELETE FROM notes")
		if code != 1 || !strings.Contains(complaint, "not confirmed") {
			t.Errorf("exit %d, %q", code, complaint)
		}
		code, _, complaint = o.typing("all\n", "exec", "--all", "--write",
			"INSERT INTO notes VALUES (1, 'x')")
		if code != 0 {
			t.Errorf("exit %d, %q", code, complaint)
		}
		written := 0
		for _, row := range o.list("audit", "tail", "-n", "1000") {
			if row["event_type"] == "tenant.exec" {
				written++
			}
		}
		if written != 2 {
			t.Errorf("%d writes in the audit log; want 2", written)
		}
	})
}

func TestExec_boundsItsStatement(t *testing.T) {
	onSQLite(t, func(t *testing.T, o *operator) {
		o.tenants("acme")
		for input, want := range map[string]string{" \n": "give a statement",
			strings.Repeat(" ", maxSQL+1): "longer than 1 MiB"} {
			code, _, complaint := o.typing(input, "exec", "-t", "acme", "-")
			if code != 1 || !strings.Contains(complaint, want) {
				t.Errorf("%d bytes: exit %d, %q", len(input), code, complaint)
			}
		}
		o.fails(1, "--tenant", "exec", "SELECT 1")
		o.fails(1, "--parallel", "exec", "--all", "--parallel=0", "SELECT 1")
		o.fails(1, "not found", "exec", "-t", "nobody", "SELECT 1")
	})
}
