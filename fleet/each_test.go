package fleet_test

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb/fleet"
	"github.com/tenantdb/tenantdb/hostdb"
)

func TestEach_visitsEveryOpenAndClosedTenantInItsOwnDatabase(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ctx, f := t.Context(), w.fleet(t, schema)
		want := map[string]string{}
		for _, slug := range []string{"a", "b", "c", "d", "e", "gone"} {
			want[w.provision(t, f, slug).ID] = slug
		}
		for id, slug := range want {
			switch slug {
			case "b":
				must(t, f.Suspend(ctx, id))
			case "c":
				must(t, f.Maintenance(ctx, id, true))
			case "gone":
				must(t, f.Drop(ctx, id))
				delete(want, id)
			}
		}
		var kept *fleet.Tenant
		report, err := f.Each(ctx, fleet.EachOptions{Parallel: 3},
			func(ctx context.Context, tenant *fleet.Tenant) error {
				if tenant.Slug == "a" {
					kept = tenant
				}
				if pg := tenant.PG(); pg != nil {
					_, err := pg.Exec(ctx, "INSERT INTO notes (body) VALUES ($1)", tenant.ID)
					return err
				}
				_, err := tenant.DB().ExecContext(ctx, "INSERT INTO notes (body) VALUES ($1)", tenant.ID)
				return err
			})
		must(t, err)
		if report.Done != 5 || report.Failed+report.Skipped+report.Pending != 0 ||
			report.Status != hostdb.RunDone || report.RunID != "" {
			t.Errorf("report: %+v", report)
		}
		if err := kept.DB().PingContext(ctx); err == nil {
			t.Error("a handle serves after its visit")
		}
		oneByOne := fleet.EachOptions{Parallel: 1}
		_, err = f.Each(ctx, oneByOne, func(ctx context.Context, tenant *fleet.Tenant) error {
			var body string
			err := tenant.ReadDB().QueryRowContext(ctx, "SELECT body FROM notes").Scan(&body)
			if body != tenant.ID || want[body] != tenant.Slug {
				t.Errorf("the database of %s (%s) has the row of %q", tenant.Slug, tenant.ID, body)
			}
			delete(want, body) // one visit at a time would be needed, were there several at once
			return err
		})
		must(t, err)
		if len(want) != 0 {
			t.Errorf("not visited: %v", want)
		}
		if n := w.pool.Stats().Tenants; n != 0 {
			t.Errorf("the pool keeps %d tenants afterwards", n)
		}
	})
}

func TestEach_stopsAtAFailureAndNamesIt(t *testing.T) {
	w := newWorld(t, "sqlite")
	ctx, f := t.Context(), w.fleet(t, schema)
	for _, slug := range []string{"a", "b", "c", "d", "e", "f"} {
		w.provision(t, f, slug)
	}
	bad := errors.New("bad data")
	var results []fleet.Result
	report, err := f.Each(ctx, fleet.EachOptions{Parallel: 1,
		Progress: func(r fleet.Result) { results = append(results, r) }},
		func(_ context.Context, tenant *fleet.Tenant) error {
			if len(results) == 1 {
				return bad
			}
			return nil
		})
	if !errors.Is(err, fleet.ErrIncomplete) || !errors.Is(err, bad) {
		t.Errorf("Each = %v", err)
	}
	if report.Done != 1 || report.Failed != 1 || report.Pending != 4 || report.Status != hostdb.RunStopped {
		t.Errorf("report: %+v", report)
	}
	failed := results[1]
	if !strings.Contains(err.Error(), "tenant "+failed.Slug+": bad data") || failed.Error != "bad data" ||
		failed.Ended != 2 || failed.Total != 6 || failed.Status != hostdb.MigrationFailed {
		t.Errorf("result %+v, error %v", failed, err)
	}

	report, err = f.Each(ctx, fleet.EachOptions{MaxFailures: -1},
		func(context.Context, *fleet.Tenant) error { return bad })
	if report.Failed != 6 || report.Status != hostdb.RunDone || !errors.Is(err, fleet.ErrIncomplete) {
		t.Errorf("without a limit: %+v, %v", report, err)
	}
}

func TestEach_visitsCanariesAndThenBatches(t *testing.T) {
	w := newWorld(t, "sqlite")
	ctx, f := t.Context(), w.fleet(t, schema)
	for _, slug := range []string{"a", "b", "c", "d", "e", "f", "g"} {
		w.provision(t, f, slug)
	}
	var stages []int
	opts := fleet.EachOptions{Canary: []string{"f"}, CanaryCount: 1, Batch: 2, Parallel: 4,
		Progress: func(r fleet.Result) { stages = append(stages, r.Stage) }}
	report, err := f.Each(ctx, opts, func(context.Context, *fleet.Tenant) error { return nil })
	must(t, err)
	if want := []int{0, 0, 1, 1, 2, 2, 3}; !slices.Equal(stages, want) || report.Done != 7 {
		t.Errorf("stages %v, report %+v; want %v", stages, report, want)
	}
	opts.MaxFailures, opts.Progress = -1, nil
	report, err = f.Each(ctx, opts, func(_ context.Context, tenant *fleet.Tenant) error {
		if tenant.Slug == "f" {
			return errors.New("the canary fails")
		}
		return nil
	})
	if report.Failed != 1 || report.Done != 1 || report.Pending != 5 || !errors.Is(err, fleet.ErrIncomplete) {
		t.Errorf("a canary failed: %+v, %v", report, err)
	}
}

func TestEach_respectsTheLimitPerServer(t *testing.T) {
	w := newWorld(t, "sqlite")
	ctx, f := t.Context(), w.fleet(t, schema)
	for _, slug := range []string{"a", "b", "c", "d"} {
		w.provision(t, f, slug)
	}
	visits := make(chan struct{}, 1)
	_, err := f.Each(ctx, fleet.EachOptions{Parallel: 4, PerServer: 1},
		func(ctx context.Context, tenant *fleet.Tenant) error {
			select {
			case visits <- struct{}{}:
				defer func() { <-visits }()
				for range 1000 { // long enough to meet another visit
					if err := tenant.DB().PingContext(ctx); err != nil {
						return err
					}
					runtime.Gosched()
				}
				return nil
			default:
				return errors.New("two at once on one server")
			}
		})
	must(t, err)
}

func TestEach_functionsThatSkipPanicExitOrHang(t *testing.T) {
	w := newWorld(t, "sqlite")
	ctx, f := t.Context(), w.fleet(t, schema)
	for _, slug := range []string{"exits", "fine", "hangs", "panics", "skips"} {
		w.provision(t, f, slug)
	}
	got := map[string]string{}
	report, err := f.Each(ctx, fleet.EachOptions{MaxFailures: -1, Timeout: 50 * time.Millisecond,
		Progress: func(r fleet.Result) { got[r.Slug] = r.Status + " " + r.Error }},
		func(ctx context.Context, tenant *fleet.Tenant) error {
			switch tenant.Slug {
			case "exits":
				runtime.Goexit()
			case "hangs":
				<-ctx.Done()
				return ctx.Err()
			case "panics":
				panic("oops")
			case "skips":
				return fleet.ErrSkipTenant
			}
			return nil
		})
	if !errors.Is(err, fleet.ErrIncomplete) || report.Done != 1 || report.Failed != 3 || report.Skipped != 1 {
		t.Errorf("report %+v, error %v", report, err)
	}
	for slug, want := range map[string]string{
		"exits": "failed the function exited the goroutine", "fine": "done ", "panics": "failed panic: oops",
		"hangs": "failed it took longer than 50ms: context deadline exceeded", "skips": "skipped ",
	} {
		if got[slug] != want {
			t.Errorf("%s: %q; want %q", slug, got[slug], want)
		}
	}
}

func TestEach_leavesInterruptedTenantsPending(t *testing.T) {
	w := newWorld(t, "sqlite")
	f := w.fleet(t, schema)
	for _, slug := range []string{"a", "b", "c"} {
		w.provision(t, f, slug)
	}
	ctx, cancel := context.WithCancel(t.Context())
	report, err := f.Each(ctx, fleet.EachOptions{Parallel: 1},
		func(ctx context.Context, _ *fleet.Tenant) error {
			cancel()
			<-ctx.Done()
			return ctx.Err()
		})
	if !errors.Is(err, fleet.ErrIncomplete) || !errors.Is(err, context.Canceled) || report.Pending != 3 ||
		report.Status != hostdb.RunStopped {
		t.Errorf("report %+v, error %v", report, err)
	}
}

func TestEach_visitsTheTenantAsTheCatalogHasItThen(t *testing.T) {
	w := newWorld(t, "sqlite")
	ctx, f := t.Context(), w.fleet(t, schema)
	for _, slug := range []string{"a", "b", "c"} {
		w.provision(t, f, slug)
	}
	var visited []string
	report, err := f.Each(ctx, fleet.EachOptions{Parallel: 1},
		func(ctx context.Context, tenant *fleet.Tenant) error {
			visited = append(visited, tenant.Slug)
			if len(visited) > 1 {
				return nil
			}
			w.provision(t, f, "new")
			for other, err := range w.host.Tenants.All(ctx) {
				must(t, err)
				if other.ID != tenant.ID && other.Slug != "new" {
					return f.Drop(ctx, other.ID)
				}
			}
			return nil
		})
	must(t, err)
	if report.Done != 2 || report.Skipped != 1 || len(visited) != 2 {
		t.Errorf("visited %q, report %+v", visited, report)
	}
}

func TestEach_refusesInvalidOptions(t *testing.T) {
	w := newWorld(t, "sqlite")
	f := w.fleet(t, schema)
	for _, opts := range []fleet.EachOptions{{Parallel: -1}, {Timeout: -1}, {MaxFailureRate: 1}, {Batch: -1},
		{Only: []string{"nobody"}}, {Canary: []string{"nobody"}}} {
		report, err := f.Each(t.Context(), opts, func(context.Context, *fleet.Tenant) error {
			t.Error("called")
			return nil
		})
		if err == nil || report != (fleet.Report{}) {
			t.Errorf("%+v: %+v, %v", opts, report, err)
		}
	}
}
