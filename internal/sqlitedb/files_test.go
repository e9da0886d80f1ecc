package sqlitedb_test

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb/internal/checkout"
	"github.com/tenantdb/tenantdb/internal/refusal"
	"github.com/tenantdb/tenantdb/internal/sqlitedb"
)

// must fails the test on an error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// rig is Files with tenants whose files exist.
type rig struct {
	*testing.T
	files *sqlitedb.Files
	dir   string

	mu     sync.Mutex
	rested []string // the tenants that Config.OnEvicted was called for
}

// newRig returns a rig. A zero configuration has two readers for each file, and waits long.
func newRig(t *testing.T, cfg sqlitedb.Config) *rig {
	r := &rig{T: t, dir: t.TempDir()}
	cfg.Dir = r.dir
	if cfg.Readers == 0 {
		cfg.Readers = 2
	}
	if cfg.AcquireTimeout == 0 {
		cfg.AcquireTimeout = 15 * time.Second
	}
	also := cfg.OnEvicted
	cfg.OnEvicted = func(id string) {
		r.mu.Lock()
		r.rested = append(r.rested, id)
		r.mu.Unlock()
		if also != nil {
			also(id)
		}
	}
	r.files = sqlitedb.New(cfg)
	return r
}

// database is a tenant's database, and the tenant.
type database struct {
	*sqlitedb.DB
	rig    *rig
	tenant *checkout.Tenant
}

// database makes a tenant with an empty file. The database closes when the test ends.
func (r *rig) database(id string) *database {
	r.Helper()
	path := filepath.Join(r.dir, id+"-file")
	must(r, os.WriteFile(path, nil, 0o600))
	tenant := &checkout.Tenant{ID: id, Pool: new(checkout.Pool)}
	db, err := r.files.Open(tenant, path)
	must(r, err)
	r.Cleanup(db.Close)
	return &database{db, r, tenant}
}

// databases makes as many.
func (r *rig) databases(n int) (list []*database) {
	r.Helper()
	for i := range n {
		list = append(list, r.database(fmt.Sprint("t", i)))
	}
	return list
}

// lease begins a lease, and returns what ends it.
func (d *database) lease() (end func()) {
	p, ok := d.tenant.Leases.Retain()
	if !ok {
		d.rig.Fatal("the tenant has no lease any more")
	}
	return func() {
		d.tenant.Release(p)
	}
}

// lend returns the connection that writes.
func (d *database) lend() (driver.Conn, error) {
	return d.Writer().CheckOut(context.Background(), checkout.ForLeases)
}

// use runs a statement on the file with a lease of its own.
func (d *database) use() error {
	defer d.lease()()
	conn, err := d.lend()
	if err != nil {
		return err
	}
	defer conn.Close()
	return exec(conn, "CREATE TABLE IF NOT EXISTS t (x)")
}

// exec runs a statement.
func exec(conn driver.Conn, text string) error {
	_, err := conn.(driver.ExecerContext).ExecContext(context.Background(), text, nil)
	return err
}

// waiting returns once so many callers wait for a place.
func (r *rig) waiting(n int) {
	r.Helper()
	for end := time.Now().Add(10 * time.Second); r.files.Stats().Waiting != n; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			r.Fatalf("%d callers wait; want %d", r.files.Stats().Waiting, n)
		}
	}
}

// wantRested compares the tenants whose files were closed to make room.
func (r *rig) wantRested(want ...string) {
	r.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(r.rested, want) {
		r.Errorf("closed to make room: %v; want %v", r.rested, want)
	}
}

// The order of eviction is random within each of its passes, so the tests of the order try this often.
const tries = 8

func TestFiles_aUsedFileHasASecondChance(t *testing.T) {
	for range tries {
		r := newRig(t, sqlitedb.Config{MaxOpen: 3})
		dbs := r.databases(5)
		for _, d := range dbs[:4] {
			must(t, d.use())
		}
		// One of the first three was closed for the fourth. The marks of the other two were taken.
		old := slices.DeleteFunc(slices.Clone(dbs[:3]), func(d *database) bool { return d.Idle() })
		if len(old) != 2 {
			t.Fatalf("%d of the first three files are open; want 2", len(old))
		}
		must(t, old[0].use())
		must(t, dbs[4].use())
		if old[0].Idle() || dbs[3].Idle() || !old[1].Idle() {
			t.Fatal("a file that was used closed before one that wasn't")
		}
		if len(r.rested) != 2 || r.rested[1] != old[1].tenant.ID {
			t.Fatalf("OnEvicted was called for %v", r.rested)
		}
	}
}

func TestFiles_aFileWithoutALeaseClosesFirst(t *testing.T) {
	for range tries {
		r := newRig(t, sqlitedb.Config{MaxOpen: 2})
		leased, other, third := r.database("leased"), r.database("other"), r.database("third")
		defer leased.lease()()
		must(t, other.use())
		must(t, leased.use())
		must(t, third.use())
		r.wantRested("other")
	}
}

func TestFiles_aLeasedFileClosesIfNothingRunsOnIt(t *testing.T) {
	r := newRig(t, sqlitedb.Config{MaxOpen: 1})
	dbs := r.databases(2)
	for _, d := range dbs {
		defer d.lease()()
	}
	for range 2 {
		for _, d := range dbs {
			must(t, d.use())
		}
	}
	r.wantRested("t0", "t1", "t0")
	if s := r.files.Stats(); s.Open != 1 || s.MaxOpen != 1 || s.Opens != 4 || s.Evictions != 3 {
		t.Errorf("Stats() = %+v; want 1 file open of 1, 4 opens and 3 evictions", s)
	}
}

func TestFiles_aFileInUseIsNotClosed(t *testing.T) {
	r := newRig(t, sqlitedb.Config{MaxOpen: 2, AcquireTimeout: 20 * time.Millisecond})
	dbs := r.databases(4)
	busy := dbs[0]
	must(t, busy.use())
	defer busy.lease()()
	conn, err := busy.lend()
	must(t, err)
	tx, err := conn.(driver.ConnBeginTx).BeginTx(t.Context(), driver.TxOptions{})
	must(t, err)
	must(t, exec(conn, "INSERT INTO t VALUES (1)"))
	for range tries {
		for _, d := range dbs[1:] {
			must(t, d.use())
			if busy.Idle() {
				t.Fatal("a file closed although a transaction was open")
			}
		}
	}
	end := dbs[1].lease()
	second, err := dbs[1].lend()
	must(t, err)
	if err := dbs[2].use(); !errors.Is(err, refusal.Busy) || !strings.Contains(err.Error(), "MaxOpenSQLite") {
		t.Errorf("with every file in use: %v; want Busy", err)
	}
	must(t, second.Close())
	end()
	must(t, dbs[2].use())
	must(t, tx.Commit())
	must(t, conn.Close())
}

func TestFiles_callersThatWaitGetAPlace(t *testing.T) {
	const others = 5
	for name, free := range map[string]func(*database, driver.Conn){
		"connection returned": func(_ *database, c driver.Conn) { _ = c.Close() },
		"database closed":     func(d *database, _ driver.Conn) { d.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, sqlitedb.Config{MaxOpen: 1})
			dbs := r.databases(1 + others)
			defer dbs[0].lease()()
			conn, err := dbs[0].lend()
			must(t, err)
			done := make(chan error, others)
			for _, d := range dbs[1:] {
				go func() { done <- d.use() }()
			}
			r.waiting(others)
			free(dbs[0], conn)
			for range others {
				must(t, <-done)
			}
			r.waiting(0)
			if s := r.files.Stats(); s.Open != 1 || s.Opens != 1+others {
				t.Errorf("Stats() = %+v; want 1 file open and %d opens", s, 1+others)
			}
			_ = conn.Close()
		})
	}
}

func TestFiles_aCallerThatWaitsGivesUpWithItsContext(t *testing.T) {
	r := newRig(t, sqlitedb.Config{MaxOpen: 1})
	dbs := r.databases(2)
	for _, d := range dbs {
		defer d.lease()()
	}
	conn, err := dbs[0].lend()
	must(t, err)
	defer conn.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := dbs[1].Reader().CheckOut(ctx, checkout.ForLeases)
		done <- err
	}()
	r.waiting(1)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("CheckOut = %v; want context.Canceled", err)
	}
	if s := dbs[1].Stats(); s.Leased != 0 || !dbs[1].Idle() {
		t.Errorf("%d connections are leased to a caller that gave up", s.Leased)
	}
}

func TestFiles_RestedIsCalledAfterTheFileClosed(t *testing.T) {
	var r *rig
	var first *database
	calls := 0
	r = newRig(t, sqlitedb.Config{MaxOpen: 1, OnEvicted: func(id string) {
		calls++
		if s := first.Stats(); id != "first" || !first.Idle() || s.Idle != 0 || r.files.Stats().Open != 0 {
			t.Errorf("OnEvicted(%s) with %d connections open", id, s.Idle)
		}
		first.Close() // as its owner may do
	}})
	first = r.database("first")
	must(t, first.use())
	if s := first.Stats(); s.Idle != 1 || first.Idle() {
		t.Fatalf("%d connections are idle; want 1", s.Idle)
	}
	must(t, r.database("second").use())
	if calls != 1 {
		t.Errorf("OnEvicted was called %d times; want once", calls)
	}
}

func TestFiles_theBoundHoldsWhateverHappensAtOnce(t *testing.T) {
	const most, callers, rounds = 3, 8, 40
	r := newRig(t, sqlitedb.Config{MaxOpen: most})
	dbs := r.databases(2 * most)
	for _, d := range dbs {
		must(t, d.use())
	}
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for j := range rounds {
				d := dbs[(i*7+j*(i+1))%len(dbs)]
				if err := d.use(); err != nil {
					t.Errorf("%s: %v", d.tenant.ID, err)
				}
				if s := r.files.Stats(); s.Open > most {
					t.Errorf("%d files are open; want at most %d", s.Open, most)
				}
			}
		})
	}
	wg.Wait()
	s, open := r.files.Stats(), 0
	for _, d := range dbs {
		if !d.Idle() {
			open++
		} else if n := d.Stats().Idle; n != 0 {
			t.Errorf("%s has %d connections and no place", d.tenant.ID, n)
		}
	}
	if open != s.Open || s.Opens != s.Evictions+uint64(open) || s.Evictions != uint64(len(r.rested)) {
		t.Errorf("Stats() = %+v with %d files open, and %d calls of OnEvicted", s, open, len(r.rested))
	}
	for _, d := range dbs {
		d.Close()
	}
	if s := r.files.Stats(); s.Open != 0 {
		t.Errorf("%d files are open after all were closed", s.Open)
	}
}

func TestFiles_OpenTakesARelativePathOfTheTenantOnly(t *testing.T) {
	const id = "0193b7c0000070008000000000000001"
	r := newRig(t, sqlitedb.Config{MaxOpen: 1})
	for path, ok := range map[string]bool{
		id + ".db":                       true,
		filepath.Join(r.dir, "other.db"): true,
		"other.db":                       false,
		"../" + id + ".db":               false,
	} {
		db, err := r.files.Open(&checkout.Tenant{ID: id}, path)
		if ok != (err == nil) {
			t.Errorf("Open(%q) = %v", path, err)
		} else if ok && db.Target().Reveal() != "sqlite:"+path {
			t.Errorf("Target() = %q; want sqlite:%s", db.Target().Reveal(), path)
		}
	}
	if _, err := r.files.Open(&checkout.Tenant{ID: ".."}, "...db"); err == nil {
		t.Error("Open takes a relative path of a tenant whose id is invalid")
	}
}

func TestDB_CloseEndsItForWhoeverComesLater(t *testing.T) {
	r := newRig(t, sqlitedb.Config{MaxOpen: 1})
	d := r.database("acme")
	must(t, d.use())
	defer d.lease()()
	conn, err := d.lend()
	must(t, err)
	d.Close()
	must(t, exec(conn, "INSERT INTO t VALUES (1)")) // it was there before
	must(t, conn.Close())
	if s := d.Stats(); s.Idle != 0 || s.Leased != 0 || !d.Idle() {
		t.Errorf("Stats() = %+v after the last connection was returned", s)
	}
	_, err = d.lend()
	if !errors.Is(err, refusal.TenantUnavailable) || !errors.Is(err, refusal.ErrPoolClosed) {
		t.Errorf("CheckOut = %v; want TenantUnavailable, as the pool is closed", err)
	}
}
