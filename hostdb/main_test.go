package hostdb_test

import (
	"context"
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
)

func TestMain(m *testing.M) {
	if url := os.Getenv("HOSTDB_TEST_CHILD"); url != "" {
		os.Exit(child(url))
	}
	os.Exit(pgtest.Run(m))
}

// places are where tests of both engines run.
var places = map[string]func(t testing.TB) string{
	"postgres": postgresURL,
	"file":     fileURL,
	"memory":   func(testing.TB) string { return "sqlite::memory:" },
}

// postgresURL returns the URL of a new database with the schema.
func postgresURL(t testing.TB) string {
	t.Helper()
	return pgtest.Clone(t, "hostdb", func(url string) error {
		db, err := hostdb.Open(context.Background(), url)
		if err != nil {
			return err
		}
		return db.Close()
	})
}

func fileURL(t testing.TB) string {
	t.Helper()
	return "sqlite:" + filepath.Join(t.TempDir(), "host.db")
}

// onBoth runs a test on both engines, SQLite in a file and in memory.
func onBoth(t *testing.T, test func(t *testing.T, db *hostdb.DB)) {
	t.Helper()
	for name, place := range places {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t, hostdb.Config{URL: hostdb.Secret(place(t))}))
		})
	}
}

// open opens a database and closes it when the test ends.
func open(t testing.TB, config hostdb.Config) *hostdb.DB {
	t.Helper()
	db, err := hostdb.OpenConfig(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// raw opens a database without the library, as another program would.
func raw(t testing.TB, db *hostdb.DB) *sql.DB {
	t.Helper()
	return rawURL(t, db.URI())
}

func openRaw(url string) (*sql.DB, error) {
	if path, found := strings.CutPrefix(url, "sqlite:"); found {
		// A busy machine may need as long.
		return sql.Open("sqlite", "file:"+path+"?_busy_timeout=60000&_foreign_keys=1")
	}
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	return stdlib.OpenDB(*config), nil
}

// must ends the test on an error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newUser, newTenant and newMember store a row with its required fields.
func newUser(t testing.TB, db *hostdb.DB) *hostdb.GlobalUser {
	t.Helper()
	id := hostdb.NewID()
	u := &hostdb.GlobalUser{ID: id, Email: id + "@example.com", OAuthID: "auth|" + id}
	must(t, db.Users.Insert(t.Context(), u))
	return u
}

func newTenant(t testing.TB, db *hostdb.DB) *hostdb.TenantCatalog {
	t.Helper()
	id := hostdb.NewID()
	tenant := &hostdb.TenantCatalog{ID: id, Name: "Tenant", Slug: "t-" + id, IsActive: true}
	must(t, db.Tenants.Insert(t.Context(), tenant))
	return tenant
}

func newMember(t testing.TB, db *hostdb.DB, user *hostdb.GlobalUser, tenant *hostdb.TenantCatalog,
	role string) *hostdb.Membership {
	t.Helper()
	m := &hostdb.Membership{UserID: user.ID, TenantID: tenant.ID, Role: role, IsActive: true}
	must(t, db.Memberships.Insert(t.Context(), m))
	return m
}

// child runs in the processes that openChildren starts.
func child(url string) int {
	db, err := hostdb.Open(context.Background(), url)
	if err != nil {
		os.Stderr.WriteString(err.Error())
		return 1
	}
	if err := db.Close(); err != nil {
		return 1
	}
	return 0
}
