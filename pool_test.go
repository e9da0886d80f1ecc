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
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
)

func TestRequestsThatArriveTogetherShareOneDatabase(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		w.tenant("acme", w.user("ann"))
		w.pool.Retire(w.bySlug("acme").ID)
		first, second := w.middleware(w.config()), w.middleware(w.config()) // one pool, two middlewares
		var opened atomic.Int32
		h := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			must(t, tenantdb.DB(r.Context()).PingContext(r.Context()))
			_, err := tenantdb.Cached(r.Context(), "of the database", func(*tenantdb.Scope) (int32, func(), error) { return opened.Add(1), nil, nil })
			must(t, err)
		})
		together(40, func(i int) {
			mw := first
			if i%2 == 1 {
				mw = second
			}
			do(mw.Handler(h), request("ann", "acme"))
		})
		if n := opened.Load(); n != 1 {
			t.Errorf("a tenant has %d databases", n)
		}
	})
}

func (w *world) bySlug(slug string) *hostdb.TenantCatalog {
	w.t.Helper()
	tenant, err := w.host.Tenants.BySlug(w.t.Context(), slug)
	must(w.t, err)
	return tenant
}

func TestAMovedTenantGetsANewGeneration(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ann := w.user("ann")
		acme, other := w.tenant("acme", ann), w.tenant("other", ann)
		old, err := w.pool.Lease(acme)
		must(t, err)
		moved := *acme
		moved.DBURL = other.DBURL
		if w.engine == "sqlite" { // a relative path is the tenant's own
			moved.DBURL = hostdb.Secret("sqlite:" + w.sqliteFile(other))
		}
		fresh, err := w.pool.Lease(&moved)
		must(t, err)
		defer fresh.Release()
		before := "acme" // a file stays open for those who hold it
		if w.engine == "postgres" {
			before = "other" // no connection of the old generation is handed out again
		}
		for lease, want := range map[*tenantdb.Lease]string{old: before, fresh: "other"} {
			var name string
			must(t, lease.DB().QueryRowContext(t.Context(), "SELECT name FROM me").Scan(&name))
			if name != want {
				t.Errorf("read %q; want %q", name, want)
			}
		}
		db := old.Session() // which isn't closed with the lease
		defer db.Close()
		old.Release()
		old.Release() // twice is harmless
		if err := db.PingContext(t.Context()); err == nil {
			t.Error("the old generation is open after its last lease")
		}
	})
}

func TestCloseWaitsForLeasesAndNamesWhoHoldsThem(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		acme := w.tenant("acme", w.user("ann"))
		pool, err := tenantdb.NewPool(tenantdb.PoolConfig{SQLiteDir: filepath.Dir(w.sqliteFile(acme))})
		must(t, err)
		lease, err := pool.Lease(acme)
		must(t, err)
		must(t, lease.DB().PingContext(t.Context()))
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if err := pool.Close(ctx); err == nil || !strings.Contains(err.Error(), acme.ID) {
			t.Errorf("Close with a lease = %v; want the holder's name", err)
		}
		if err := lease.DB().PingContext(t.Context()); err == nil {
			t.Error("the database is open after a forced close")
		}
		lease.Release()
		if _, err := pool.Lease(acme); !errors.Is(err, tenantdb.ErrTenantUnavailable) {
			t.Errorf("Lease after Close = %v", err)
		}
		must(t, pool.Close(t.Context()))
	})
}

// sqliteFile is where a SQLite tenant's file is, some path on PostgreSQL.
func (w *world) sqliteFile(tenant *hostdb.TenantCatalog) string {
	root, err := w.pool.SQLiteRoot()
	must(w.t, err)
	defer root.Close()
	return filepath.Join(root.Name(), tenant.ID+".db")
}

func TestOpenSQLiteFilesAreBounded(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{MaxOpenSQLite: 2, AcquireTimeout: 20 * time.Millisecond})
	ann := w.user("ann")
	for _, slug := range []string{"t1", "t2", "t3", "t4"} {
		w.tenant(slug, ann)
	}
	h := w.middleware(w.config()).Handler(http.HandlerFunc(whoami))
	for range 3 {
		for _, slug := range []string{"t1", "t2", "t3", "t4"} { // idle files close for others
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
	must(t, held[0].Rollback()) // its lease goes on
	if rec := do(h, request("ann", "t3")); rec.Code != 200 {
		t.Errorf("after a transaction ended: %d %s", rec.Code, rec.Body)
	}
	must(t, held[1].Rollback())
	if stats := w.pool.Stats().SQLite; stats.Open > 2 {
		t.Errorf("%d files are open; want at most 2", stats.Open)
	}
}

func TestSlowRequestsWithoutAStatementKeepNoSQLiteFile(t *testing.T) {
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
				if err := db.QueryRowContext(t.Context(), "SELECT name FROM me").Scan(&name); err != nil || name != fmt.Sprint("t", i) {
					t.Errorf("t%d: %q, %v", i, name, err)
				}
			}
		})
	}
	if stats := w.pool.Stats().SQLite; stats.Open > 2 {
		t.Errorf("%d files are open; want at most 2", stats.Open)
	}
}

func TestWhoWaitsForASQLiteFileGetsTheOneThatComesFree(t *testing.T) {
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

func TestSQLiteFilesAreNeverCreatedNorFollowed(t *testing.T) {
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

func TestSQLiteReadersRefuseWritesAndSeeCommittedOnes(t *testing.T) {
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

func TestConcurrentSQLiteWritersDoNotFail(t *testing.T) {
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

func TestCachedBuildsOnceAndGoesWithTheDatabase(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		acme := w.tenant("acme", w.user("ann"))
		mw := w.middleware(w.config())
		var built, closed atomic.Int32
		get := func(ctx context.Context) (*string, error) {
			return tenantdb.Cached(ctx, "greeting", func(s *tenantdb.Scope) (*string, func(), error) {
				built.Add(1)
				text := "hello " + s.Tenant.Slug
				return &text, func() { closed.Add(1) }, nil
			})
		}
		h := mw.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if v, err := get(r.Context()); err != nil || *v != "hello acme" {
				t.Errorf("Cached = %v, %v", v, err)
			}
		}))
		together(20, func(int) { do(h, request("ann", "acme")) })
		if built.Load() != 1 || closed.Load() != 0 {
			t.Errorf("built %d, closed %d; want 1, 0", built.Load(), closed.Load())
		}
		ctx, leave, err := mw.Enter(t.Context(), acme.ID)
		must(t, err)
		if _, err := tenantdb.Cached(ctx, "greeting", func(*tenantdb.Scope) (int, func(), error) { return 1, nil, nil }); err == nil {
			t.Error("one key held two types")
		}
		failing := errors.New("no")
		for range 2 {
			if _, err := tenantdb.Cached(ctx, "fails", func(*tenantdb.Scope) (int, func(), error) { return 0, nil, failing }); !errors.Is(err, failing) {
				t.Errorf("a failed build = %v", err)
			}
		}
		w.pool.Retire(acme.ID)
		if closed.Load() != 0 {
			t.Error("closed under a lease")
		}
		leave()
		if closed.Load() != 1 {
			t.Error("not closed with the database")
		}
	})
}

func TestCachedBuildsNothingThatNobodyWouldClose(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		acme := w.tenant("acme", w.user("ann"))
		ctx, leave, err := w.middleware(w.config()).Enter(t.Context(), acme.ID)
		must(t, err)
		leave()
		must(t, w.pool.Drain(t.Context(), acme.ID))
		build := func(*tenantdb.Scope) (int, func(), error) { t.Error("built"); return 1, nil, nil }
		if _, err := tenantdb.Cached(ctx, "late", build); !errors.Is(err, tenantdb.ErrTenantUnavailable) {
			t.Errorf("Cached after the scope's end and the database's = %v", err)
		}
	})
}

func TestAPanickingCloserKeepsNothingOpen(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		acme := w.tenant("acme", w.user("ann"))
		ctx, leave, err := w.middleware(w.config()).Enter(t.Context(), acme.ID)
		must(t, err)
		closed := false
		for key, closer := range map[string]func(){"a": func() { panic("boom") }, "b": func() { closed = true }, "c": func() { panic("boom") }} {
			_, err := tenantdb.Cached(ctx, key, func(*tenantdb.Scope) (int, func(), error) { return 1, closer, nil })
			must(t, err)
		}
		leave()
		must(t, w.pool.Drain(t.Context(), acme.ID))
		if !closed {
			t.Error("one closer's panic spared another")
		}
	})
}

func TestWhoWaitsForABuildLeavesWithItsContext(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	acme := w.tenant("acme", w.user("ann"))
	mw := w.middleware(w.config())
	ctx, leave, err := mw.Enter(t.Context(), acme.ID)
	must(t, err)
	defer leave()
	building, finish, built := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(built)
		_, _ = tenantdb.Cached(ctx, "slow", func(*tenantdb.Scope) (int, func(), error) { close(building); <-finish; return 1, nil, nil })
	}()
	<-building
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := tenantdb.Cached(gone, "slow", func(*tenantdb.Scope) (int, func(), error) { return 2, nil, nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("Cached = %v", err)
	}
	close(finish)
	<-built
}

func TestATransactionOfTheHandlersOwnDoesNotReachTheNext(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		lease, err := w.pool.Lease(w.tenant("acme", w.user("ann")))
		must(t, err)
		defer lease.Release()
		conn, err := lease.DB().Conn(t.Context())
		must(t, err)
		for _, statement := range []string{"BEGIN", "UPDATE me SET name = 'half'"} {
			_, err = conn.ExecContext(t.Context(), statement)
			must(t, err)
		}
		must(t, conn.Close())
		var name string
		must(t, lease.DB().QueryRowContext(t.Context(), "SELECT name FROM me").Scan(&name))
		if name != "acme" {
			t.Errorf("read %q out of a transaction that nobody committed", name)
		}
	})
}

func TestPGSpeaksPgx(t *testing.T) {
	w := newWorld(t, "postgres", tenantdb.PoolConfig{MaxConns: 4, AcquireTimeout: 2 * time.Second})
	acme := w.tenant("acme", w.user("ann"))
	ctx, leave, err := w.middleware(w.config()).Enter(t.Context(), acme.ID)
	must(t, err)
	defer leave()
	pg := tenantdb.PG(ctx)
	for range 30 { // a connection that isn't given back would be missed before the end
		var name string
		must(t, pg.QueryRow(ctx, "SELECT name FROM me").Scan(&name))
		_, err := pg.Exec(ctx, "CREATE TABLE IF NOT EXISTS bulk (n int)")
		must(t, err)
		n, err := pg.CopyFrom(ctx, pgx.Identifier{"bulk"}, []string{"n"}, pgx.CopyFromRows([][]any{{1}, {2}}))
		if err != nil || n != 2 {
			t.Fatalf("CopyFrom = %d, %v", n, err)
		}
		rows, err := pg.Query(ctx, "SELECT n FROM bulk")
		must(t, err)
		_, err = pgx.CollectRows(rows, pgx.RowTo[int])
		must(t, err)
		rows, err = pg.Query(ctx, "SELECT n FROM bulk")
		must(t, err)
		rows.Close() // unread
		if _, err := pg.Query(ctx, "SELECT nonsense FROM bulk"); err == nil {
			rows.Close()
		}
		if err := pg.QueryRow(ctx, "SELECT n FROM bulk WHERE n = 3").Scan(&n); !errors.Is(err, pgx.ErrNoRows) {
			t.Fatalf("no row = %v", err)
		}
		batch := &pgx.Batch{}
		batch.Queue("DELETE FROM bulk")
		must(t, pg.SendBatch(ctx, batch).Close())
		tx, err := pg.Begin(ctx)
		must(t, err)
		_, err = tx.Exec(ctx, "INSERT INTO bulk VALUES (1)")
		must(t, err)
		must(t, tx.Rollback(ctx))
		if err := tx.Rollback(ctx); !errors.Is(err, pgx.ErrTxClosed) {
			t.Fatalf("a second rollback = %v", err)
		}
		c, err := pg.Acquire(ctx)
		must(t, err)
		must(t, c.Conn().Ping(ctx))
		c.Release()
		c.Release() // twice is harmless
	}
	if lease, err := w.pool.Lease(acme); err != nil || lease.DB() != lease.ReadDB() {
		t.Errorf("ReadDB on PostgreSQL isn't DB: %v", err)
	} else {
		lease.Release()
	}
}
