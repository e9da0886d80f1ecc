package fleet_test

import (
	"errors"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/tenantdb/tenantdb/fleet"
	"github.com/tenantdb/tenantdb/hostdb"
)

// Versions of migrations, as developers on branches number them.
const (
	january, february, march = 20260101, 20260201, 20260301
)

// months are migrations, each of which creates a table.
func months(names ...string) fstest.MapFS {
	all := fstest.MapFS{}
	for _, name := range names {
		table := name[len("20260101_"):]
		all[name+".sql"] = step("CREATE TABLE "+table+" (n INTEGER);", "DROP TABLE "+table+";")
	}
	return all
}

// catalog returns a tenant's version in the catalog.
func (w *world) catalog(t *testing.T, tenant *hostdb.TenantCatalog) int64 {
	t.Helper()
	row, err := w.host.Tenants.Get(t.Context(), tenant.ID)
	must(t, err)
	return row.SchemaVersion
}

func TestMigrate_appliesALateMigration(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		acme := w.provision(t, w.fleet(t, months("20260101_a", "20260301_c")), "acme")
		f := w.fleet(t, months("20260101_a", "20260201_b", "20260301_c"))
		w.provision(t, f, "new")
		if s := status(t, f, "acme"); s.Pending != 1 || s.Version != january || s.Latest != march {
			t.Errorf("status %+v", s)
		}
		if s := status(t, f, "new"); s.Pending != 0 || s.Version != march {
			t.Errorf("the new tenant's status %+v", s)
		}
		if got := planned(t, f, fleet.MigrateOptions{}); got != "acme" {
			t.Errorf("planned %q", got)
		}
		if got := planned(t, f, fleet.MigrateOptions{Target: january}); got != "" {
			t.Errorf("planned up to what everybody has: %q", got)
		}
		dry, err := f.Migrate(ctx, fleet.MigrateOptions{DryRun: true})
		must(t, err)
		wantCounts(t, dry, ": 0 at target, 0 done, 0 failed, 0 skipped, 1 pending")
		report, err := f.Migrate(ctx, fleet.MigrateOptions{})
		must(t, err)
		wantCounts(t, report, "done: 1 at target, 1 done, 0 failed, 0 skipped, 0 pending")
		w.exec(t, acme, "INSERT INTO b VALUES (1)")
		w.at(t, acme, march)
		for r, err := range f.Results(ctx, report.RunID, "") {
			must(t, err)
			if r.From != january || r.To != march {
				t.Errorf("result %+v", r)
			}
		}
		if s := status(t, f, "acme"); s.Pending != 0 || s.Version != march || s.Unknown {
			t.Errorf("status afterwards %+v", s)
		}
		// Neither this program nor the previous one has anything pending.
		for _, f := range []*fleet.Fleet{f, w.fleet(t, months("20260101_a", "20260301_c"))} {
			report, err = f.Migrate(ctx, fleet.MigrateOptions{})
			must(t, err)
			wantCounts(t, report, "done: 2 at target, 0 done, 0 failed, 0 skipped, 0 pending")
		}
	})
}

func TestMigrate_lowersTheVersionBeforeALateMigration(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		acme := w.provision(t, w.fleet(t, months("20260101_a", "20260301_c")), "acme")
		during := int64(-1)
		late := hooked("CREATE TABLE b (n INTEGER)", func() { during = w.catalog(t, acme) })
		late[0].Version = february
		f, err := fleet.New(fleet.Config{Host: w.host, Pool: w.pool,
			Migrations: months("20260101_a", "20260301_c"), GoMigrations: late})
		must(t, err)
		_, err = f.Migrate(t.Context(), fleet.MigrateOptions{})
		must(t, err)
		if during != january {
			t.Errorf("while it ran, the catalog said %d", during)
		}
		w.at(t, acme, march)
	})
}

func TestMigrate_leavesTheVersionBelowAFailedLateMigration(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		acme := w.provision(t, w.fleet(t, months("20260101_a", "20260301_c")), "acme")
		w.exec(t, acme, "CREATE TABLE b (n INTEGER)") // makes migration b fail
		f := w.fleet(t, months("20260101_a", "20260201_b", "20260301_c"))
		report, err := f.Migrate(t.Context(), fleet.MigrateOptions{})
		if !errors.Is(err, fleet.ErrIncomplete) {
			t.Errorf("Migrate = %v", err)
		}
		if got := w.catalog(t, acme); got != january {
			t.Errorf("the catalog says %d", got)
		}
		w.exec(t, acme, "DROP TABLE b")
		_, err = f.Migrate(t.Context(), fleet.MigrateOptions{Run: report.RunID, RetryFailed: true})
		must(t, err)
		w.at(t, acme, march)
	})
}

func TestMigrate_refusesALateMigrationOnRequest(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		acme := w.provision(t, w.fleet(t, months("20260101_a", "20260301_c")), "acme")
		f := w.fleet(t, months("20260101_a", "20260201_b", "20260301_c"))
		if _, err := f.Migrate(ctx, fleet.MigrateOptions{RefuseLate: true,
			DryRun: true}); !errors.Is(err, fleet.ErrIncomplete) {
			t.Errorf("dry run: %v", err)
		}
		report, err := f.Migrate(ctx, fleet.MigrateOptions{RefuseLate: true})
		if !errors.Is(err, fleet.ErrIncomplete) {
			t.Errorf("Migrate = %v", err)
		}
		for r, err := range f.Results(ctx, report.RunID, hostdb.MigrationFailed) {
			must(t, err)
			if !strings.Contains(r.Error, "migration 20260201 was never applied") {
				t.Errorf("error: %q", r.Error)
			}
		}
		w.at(t, acme, march) // it isn't changed
		if s := status(t, f, "acme"); s.Pending != 1 {
			t.Errorf("status %+v", s)
		}
	})
}

func TestMigrate_asksADatabaseOfAnOlderLibraryOnce(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		f := w.fleet(t, months("20260101_a", "20260301_c"))
		acme := w.provision(t, f, "acme")
		acme.SchemaSet = ""
		must(t, w.host.Tenants.Update(ctx, acme))
		if s := status(t, f, "acme"); !s.Unknown || s.Version != march || s.Pending != 0 {
			t.Errorf("status %+v", s)
		}
		if got := planned(t, f, fleet.MigrateOptions{}); got != "acme" {
			t.Errorf("planned %q", got)
		}
		for _, want := range []string{"done: 0 at target, 1 done, 0 failed, 0 skipped, 0 pending",
			"done: 1 at target, 0 done, 0 failed, 0 skipped, 0 pending"} {
			report, err := f.Migrate(ctx, fleet.MigrateOptions{})
			must(t, err)
			wantCounts(t, report, want)
		}
		if s := status(t, f, "acme"); s.Unknown || s.Pending != 0 {
			t.Errorf("status afterwards %+v", s)
		}
	})
}

func TestMigrate_downUndoesOnlyAppliedMigrations(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		acme := w.provision(t, w.fleet(t, months("20260101_a", "20260301_c")), "acme")
		f := w.fleet(t, months("20260101_a", "20260201_b", "20260301_c"))
		_, err := f.Migrate(ctx, fleet.MigrateOptions{Down: true, Target: february})
		must(t, err)
		w.at(t, acme, january)
		if s := status(t, f, "acme"); s.Pending != 2 || s.Version != january {
			t.Errorf("status %+v", s)
		}
		_, err = f.Migrate(ctx, fleet.MigrateOptions{})
		must(t, err)
		w.at(t, acme, march)
		_, err = f.Migrate(ctx, fleet.MigrateOptions{Down: true})
		must(t, err)
		if got := w.catalog(t, acme); got != 0 {
			t.Errorf("the catalog says %d", got)
		}
	})
}
