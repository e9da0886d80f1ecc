package tenantdb_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"strings"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb"
)

// FuzzSQLite_session has one borrower run statements, together and each prepared. The next borrower's session
// must be that of a new connection.
func FuzzSQLite_session(f *testing.F) {
	for _, statements := range []string{
		"PRAGMA foreign_keys=0", "SELECT 1;BEGIN;INSERT INTO me VALUES('x')",
		"CREATE TEMP TABLE me(n);PRAGMA cache_size(7)",
		"pragma/**/[foreign_keys]=''", "ATTACH'a'||'b'AS c", "SAVEPOINT a;RELEASE a;SAVEPOINT b",
		"CREATE TABLE temp.x AS SELECT 1;VACUUM",
		"PRAGMA query_only=1;PRAGMA journal_mode=''", "EXPLAIN PRAGMA trusted_schema=0",
		"SELECT*FROM pragma_foreign_keys(1)", "PRAGMA hard_heap_limit=9",
		"PRAGMA locking_mode=exclusive;SELECT*FROM me", "COMMIT;END;ROLLBACK;BEGIN EXCLUSIVE",
	} {
		f.Add(statements)
	}
	w := newWorld(f, "sqlite", tenantdb.PoolConfig{})
	lease, err := w.pool.Lease(w.tenant("acme", w.user("ann")))
	must(f, err)
	f.Cleanup(lease.Release)
	f.Fuzz(func(t *testing.T, statements string) {
		for _, open := range []func() *sql.DB{lease.DB, lease.ReadDB} {
			db := open()
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			conn, err := db.Conn(ctx)
			must(t, err)
			_, _ = conn.ExecContext(ctx, statements)
			for _, statement := range strings.Split(statements, ";") {
				if stmt, err := conn.PrepareContext(ctx, statement); err == nil {
					_, _ = stmt.ExecContext(ctx)
				}
			}
			must(t, conn.Close())
			got := sqliteSession(t, db)
			raw, err := db.Conn(ctx) // a raw connection isn't kept, so the next one is new
			must(t, err)
			must(t, raw.Raw(func(c any) error {
				c.(interface{ Unwrap() driver.Conn }).Unwrap()
				return nil
			}))
			must(t, raw.Close())
			if want := sqliteSession(t, db); got != want {
				t.Errorf("after %q the next borrower finds\n%s\nwant\n%s", statements, got, want)
			}
		}
	})
}
