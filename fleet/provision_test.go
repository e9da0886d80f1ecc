package fleet_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/fleet"
	"github.com/tenantdb/tenantdb/hostdb"
)

// existing sums a count over the tenants in the catalog.
func (w *world) existing(t *testing.T, query string) int {
	t.Helper()
	conn := w.connect(t)
	tenants, err := w.host.Tenants.List(t.Context())
	must(t, err)
	n := 0
	for _, tenant := range tenants {
		var found int
		must(t, conn.QueryRow(t.Context(), query, "tenant_"+tenant.ID).Scan(&found))
		n += found
	}
	return n
}

func TestProvision_opensTenantAndDropRemovesIt(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		f := w.fleet(t, schema)
		tenant, err := f.Provision(t.Context(), fleet.Spec{Slug: "acme",
			Name: "Acme Inc.", OwnerID: w.owner.ID})
		must(t, err)
		row, err := w.host.Tenants.Get(t.Context(), tenant.ID)
		must(t, err)
		if !row.Open() || row.Slug != "acme" || row.Name != "Acme Inc." || row.SchemaVersion != 2 ||
			row.PlanTier != "free" {
			t.Errorf("row = %+v", row)
		}
		members, err := w.host.Memberships.List(t.Context(), hostdb.Where("tenant_id", tenant.ID))
		must(t, err)
		if len(members) != 1 || members[0].UserID != w.owner.ID ||
			members[0].Role != hostdb.RoleOwner || !members[0].IsActive {
			t.Errorf("members = %+v", members)
		}
		lease, err := w.pool.Lease(row)
		must(t, err)
		_, err = lease.DB().ExecContext(t.Context(), "INSERT INTO notes (body, author) VALUES ('x', 'y')")
		must(t, err)
		lease.Release()
		if _, err := f.Provision(t.Context(), fleet.Spec{Slug: "acme", OwnerID: w.owner.ID}); !errors.Is(err,
			hostdb.ErrConflict) {
			t.Errorf("a slug twice: %v", err)
		}
		must(t, f.Drop(t.Context(), tenant.ID))
		must(t, f.Drop(t.Context(), tenant.ID))
		row, err = w.host.Tenants.Get(t.Context(), tenant.ID)
		must(t, err)
		if row.Status != hostdb.TenantDropped || row.Slug != "" || w.databases(t) != 0 {
			t.Errorf("after drop: %+v, %d databases", row, w.databases(t))
		}
	})
}

func TestProvision_resumesAfterFailure(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		broken := fstest.MapFS{"00001_notes.sql": schema["00001_notes.sql"],
			"00002_bad.sql": {Data: []byte("-- +goose Up\nNONSENSE;\n")}}
		if _, err := w.fleet(t, broken).Provision(t.Context(),
			fleet.Spec{Slug: "acme", OwnerID: w.owner.ID}); err == nil {
			t.Fatal("a broken migration passed")
		}
		row, err := w.host.Tenants.BySlug(t.Context(), "acme")
		must(t, err)
		if row.Open() {
			t.Fatal("a half-made tenant is open")
		}
		tenant, err := w.fleet(t, schema).Provision(t.Context(),
			fleet.Spec{Slug: "acme", OwnerID: w.owner.ID})
		must(t, err)
		if tenant.ID != row.ID || !tenant.Open() || w.databases(t) != 1 {
			t.Errorf("resumed as %+v with %d databases", tenant, w.databases(t))
		}
		must(t, w.fleet(t, schema).Drop(t.Context(), tenant.ID))
	})
}

func TestProvision_givesASlugToOneOfManyConcurrentOwners(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		f := w.fleet(t, schema)
		eve := &hostdb.GlobalUser{OAuthID: "eve", Email: "eve@example.com"}
		must(t, w.host.Users.Insert(t.Context(), eve))
		type result struct {
			owner  string
			tenant *hostdb.TenantCatalog
			err    error
		}
		results := make(chan result)
		for i := range 8 {
			owner := []string{w.owner.ID, eve.ID}[i%2]
			go func() {
				tenant, err := f.Provision(context.Background(), fleet.Spec{Slug: "acme", OwnerID: owner})
				results <- result{owner, tenant, err}
			}()
		}
		winners := make(map[string]bool)
		for range 8 {
			r := <-results
			switch {
			case r.err == nil:
				winners[r.owner+" "+r.tenant.ID] = true
			case !errors.Is(r.err, hostdb.ErrConflict):
				t.Errorf("a loser got %v; want a conflict", r.err)
			}
		}
		tenant, err := w.host.Tenants.BySlug(t.Context(), "acme")
		must(t, err)
		members, err := w.host.Memberships.List(t.Context(), hostdb.Where("tenant_id", tenant.ID))
		must(t, err)
		if len(winners) != 1 || len(members) != 1 || !tenant.Open() || !members[0].IsActive ||
			!winners[members[0].UserID+" "+tenant.ID] || w.databases(t) != 1 {
			t.Errorf("winners %v, members %+v, %d databases", winners, members, w.databases(t))
		}
		must(t, f.Drop(t.Context(), tenant.ID))
	})
}

func TestProvision_refusesAnotherOwnersUnfinishedTenant(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		broken := fstest.MapFS{"00001_bad.sql": {Data: []byte("-- +goose Up\nNONSENSE;\n")}}
		if _, err := w.fleet(t, broken).Provision(t.Context(),
			fleet.Spec{Slug: "acme", OwnerID: w.owner.ID}); err == nil {
			t.Fatal("a broken migration passed")
		}
		eve := &hostdb.GlobalUser{OAuthID: "eve", Email: "eve@example.com"}
		must(t, w.host.Users.Insert(t.Context(), eve))
		if _, err := w.fleet(t, schema).Provision(t.Context(),
			fleet.Spec{Slug: "acme", OwnerID: eve.ID}); !errors.Is(err, hostdb.ErrConflict) {
			t.Errorf("eve on ann's reservation: %v", err)
		}
		tenant, err := w.host.Tenants.BySlug(t.Context(), "acme")
		must(t, err)
		must(t, w.fleet(t, schema).Drop(t.Context(), tenant.ID))
	})
}

func TestProvision_keepsATenantClosedThatWasClosedMeanwhile(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		for _, status := range []string{hostdb.TenantDropped, hostdb.TenantSuspended} {
			closeIt := func() {
				tenant, err := w.host.Tenants.BySlug(t.Context(), "acme")
				if err != nil {
					return // the tenant is closed
				}
				tenant.Status = status
				if status == hostdb.TenantDropped {
					tenant.Slug = ""
				}
				must(t, w.host.Tenants.Update(t.Context(), tenant))
			}
			f, err := fleet.New(fleet.Config{Host: w.host, Pool: w.pool, Migrations: schema, NoTemplate: true,
				GoMigrations: hooked(extra(3), closeIt)})
			must(t, err)
			if _, err := f.Provision(t.Context(), fleet.Spec{Slug: "acme",
				OwnerID: w.owner.ID}); !errors.Is(err, hostdb.ErrConflict) {
				t.Errorf("%s meanwhile: Provision = %v", status, err)
			}
			tenants, err := w.host.Tenants.List(t.Context(), hostdb.Where("status", status))
			must(t, err)
			if len(tenants) != 1 {
				t.Fatalf("%s: %d tenants have that status", status, len(tenants))
			}
			want := 0
			if status == hostdb.TenantSuspended {
				want = 1
			}
			if n := w.databases(t); n != want {
				t.Errorf("%s: %d databases", status, n)
			}
			must(t, f.Drop(t.Context(), tenants[0].ID))
		}
	})
}

func TestDrop_refusesATenantWhoseDatabaseIsElsewhere(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		f := w.fleet(t, schema)
		tenant := &hostdb.TenantCatalog{Slug: "moved", Name: "Moved",
			DBURL: "postgres://elsewhere/x", IsActive: true}
		must(t, w.host.Tenants.Insert(t.Context(), tenant))
		if err := f.Drop(t.Context(), tenant.ID); err == nil || !strings.Contains(err.Error(), "db_url") {
			t.Errorf("Drop = %v", err)
		}
		row, err := w.host.Tenants.Get(t.Context(), tenant.ID)
		must(t, err)
		if !row.Open() {
			t.Error("it was closed all the same")
		}
	})
}

func TestProvision_refusesBadSpecsAndLeavesNothing(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		f := w.fleet(t, schema)
		for field, spec := range map[string]fleet.Spec{
			"slug: ":     {Slug: `"; DROP DATABASE postgres; --`, OwnerID: w.owner.ID},
			"slug":       {Slug: strings.Repeat("0", 32), OwnerID: w.owner.ID},
			"OwnerID":    {Slug: "acme", OwnerID: hostdb.NewID()},
			"Spec.Owner": {Slug: "acme"},
		} {
			if _, err := f.Provision(t.Context(), spec); err == nil || !strings.Contains(err.Error(), field) {
				t.Errorf("%+v: %v", spec, err)
			}
		}
		tenants, err := w.host.Tenants.List(t.Context())
		must(t, err)
		if len(tenants) != 0 {
			t.Errorf("%d tenants were left", len(tenants))
		}
	})
}

func TestNew_namesTheFieldAndShowsNoPassword(t *testing.T) {
	host, err := hostdb.Open(t.Context(), "sqlite::memory:")
	must(t, err)
	defer host.Close()
	pool, err := tenantdb.NewPool(tenantdb.PoolConfig{SQLiteDir: t.TempDir()})
	must(t, err)
	defer pool.Close(t.Context())
	for field, cfg := range map[string]fleet.Config{
		"Host":   {Pool: pool},
		"Pool":   {Host: host},
		"Server": {Host: host, Pool: pool, Server: "postgres://user:s3cret@host:notaport/x"},
	} {
		if _, err := fleet.New(cfg); err == nil || !strings.Contains(err.Error(), field) ||
			strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", field, err)
		}
	}
}
