package tenantdb_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
)

func TestPool_Stats_describesServersAndTenants(t *testing.T) {
	w := newWorld(t, "postgres", tenantdb.PoolConfig{MaxConns: 2, MaxConnsPerTenant: 1})
	ann := w.user("ann")
	acme, other := w.tenant("acme", ann), w.tenant("other", ann)
	mw := w.middleware(w.config())
	ctx, leave, err := mw.Enter(t.Context(), acme.ID)
	must(t, err)
	c, err := tenantdb.PG(ctx).Acquire(ctx)
	must(t, err)
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := tenantdb.PG(ctx).Acquire(short); !errors.Is(err, tenantdb.ErrBusy) {
		t.Fatalf("a second connection at a cap of one = %v", err)
	}
	stats, tenants := mw.Stats().Pool, w.pool.TenantStats(acme.ID, hostdb.NewID())
	if len(stats.Servers) != 1 || len(tenants) != 1 {
		t.Fatalf("%+v, %+v; want one server and one tenant", stats, tenants)
	}
	s, a := stats.Servers[0], tenants[0]
	if stats.Tenants != 2 || stats.Leased != 1 || s.Budget != 2 || s.Leased != 1 || s.Waiting != 0 ||
		s.Refusals != 1 || s.Breaker != "closed" {
		t.Errorf("the pool: %+v", stats)
	}
	if a.TenantID != acme.ID || a.Server != s.Server || a.Leases != 1 || a.Leased != 1 || a.Idle != 0 ||
		a.Refusals != 1 || a.Opens != 1 {
		t.Errorf("the tenant: %+v", a)
	}
	var waits uint64
	for _, n := range a.Waits {
		waits += n
	}
	if waits != 2 { // the open and the refusal
		t.Errorf("%d waits: %v", waits, a.Waits)
	}
	c.Release()
	leave()
	stats, tenants = w.pool.Stats(), w.pool.TenantStats()
	if s := stats.Servers[0]; stats.Leased != 0 || s.Leased != 0 || s.Idle != 2 || len(tenants) != 2 ||
		tenants[0].Idle != 1 || tenants[1].Idle != 1 {
		t.Errorf("at rest: %+v, %+v", stats, tenants)
	}
	text := fmt.Sprintf("%+v %+v", mw.Stats(), tenants)
	for _, secret := range []string{acme.DBURL.Reveal(), other.DBURL.Reveal(), "pgtest", "postgres:"} {
		if strings.Contains(text, secret) {
			t.Errorf("the figures show %q", secret)
		}
	}
}

func TestPool_Stats_describesSQLiteFiles(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{MaxOpenSQLite: 1})
	ann := w.user("ann")
	first := w.tenant("t1", ann)
	w.tenant("t2", ann) // closes the first
	if s := w.pool.Stats().SQLite; s.Open != 1 || s.MaxOpen != 1 || s.Evictions != 1 || s.Opens != 2 {
		t.Errorf("the files: %+v", s)
	}
	lease, err := w.pool.Lease(first)
	must(t, err)
	defer lease.Release()
	tx, err := lease.DB().BeginTx(t.Context(), nil)
	must(t, err)
	if s := w.pool.TenantStats(first.ID); len(s) != 1 || s[0].Leases != 1 || s[0].Leased != 1 ||
		s[0].Server != "" {
		t.Errorf("in a transaction: %+v", s)
	}
	must(t, tx.Rollback())
	if s := w.pool.TenantStats(first.ID); len(s) != 1 || s[0].Leased != 0 || s[0].Idle != 1 {
		t.Errorf("after it: %+v", s)
	}
}

func TestPool_processesDivideTheBudget(t *testing.T) {
	const here, there = "db1.example.com:5432", "db2.example.com:6432"
	pool, err := tenantdb.NewPool(tenantdb.PoolConfig{
		MaxConns: 80, Processes: 3, Budgets: map[string]int{there: 31},
	})
	must(t, err)
	for _, server := range []string{here, there} {
		lease, err := pool.Lease(&hostdb.TenantCatalog{
			ID: hostdb.NewID(), DBURL: hostdb.Secret("postgres://app:secret@" + server + "/x"),
		})
		must(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, _ = lease.PG().Acquire(ctx)
		lease.Release()
	}
	got := map[string]int{}
	for _, s := range pool.Stats().Servers {
		got[s.Server] = s.Budget
	}
	if len(got) != 2 || got[here] != 26 || got[there] != 10 {
		t.Errorf("budgets of each of three processes: %v; want 80/3 and 31/3, rounded down", got)
	}
	must(t, pool.Close(t.Context()))
}
