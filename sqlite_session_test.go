package tenantdb_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/tenantdb/tenantdb"
)

// runAll runs a statement in the ways in which a handler can, each on a connection of its own.
func runAll(ctx context.Context, db *sql.DB, statement string) map[string]error {
	failed := make(map[string]error)
	_, failed["Exec"] = db.ExecContext(ctx, statement)
	if rows, err := db.QueryContext(ctx, statement); err != nil {
		failed["Query"] = err
	} else {
		for rows.Next() {
		}
		failed["Query"] = errors.Join(rows.Err(), rows.Close())
	}
	if stmt, err := db.PrepareContext(ctx, statement); err != nil {
		failed["Prepare"] = err
	} else {
		_, failed["Prepare"] = stmt.ExecContext(ctx)
		_ = stmt.Close()
	}
	_, failed["several"] = db.ExecContext(ctx, "SELECT 1; "+statement)
	return failed
}

func TestSQLite_connectionReachesNoOtherFile(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	lease, other := sqliteLease(t, w, "acme"), w.tenant("globex", w.user("bob"))
	dir := t.TempDir()
	target := filepath.Join(dir, "stolen.db")
	file := w.sqliteFile(other)
	for name, open := range map[string]func() *sql.DB{
		"DB": lease.DB, "ReadDB": lease.ReadDB, "Session": lease.Session,
	} {
		db := open()
		for _, statement := range []string{
			"ATTACH '" + file + "' AS o",
			"attach/**/database '" + file + "' as o",
			"ATTACH '" + file[:5] + "' || '" + file[5:] + "' AS o",
			"ATTACH (SELECT '" + target + "') AS o",
			"ATTACH '' AS o",
			"ATTACH ':memory:' AS o",
			"-- VACUUM\nATTACH 'file:" + target + "?mode=rwc' AS o",
			"VACUUM INTO '" + target + "'",
			"VACUUM main INTO '" + target[:5] + "' || '" + target[5:] + "'",
			"/* a */ VACUUM INTO '" + target + "';",
			"SELECT load_extension('" + target + "')",
			"PRAGMA temp_store_directory = '" + dir + "'",
			"PRAGMA hard_heap_limit = 1",
			"PRAGMA main.soft_heap_limit(1)",
		} {
			for how, err := range runAll(t.Context(), db, statement) {
				if err == nil {
					t.Errorf("%s: %s of %q ran", name, how, statement)
				}
			}
		}
		if name == "Session" {
			must(t, db.Close())
		}
	}
	if _, err := os.Stat(target); err == nil {
		t.Error("a file was written")
	}
	_, err := lease.DB().ExecContext(t.Context(), "ATTACH '' AS o")
	if err == nil || !strings.Contains(err.Error(), "ATTACH is refused") {
		t.Errorf("the refusal says %v", err)
	}
	if _, err = lease.DB().ExecContext(t.Context(), "VACUUM"); err == nil ||
		!strings.Contains(err.Error(), "Lease.Vacuum") {
		t.Errorf("VACUUM in a request = %v; want an error that names Lease.Vacuum", err)
	}
	var one int
	must(t, lease.DB().QueryRowContext(t.Context(), "SELECT 1").Scan(&one))
}

func TestSQLite_readerNeverWrites(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	lease := sqliteLease(t, w, "acme")
	conn, err := lease.ReadDB().Conn(t.Context())
	must(t, err)
	defer conn.Close()
	for _, statement := range []string{"PRAGMA query_only = 0", "PRAGMA writable_schema = 1"} {
		_, _ = conn.ExecContext(t.Context(), statement)
	}
	for _, statement := range []string{
		"INSERT INTO me VALUES ('x')", "DELETE FROM sqlite_schema", "PRAGMA user_version = 7",
		"PRAGMA journal_mode = DELETE",
		"CREATE TABLE x (n)",
	} {
		if _, err := conn.ExecContext(t.Context(), statement); err == nil {
			t.Errorf("%s ran on a reader", statement)
		}
	}
	var names, version int
	must(t, lease.DB().QueryRowContext(t.Context(),
		"SELECT (SELECT count(*) FROM me), user_version FROM pragma_user_version").Scan(&names, &version))
	if names != 1 || version != 0 {
		t.Errorf("a reader wrote: %d rows, user_version %d", names, version)
	}
}

func TestSQLite_sessionIsResetBetweenBorrowers(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{SQLiteReaders: 1})
	lease := sqliteLease(t, w, "acme")
	handles := map[string]*sql.DB{"DB": lease.DB(), "ReadDB": lease.ReadDB()}
	for name, db := range handles {
		fresh := sqliteSession(t, db)
		for _, statement := range []string{
			"PRAGMA foreign_keys = OFF",
			"PRAGMA foreign_keys = ''",
			"pragma/**/main.foreign_keys(off)",
			"EXPLAIN PRAGMA \"foreign_keys\" = 0",
			"SELECT 1; PRAGMA recursive_triggers = 1",
			"PRAGMA query_only = 0",
			"PRAGMA query_only = 1",
			"PRAGMA case_sensitive_like = 1",
			"PRAGMA cache_size = 7",
			"PRAGMA busy_timeout = 1",
			"PRAGMA synchronous = OFF",
			"PRAGMA temp_store = MEMORY",
			"PRAGMA trusted_schema = 0",
			"PRAGMA writable_schema = 1",
			"PRAGMA defer_foreign_keys = 1",
			"CREATE TEMP TABLE me (n)",
			"CREATE TABLE temp.me (n)",
			"CREATE VIRTUAL TABLE temp.v USING fts5(a)",
			"CREATE TEMP VIEW v AS SELECT 1",
			"CREATE TEMP TRIGGER tr AFTER INSERT ON me BEGIN SELECT 1; END",
			"BEGIN",
			"BEGIN IMMEDIATE; INSERT INTO me VALUES ('half')",
			"SAVEPOINT s",
		} {
			for _, prepared := range []bool{false, true} {
				conn, err := db.Conn(t.Context())
				must(t, err)
				if prepared {
					if stmt, err := conn.PrepareContext(t.Context(), statement); err == nil {
						_, _ = stmt.ExecContext(t.Context())
					}
				} else {
					_, _ = conn.ExecContext(t.Context(), statement)
				}
				must(t, conn.Close())
				if got := sqliteSession(t, db); got != fresh {
					t.Errorf("%s: after %q (prepared: %v) the next borrower finds\n%s\nwant\n%s", name,
						statement, prepared, got, fresh)
				}
			}
		}
	}
}

// sqliteSession describes what the next borrower of a connection sees of its session.
func sqliteSession(t *testing.T, db *sql.DB) string {
	t.Helper()
	conn, err := db.Conn(t.Context())
	must(t, err)
	defer conn.Close()
	return describeSQLite(t, conn)
}

// describeSQLite describes the session of a connection: pragmas, temporary objects, attached files and
// whether a transaction is open.
func describeSQLite(t testing.TB, conn *sql.Conn) string {
	t.Helper()
	var text strings.Builder
	for _, pragma := range []string{
		"analysis_limit", "automatic_index", "busy_timeout", "cache_size", "cache_spill", "cell_size_check",
		"checkpoint_fullfsync",
		"defer_foreign_keys", "foreign_keys", "fullfsync", "ignore_check_constraints", "journal_mode",
		"journal_size_limit", "legacy_alter_table",
		"locking_mode", "max_page_count", "mmap_size", "query_only", "read_uncommitted", "recursive_triggers",
		"reverse_unordered_selects",
		"secure_delete", "synchronous", "temp_store", "threads", "trusted_schema", "wal_autocheckpoint",
		"writable_schema",
		"hard_heap_limit", "soft_heap_limit",
	} {
		var value sql.NullString
		if err := conn.QueryRowContext(t.Context(), "PRAGMA "+pragma).Scan(&value); err != nil &&
			!errors.Is(err, sql.ErrNoRows) {
			t.Fatalf("PRAGMA %s: %v", pragma, err)
		}
		fmt.Fprintf(&text, "%s=%s ", pragma, value.String)
	}
	for _, query := range []string{
		"SELECT 'temp=' || coalesce(group_concat(name), '') FROM sqlite_temp_schema",
		"SELECT 'attached=' || coalesce(group_concat(name), '') FROM pragma_database_list " +
			"WHERE name <> 'temp'",
		"SELECT 'like=' || ('a' LIKE 'A')",
		"SELECT 'rows=' || count(*) FROM main.me",
	} {
		var value string
		if err := conn.QueryRowContext(t.Context(), query).Scan(&value); err != nil {
			value = err.Error()
		}
		text.WriteString(value + " ")
	}
	if _, err := conn.ExecContext(t.Context(), "BEGIN"); err != nil {
		text.WriteString("in a transaction")
	} else {
		_, err = conn.ExecContext(t.Context(), "ROLLBACK")
		must(t, err)
	}
	return text.String()
}

func TestSQLite_borrowerKeepsItsSettings(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	lease := sqliteLease(t, w, "acme")
	conn, err := lease.DB().Conn(t.Context())
	must(t, err)
	defer conn.Close()
	for _, statement := range []string{
		"PRAGMA foreign_keys = OFF", "CREATE TEMP TABLE mine (n)", "INSERT INTO mine VALUES (1)",
		"PRAGMA journal_mode = WAL",
	} {
		_, err := conn.ExecContext(t.Context(), statement)
		must(t, err)
	}
	var keys, rows int
	must(t, conn.QueryRowContext(t.Context(),
		"SELECT (SELECT foreign_keys FROM pragma_foreign_keys), (SELECT count(*) FROM mine)").Scan(&keys,
		&rows))
	if keys != 0 || rows != 1 {
		t.Errorf("the borrower finds foreign_keys %d and %d rows of its own; want 0 and 1", keys, rows)
	}
}

func TestSQLite_readingPragmasKeepsTheConnection(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	lease := sqliteLease(t, w, "acme")
	db := lease.DB()
	opened := func() (n int) { // total_changes of the connection, which is 0 for a new one
		conn, err := db.Conn(t.Context())
		must(t, err)
		defer conn.Close()
		must(t, conn.QueryRowContext(t.Context(), "SELECT total_changes()").Scan(&n))
		return n
	}
	_, err := db.ExecContext(t.Context(), "INSERT INTO me VALUES ('x')")
	must(t, err)
	changes := opened()
	if changes == 0 {
		t.Fatal("the connection isn't the one that wrote")
	}
	for _, statement := range []string{
		"PRAGMA table_info(me)", "PRAGMA main.index_list('me')", "PRAGMA foreign_keys", "PRAGMA journal_mode",
		"SELECT name FROM pragma_table_xinfo('me')", "PRAGMA wal_checkpoint(PASSIVE)",
		"PRAGMA integrity_check(1)", "PRAGMA user_version",
	} {
		_, err := db.ExecContext(t.Context(), statement)
		must(t, err)
		if opened() != changes {
			t.Errorf("after %s the connection was closed", statement)
		}
	}
	_, err = db.ExecContext(t.Context(), "PRAGMA foreign_keys = 0")
	must(t, err)
	if opened() != 0 {
		t.Error("a changed connection was kept")
	}
}

func TestSQLite_rawConnectionIsNotKept(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	lease := sqliteLease(t, w, "acme")
	conn, err := lease.DB().Conn(t.Context())
	must(t, err)
	_, err = sqlite.Limit(conn, sqlite3.SQLITE_LIMIT_SQL_LENGTH, 10)
	must(t, err)
	must(t, conn.Close())
	var name string
	must(t, lease.DB().QueryRowContext(t.Context(), "SELECT name FROM me").Scan(&name))
}
