// Package pgtest gives tests a real PostgreSQL. It is a temporary server that is started from local binaries
// as a user other than root, or the server that TENANTDB_TEST_POSTGRES_URL names (a superuser's URL). [Start]
// and [StartPgBouncer] need local binaries in either case.
//
// A test binary that uses it calls [Run] from TestMain. Run stops the server and removes its files, or drops
// what the tests made on a foreign server. TENANTDB_TEST_POSTGRES_VERSION chooses a major version, from the
// system or from the cache that [Fetch] fills.
//
// If there is no server or pooler, tests are skipped with the reason. With TENANTDB_REQUIRE_POSTGRES=1 they
// fail.
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

var (
	running atomic.Bool // Run is under way
	shared  struct {
		once   sync.Once
		server *Server
		err    error
	}
	sequence  atomic.Int64
	templates sync.Map // key → *template
)

// Run runs the tests and afterwards stops the shared server, or drops the templates on a foreign one. Use:
// func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }.
func Run(m interface{ Run() int }) int {
	running.Store(true)
	defer func() {
		if shared.server != nil {
			shared.server.dropTemplates()
			shared.server.remove()
		}
	}()
	return m.Run()
}

// Shared returns the test binary's server, started at first use.
func Shared(t testing.TB) *Server {
	t.Helper()
	if !running.Load() {
		t.Fatal("pgtest: call pgtest.Run from TestMain")
	}
	shared.once.Do(func() {
		if given := os.Getenv("TENANTDB_TEST_POSTGRES_URL"); given != "" {
			shared.server, shared.err = foreign(given)
			return
		}
		shared.server, shared.err = start()
	})
	if shared.err != nil {
		unavailable(t, shared.err)
	}
	return shared.server
}

// Start starts a server for this test alone, which may stop, kill or configure it. Its files are removed
// after the test. Settings are entries of postgresql.conf such as "max_connections=20".
func Start(t testing.TB, settings ...string) *Server {
	t.Helper()
	s, err := start(settings...)
	if err != nil {
		unavailable(t, err)
	}
	t.Cleanup(s.remove)
	return s
}

// Database returns the URL of a fresh, empty database on the shared server, dropped when the test ends.
func Database(t testing.TB) string {
	t.Helper()
	return Shared(t).Database(t)
}

// template is a database prepared once per test binary.
type template struct {
	once sync.Once
	name string
	err  error
}

// Clone returns the URL of a copy of a template database. prepare fills the template once per test binary and
// key. The copy is dropped when the test ends.
func Clone(t testing.TB, key string, prepare func(url string) error) string {
	t.Helper()
	s := Shared(t)
	entry, _ := templates.LoadOrStore(key, new(template))
	tpl := entry.(*template)
	tpl.once.Do(func() {
		tpl.name = uniqueName("template")
		if tpl.err = s.exec("CREATE DATABASE " + tpl.name); tpl.err == nil {
			tpl.err = prepare(s.URL(tpl.name))
		}
	})
	if tpl.err != nil {
		t.Fatalf("pgtest: template %s: %v", key, tpl.err)
	}
	return s.create(t, " TEMPLATE "+tpl.name)
}

// dropTemplates drops the templates of Clone on a foreign server. On our own they are removed with the files.
func (s *Server) dropTemplates() {
	if s.dir != "" {
		return
	}
	templates.Range(func(key, entry any) bool {
		name := entry.(*template).name
		if err := s.exec("DROP DATABASE IF EXISTS " + name + " WITH (FORCE)"); err != nil {
			fmt.Fprintf(os.Stderr, "pgtest: template %s stays behind as %s: %v\n", key, name, err)
		}
		return true
	})
}

// Database returns the URL of a fresh, empty database on this server, dropped when the test ends.
func (s *Server) Database(t testing.TB) string {
	t.Helper()
	return s.create(t, "")
}

// create creates a database with the given options.
func (s *Server) create(t testing.TB, options string) string {
	t.Helper()
	name := uniqueName("test")
	if err := s.exec("CREATE DATABASE " + name + options); err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	t.Cleanup(func() {
		// A test may have stopped the server. Then its files are removed, and the database with them.
		_ = s.exec("DROP DATABASE IF EXISTS " + name + " WITH (FORCE)")
	})
	return s.URL(name)
}

// URL returns the superuser's URL of a database on this server.
func (s *Server) URL(database string) string {
	u := *s.base
	u.Path = "/" + database
	return u.String()
}

// exec runs one statement in the maintenance database.
func (s *Server) exec(sql string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, sql)
	return err
}

// foreign is a server that somebody else runs.
func foreign(given string) (*Server, error) {
	base, err := url.Parse(given)
	if err != nil {
		return nil, fmt.Errorf("TENANTDB_TEST_POSTGRES_URL: %w", err)
	}
	s := &Server{base: base}
	wanted, err := wantedVersion()
	if err != nil || wanted == 0 {
		return s, errors.Join(err, s.exec("SELECT 1"))
	}
	return s, s.exec(fmt.Sprintf("DO $$ BEGIN ASSERT current_setting('server_version_num')::int / 10000 = "+
		"%d, 'not the version of %s'; END $$",
		wanted, VersionEnv))
}

// uniqueName returns a name for a database that no other test binary uses on the same server. It is random,
// since process ids are reused.
func uniqueName(kind string) string {
	return fmt.Sprintf("tenantdb_%s_%d_%d_%08x", kind, os.Getpid(), sequence.Add(1), rand.Uint32())
}

// unavailable skips or fails a test that has no server or pooler.
func unavailable(t testing.TB, err error) {
	t.Helper()
	if os.Getenv("TENANTDB_REQUIRE_POSTGRES") == "1" {
		t.Fatalf("pgtest: required (TENANTDB_REQUIRE_POSTGRES=1), but unavailable: %v", err)
	}
	t.Skipf("pgtest: unavailable: %v", err)
}
