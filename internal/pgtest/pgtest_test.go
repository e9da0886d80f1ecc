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

func TestCloneCopiesTheTemplateAndCopiesAreSeparate(t *testing.T) {
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
		if err := conn.QueryRow(t.Context(), "WITH x AS (INSERT INTO note VALUES ('a') RETURNING 1) SELECT count(*) FROM note").Scan(&n); err != nil || n != 0 {
			t.Fatalf("rows in a fresh copy = %d, %v; want 0", n, err)
		}
	}
}

func TestARunLeavesNoDatabaseOnAForeignServer(t *testing.T) {
	s := pgtest.Start(t)
	run := exec.Command(os.Args[0], "-test.run=^TestCloneCopiesTheTemplate", "-test.v")
	run.Env = append(os.Environ(), "TENANTDB_TEST_POSTGRES_URL="+s.URL("postgres"))
	if out, err := run.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestCloneCopiesTheTemplate") {
		t.Fatalf("%v\n%s", err, out)
	}
	conn, err := pgx.Connect(t.Context(), s.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var left []string
	if err := conn.QueryRow(t.Context(), "SELECT array_agg(datname) FROM pg_database WHERE datname LIKE 'tenantdb%'").Scan(&left); err != nil || left != nil {
		t.Fatalf("left behind: %v, %v", left, err)
	}
}

func TestServerStartsAgainWithItsDataAfterAKill(t *testing.T) {
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

func TestPgBouncerPoolsTransactionsOfEveryDatabase(t *testing.T) {
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
			if err := conn.QueryRow(t.Context(), "SELECT pg_backend_pid()", pgx.QueryExecModeExec).Scan(&pid); err != nil {
				t.Fatalf("%v\n%s", err, b.Log())
			}
			backends[pid] = true
		}
		if len(backends) != 1 {
			t.Errorf("three clients used %d of the server's connections; want 1", len(backends))
		}
	}
}
