package tenantdb_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
)

// TestALeaseServesWhileItsTenantIsRetiredAndCrowdedOut has more tenants than the pool remembers, and retires
// them at random: every lease still reaches its own tenant's database, and in the end all have closed.
func TestALeaseServesWhileItsTenantIsRetiredAndCrowdedOut(t *testing.T) {
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

// readName looks whose database a lease on a tenant reaches.
func readName(ctx context.Context, pool *tenantdb.Pool, tenant *hostdb.TenantCatalog) error {
	lease, err := pool.Lease(tenant)
	if err != nil {
		return err
	}
	defer lease.Release()
	var name string
	if err := lease.DB().QueryRowContext(ctx, "SELECT name FROM me").Scan(&name); err != nil {
		return fmt.Errorf("%s: %w", tenant.Slug, err)
	}
	if name != tenant.Slug {
		return fmt.Errorf("%s reaches %s's database", tenant.Slug, name)
	}
	lease.Release() // twice does nothing
	return nil
}

func TestALeaseThatIsClosedClosesTheDatabaseOnceNobodyElseHoldsIt(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		acme := w.tenant("acme", w.user("ann"))
		first, err := w.pool.Lease(acme)
		must(t, err)
		second, err := w.pool.Lease(acme)
		must(t, err)
		handle := second.DB()
		must(t, handle.PingContext(t.Context()))
		first.Close()
		first.Close() // twice does nothing
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
		must(t, readName(t.Context(), w.pool, acme)) // who comes next opens it anew
	})
}

func TestASessionKeepsItsOneConnectionUntilItIsClosed(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		lease, err := w.pool.Lease(w.tenant("acme", w.user("ann")))
		must(t, err)
		defer lease.Release()
		session := lease.Session()
		for _, statement := range []string{"CREATE TEMP TABLE mine (n INTEGER)", "INSERT INTO mine VALUES (1)"} {
			_, err = session.ExecContext(ctx, statement)
			must(t, err)
		}
		var n int
		must(t, session.QueryRowContext(ctx, "SELECT count(*) FROM mine").Scan(&n))
		must(t, session.Close())
		if lease.PG() == nil { // SQLite's temporary tables live as long as the connection
			must(t, lease.DB().PingContext(ctx)) // which is free again
			return
		}
		if err := lease.DB().QueryRowContext(ctx, "SELECT count(*) FROM mine").Scan(&n); err == nil {
			t.Error("the session's temporary table reached the next borrower")
		}
	})
}
