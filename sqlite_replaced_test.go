package tenantdb_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"modernc.org/sqlite"
	"pgregory.net/rapid"

	"github.com/tenantdb/tenantdb"
)

// during is called by the SQL function during(), while the statement that calls it runs.
var during atomic.Pointer[func()]

func init() {
	sqlite.MustRegisterScalarFunction("during", 0,
		func(*sqlite.FunctionContext, []driver.Value) (driver.Value, error) {
			(*during.Load())()
			return "during", nil
		})
}

// aside lists what was set aside of a file.
func aside(t *testing.T, file string) []string {
	t.Helper()
	list, err := filepath.Glob(file + "-wal.replaced-*")
	must(t, err)
	return list
}

func TestSQLite_removedFileIsNoticedAndItsLogNotReplayed(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	acme := w.tenant("acme", w.user("ann"))
	file, backup := w.sqliteFile(acme), filepath.Join(t.TempDir(), "backup.db")
	must(t, w.pool.Drain(t.Context(), acme.ID)) // merges the log
	copyFile(t, file, backup)
	lease, err := w.pool.Lease(acme)
	must(t, err)
	defer lease.Release()
	insert := func(name string) error {
		_, err := lease.DB().ExecContext(t.Context(), "INSERT INTO me VALUES (?)", name)
		return err
	}
	must(t, insert("old"))
	_, err = names(t.Context(), lease.ReadDB())
	must(t, err)
	must(t, os.Remove(file))
	if err := insert("lost"); !errors.Is(err, tenantdb.ErrTenantUnavailable) {
		t.Errorf("a write into a removed file = %v", err)
	}
	if _, err := names(t.Context(), lease.ReadDB()); !errors.Is(err, tenantdb.ErrTenantUnavailable) {
		t.Errorf("a read of a removed file = %v", err)
	}
	must(t, os.Rename(backup, file))
	for _, db := range []*sql.DB{lease.ReadDB(), lease.DB()} {
		if got, err := names(t.Context(), db); err != nil || !slices.Equal(got, []string{"acme"}) {
			t.Errorf("the restored file holds %q, %v; want what the backup held", got, err)
		}
	}
	must(t, insert("new"))
	if log := aside(t, file); len(log) != 1 {
		t.Errorf("set aside: %q; want one log", log)
	} else if info, err := os.Stat(log[0]); err != nil || info.Size() == 0 {
		t.Errorf("the log that was set aside is empty: %v", err)
	}
	must(t, lease.DB().PingContext(t.Context()))
	lease.Release()
	must(t, w.pool.Drain(t.Context(), acme.ID))
	db, err := sql.Open("sqlite", file)
	must(t, err)
	defer db.Close()
	if got, err := names(t.Context(), db); err != nil || !slices.Equal(got, []string{"acme", "new"}) {
		t.Errorf("in the end the file holds %q, %v", got, err)
	}
}

func TestSQLite_writeToAnUnlinkedFileFails(t *testing.T) {
	t.Parallel()
	write := "INSERT INTO me VALUES (during())"
	for name, run := range map[string]func(ctx context.Context, db *sql.DB) error{
		"Exec": func(ctx context.Context, db *sql.DB) error {
			_, err := db.ExecContext(ctx, write)
			return err
		},
		"several statements": func(ctx context.Context, db *sql.DB) error {
			_, err := db.ExecContext(ctx, "SELECT 1; "+write+"; SELECT 2")
			return err
		},
		"a prepared statement": func(ctx context.Context, db *sql.DB) error {
			stmt, err := db.PrepareContext(ctx, write)
			if err != nil {
				return nil
			}
			defer stmt.Close()
			_, err = stmt.ExecContext(ctx)
			return err
		},
		"RETURNING, one row": func(ctx context.Context, db *sql.DB) error {
			var name string
			return db.QueryRowContext(ctx, write+" RETURNING name").Scan(&name)
		},
		"RETURNING, all rows": func(ctx context.Context, db *sql.DB) error {
			rows, err := db.QueryContext(ctx, write+" RETURNING name")
			if err != nil {
				return err
			}
			for rows.Next() {
			}
			return rows.Err()
		},
		"a transaction": func(ctx context.Context, db *sql.DB) error {
			tx, err := db.BeginTx(ctx, nil)
			if err != nil {
				return nil
			}
			if _, err := tx.ExecContext(ctx, write); err != nil {
				return errors.Join(err, tx.Rollback())
			}
			return tx.Commit()
		},
		"a transaction by text": func(ctx context.Context, db *sql.DB) error {
			conn, err := db.Conn(ctx)
			if err != nil {
				return nil
			}
			defer conn.Close()
			_, err = conn.ExecContext(ctx, "BEGIN; "+write+"; COMMIT")
			return err
		},
	} {
		for how, remove := range map[string]func(file string){
			"removed": func(file string) { _ = os.Remove(file) },
			"replaced": func(file string) {
				copyFile(t, file, file+".new")
				_ = os.Rename(file+".new", file)
			},
		} {
			t.Run(name+" "+how, func(t *testing.T) {
				w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
				acme := w.tenant("acme", w.user("ann"))
				file := w.sqliteFile(acme)
				lease, err := w.pool.Lease(acme)
				must(t, err)
				defer lease.Release()
				once := func() { remove(file) }
				during.Store(&once)
				if err := run(t.Context(), lease.DB()); !errors.Is(err, tenantdb.ErrTenantUnavailable) {
					t.Errorf("= %v; want ErrTenantUnavailable", err)
				}
			})
		}
	}
}

func TestSQLite_replacedFileIsNoticedBeforeEachStatement(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	acme := w.tenant("acme", w.user("ann"))
	lease, err := w.pool.Lease(acme)
	must(t, err)
	defer lease.Release()
	file := w.sqliteFile(acme)
	for name, db := range map[string]*sql.DB{"DB": lease.DB(), "ReadDB": lease.ReadDB()} {
		conn, err := db.Conn(t.Context())
		must(t, err)
		stmt, err := conn.PrepareContext(t.Context(), "SELECT name FROM me")
		must(t, err)
		copyFile(t, file, file+".new")
		must(t, os.Rename(file+".new", file))
		for how, err := range map[string]error{
			"Ping":     conn.PingContext(t.Context()),
			"Query":    conn.QueryRowContext(t.Context(), "SELECT name FROM me").Scan(new(string)),
			"prepared": stmt.QueryRowContext(t.Context()).Scan(new(string)),
		} {
			if !errors.Is(err, tenantdb.ErrTenantUnavailable) {
				t.Errorf("%s: %s on a connection to the old file = %v", name, how, err)
			}
		}
		must(t, conn.Close())
		if err := db.QueryRowContext(t.Context(), "SELECT count(*) FROM me").Scan(new(int)); err != nil {
			t.Errorf("%s: the new file = %v", name, err)
		}
	}
}

func TestSQLite_twoProcessesSetALogAsideOnce(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	acme := w.tenant("acme", w.user("ann"))
	file := w.sqliteFile(acme)
	must(t, w.pool.Drain(t.Context(), acme.ID))
	copyFile(t, file, file+".new")
	other, err := tenantdb.NewPool(tenantdb.PoolConfig{SQLiteDir: filepath.Dir(file)})
	must(t, err)
	defer other.Close(t.Context())
	var leases []*tenantdb.Lease
	for i, pool := range []*tenantdb.Pool{w.pool, other} {
		lease, err := pool.Lease(acme)
		must(t, err)
		defer lease.Release()
		leases = append(leases, lease)
		_, err = lease.DB().ExecContext(t.Context(), "INSERT INTO me VALUES (?)", fmt.Sprint("old", i))
		must(t, err)
	}
	must(t, os.Rename(file+".new", file))
	for i, lease := range leases {
		_, err = lease.DB().ExecContext(t.Context(), "INSERT INTO me VALUES (?)", fmt.Sprint("new", i))
		must(t, err)
	}
	for _, lease := range leases {
		if got, err := names(t.Context(), lease.ReadDB()); err != nil ||
			!slices.Equal(got, []string{"acme", "new0", "new1"}) {
			t.Errorf("one process finds %q, %v", got, err)
		}
	}
	if log := aside(t, file); len(log) != 1 {
		t.Errorf("set aside: %q; want the old log, and no other", log)
	}
}

// TestSQLite_replacedFilesAgainstAModel removes, replaces, moves away and moves back a tenant's file while
// the pool uses it. What was acknowledged is in the file that had the name then, and nothing else is.
func TestSQLite_replacedFilesAgainstAModel(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	ann, turn := w.user("ann"), 0
	rapid.Check(t, func(rt *rapid.T) {
		turn++
		acme := w.tenant(fmt.Sprintf("t%d", turn), ann)
		file := w.sqliteFile(acme)
		must(t, w.pool.Drain(t.Context(), acme.ID))
		lease, err := w.pool.Lease(acme)
		must(t, err)
		defer func() { lease.Release() }()
		type content = map[string]bool
		first := content{fmt.Sprintf("t%d", turn): true}
		image, err := os.ReadFile(file)
		must(t, err)
		current, away, awayAt, n := first, content(nil), filepath.Join(filepath.Dir(file), "away"), 0
		rt.Repeat(map[string]func(*rapid.T){
			"write": func(rt *rapid.T) {
				n++
				name := fmt.Sprint("row", n)
				_, err := lease.DB().ExecContext(t.Context(), "INSERT INTO me VALUES (?)", name)
				if (err == nil) != (current != nil) {
					rt.Fatalf("a write = %v; the file is there: %v", err, current != nil)
				}
				if err == nil {
					current[name] = true
				}
			},
			"read": func(rt *rapid.T) {
				got, err := names(t.Context(), lease.ReadDB())
				if current == nil {
					if !errors.Is(err, tenantdb.ErrTenantUnavailable) {
						rt.Fatalf("a read of no file = %q, %v", got, err)
					}
					return
				}
				if want := slices.Sorted(maps.Keys(current)); err != nil || !slices.Equal(got, want) {
					rt.Fatalf("read %q, %v; want %q", got, err, want)
				}
			},
			"restore": func(*rapid.T) {
				must(t, os.WriteFile(file+".new", image, 0o600))
				must(t, os.Rename(file+".new", file))
				current = content{fmt.Sprintf("t%d", turn): true}
			},
			"remove": func(rt *rapid.T) {
				if current == nil {
					rt.Skip()
				}
				must(t, os.Remove(file))
				current = nil
			},
			"move away": func(rt *rapid.T) {
				if current == nil || away != nil {
					rt.Skip()
				}
				must(t, os.Rename(file, awayAt))
				away, current = current, nil
			},
			"move back": func(rt *rapid.T) {
				if away == nil || current != nil {
					rt.Skip()
				}
				must(t, os.Rename(awayAt, file))
				current, away = away, nil
			},
			"evict": func(*rapid.T) {
				lease.Release()
				must(t, w.pool.Drain(t.Context(), acme.ID))
				lease, err = w.pool.Lease(acme)
				must(t, err)
			},
		})
		if away != nil {
			must(t, os.Remove(awayAt))
		}
	})
}

func TestReadDB_writeNamesDB(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	w.tenant("acme", w.user("ann"))
	var said string
	h := w.middleware(w.config()).Handler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, err := tenantdb.ReadDB(r.Context()).ExecContext(r.Context(), "INSERT INTO me VALUES ('x')")
		said = fmt.Sprint(err)
		tenantdb.WriteError(rw, r, err)
	}))
	if rec := do(h, request("ann", "acme")); rec.Code != 500 || !strings.Contains(said, "write with DB") {
		body, _ := io.ReadAll(rec.Body)
		t.Errorf("%d %s: %s; want 500 and an error that names DB", rec.Code, body, said)
	}
}
