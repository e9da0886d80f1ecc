package main

import (
	"strings"
	"testing"
)

// TestCLI_stopsAtAMisspeltName tests every command that takes several names of
// tenants.
func TestCLI_stopsAtAMisspeltName(t *testing.T) {
	onBothEngines(t, func(t *testing.T, o *operator) {
		o.tenants("acme", "globex")
		o.migration("CREATE TABLE bills (id INTEGER)", "DROP TABLE bills")
		files := "--migrations=" + o.migrations()
		before := len(o.list("audit", "tail", "-n", "1000"))
		for _, args := range [][]string{
			{"exec", "-t", "acme", "-t", "nosuch", "--write", "--parallel=1",
				"INSERT INTO notes VALUES (1, 'x')"},
			{"exec", "-t", "acme", "-t", "nosuch", "SELECT count(*) FROM notes"},
			{"migrate", "up", files, "acme", "nosuch"},
			{"migrate", "up", files, "acme", "--canary=nosuch"},
			{"migrate", "up", files, "--dry-run", "acme", "nosuch"},
			{"migrate", "down", files, "--to=0", "--yes", "acme", "nosuch"},
			{"migrate", "plan", files, "acme", "nosuch"},
			{"migrate", "plan", files, "acme", "--canary=nosuch"},
			{"migrate", "status", files, "acme", "nosuch"},
		} {
			for _, output := range []string{"table", "json"} {
				code, out, complaint := o.run(append(args, "--output="+output)...)
				if code != 1 || strings.Contains(out, "acme") || !strings.Contains(complaint, "nosuch") {
					t.Errorf("%q: exit %d, %q, %q", args, code, out, complaint)
				}
			}
		}
		if rows := o.list("exec", "-t", "acme", "SELECT id FROM notes"); len(rows[0]["rows"].([]any)) != 0 {
			t.Errorf("rows were written: %v", rows)
		}
		for slug, version := range o.versions() {
			if version != 1 {
				t.Errorf("%s is at %v", slug, version)
			}
		}
		if rows := o.list("migrate", "runs"); len(rows) != 0 {
			t.Errorf("runs: %v", rows)
		}
		if after := len(o.list("audit", "tail", "-n", "1000")); after != before {
			t.Errorf("%d rows of the audit log were written", after-before)
		}
	})
}
