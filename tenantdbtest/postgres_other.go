//go:build !unix

package tenantdbtest

import (
	"os"
	"testing"

	"github.com/tenantdb/tenantdb/hostdb"
)

// StartPostgres returns the URL of the PostgreSQL server that the environment variable
// TENANTDB_TEST_POSTGRES_URL names. On this system it can't start one, and skips the test without it.
func StartPostgres(t testing.TB) hostdb.Secret {
	t.Helper()
	url := os.Getenv("TENANTDB_TEST_POSTGRES_URL")
	if url == "" {
		t.Skip("tenantdbtest: no PostgreSQL can be started on this system; " +
			"name a server in TENANTDB_TEST_POSTGRES_URL")
	}
	return hostdb.Secret(url)
}

// Run runs the tests of a test binary that uses PostgreSQL, and afterwards drops the templates on the server.
func Run(m *testing.M) int { return suite{m}.Run() }
