package fleet_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb/fleet"
	"github.com/tenantdb/tenantdb/hostdb"
)

func TestFleet_suspendResumeAndMaintenanceAreAuditedOnce(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ctx, f := t.Context(), w.fleet(t, schema)
		acme := w.provision(t, f, "acme")
		audited := func() int { return w.audited(t, acme, "tenant.updated") }
		before := audited()
		for i, step := range []struct {
			do   func() error
			want string
		}{
			{func() error { return f.Maintenance(ctx, acme.ID, true) }, hostdb.TenantMaintenance},
			{func() error { return f.Suspend(ctx, acme.ID) }, hostdb.TenantSuspended},
			{func() error { return f.Resume(ctx, acme.ID) }, hostdb.TenantActive},
			{func() error { return f.Maintenance(ctx, acme.ID, true) }, hostdb.TenantMaintenance},
			{func() error { return f.Maintenance(ctx, acme.ID, false) }, hostdb.TenantActive},
			{func() error { return f.Suspend(ctx, acme.ID) }, hostdb.TenantSuspended},
		} {
			must(t, step.do())
			must(t, step.do()) // repeating it changes nothing
			row, err := w.host.Tenants.Get(ctx, acme.ID)
			must(t, err)
			if row.Status != step.want || audited() != before+i+1 {
				t.Errorf("step %d: %s with %d audit rows; want %s with %d", i, row.Status,
					audited(), step.want, before+i+1)
			}
		}
		if err := f.Maintenance(ctx, acme.ID, true); !errors.Is(err, hostdb.ErrConflict) {
			t.Errorf("maintenance of a suspended tenant: %v", err)
		}
		must(t, f.Drop(ctx, acme.ID))
		for name, err := range map[string]error{
			"suspend": f.Suspend(ctx, acme.ID), "resume": f.Resume(ctx, acme.ID),
			"rename":      f.Rename(ctx, acme.ID, "other", ""),
			"maintenance": f.Maintenance(ctx, acme.ID, false),
		} {
			if !errors.Is(err, hostdb.ErrConflict) {
				t.Errorf("%s of a dropped tenant: %v", name, err)
			}
		}
		if err := f.Suspend(ctx, hostdb.NewID()); !errors.Is(err, hostdb.ErrNotFound) {
			t.Errorf("an unknown tenant: %v", err)
		}
	})
}

func TestDrop_isAuditedOnceTogetherWithItsJob(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ctx := hostdb.WithActor(t.Context(), "ann")
		var cancelled int
		f, err := fleet.New(fleet.Config{Host: w.host, Pool: w.pool, Migrations: schema,
			Logger: slog.New(stepsTo(func(step string) {
				// an operator cancels the job, so that the first drop isn't recorded
				if step == "removed" && cancelled == 0 {
					running, err := w.host.Jobs.List(ctx, hostdb.Where("status", hostdb.JobRunning))
					must(t, err)
					cancelled = len(running)
					must(t, w.host.Jobs.Cancel(ctx, running[0].ID))
				}
			}))})
		must(t, err)
		acme := w.provision(t, f, "acme")
		if err := f.Drop(ctx, acme.ID); !errors.Is(err, hostdb.ErrConflict) || cancelled != 1 {
			t.Errorf("Drop = %v with %d jobs", err, cancelled)
		}
		if n := w.audited(t, acme, hostdb.EventTenantDropped); n != 0 {
			t.Errorf("%d rows before the end", n)
		}
		drops := make(chan error)
		for range 3 {
			go func() { drops <- f.Drop(ctx, acme.ID) }()
		}
		for range 3 {
			must(t, <-drops)
		}
		logs, err := w.host.AuditLogs.ListForTarget(ctx, acme.ID,
			hostdb.Where("event_type", hostdb.EventTenantDropped))
		must(t, err)
		if len(logs) != 1 || logs[0].ActorUserID != "ann" {
			t.Errorf("audit log: %+v", logs)
		}
	})
}

// stepsTo is a slog.Handler that calls a function with each step of a tenant's work.
type stepsTo func(step string)

func (stepsTo) Enabled(context.Context, slog.Level) bool { return true }
func (h stepsTo) WithAttrs([]slog.Attr) slog.Handler     { return h }
func (h stepsTo) WithGroup(string) slog.Handler          { return h }

func (h stepsTo) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "step" {
			h(a.Value.String())
		}
		return true
	})
	return nil
}

func TestSuspend_waitsForRequestsUntilTheContextEnds(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		f := w.fleet(t, schema)
		acme := w.provision(t, f, "acme")
		lease, err := w.pool.Lease(acme)
		must(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		if err := f.Suspend(ctx, acme.ID); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Suspend = %v while a request runs", err)
		}
		row, err := w.host.Tenants.Get(t.Context(), acme.ID)
		must(t, err)
		if row.Status != hostdb.TenantSuspended {
			t.Errorf("the status is %s", row.Status)
		}
		lease.Release()
		must(t, f.Suspend(t.Context(), acme.ID))
	})
}

func TestRename_keepsTheDatabaseAndRefusesATakenSlug(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ctx, f := t.Context(), w.fleet(t, schema)
		acme := w.provision(t, f, "acme")
		w.provision(t, f, "globex")
		for range 2 {
			must(t, f.Rename(ctx, acme.ID, "acme-2", "Acme Two"))
		}
		must(t, f.Rename(ctx, acme.ID, "", ""))
		row, err := w.host.Tenants.BySlug(ctx, "acme-2")
		must(t, err)
		if row.ID != acme.ID || row.Name != "Acme Two" || row.DBURL != acme.DBURL {
			t.Errorf("row = %+v", row)
		}
		if err := f.Rename(ctx, acme.ID, "globex", ""); !errors.Is(err, hostdb.ErrConflict) {
			t.Errorf("a taken slug: %v", err)
		}
		if err := f.Rename(ctx, acme.ID, `"; DROP DATABASE x`, ""); !errors.Is(err, hostdb.ErrInvalid) {
			t.Errorf("a malformed slug: %v", err)
		}
	})
}
