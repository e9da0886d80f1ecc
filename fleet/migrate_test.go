package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/fleet"
	"github.com/tenantdb/tenantdb/hostdb"
)

func TestMigrate_upAndDown(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ctx, all := t.Context(), w.tenants(t, 3)
		f := w.fleet(t, newest(extra(3), extra(4)))
		var seen []fleet.Result
		report, err := f.Migrate(ctx, fleet.MigrateOptions{Progress: func(r fleet.Result) {
			seen = append(seen, r)
		}})
		must(t, err)
		wantCounts(t, report, "done: 0 at target, 3 done, 0 failed, 0 skipped, 0 pending")
		for _, tenant := range all {
			w.at(t, tenant, 4)
		}
		for i, r := range seen {
			if r.From != 2 || r.To != 4 || r.Status != hostdb.MigrationDone || r.Ended != i+1 ||
				r.Total != 3 || r.Slug == "" {
				t.Errorf("progress: %+v", r)
			}
		}
		again, err := f.Migrate(ctx, fleet.MigrateOptions{})
		must(t, err)
		wantCounts(t, again, "done: 3 at target, 0 done, 0 failed, 0 skipped, 0 pending")
		verified, err := f.Migrate(ctx, fleet.MigrateOptions{Verify: true})
		must(t, err)
		wantCounts(t, verified, "done: 0 at target, 3 done, 0 failed, 0 skipped, 0 pending")
		down, err := f.Migrate(ctx, fleet.MigrateOptions{Down: true, Target: 2,
			Only: []string{all[0].Slug, all[1].ID}})
		must(t, err)
		wantCounts(t, down, "done: 0 at target, 2 done, 0 failed, 0 skipped, 0 pending")
		for i, want := range []int64{2, 2, 4} {
			w.at(t, all[i], want)
		}
		last, err := w.host.MigrationRuns.Last(ctx)
		must(t, err)
		if last.ID != down.RunID || last.Status != hostdb.RunDone || !last.IsDown ||
			last.TargetVersion != 2 || last.CompletedAt == nil {
			t.Errorf("last run = %+v", last)
		}
	})
}

func TestMigrate_stopsAtAFailureAndRecordsEachTenant(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		n, bad := 40, 36
		if strings.HasPrefix(w.url, "sqlite:") && !underRace {
			n = 400
		}
		ctx, all := t.Context(), w.tenants(t, n)
		w.exec(t, all[bad], "CREATE TABLE extra4 (n INTEGER)") // makes the second migration fail
		f := w.fleet(t, newest(extra(3), extra(4)))
		report, err := f.Migrate(ctx, fleet.MigrateOptions{Parallel: 1})
		if !errors.Is(err, fleet.ErrIncomplete) {
			t.Errorf("Migrate = %v", err)
		}
		wantCounts(t, report, fmt.Sprintf("stopped: 0 at target, 36 done, 1 failed, 0 skipped, %d pending",
			n-37))
		for i, tenant := range all {
			switch {
			case i < bad:
				w.at(t, tenant, 4)
			case i == bad:
				w.at(t, tenant, 3)
			default:
				w.at(t, tenant, 2)
			}
		}
		for r, err := range f.Results(ctx, report.RunID, hostdb.MigrationFailed) {
			must(t, err)
			if r.TenantID != all[bad].ID || r.From != 2 || r.To != 3 || !strings.Contains(r.Error,
				"extra4") || !strings.Contains(r.Error, "00004_step.sql") {
				t.Errorf("failed: %+v", r)
			}
		}
		// First the rest, whatever fails; then the failed one alone.
		report, err = f.Migrate(ctx, fleet.MigrateOptions{Run: report.RunID, MaxFailures: -1})
		if !errors.Is(err, fleet.ErrIncomplete) {
			t.Errorf("Migrate = %v", err)
		}
		wantCounts(t, report, fmt.Sprintf("done: 0 at target, %d done, 1 failed, 0 skipped, 0 pending", n-1))
		w.exec(t, all[bad], "DROP TABLE extra4")
		var ended []string
		report, err = f.Migrate(ctx, fleet.MigrateOptions{Run: report.RunID, RetryFailed: true,
			Progress: func(r fleet.Result) { ended = append(ended, r.TenantID) }})
		must(t, err)
		wantCounts(t, report, fmt.Sprintf("done: 0 at target, %d done, 0 failed, 0 skipped, 0 pending", n))
		w.at(t, all[bad], 4)
		if !slices.Equal(ended, []string{all[bad].ID}) {
			t.Errorf("the retry touched %d tenants", len(ended))
		}
	})
}

func TestMigrate_stopsAtAFailingCanary(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ctx, all := t.Context(), w.tenants(t, 5)
		w.exec(t, all[3], "CREATE TABLE extra3 (n INTEGER)")
		f := w.fleet(t, newest(extra(3)))
		var order []string
		opts := fleet.MigrateOptions{Canary: []string{"t3"}, CanaryCount: 1, MaxFailures: -1,
			Progress: func(r fleet.Result) { order = append(order, r.Slug) }}
		report, err := f.Migrate(ctx, opts)
		if !errors.Is(err, fleet.ErrIncomplete) {
			t.Errorf("Migrate = %v", err)
		}
		wantCounts(t, report, "stopped: 0 at target, 1 done, 1 failed, 0 skipped, 3 pending")
		if slices.Sort(order); !slices.Equal(order, []string{"t0", "t3"}) {
			t.Errorf("first came %v", order)
		}
	})
}

func TestMigrate_runsBatchesInOrder(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		w.tenants(t, 7)
		var stages []int
		_, err := w.fleet(t, newest(extra(3))).Migrate(t.Context(),
			fleet.MigrateOptions{CanaryCount: 1, Batch: 3,
				Progress: func(r fleet.Result) { stages = append(stages, r.Stage) }})
		must(t, err)
		if !slices.Equal(stages, []int{0, 1, 1, 1, 2, 2, 2}) {
			t.Errorf("stages in the order of their ends: %v", stages)
		}
	})
}

func TestMigrate_stopsAtAFailureRate(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		all := w.tenants(t, 24)
		for _, tenant := range all[:21] {
			w.exec(t, tenant, "CREATE TABLE extra3 (n INTEGER)")
		}
		report, err := w.fleet(t, newest(extra(3))).Migrate(t.Context(),
			fleet.MigrateOptions{Parallel: 1, MaxFailureRate: 0.5})
		if !errors.Is(err, fleet.ErrIncomplete) {
			t.Errorf("Migrate = %v", err)
		}
		wantCounts(t, report, "stopped: 0 at target, 0 done, 20 failed, 0 skipped, 4 pending")
	})
}

func TestMigrate_stopsBetweenMigrationsWhenTheContextEnds(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		all := w.tenants(t, 6)
		ctx, interrupt := context.WithCancel(t.Context())
		defer interrupt()
		f := w.fleet(t, newest(extra(3)))
		opts := fleet.MigrateOptions{Parallel: 2, Progress: func(r fleet.Result) {
			if r.Ended == 2 {
				interrupt()
			}
		}}
		report, err := f.Migrate(ctx, opts)
		if !errors.Is(err, fleet.ErrIncomplete) || !errors.Is(err, context.Canceled) {
			t.Errorf("Migrate = %v", err)
		}
		if report.Status != hostdb.RunStopped || report.Done < 2 || report.Pending < 2 ||
			report.Done+report.Pending != 6 {
			t.Errorf("report: %s", counts(report))
		}
		report, err = f.Migrate(t.Context(), fleet.MigrateOptions{Run: report.RunID})
		must(t, err)
		wantCounts(t, report, "done: 0 at target, 6 done, 0 failed, 0 skipped, 0 pending")
		for _, tenant := range all {
			w.at(t, tenant, 3)
		}
	})
}

func TestPause_stopsARunOfAnotherProcess(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		w.tenants(t, 5)
		f := w.fleet(t, newest(extra(3)))
		report, err := f.Migrate(t.Context(), fleet.MigrateOptions{Parallel: 1,
			Progress: func(r fleet.Result) {
				if r.Ended == 2 {
					must(t, w.fleet(t, schema).Pause(t.Context(), r.RunID))
				}
			}})
		if !errors.Is(err, fleet.ErrIncomplete) {
			t.Errorf("Migrate = %v", err)
		}
		wantCounts(t, report, "paused: 0 at target, 2 done, 0 failed, 0 skipped, 3 pending")
		report, err = f.Migrate(t.Context(), fleet.MigrateOptions{Run: report.RunID})
		must(t, err)
		wantCounts(t, report, "done: 0 at target, 5 done, 0 failed, 0 skipped, 0 pending")
		must(t, f.Pause(t.Context(), report.RunID)) // pausing an ended run changes nothing
		if err := f.Pause(t.Context(), hostdb.NewID()); !errors.Is(err, hostdb.ErrNotFound) {
			t.Errorf("an unknown run: %v", err)
		}
	})
}

func TestMigrate_twoRunsShareTheTenants(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		all := w.tenants(t, 12)
		type outcome struct {
			report fleet.Report
			err    error
		}
		outcomes := make(chan outcome)
		for range 2 {
			go func() {
				other, err := hostdb.Open(context.Background(), w.url)
				if err != nil {
					outcomes <- outcome{err: err}
					return
				}
				defer other.Close()
				pool, err := tenantdb.NewPool(tenantdb.PoolConfig{SQLiteDir: w.dir})
				if err != nil {
					outcomes <- outcome{err: err}
					return
				}
				defer pool.Close(context.Background())
				// Applying a migration twice fails, since the table exists.
				f, err := fleet.New(fleet.Config{Host: other, Pool: pool,
					Migrations: newest(extra(3), extra(4), extra(5))})
				if err != nil {
					outcomes <- outcome{err: err}
					return
				}
				report, err := f.Migrate(context.Background(), fleet.MigrateOptions{})
				outcomes <- outcome{report, err}
			}()
		}
		for range 2 {
			o := <-outcomes
			must(t, o.err)
			if o.report.Status != hostdb.RunDone || o.report.Done+o.report.AtTarget != 12 {
				t.Errorf("report: %s", counts(o.report))
			}
		}
		for _, tenant := range all {
			w.at(t, tenant, 5)
		}
	})
}

func TestMigrate_failsATenantAtItsTimeout(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		slow := "CREATE TABLE extra3 AS SELECT 1 AS n FROM pg_sleep(60)"
		if strings.HasPrefix(w.url, "sqlite:") {
			slow = "CREATE TABLE extra3 AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) " +
				"SELECT count(*) AS n FROM n"
		}
		all := w.tenants(t, 1)
		report, err := w.fleet(t, newest(slow)).Migrate(t.Context(),
			fleet.MigrateOptions{Timeout: time.Second})
		if !errors.Is(err, fleet.ErrIncomplete) {
			t.Errorf("Migrate = %v", err)
		}
		wantCounts(t, report, "stopped: 0 at target, 0 done, 1 failed, 0 skipped, 0 pending")
		w.at(t, all[0], 2)
		for r, err := range w.fleet(t, schema).Results(t.Context(), report.RunID, "") {
			must(t, err)
			if !strings.Contains(r.Error, "longer than 1s") {
				t.Errorf("error: %q", r.Error)
			}
		}
	})
}

func TestMigrate_lowersTheVersionBeforeADown(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		all := w.tenants(t, 1)
		f := w.fleet(t, newest(extra(3)))
		_, err := f.Migrate(t.Context(), fleet.MigrateOptions{})
		must(t, err)
		w.exec(t, all[0], "DROP TABLE extra3") // makes the down fail
		report, err := f.Migrate(t.Context(), fleet.MigrateOptions{Down: true, Target: 2})
		if !errors.Is(err, fleet.ErrIncomplete) {
			t.Errorf("Migrate = %v", err)
		}
		wantCounts(t, report, "stopped: 0 at target, 0 done, 1 failed, 0 skipped, 0 pending")
		w.at(t, all[0], 3) // it was lowered to 2, and is raised again
		logs, err := w.host.AuditLogs.ListForTarget(t.Context(), all[0].ID)
		must(t, err)
		var changes []string
		for _, entry := range logs {
			changes = append(changes, entry.Details)
		}
		if story := strings.Join(changes, " "); !strings.Contains(story, `"schema_version":[3,2]`) ||
			!strings.Contains(story, `"schema_version":[2,3]`) {
			t.Errorf("audit: %s", story)
		}
	})
}

func TestPlan_andDryRunAndStatusChangeNothing(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ctx, all := t.Context(), w.tenants(t, 4)
		f := w.fleet(t, newest(extra(3), extra(4)))
		must(t, f.Suspend(ctx, all[2].ID))
		must(t, f.Drop(ctx, all[3].ID))
		var planned []string
		for r, err := range f.Plan(ctx, fleet.MigrateOptions{Canary: []string{"t1"}}) {
			must(t, err)
			planned = append(planned,
				fmt.Sprintf("%s %d %d→%d %s", r.Slug, r.Stage, r.From, r.To, r.Status))
		}
		if want := []string{"t1 0 2→4 pending", "t0 1 2→4 pending",
			"t2 1 2→4 pending"}; !slices.Equal(planned, want) {
			t.Errorf("planned %v; want %v", planned, want)
		}
		report, err := f.Migrate(ctx, fleet.MigrateOptions{DryRun: true})
		must(t, err)
		wantCounts(t, report, ": 0 at target, 0 done, 0 failed, 0 skipped, 3 pending")
		for s, err := range f.Status(ctx) {
			must(t, err)
			if s.Version != 2 || s.Latest != 4 || s.Pending != 2 {
				t.Errorf("status %+v", s)
			}
		}
		for _, tenant := range all[:3] {
			w.at(t, tenant, 2)
		}
		if _, err := w.host.MigrationRuns.Last(ctx); !errors.Is(err, hostdb.ErrNotFound) {
			t.Errorf("a run was recorded: %v", err)
		}
		for _, err := range f.Status(ctx, "nobody") {
			if !errors.Is(err, hostdb.ErrNotFound) {
				t.Errorf("status of nobody: %v", err)
			}
		}
	})
}

func TestMigrate_refusesInvalidOptions(t *testing.T) {
	w := &world{url: "sqlite:" + filepath.Join(t.TempDir(), "host.db")}
	var err error
	w.host, err = hostdb.Open(t.Context(), w.url)
	must(t, err)
	defer w.host.Close()
	w.pool, err = tenantdb.NewPool(tenantdb.PoolConfig{SQLiteDir: t.TempDir()})
	must(t, err)
	defer w.pool.Close(t.Context())
	f := w.fleet(t, schema)
	for want, opts := range map[string]fleet.MigrateOptions{
		"Target":         {Target: 9},
		"Parallel":       {Parallel: -1},
		"MaxFailureRate": {MaxFailureRate: 1},
		"RetryFailed":    {RetryFailed: true},
		"DryRun":         {DryRun: true, Run: hostdb.NewID()},
		"nobody":         {Only: []string{"nobody"}},
		"not found":      {Run: hostdb.NewID()},
		"malformed":      {Canary: []string{`"; DROP DATABASE x`}},
	} {
		if _, err := f.Migrate(t.Context(), opts); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	if _, err := w.host.MigrationRuns.Last(t.Context()); !errors.Is(err, hostdb.ErrNotFound) {
		t.Errorf("a run was recorded: %v", err)
	}
	empty, err := fleet.New(fleet.Config{Host: w.host, Pool: w.pool})
	must(t, err)
	if _, err := empty.Migrate(t.Context(), fleet.MigrateOptions{}); err == nil ||
		!strings.Contains(err.Error(), "Migrations") {
		t.Errorf("without migrations: %v", err)
	}
	for _, files := range []fstest.MapFS{{}, {"00001_a.sql": {}, "1_b.sql": {}}} {
		if _, err := fleet.New(fleet.Config{Host: w.host, Pool: w.pool, Migrations: files}); err == nil ||
			!strings.Contains(err.Error(), "Migrations") {
			t.Errorf("%v: %v", files, err)
		}
	}
}
