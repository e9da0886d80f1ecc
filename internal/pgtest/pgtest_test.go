package pgtest_test

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb/internal/pgtest"
)

func TestMain(m *testing.M) {
	os.Exit(pgtest.Run(m))
}

func TestClone_copiesTheTemplate(t *testing.T) {
	prepare := func(url string) error {
		conn, err := pgx.Connect(context.Background(), url)
		if err != nil {
			return err
		}
		defer conn.Close(context.Background())
		_, err = conn.Exec(context.Background(), "CREATE TABLE note (body text)")
		return err
	}
	for range 2 {
		conn, err := pgx.Connect(t.Context(), pgtest.Clone(t, "notes", prepare))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.Background())
		var n int
		if err := conn.QueryRow(t.Context(), "WITH x AS (INSERT INTO note VALUES ('a') RETURNING 1) SELECT "+
			"count(*) FROM note").Scan(&n); err != nil || n != 0 {
			t.Fatalf("rows in a fresh copy = %d, %v; want 0", n, err)
		}
	}
}

func TestRun_leavesNoDatabaseOnAForeignServer(t *testing.T) {
	s := pgtest.Start(t)
	if out := rerun(t, "TENANTDB_TEST_POSTGRES_URL="+s.URL("postgres")); !strings.Contains(out,
		"--- PASS: TestClone_copiesTheTemplate") {
		t.Fatal(out)
	}
	conn, err := pgx.Connect(t.Context(), s.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var left []string
	if err := conn.QueryRow(t.Context(), "SELECT array_agg(datname) FROM pg_database WHERE datname LIKE "+
		"'tenantdb%'").Scan(&left); err != nil || left != nil {
		t.Fatalf("left behind: %v, %v", left, err)
	}
}

func TestServer_startsAgainWithItsDataAfterAKill(t *testing.T) {
	s := pgtest.Start(t, "max_connections=10")
	url := s.Database(t)
	s.Kill()
	if conn, err := pgx.Connect(t.Context(), url); err == nil {
		conn.Close(t.Context())
		t.Fatal("a killed server accepted a connection")
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var limit string
	if err := conn.QueryRow(t.Context(), "SHOW max_connections").Scan(&limit); err != nil || limit != "10" {
		t.Fatalf("max_connections = %q, %v; want 10", limit, err)
	}
}

func TestPgBouncer_poolsTransactionsOfEveryDatabase(t *testing.T) {
	s := pgtest.Start(t)
	b := pgtest.StartPgBouncer(t, s, "max_db_connections=1")
	for range 2 {
		url := b.Through(t, s.Database(t))
		backends := map[int]bool{}
		for range 3 {
			conn, err := pgx.Connect(t.Context(), url)
			if err != nil {
				t.Fatalf("%v\n%s", err, b.Log())
			}
			defer conn.Close(context.Background())
			var pid int
			if err := conn.QueryRow(t.Context(), "SELECT pg_backend_pid()",
				pgx.QueryExecModeExec).Scan(&pid); err != nil {
				t.Fatalf("%v\n%s", err, b.Log())
			}
			backends[pid] = true
		}
		if len(backends) != 1 {
			t.Errorf("three clients used %d of the server's connections; want 1", len(backends))
		}
	}
}

func TestServer_hasTheVersionThatIsAskedFor(t *testing.T) {
	t.Setenv(pgtest.VersionEnv, "18")
	s := pgtest.Start(t)
	conn, err := pgx.Connect(t.Context(), s.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var version int
	if err := conn.QueryRow(t.Context(), "SELECT current_setting('server_version_num')::int / "+
		"10000").Scan(&version); err != nil || version != 18 {
		t.Fatalf("the server's version is %d, %v; want 18", version, err)
	}
	for asked, want := range map[string]string{
		"18": "--- PASS: TestClone_copiesTheTemplate",
		"13": "not the version of " + pgtest.VersionEnv, // the server is 18
	} {
		if out := rerun(t, pgtest.VersionEnv+"="+asked,
			"TENANTDB_TEST_POSTGRES_URL="+s.URL("postgres")); !strings.Contains(out, want) {
			t.Errorf("version %s on a foreign server of 18: %s", asked, out)
		}
	}
}

func TestServer_failsTheTestsIfARequiredVersionIsMissing(t *testing.T) {
	for required, want := range map[string]string{"1": "--- FAIL: TestClone_copiesTheTemplate",
		"": "--- SKIP: TestClone_copiesTheTemplate"} {
		for asked, reason := range map[string]string{"13": "go run ./internal/pgtest/fetch 13",
			"99": "no PostgreSQL 99", "x": "no major version"} {
			out := rerun(t, "TENANTDB_REQUIRE_POSTGRES="+required, pgtest.VersionEnv+"="+asked,
				"TENANTDB_TEST_POSTGRES_CACHE="+t.TempDir(), "TENANTDB_TEST_POSTGRES_URL=")
			if !strings.Contains(out, want) || !strings.Contains(out, reason) {
				t.Errorf("required %q, version %s: %s", required, asked, out)
			}
		}
	}
}

// rerun runs the test of Clone again with other variables, and returns what it prints.
func rerun(t *testing.T, env ...string) string {
	t.Helper()
	run := exec.Command(os.Args[0], "-test.run=^TestClone_copiesTheTemplate$", "-test.v")
	run.Env = append(os.Environ(), env...)
	out, _ := run.CombinedOutput() // it may fail, as its output says
	return string(out)
}
