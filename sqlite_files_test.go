package tenantdb_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
)

func TestSQLite_fileLockedByAnotherProgramIsBusy(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	acme := w.tenant("acme", w.user("ann"))
	other, err := sql.Open("sqlite", "file:"+w.sqliteFile(acme)+"?_txlock=immediate")
	must(t, err)
	defer other.Close()
	tx, err := other.BeginTx(t.Context(), nil)
	must(t, err)
	defer func() { _ = tx.Rollback() }()
	h := w.middleware(w.config()).Handler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, err := tenantdb.DB(r.Context()).ExecContext(r.Context(), "PRAGMA busy_timeout = 0")
		must(t, err)
		_, err = tenantdb.DB(r.Context()).ExecContext(r.Context(), "DELETE FROM me")
		tenantdb.WriteError(rw, r, err)
	}))
	if rec := do(h, request("ann", "acme")); rec.Code != 503 || code(t, rec) != "busy" {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
}

func TestSQLite_openFilesAreBounded(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{MaxOpenSQLite: 2, AcquireTimeout: 20 * time.Millisecond})
	ann := w.user("ann")
	for _, slug := range []string{"t1", "t2", "t3", "t4"} {
		w.tenant(slug, ann)
	}
	h := w.middleware(w.config()).Handler(http.HandlerFunc(whoami))
	for range 3 {
		for _, slug := range []string{"t1", "t2", "t3", "t4"} { // idle files are closed for others
			if rec := do(h, request("ann", slug)); rec.Body.String() != slug {
				t.Fatalf("%s: %d %s", slug, rec.Code, rec.Body)
			}
		}
	}
	var held []*sql.Tx
	for _, slug := range []string{"t1", "t2"} {
		lease, err := w.pool.Lease(w.bySlug(slug))
		must(t, err)
		defer lease.Release()
		must(t, lease.ReadDB().PingContext(t.Context()))
		tx, err := lease.DB().BeginTx(t.Context(), nil)
		must(t, err)
		held = append(held, tx)
	}
	rec := do(h, request("ann", "t3"))
	if rec.Code != 503 || code(t, rec) != "busy" || rec.Header().Get("Retry-After") == "" {
		t.Errorf("with every file in use: %d %s", rec.Code, rec.Body)
	}
	must(t, held[0].Rollback()) // its lease stays
	if rec := do(h, request("ann", "t3")); rec.Code != 200 {
		t.Errorf("after a transaction ended: %d %s", rec.Code, rec.Body)
	}
	must(t, held[1].Rollback())
	if stats := w.pool.Stats().SQLite; stats.Open > 2 {
		t.Errorf("%d files are open; want at most 2", stats.Open)
	}
}

func TestSQLite_requestsWithoutAStatementKeepNoFile(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{MaxOpenSQLite: 2})
	ann := w.user("ann")
	var leases []*tenantdb.Lease
	for i := range 8 {
		lease, err := w.pool.Lease(w.tenant(fmt.Sprint("t", i), ann))
		must(t, err)
		defer lease.Release()
		leases = append(leases, lease)
	}
	w.pool.Retire(w.bySlug("t0").ID) // still leased
	for range 3 {
		together(len(leases), func(i int) {
			for _, db := range []*sql.DB{leases[i].DB(), leases[i].ReadDB()} {
				var name string
				if err := db.QueryRowContext(t.Context(), "SELECT name FROM me").Scan(&name); err != nil ||
					name != fmt.Sprint("t", i) {
					t.Errorf("t%d: %q, %v", i, name, err)
				}
			}
		})
	}
	if stats := w.pool.Stats().SQLite; stats.Open > 2 {
		t.Errorf("%d files are open; want at most 2", stats.Open)
	}
}

func TestSQLite_waiterGetsTheFileThatIsFreed(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{MaxOpenSQLite: 1})
	ann := w.user("ann")
	first, second := w.tenant("t1", ann), w.tenant("t2", ann)
	lease, err := w.pool.Lease(first)
	must(t, err)
	tx, err := lease.DB().BeginTx(t.Context(), nil)
	must(t, err)
	defer lease.Release()
	waiter, err := w.pool.Lease(second)
	must(t, err)
	defer waiter.Release()
	got := make(chan error)
	go func() { got <- waiter.DB().PingContext(context.Background()) }()
	eventually(t, func() bool { return w.pool.Stats().SQLite.Waiting == 1 })
	must(t, tx.Rollback())
	must(t, <-got)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	third, err := w.pool.Lease(first)
	must(t, err)
	defer third.Release()
	if err := third.DB().PingContext(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled wait = %v", err)
	}
}

func TestSQLite_filesAreNeitherCreatedNorFollowed(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	acme := w.tenant("acme", w.user("ann"))
	dir := t.TempDir()
	link := filepath.Join(dir, "link.db")
	must(t, os.Symlink(w.sqliteFile(acme), link))
	odd := filepath.Join(dir, "a ?_pragma=x#%41.db")
	must(t, os.WriteFile(odd, nil, 0o600))
	for name, test := range map[string]struct {
		url string
		ok  bool
	}{
		"missing":              {"sqlite:" + hostdb.NewID() + ".db", false},
		"missing, absolute":    {"sqlite:" + filepath.Join(dir, "missing.db"), false},
		"a link":               {"sqlite:" + link, false},
		"a directory":          {"sqlite:" + dir, false},
		"a path upwards":       {"sqlite:../x.db", false},
		"another name":         {"sqlite:acme.db", false},
		"parameters":           {"sqlite:" + acme.ID + ".db?_pragma=x", false},
		"memory":               {"sqlite::memory:", false},
		"nothing":              {"sqlite:", false},
		"an odd absolute path": {"sqlite:" + odd, true},
	} {
		t.Run(name, func(t *testing.T) {
			tenant := &hostdb.TenantCatalog{ID: hostdb.NewID(), DBURL: hostdb.Secret(test.url)}
			lease, err := w.pool.Lease(tenant)
			if err == nil {
				defer lease.Release()
				err = lease.DB().PingContext(t.Context())
			}
			if test.ok != (err == nil) || err != nil && !errors.Is(err, tenantdb.ErrTenantUnavailable) {
				t.Errorf("%s: %v", test.url, err)
			}
			if err != nil && strings.Contains(err.Error(), dir) {
				t.Errorf("the error shows the path: %v", err)
			}
		})
	}
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		if strings.Contains(e.Name(), "missing") {
			t.Errorf("%s was created", e.Name())
		}
	}
}

func TestSQLite_readersRefuseWritesAndSeeCommittedOnes(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	lease, err := w.pool.Lease(w.tenant("acme", w.user("ann")))
	must(t, err)
	defer lease.Release()
	if _, err := lease.ReadDB().ExecContext(t.Context(), "INSERT INTO me (name) VALUES ('x')"); err == nil {
		t.Error("a reader wrote")
	}
	tx, err := lease.DB().BeginTx(t.Context(), nil)
	must(t, err)
	_, err = tx.ExecContext(t.Context(), "UPDATE me SET name = 'new'")
	must(t, err)
	read := func() (name string) {
		must(t, lease.ReadDB().QueryRowContext(t.Context(), "SELECT name FROM me").Scan(&name))
		return name
	}
	if got := read(); got != "acme" {
		t.Errorf("an uncommitted write is seen: %q", got)
	}
	must(t, tx.Commit())
	if got := read(); got != "new" {
		t.Errorf("a committed write is not seen: %q", got)
	}
}

func TestSQLite_concurrentWritersDoNotFail(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	lease, err := w.pool.Lease(w.tenant("acme", w.user("ann")))
	must(t, err)
	defer lease.Release()
	together(8, func(int) {
		for range 20 {
			tx, err := lease.DB().BeginTx(t.Context(), nil)
			must(t, err)
			var n int
			must(t, tx.QueryRowContext(t.Context(), "SELECT count(*) FROM me").Scan(&n))
			_, err = tx.ExecContext(t.Context(), "INSERT INTO me (name) VALUES ('x')")
			must(t, err)
			must(t, tx.Commit())
		}
	})
	var n int
	must(t, lease.DB().QueryRowContext(t.Context(), "SELECT count(*) FROM me").Scan(&n))
	if n != 161 {
		t.Errorf("%d rows; want 161", n)
	}
}

func TestSQLite_relativePathIsTheTenantsOwn(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	acme, globex := w.tenant("acme", w.user("ann")), w.tenant("globex", w.user("bob"))
	for url, ok := range map[hostdb.Secret]bool{
		acme.DBURL: true, globex.DBURL: false, hostdb.Secret("sqlite:./" + acme.ID + ".db"): false,
		hostdb.Secret("sqlite:" + w.sqliteFile(globex)): true,
	} {
		lease, err := w.pool.Lease(&hostdb.TenantCatalog{ID: acme.ID, DBURL: url})
		if ok != (err == nil) || err != nil && !errors.Is(err, tenantdb.ErrTenantUnavailable) {
			t.Errorf("%s: %v", url.Reveal(), err)
		}
		if err == nil {
			lease.Release()
		}
	}
	name := w.sqliteFile(acme)
	must(t, w.pool.Drain(t.Context(), acme.ID))
	must(t, os.Remove(name))
	must(t, os.Symlink(w.sqliteFile(globex), name))
	lease, err := w.pool.Lease(acme)
	must(t, err)
	defer lease.Release()
	if err := lease.DB().PingContext(t.Context()); !errors.Is(err, tenantdb.ErrTenantUnavailable) {
		t.Errorf("a symbolic link to another tenant's file = %v", err)
	}
}

func TestSQLite_nestedWriteIsNamed(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{AcquireTimeout: time.Minute})
	ctx, leave, err := w.middleware(w.config()).Enter(t.Context(), w.tenant("acme", w.user("ann")).ID)
	must(t, err)
	defer leave()
	tx, err := tenantdb.DB(ctx).BeginTx(ctx, nil)
	must(t, err)
	began := time.Now()
	_, err = tenantdb.DB(ctx).ExecContext(ctx, "UPDATE me SET name = name")
	if !errors.Is(err, tenantdb.ErrBusy) || !strings.Contains(err.Error(), "one connection that writes") ||
		time.Since(began) > 30*time.Second {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
	must(t, tx.Rollback())
	rows, err := tenantdb.DB(ctx).QueryContext(ctx, "SELECT name FROM me")
	must(t, err)
	for rows.Next() {
		_, err := tenantdb.DB(ctx).ExecContext(ctx, "UPDATE me SET name = name")
		if !errors.Is(err, tenantdb.ErrBusy) || !strings.Contains(err.Error(), "close the rows") ||
			!strings.Contains(err.Error(), "ReadDB") {
			t.Errorf("inside rows: %v", err)
		}
	}
	must(t, rows.Close())
	_, err = tenantdb.DB(ctx).ExecContext(ctx, "UPDATE me SET name = name")
	must(t, err)
}

// TestSQLite_oneTimeoutCoversConnectionAndFile has two callers of a tenant whose file can't be opened,
// because another tenant uses the only one allowed.
func TestSQLite_oneTimeoutCoversConnectionAndFile(t *testing.T) {
	dir := t.TempDir()
	var tenants []*hostdb.TenantCatalog
	for range 2 {
		id := hostdb.NewID()
		must(t, os.WriteFile(filepath.Join(dir, id+".db"), nil, 0o600))
		tenants = append(tenants, &hostdb.TenantCatalog{ID: id, DBURL: hostdb.Secret("sqlite:" + id + ".db")})
	}
	synctest.Test(t, func(t *testing.T) {
		pool, err := tenantdb.NewPool(tenantdb.PoolConfig{
			SQLiteDir: dir, MaxOpenSQLite: 1, AcquireTimeout: 10 * time.Second,
		})
		must(t, err)
		holder, err := pool.Lease(tenants[0])
		must(t, err)
		tx, err := holder.DB().BeginTx(t.Context(), nil)
		must(t, err)
		waiter, err := pool.Lease(tenants[1])
		must(t, err)
		together(2, func(i int) {
			// the second gets the connection when the first times out
			time.Sleep(time.Duration(i) * time.Second)
			began := time.Now()
			if err := waiter.DB().PingContext(t.Context()); !errors.Is(err, tenantdb.ErrBusy) ||
				time.Since(began) != 10*time.Second {
				t.Errorf("after %v: %v", time.Since(began), err)
			}
		})
		must(t, tx.Rollback())
		holder.Release()
		waiter.Release()
		must(t, pool.Close(t.Context()))
	})
}
