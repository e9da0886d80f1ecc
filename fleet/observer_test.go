package fleet_test

import (
	"context"
	"testing"
	"testing/fstest"

	"github.com/tenantdb/tenantdb/fleet"
	"github.com/tenantdb/tenantdb/hostdb"
)

func TestObserver_isToldWhatHappensToTenants(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		var made []fleet.ProvisionInfo
		var migrated []fleet.Result
		var dropped []fleet.DropInfo
		observer := &fleet.Observer{
			Provisioned: func(_ context.Context, info fleet.ProvisionInfo) { made = append(made, info) },
			Migrated: func(_ context.Context, r fleet.Result) {
				migrated = append(migrated, r)
				panic("the observer's")
			},
			Dropped: func(_ context.Context, info fleet.DropInfo) { dropped = append(dropped, info) },
		}
		with := func(migrations fstest.MapFS) *fleet.Fleet {
			f, err := fleet.New(fleet.Config{Host: w.host, Pool: w.pool, Migrations: migrations,
				NoTemplate: true, Observer: observer})
			must(t, err)
			return f
		}
		bad := fstest.MapFS{"00001_notes.sql": schema["00001_notes.sql"],
			"00002_bad.sql": {Data: []byte("-- +goose Up\nNONSENSE;\n")}}
		spec := fleet.Spec{Slug: "acme", OwnerID: w.owner.ID}
		if _, err := with(bad).Provision(t.Context(), spec); err == nil || len(made) != 1 ||
			made[0].Err == nil {
			t.Errorf("a broken migration: %v, told %+v", err, made)
		}
		good := fstest.MapFS{"00001_notes.sql": schema["00001_notes.sql"]}
		tenant, err := with(good).Provision(t.Context(), spec)
		must(t, err)
		if len(made) != 2 || made[1].Err != nil || made[1].TenantID != tenant.ID || made[1].Duration <= 0 {
			t.Errorf("told %+v", made)
		}
		if _, err := with(bad).Migrate(t.Context(), fleet.MigrateOptions{}); err == nil ||
			len(migrated) != 1 || migrated[0].Status != hostdb.MigrationFailed || migrated[0].Error == "" ||
			migrated[0].TenantID != tenant.ID {
			t.Errorf("told %+v", migrated)
		}
		must(t, with(good).Drop(t.Context(), tenant.ID))
		if len(dropped) != 1 || dropped[0].TenantID != tenant.ID || dropped[0].Err != nil {
			t.Errorf("told %+v", dropped)
		}
	})
}
