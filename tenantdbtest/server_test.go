package tenantdbtest

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb/fleet"
	"github.com/tenantdb/tenantdb/internal/dburl"
)

// contents returns the names of a server's databases and roles.
func contents(t *testing.T, url string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var names string
	if err := conn.QueryRow(t.Context(), "SELECT string_agg(name, ' ' ORDER BY name) FROM "+
		"(SELECT datname AS name FROM pg_database UNION ALL SELECT rolname FROM pg_roles) x").Scan(
		&names); err != nil {
		t.Fatal(err)
	}
	return names
}

// childURL names the variable with the server for the test that leavesNothing runs in another process.
const childURL = "TENANTDBTEST_CHILD_URL"

func TestChild_usesAServer(t *testing.T) {
	url := os.Getenv(childURL)
	if url == "" {
		t.Skip("TestNew_leavesNothingOnAServer runs it")
	}
	t.Setenv("TENANTDB_TEST_POSTGRES_URL", url)
	for i, change := range []func(*fleet.Config){nil, func(c *fleet.Config) { c.SharedRole = true }} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			k := New(t, Options{Migrations: os.DirFS("testdata"), Postgres: StartPostgres(t), Fleet: change})
			k.Context(nil, k.Tenant("acme"))
			fmt.Println("meanwhile:", contents(t, url))
		})
	}
}

func TestNew_leavesNothingOnAServer(t *testing.T) {
	admin := StartPostgres(t).Reveal()
	role := newName("role")
	conn, err := pgx.Connect(t.Context(), admin)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	_, err = conn.Exec(t.Context(), "CREATE ROLE "+role+" LOGIN CREATEDB CREATEROLE PASSWORD 'x'")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Exec(t.Context(), "DROP ROLE "+role)
	config := conn.Config()
	own := fmt.Sprintf("postgres://%s:x@%s:%d/postgres", role, config.Host, config.Port)
	before := contents(t, admin)
	for _, url := range []string{admin, own} {
		child := exec.Command(os.Args[0], "-test.run=^TestChild_usesAServer$", "-test.v")
		child.Env = append(os.Environ(), childURL+"="+url)
		out, err := child.CombinedOutput()
		if err != nil || strings.Count(string(out), "tenantdb_template_") < 2 {
			t.Fatalf("%v: %s", err, out)
		}
		if after := contents(t, admin); after != before {
			t.Errorf("before: %s\nafter: %s", before, after)
		}
	}
}

func TestNew_leavesNothingOnAServer_withoutRun(t *testing.T) {
	url := StartPostgres(t)
	base, err := dburl.Parse(url.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	s := &server{base: base}
	before := contents(t, url.Reveal())
	if err := s.make(t.Context()); err != nil {
		t.Fatal(err)
	}
	if contents(t, url.Reveal()) == before {
		t.Error("no template was made")
	}
	if err := s.drop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := contents(t, url.Reveal()); after != before {
		t.Errorf("before: %s\nafter: %s", before, after)
	}
}

func TestNew_namesTheTemplateThatCantBeCopied(t *testing.T) {
	url := StartPostgres(t)
	s, err := serverAt(url)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), s.at(s.host).Reveal()) // PostgreSQL copies no database in use
	if err != nil {
		t.Fatal(err)
	}
	k := &Kit{t: t, options: &Options{Postgres: url}}
	_, _, err = k.postgresDatabase()
	if err == nil || !strings.Contains(err.Error(), "copy the template "+s.host) {
		t.Errorf("error = %v", err)
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.release(t.Context()); err != nil {
		t.Error(err)
	}
}
