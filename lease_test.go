package tenantdb_test

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
)

// TestLease_servesWhileItsTenantIsRetiredAndEvicted has more tenants than the pool keeps, and retires them at
// random. Every lease still reaches its own tenant's database, and in the end all have closed.
func TestLease_servesWhileItsTenantIsRetiredAndEvicted(t *testing.T) {
	t.Parallel()
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) {
			w := newWorld(t, engine, tenantdb.PoolConfig{MaxIdleTenants: 2, MaxOpenSQLite: 3})
			ann := w.user("ann")
			var tenants []*hostdb.TenantCatalog
			for i := range 6 {
				tenants = append(tenants, w.tenant(fmt.Sprint("t", i), ann))
			}
			together(8, func(worker int) {
				dice := rand.New(rand.NewPCG(1, uint64(worker)))
				for range 100 {
					tenant := tenants[dice.IntN(len(tenants))]
					if dice.IntN(4) == 0 {
						w.pool.Retire(tenant.ID)
					}
					if err := readName(t.Context(), w.pool, tenant); err != nil {
						t.Error(err)
						return
					}
				}
			})
			for _, tenant := range tenants {
				must(t, w.pool.Drain(t.Context(), tenant.ID))
			}
		})
	}
}

func TestLease_Close_closesTheDatabaseAfterTheLastLease(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		acme := w.tenant("acme", w.user("ann"))
		first, err := w.pool.Lease(acme)
		must(t, err)
		second, err := w.pool.Lease(acme)
		must(t, err)
		handle := second.DB()
		must(t, handle.PingContext(t.Context()))
		first.Close()
		first.Close() // a second call does nothing
		must(t, handle.PingContext(t.Context()))
		if n := w.pool.Stats().Tenants; n != 1 {
			t.Errorf("%d tenants while one lease is left", n)
		}
		second.Close()
		if !isClosed(handle) {
			t.Error("the handle outlived its last lease")
		}
		if stats := w.pool.Stats(); stats.Tenants != 0 || stats.SQLite.Open != 0 {
			t.Errorf("left: %+v", stats)
		}
		must(t, readName(t.Context(), w.pool, acme)) // the next lease reopens it
	})
}

func TestLease_Session_keepsOneConnectionUntilItIsClosed(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		lease, err := w.pool.Lease(w.tenant("acme", w.user("ann")))
		must(t, err)
		defer lease.Release()
		session := lease.Session()
		for _, statement := range []string{
			"CREATE TEMP TABLE mine (n INTEGER)", "INSERT INTO mine VALUES (1)",
		} {
			_, err = session.ExecContext(ctx, statement)
			must(t, err)
		}
		var n int
		must(t, session.QueryRowContext(ctx, "SELECT count(*) FROM mine").Scan(&n))
		must(t, session.Close())
		if lease.PG() == nil { // SQLite's temporary tables live as long as the connection
			must(t, lease.DB().PingContext(ctx)) // the connection is free again
			return
		}
		if err := lease.DB().QueryRowContext(ctx, "SELECT count(*) FROM mine").Scan(&n); err == nil {
			t.Error("the session's temporary table reached the next borrower")
		}
	})
}

func TestLease_Session_keepsWhatMigrationsNeed(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	lease := sqliteLease(t, w, "acme")
	fresh := sqliteSession(t, lease.DB())
	session := lease.Session()
	for _, statement := range []string{
		"PRAGMA foreign_keys = OFF", "PRAGMA legacy_alter_table = ON", "CREATE TEMP TABLE moved (n)",
		"DROP TABLE moved",
		"PRAGMA writable_schema = ON", "UPDATE sqlite_schema SET sql = sql WHERE name = 'me'",
		"-- compact\nVACUUM;",
	} {
		_, err := session.ExecContext(t.Context(), statement)
		must(t, err)
	}
	var keys int
	must(t, session.QueryRowContext(t.Context(), "PRAGMA foreign_keys").Scan(&keys))
	if keys != 0 {
		t.Error("the session forgot what it set")
	}
	must(t, session.Close())
	if got := sqliteSession(t, lease.DB()); got != fresh {
		t.Errorf("after the session a request finds\n%s\nwant\n%s", got, fresh)
	}
}

func TestLease_Vacuum_shrinksTheDatabase(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		lease, err := w.pool.Lease(w.tenant("acme", w.user("ann")))
		must(t, err)
		defer lease.Release()
		if w.engine == "postgres" {
			must(t, lease.Vacuum(t.Context()))
			return
		}
		_, err = lease.DB().ExecContext(t.Context(),
			"CREATE TABLE big AS SELECT zeroblob(1000000) AS b; DROP TABLE big")
		must(t, err)
		pages := func() (n int) {
			must(t, lease.DB().QueryRowContext(t.Context(), "PRAGMA page_count").Scan(&n))
			return n
		}
		before := pages()
		must(t, lease.Vacuum(t.Context()))
		if after := pages(); after >= before {
			t.Errorf("%d pages after, %d before", after, before)
		}
	})
}

// TestLease_servesAnyContext uses a lease with contexts of a sign-up that provisions a tenant, and of an
// operator's request.
func TestLease_servesAnyContext(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		s := scopesOf(t, w)
		lease, err := w.pool.Lease(s.acmeTenant)
		must(t, err)
		defer lease.Release()
		session := lease.Session()
		for _, ctx := range []context.Context{s.own, s.other, s.signedIn, s.anonymous, t.Context()} {
			for _, db := range []*sql.DB{lease.DB(), lease.ReadDB(), session} {
				must(t, readAll(db.QueryContext(ctx, "SELECT name FROM me")))
			}
			must(t, session.Close())
			session = lease.Session()
			if pg := lease.PG(); pg != nil {
				must(t, pgxQueries(pg)(ctx))
			}
		}
		must(t, session.Close())
	})
}

func TestLease_handlesAreItsOwn(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		acme := w.tenant("acme", w.user("ann"))
		one, err := w.pool.Lease(acme)
		must(t, err)
		other, err := w.pool.Lease(acme)
		must(t, err)
		defer other.Release()
		db := one.DB()
		must(t, other.DB().Close())
		must(t, db.PingContext(t.Context()))
		must(t, other.DB().PingContext(t.Context()))
		one.Release()
		if !isClosed(db) || !isClosed(one.DB()) || !isClosed(one.ReadDB()) {
			t.Error("a handle outlives its lease")
		}
	})
}
