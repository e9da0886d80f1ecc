//go:build unix

package tenantdbtest

import (
	"os"
	"testing"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
)

// StartPostgres returns the URL of a PostgreSQL server for [Options.Postgres]: the one that the environment
// variable TENANTDB_TEST_POSTGRES_URL names, or one that it starts. To start one it needs initdb and postgres
// 13 or later, in PATH or in /usr/lib/postgresql. It runs them as another user if the tests run as root, on a
// loopback port, with its files in a temporary directory.
//
// If TestMain calls [Run], the tests of the binary share the server and its templates, which is much faster.
// Otherwise the server is the test's own, and ends with it.
//
// Without a server the test is skipped, with the reason. If TENANTDB_REQUIRE_POSTGRES is 1, it fails.
func StartPostgres(t testing.TB) hostdb.Secret {
	t.Helper()
	servers.mu.Lock()
	shared := servers.keep
	servers.mu.Unlock()
	if shared {
		return hostdb.Secret(pgtest.Shared(t).URL("postgres"))
	}
	if url := os.Getenv("TENANTDB_TEST_POSTGRES_URL"); url != "" {
		return hostdb.Secret(url)
	}
	return hostdb.Secret(pgtest.Start(t).URL("postgres"))
}

// Run runs the tests of a test binary that uses PostgreSQL, and afterwards stops the server that
// [StartPostgres] started, or drops the templates on another. Call it from TestMain:
//
//	func TestMain(m *testing.M) { os.Exit(tenantdbtest.Run(m)) }
func Run(m *testing.M) int { return pgtest.Run(suite{m}) }
