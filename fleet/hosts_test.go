package fleet_test

import (
	"net/url"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb/fleet"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
)

// TestProvision_isNotDelayedByASilentFirstHost tests a drop too. The connections of the server, of the
// template and of the tenant's role skip the silent host.
func TestProvision_isNotDelayedByASilentFirstHost(t *testing.T) {
	w := newWorld(t, "postgres")
	u, err := url.Parse(w.url)
	must(t, err)
	u.Host = pgtest.Mute(t) + "," + u.Host
	began := time.Now()
	f, err := fleet.New(fleet.Config{Host: w.host, Pool: w.pool, Migrations: schema,
		Server: hostdb.Secret(u.String())})
	must(t, err)
	tenant, err := f.Provision(t.Context(), fleet.Spec{Slug: "acme", OwnerID: w.owner.ID})
	must(t, err)
	lease, err := w.pool.Lease(tenant)
	must(t, err)
	_, err = lease.DB().ExecContext(t.Context(), "INSERT INTO notes (body, author) VALUES ('x', 'y')")
	must(t, err)
	lease.Release()
	must(t, f.Drop(t.Context(), tenant.ID))
	if n := w.databases(t); n != 0 {
		t.Errorf("%d databases are left", n)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
}
