package main

import (
	"bytes"
	"context"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// progressLine matches the progress of one tenant.
var progressLine = regexp.MustCompile(`(?m)^\[\d/\d\] (\S+)  (\d+)→(\d+)  (ok|failed)  \d\S*s(  .*)?$`)

func TestMigrate_namesFailuresAndPrintsTheRetryCommand(t *testing.T) {
	onBothEngines(t, func(t *testing.T, o *operator) {
		o.tenants("acme", "globex", "hooli", "initech")
		// the migration creates it too
		o.ok("exec", "-t", "globex", "--write", "CREATE TABLE bills (id INTEGER)")
		o.migration("CREATE TABLE bills (id INTEGER)", "DROP TABLE bills")
		up := []string{"migrate", "up", "--migrations=" + o.migrations(), "--max-failures=-1", "--parallel=2"}
		code, out, complaint := o.run(up...)
		lines := progressLine.FindAllStringSubmatch(complaint, -1)
		if code != 2 || len(lines) != 4 || !strings.Contains(complaint, "1 tenant failed") {
			t.Fatalf("exit %d, %d lines in %q", code, len(lines), complaint)
		}
		for _, line := range lines {
			want := "1→2 ok"
			if line[1] == "globex" {
				want = "1→1 failed"
			}
			if got := line[2] + "→" + line[3] + " " + line[4]; got != want {
				t.Errorf("line %q; want %s", line[0], want)
			}
		}
		_, failures, _ := strings.Cut(out, "Failures:\n")
		if rows := table(failures); len(rows) < 2 || rows[0][0] != "SLUG" || rows[1][0] != "globex" ||
			!strings.Contains(failures, "bills") || strings.Contains(failures, "acme") {
			t.Errorf("failures: %q", failures)
		}
		retry := shellWords(t, strings.TrimSpace(out[strings.LastIndex(strings.TrimSpace(out), "\n"):]))
		if retry[0] != "tenantdb" || !slices.Contains(retry, "--parallel=2") ||
			!slices.Contains(retry, "--max-failures=-1") {
			t.Fatalf("the command to retry: %q", retry)
		}
		if code, _, _ := o.run(retry[1:]...); code != 2 {
			t.Errorf("nothing was mended, and the retry exits with %d", code)
		}
		o.ok("exec", "-t", "globex", "--write", "DROP TABLE bills")
		if code, _, complaint := o.run(retry[1:]...); code != 0 ||
			len(progressLine.FindAllString(complaint, -1)) != 1 {
			t.Errorf("the retry exits with %d: %s", code, complaint)
		}
		for slug, version := range o.versions() {
			if version != 2 {
				t.Errorf("%s is at %v", slug, version)
			}
		}
		if code, out, complaint := o.run(up...); code != 0 || progressLine.MatchString(complaint) ||
			!strings.Contains(out, "at_target") {
			t.Errorf("a second run: exit %d, %q, %q", code, out, complaint)
		}
	})
}

func TestMigrate_jsonReportHasFailuresAndTheRetryCommand(t *testing.T) {
	onSQLite(t, func(t *testing.T, o *operator) {
		o.tenants("acme")
		o.migration("NONSENSE", "SELECT 1")
		code, out, _ := o.run("migrate", "up", "--migrations="+o.migrations(), "-o", "json")
		var report map[string]any
		decode(t, out, &report)
		failures := report["failures"].([]any)
		if code != 2 || report["failed"] != 1.0 || report["target"] != 2.0 || len(failures) != 1 ||
			failures[0].(map[string]any)["slug"] != "acme" ||
			!strings.HasPrefix(report["retry"].(string), "tenantdb migrate retry ") {
			t.Errorf("exit %d, %v", code, report)
		}
		run := report["run"].(string)
		if rows := o.list("migrate", "results", "--status=failed"); len(rows) != 1 ||
			rows[0]["slug"] != "acme" {
			t.Errorf("results: %v", rows)
		}
		if rows := o.list("migrate", "runs"); len(rows) != 1 || rows[0]["id"] != run {
			t.Errorf("runs: %v", rows)
		}
		if row := o.one("migrate", "pause", run); row["id"] != run {
			t.Errorf("pause: %v", row)
		}
	})
}

func TestMigrate_checkExitsWith3WhileSomethingIsPending(t *testing.T) {
	onBothEngines(t, func(t *testing.T, o *operator) {
		o.tenants("acme", "globex")
		flag := "--migrations=" + o.migrations()
		for _, verb := range []string{"status", "plan"} {
			o.ok("migrate", verb, flag, "--check")
		}
		o.migration("CREATE TABLE bills (id INTEGER)", "DROP TABLE bills")
		for _, verb := range []string{"status", "plan"} {
			o.fails(3, "2 tenants", "migrate", verb, flag, "--check")
			o.fails(3, "1 tenant", "migrate", verb, flag, "--check", "acme")
			if rows := o.list("migrate", verb, flag); len(rows) != 2 {
				t.Errorf("%s: %v", verb, rows)
			}
		}
		report := o.one("migrate", "up", flag, "--dry-run")
		if report["pending"] != 2.0 || o.versions()["acme"] != 1 {
			t.Errorf("a dry run: %v, %v", report, o.versions())
		}
		o.ok("migrate", "up", flag, "acme")
		o.fails(3, "1 tenant", "migrate", "status", flag, "--check")
		o.ok("migrate", "up", flag, "--canary=globex", "--batch=1")
		o.ok("migrate", "status", flag, "--check")
	})
}

func TestMigrate_checkCountsLateAndUnknownMigrations(t *testing.T) {
	onBothEngines(t, func(t *testing.T, o *operator) {
		o.schema = 2
		o.migration("CREATE TABLE bills (id INTEGER)", "DROP TABLE bills") // the third migration
		o.tenants("acme", "globex")
		o.schema = 1
		o.migration("CREATE TABLE late (id INTEGER)", "DROP TABLE late")
		flag, host := "--migrations="+o.migrations(), o.host()
		pending := func(who string) {
			t.Helper()
			for _, verb := range []string{"status", "plan"} {
				o.fails(3, who, "migrate", verb, flag, "--check")
			}
		}
		pending("2 tenants")
		o.fails(2, "number new migrations upwards", "migrate", "up", flag, "--refuse-late", "acme")
		pending("2 tenants")
		o.ok("migrate", "up", flag)
		o.ok("migrate", "status", flag, "--check")
		acme, err := host.Tenants.BySlug(t.Context(), "acme")
		must(t, err)
		acme.SchemaSet = "" // like an older version of the library
		must(t, host.Tenants.Update(t.Context(), acme))
		pending("1 tenant")
		if rows := o.list("migrate", "status", flag, "acme"); rows[0]["unknown"] != true ||
			rows[0]["schema_version"] != 3.0 {
			t.Errorf("status: %v", rows)
		}
		o.ok("migrate", "up", flag)
		o.ok("migrate", "status", flag, "--check")
	})
}

func TestMigrate_downAsksAndUndoesMigrations(t *testing.T) {
	onBothEngines(t, func(t *testing.T, o *operator) {
		o.migration("CREATE TABLE bills (id INTEGER)", "DROP TABLE bills")
		o.tenants("acme", "globex")
		down := []string{"migrate", "down", "--to=1", "--migrations=" + o.migrations()}
		if code, _, complaint := o.typing("acme\n", down...); code != 1 || !strings.Contains(complaint,
			"all tenants") || o.versions()["acme"] != 2 {
			t.Errorf("exit %d, %q", code, complaint)
		}
		if code, _, complaint := o.typing("acme\n", append(down, "acme")...); code != 0 ||
			!strings.Contains(complaint, "acme  2→1  ok") {
			t.Errorf("exit %d, %q", code, complaint)
		}
		o.ok(append(down, "--yes")...)
		if got := o.versions(); got["acme"] != 1 || got["globex"] != 1 {
			t.Errorf("versions: %v", got)
		}
		o.fails(1, "--to", "migrate", "down", "--migrations="+o.migrations(), "--yes")
	})
}

func TestMigrate_printsTheRetryCommandAfterCtrlC(t *testing.T) {
	onBothEngines(t, func(t *testing.T, o *operator) {
		o.tenants("acme", "globex", "hooli", "initech")
		o.migration("CREATE TABLE bills (id INTEGER)", "DROP TABLE bills")
		ctx, interrupt := context.WithCancel(context.Background())
		defer interrupt()
		var out bytes.Buffer
		complaint := &watched{tell: func(all string) {
			if strings.Contains(all, "[1/4]") {
				interrupt()
			}
		}}
		code := run(ctx, []string{"migrate", "up", "--parallel=1", "--migrations=" + o.migrations()},
			o.world(strings.NewReader(""), &out, complaint))
		ended := len(progressLine.FindAllString(complaint.String(), -1))
		if code != 1 || ended == 0 || ended == 4 || !strings.Contains(complaint.String(), "interrupted") {
			t.Fatalf("exit %d after %d tenants: %s", code, ended, complaint)
		}
		retry := shellWords(t,
			strings.TrimSpace(out.String()[strings.LastIndex(strings.TrimSpace(out.String()), "\n"):]))
		o.ok(retry[1:]...)
		for slug, version := range o.versions() {
			if version != 2 {
				t.Errorf("%s is at %v", slug, version)
			}
		}
	})
}

func TestMigrate_progressOnATerminalIsOneLine(t *testing.T) {
	onSQLite(t, func(t *testing.T, o *operator) {
		o.tenants("acme", "globex")
		o.ok("exec", "-t", "globex", "--write", "CREATE TABLE bills (id INTEGER)")
		o.migration("CREATE TABLE bills (id INTEGER)", "DROP TABLE bills")
		o.terminal = true
		_, _, complaint := o.run("migrate", "up", "--max-failures=-1", "--migrations="+o.migrations())
		var shown []string
		// what remains of each line after erasures
		for line := range strings.Lines(complaint) {
			parts := strings.Split(line, "\r\x1b[K")
			if last := strings.TrimSpace(parts[len(parts)-1]); last != "" {
				shown = append(shown, last)
			}
		}
		if len(shown) != 2 || !strings.Contains(shown[0], "globex  1→1  failed") ||
			!strings.Contains(complaint, "acme  1→2  ok") {
			t.Errorf("shown: %q of %q", shown, complaint)
		}
	})
}

func TestMigrate_needsItsDirectoryAndARun(t *testing.T) {
	onSQLite(t, func(t *testing.T, o *operator) {
		o.fails(1, "--migrations", "migrate", "up")
		o.fails(1, "no run yet", "migrate", "retry", "--migrations="+o.migrations())
		o.env["TENANTDB_MIGRATIONS"] = o.migrations()
		o.ok("migrate", "up")
		o.fails(1, "not found", "migrate", "retry", strings.Repeat("0", 32))
	})
}
