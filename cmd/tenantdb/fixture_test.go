package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
)

// asCommand is the environment variable that makes this test binary act as the command.
const asCommand = "TENANTDB_TEST_AS_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
	}
	os.Exit(pgtest.Run(m))
}

// operator runs commands on one engine.
type operator struct {
	t        *testing.T
	engine   string
	env      map[string]string
	url      string // of the host database
	dir      string
	terminal bool
	secret   string // no command may print it
	schema   int    // migrations written so far
}

// onBothEngines runs a test with a host database on SQLite and one on PostgreSQL. Each has the user
// ann.
func onBothEngines(t *testing.T, test func(t *testing.T, o *operator)) {
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		test(t, newOperator(t, "sqlite:"+filepath.Join(t.TempDir(), "host.db")))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		test(t, newOperator(t, pgtest.Clone(t, "host", func(url string) error {
			host, err := hostdb.Open(context.Background(), url)
			if err != nil {
				return err
			}
			return host.Close()
		})))
	})
}

// onSQLite runs a test that doesn't depend on the engine.
func onSQLite(t *testing.T, test func(t *testing.T, o *operator)) {
	t.Parallel()
	test(t, newOperator(t, "sqlite:"+filepath.Join(t.TempDir(), "host.db")))
}

// newOperator makes an operator with a new host database and one migration for the tenants. The databases
// that its commands create are dropped when the test ends.
func newOperator(t *testing.T, url string) *operator {
	t.Helper()
	o := &operator{t: t, url: url, dir: t.TempDir(), secret: ":pgtest@", engine: "postgres"}
	if strings.HasPrefix(url, "sqlite:") {
		o.engine = "sqlite"
	}
	o.env = map[string]string{"TENANTDB_HOST_URL": url, "TENANTDB_TENANTS_DIR": filepath.Join(o.dir,
		"tenants"), "TENANTDB_NO_TEMPLATE": "true"}
	must(t, os.Mkdir(o.migrations(), 0o700))
	o.migration("CREATE TABLE notes (id INTEGER, body TEXT)", "DROP TABLE notes")
	o.ok("init")
	o.ok("user", "create", "ann@example.com", "--oauth-id=ann")
	if o.engine == "postgres" {
		t.Cleanup(func() {
			for _, tenant := range o.list("tenant", "list") {
				if tenant["status"] != "dropped" {
					// a broken one ends with the server
					_, _, _ = o.run("tenant", "drop", "--yes", tenant["id"].(string))
				}
			}
		})
	}
	return o
}

// migrations returns the directory of the tenants' migrations.
func (o *operator) migrations() string { return filepath.Join(o.dir, "migrations") }

// migration adds a migration.
func (o *operator) migration(up, down string) {
	o.t.Helper()
	o.schema++
	name := "0000" + string(rune('0'+o.schema)) + "_step.sql"
	must(o.t, os.WriteFile(filepath.Join(o.migrations(), name),
		[]byte("-- +goose Up\n"+up+";\n-- +goose Down\n"+down+";\n"), 0o600))
}

// tenants creates tenants of ann's.
func (o *operator) tenants(slugs ...string) {
	o.t.Helper()
	for _, slug := range slugs {
		o.ok("tenant", "create", slug, "--owner-email=ann@example.com", "--migrations="+o.migrations())
	}
}

// world returns the environment of a command.
func (o *operator) world(stdin io.Reader, stdout, stderr io.Writer) environment {
	env := maps.Clone(o.env)
	return environment{stdin: stdin, stdout: stdout, stderr: stderr, getenv: func(name string) string {
		return env[name]
	}, now: time.Now,
		terminal: o.terminal, poll: 10 * time.Millisecond}
}

// run runs a command.
func (o *operator) run(args ...string) (code int, stdout, stderr string) {
	o.t.Helper()
	return o.typing("", args...)
}

// typing runs a command with this standard input. It fails the test if the output contains the secret.
func (o *operator) typing(input string, args ...string) (code int, stdout, stderr string) {
	o.t.Helper()
	var out, complaint bytes.Buffer
	code = run(context.Background(), args, o.world(strings.NewReader(input), &out, &complaint))
	if strings.Contains(out.String()+complaint.String(), o.secret) {
		o.t.Errorf("%s prints the secret:\n%s%s", strings.Join(args, " "), &out, &complaint)
	}
	return code, out.String(), complaint.String()
}

// ok runs a command that must succeed, and returns its output.
func (o *operator) ok(args ...string) string {
	o.t.Helper()
	code, out, complaint := o.run(args...)
	if code != 0 {
		o.t.Fatalf("%s: exit %d: %s%s", strings.Join(args, " "), code, out, complaint)
	}
	return out
}

// fails runs a command that must end with this code, and an error that contains the text.
func (o *operator) fails(code int, text string, args ...string) {
	o.t.Helper()
	got, out, complaint := o.run(args...)
	if got != code || !strings.Contains(complaint, text) {
		o.t.Errorf("%s: exit %d, %q, complaint %q; want exit %d and %q", strings.Join(args, " "), got,
			out, complaint, code, text)
	}
}

// list runs a command with -o json, and returns its rows.
func (o *operator) list(args ...string) (rows []map[string]any) {
	o.t.Helper()
	decode(o.t, o.ok(append(args, "-o", "json")...), &rows)
	return rows
}

// one runs a command with -o json, and returns its row.
func (o *operator) one(args ...string) (row map[string]any) {
	o.t.Helper()
	decode(o.t, o.ok(append(args, "-o", "json")...), &row)
	return row
}

// host opens the host database for the test.
func (o *operator) host() *hostdb.DB {
	o.t.Helper()
	host, err := hostdb.Open(o.t.Context(), o.url)
	must(o.t, err)
	o.t.Cleanup(func() { _ = host.Close() })
	return host
}

func decode(t *testing.T, text string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("not the JSON that was expected: %v\n%s", err, text)
	}
}

// table splits a table into rows of words, so that tests don't depend on spaces.
func table(text string) [][]string {
	var rows [][]string
	for line := range strings.Lines(text) {
		rows = append(rows, strings.Fields(line))
	}
	return rows
}

// shellWords splits a command line into words with a POSIX shell.
func shellWords(t *testing.T, line string) []string {
	t.Helper()
	out, err := exec.Command("sh", "-c", `printf '%s\0' `+line).Output()
	must(t, err)
	return strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
}

// watched is a writer that reports each write.
type watched struct {
	mu   sync.Mutex
	text bytes.Buffer
	tell func(all string)
}

// Write implements io.Writer.
func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	w.text.Write(p)
	all := w.text.String()
	w.mu.Unlock()
	w.tell(all)
	return len(p), nil
}

func (w *watched) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// findings returns what doctor prints, by check.
func (o *operator) findings(wantCode int, args ...string) map[string]map[string]any {
	o.t.Helper()
	code, out, complaint := o.run(append([]string{"doctor", "-o", "json"}, args...)...)
	if code != wantCode {
		o.t.Errorf("doctor: exit %d, %s%s; want %d", code, out, complaint, wantCode)
	}
	var rows []map[string]any
	decode(o.t, out, &rows)
	found := make(map[string]map[string]any)
	for _, row := range rows {
		found[row["check"].(string)] = row
	}
	return found
}

// wantFinding checks a finding's status, and that its detail contains the texts.
func wantFinding(t *testing.T, found map[string]any, status string, texts ...string) {
	t.Helper()
	detail, _ := found["detail"].(string)
	missing := func(text string) bool { return !strings.Contains(detail, text) }
	if found["status"] != status || slices.ContainsFunc(texts, missing) {
		t.Errorf("found %v; want %s, %q", found, status, texts)
	}
}

// versions returns the tenants' schema versions, by slug.
func (o *operator) versions() map[string]float64 {
	o.t.Helper()
	versions := make(map[string]float64)
	for _, row := range o.list("tenant", "list") {
		versions[row["slug"].(string)] = row["schema_version"].(float64)
	}
	return versions
}
