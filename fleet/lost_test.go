package fleet_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb/fleet"
	"github.com/tenantdb/tenantdb/hostdb"
)

// endless returns a statement that runs until it is cancelled.
func (w *world) endless() string {
	if strings.HasPrefix(w.url, "sqlite:") {
		return "CREATE TABLE extra3 AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) " +
			"SELECT count(*) AS n FROM n"
	}
	return "CREATE TABLE extra3 AS SELECT 1 AS n FROM pg_sleep(3600)"
}

// takeOver claims tenants for a run of another process, by whose clock every lease has expired.
func (w *world) takeOver(t *testing.T, ids ...string) {
	t.Helper()
	ctx := context.Background()
	other, err := hostdb.OpenConfig(ctx, hostdb.Config{URL: hostdb.Secret(w.url), Now: func() time.Time {
		return time.Now().Add(time.Hour)
	}})
	must(t, err)
	defer other.Close()
	run := &hostdb.MigrationRun{TargetVersion: 3}
	must(t, other.MigrationRuns.Begin(ctx, run, hostdb.MigrationPlan{Only: ids}))
	for _, id := range ids {
		must(t, other.MigrationTenants.Claim(ctx, run.ID, id, "other", time.Hour))
	}
}

// warned is a slog.Handler that calls a function for each warning.
type warned struct {
	slog.Handler
	tell func(string)
}

func (warned) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }

func (h warned) Handle(_ context.Context, r slog.Record) error {
	h.tell(r.Message)
	return nil
}

func TestMigrate_stopsWhenAHeartbeatFindsATenantTakenOver(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		acme := w.tenants(t, 1)[0]
		ctx, interrupt := context.WithCancel(t.Context())
		defer interrupt()
		var once sync.Once
		var warnings []string
		f, err := fleet.New(fleet.Config{Host: w.host, Pool: w.pool, Lease: 400 * time.Millisecond,
			Migrations: schema, GoMigrations: hooked(w.endless(), func() {
				once.Do(func() { w.takeOver(t, acme.ID) })
			}),
			Logger: slog.New(warned{slog.DiscardHandler, func(text string) {
				warnings = append(warnings, text)
				interrupt() // otherwise the run waits for the other one
			}})})
		must(t, err)
		const limit = 10 * time.Second
		report, err := f.Migrate(ctx, fleet.MigrateOptions{Timeout: limit})
		if !errors.Is(err, context.Canceled) || report.Duration >= limit {
			t.Errorf("Migrate = %v after %s", err, report.Duration)
		}
		wantCounts(t, report, "stopped: 0 at target, 0 done, 0 failed, 0 skipped, 1 pending")
		if len(warnings) != 1 || !strings.Contains(warnings[0], "taken over") {
			t.Errorf("warnings: %q", warnings)
		}
		w.at(t, acme, 2)
		rows, err := w.host.MigrationTenants.List(t.Context(), hostdb.Where("tenant_id", acme.ID),
			hostdb.Where("status", hostdb.MigrationRunning))
		must(t, err)
		if len(rows) != 1 || rows[0].Worker != "other" || rows[0].RunID == report.RunID {
			t.Errorf("the ledger: %+v", rows)
		}
	})
}

func TestMigrate_writesNothingAfterItsLeaseIsLost(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		acme := w.tenants(t, 1)[0]
		ctx, interrupt := context.WithTimeout(t.Context(), 10*time.Second)
		defer interrupt()
		var once sync.Once
		// the lease is a minute, so there is no heartbeat in between
		f, err := fleet.New(fleet.Config{Host: w.host, Pool: w.pool,
			Migrations: schema, GoMigrations: hooked(extra(3), func() {
				once.Do(func() { w.takeOver(t, acme.ID) })
			}),
			Logger: slog.New(warned{slog.DiscardHandler, func(string) { interrupt() }})})
		must(t, err)
		report, err := f.Migrate(ctx, fleet.MigrateOptions{})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("Migrate = %v", err)
		}
		wantCounts(t, report, "stopped: 0 at target, 0 done, 0 failed, 0 skipped, 1 pending")
		if catalog, database := w.versions(t, acme); catalog != 2 || database != 3 {
			t.Errorf("the catalog says %d, the database %d", catalog, database)
		}
	})
}
