package hostdbtest

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// upTo returns the versions 1 to n.
func upTo(n int64) (set []int64) {
	for v := range n {
		set = append(set, v+1)
	}
	return set
}

// fleet stores tenants, one for each version with all versions below it; 0 is unknown. It returns their ids
// in order.
func fleet(t *testing.T, db *hostdb.DB, versions ...int64) []string {
	t.Helper()
	var ids []string
	for _, version := range versions {
		tenant := &hostdb.TenantCatalog{Name: "Acme", IsActive: true, SchemaVersion: version}
		if version > 0 {
			var err error
			tenant.SchemaSet, err = db.SchemaSets.Record(t.Context(), upTo(version))
			must(t, err)
		}
		must(t, db.Tenants.Insert(t.Context(), tenant))
		ids = append(ids, tenant.ID)
	}
	return ids
}

func ledger(t *testing.T, db *hostdb.DB) {
	t.Run("a set of migrations is recorded once", func(t *testing.T) { schemaSets(t, db) })
	t.Run("a plan has those below the target, in stages", func(t *testing.T) { plans(t, db) })
	t.Run("a plan trusts the version and the set together", func(t *testing.T) { plansBySet(t, db) })
	t.Run("rows round-trip", func(t *testing.T) {
		id := fleet(t, db, 1)[0]
		run := &hostdb.MigrationRun{TargetVersion: 3, IsDown: true}
		must(t, db.MigrationRuns.Insert(t.Context(), run))
		at := time.Date(2026, 2, 28, 23, 59, 59, 0, time.UTC)
		row := &hostdb.MigrationTenant{RunID: run.ID, TenantID: id, Stage: 2, VersionBefore: 1,
			VersionAfter: 2, DurationMS: 3, Error: "e"}
		roundTrip(t, db.MigrationTenants, &row.ID, row, func() {
			row.Status, row.Worker, row.LeaseUntil = hostdb.MigrationRunning, "w", &at
		})
		other := &hostdb.MigrationRun{TargetVersion: 1}
		roundTrip(t, db.MigrationRuns, &other.ID, other,
			func() { other.Status, other.CompletedAt, other.AtTarget = hostdb.RunDone, &at, 9 })
		refused(t, db.MigrationRuns.Insert(t.Context(), &hostdb.MigrationRun{TargetVersion: -1}),
			hostdb.ErrInvalid, "target_version")
		refused(t, db.MigrationTenants.Insert(t.Context(),
			&hostdb.MigrationTenant{RunID: hostdb.NewID(), TenantID: id}), hostdb.ErrConflict, "")
	})
	t.Run("one run at a time works on a tenant", func(t *testing.T) { claims(t, db) })
	t.Run("a run is paused, ended and continued", func(t *testing.T) { runs(t, db) })
}

func schemaSets(t *testing.T, db *hostdb.DB) {
	ctx := t.Context()
	first, err := db.SchemaSets.Record(ctx, []int64{3, 1, 20260101})
	must(t, err)
	again, err := db.SchemaSets.Record(ctx, []int64{1, 3, 20260101, 3})
	must(t, err)
	same(t, "the same set's id", again, first)
	must(t, db.InTx(ctx, func(tx *hostdb.Tx) error {
		_, err := tx.SchemaSets.Record(ctx, nil)
		return err
	}))
	undone := errors.New("undone")
	if err := db.InTx(ctx, func(tx *hostdb.Tx) error {
		_, err := tx.SchemaSets.Record(ctx, []int64{9})
		return errors.Join(undone, err)
	}); !errors.Is(err, undone) {
		t.Errorf("InTx = %v", err)
	}
	sets, err := db.SchemaSets.Newest(ctx)
	must(t, err)
	same(t, "sets", len(sets), 2)
	if got := sets[first]; !slices.Equal(got, []int64{1, 3, 20260101}) {
		t.Errorf("the set is %v", got)
	}
	_, err = db.SchemaSets.Record(ctx, make([]int64, 50_001))
	refused(t, err, hostdb.ErrInvalid, "versions")
}

// plansBySet gives tenants versions and sets that disagree, as an older library leaves them.
func plansBySet(t *testing.T, db *hostdb.DB) {
	ctx := t.Context()
	gap, err := db.SchemaSets.Record(ctx, []int64{1, 3})
	must(t, err)
	full, err := db.SchemaSets.Record(ctx, upTo(3))
	must(t, err)
	var ids []string
	for _, tenant := range []hostdb.TenantCatalog{{SchemaVersion: 3, SchemaSet: full},
		{SchemaVersion: 3, SchemaSet: gap}, {SchemaVersion: 2, SchemaSet: full}, {SchemaVersion: 3},
		{SchemaSet: full}, {SchemaVersion: 3, SchemaSet: hostdb.NewID()}} {
		tenant.Name = "Acme"
		must(t, db.Tenants.Insert(ctx, &tenant))
		ids = append(ids, tenant.ID)
	}
	for _, c := range []struct {
		complete []string
		want     []string
	}{{[]string{full}, ids[1:]}, {nil, ids}} {
		var got []string
		for tenant, err := range db.MigrationTenants.Planned(ctx, &hostdb.MigrationRun{TargetVersion: 3},
			hostdb.MigrationPlan{Only: ids, Complete: c.complete}) {
			must(t, err)
			got = append(got, tenant.ID)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("with %v complete: planned %v, want %v", c.complete, got, c.want)
		}
	}
	plan := hostdb.MigrationPlan{Complete: make([]string, 1001)}
	refused(t, db.MigrationRuns.Begin(ctx, new(hostdb.MigrationRun), plan), hostdb.ErrInvalid, "plan")
}

func plans(t *testing.T, db *hostdb.DB) {
	ctx := t.Context()
	var complete []string
	for _, version := range []int64{5, 6} {
		set, err := db.SchemaSets.Record(ctx, upTo(version))
		must(t, err)
		complete = append(complete, set)
	}
	ids := fleet(t, db, 0, 5, 1, 2, 3, 4, 6)
	var states []string
	for _, status := range []string{hostdb.TenantProvisioning, hostdb.TenantDropped, hostdb.TenantSuspended,
		hostdb.TenantMaintenance} {
		tenant := &hostdb.TenantCatalog{Name: "Acme", Status: status}
		must(t, db.Tenants.Insert(ctx, tenant))
		states = append(states, tenant.ID)
	}
	for name, c := range map[string]struct {
		plan   hostdb.MigrationPlan
		down   bool
		want   []string
		stages []int
	}{
		"all": {hostdb.MigrationPlan{}, false,
			[]string{ids[0], ids[2], ids[3], ids[4], ids[5], states[2], states[3]},
			[]int{1, 1, 1, 1, 1, 1, 1}},
		"canary": {hostdb.MigrationPlan{Canary: ids[4:5], CanaryCount: 1, Batch: 2}, false,
			[]string{ids[0], ids[4], ids[2], ids[3], ids[5], states[2], states[3]},
			[]int{0, 0, 1, 1, 2, 2, 3}},
		"only": {hostdb.MigrationPlan{Only: []string{ids[1], ids[3], states[0]}, Canary: ids[:2]}, false,
			ids[3:4], []int{1}},
		"verify": {hostdb.MigrationPlan{Only: []string{ids[1], ids[3]}, Verify: true}, false,
			[]string{ids[1], ids[3]}, []int{1, 1}},
		"down": {hostdb.MigrationPlan{Only: []string{ids[1], ids[6]}}, true, []string{ids[1], ids[6]},
			[]int{1, 1}},
		"nothing": {hostdb.MigrationPlan{Only: ids[6:]}, false, nil, nil},
	} {
		c.plan.Complete = complete
		run := &hostdb.MigrationRun{TargetVersion: 5, IsDown: c.down}
		var got []string
		var stages []int
		for tenant, err := range db.MigrationTenants.Planned(ctx, run, c.plan) {
			must(t, err)
			got, stages = append(got, tenant.ID), append(stages, tenant.Stage)
		}
		if !slices.Equal(got, c.want) || !slices.Equal(stages, c.stages) {
			t.Errorf("%s: planned %v in %v; want %v in %v", name, got, stages, c.want, c.stages)
		}
		must(t, db.MigrationRuns.Begin(ctx, run, c.plan))
		entered, err := db.MigrationTenants.List(ctx, hostdb.Where("run_id", run.ID))
		must(t, err)
		same(t, name+": entered", len(entered), len(c.want))
		if name == "all" {
			same(t, "at the target", run.AtTarget, 2)
		}
	}
	refused(t, db.MigrationRuns.Begin(ctx, new(hostdb.MigrationRun),
		hostdb.MigrationPlan{Only: []string{"x'"}}), hostdb.ErrInvalid, "tenant_id")
	refused(t, db.MigrationRuns.Begin(ctx, new(hostdb.MigrationRun), hostdb.MigrationPlan{Batch: -1}),
		hostdb.ErrInvalid, "plan")
}

func claims(t *testing.T, db *hostdb.DB) {
	ctx := t.Context()
	ids := fleet(t, db, 1, 1)
	var all [2]string
	for i := range all {
		run := &hostdb.MigrationRun{TargetVersion: 5}
		must(t, db.MigrationRuns.Begin(ctx, run, hostdb.MigrationPlan{Only: ids}))
		all[i] = run.ID
	}
	m := db.MigrationTenants
	must(t, m.Claim(ctx, all[0], ids[0], "a", time.Hour))
	refused(t, m.Claim(ctx, all[0], ids[0], "b", time.Hour), hostdb.ErrConflict, "status")
	refused(t, m.Claim(ctx, all[1], ids[0], "b", time.Hour), hostdb.ErrConflict, "tenant_id")
	ready, err := m.Ready(ctx, all[0], 1, "", 10)
	must(t, err)
	if len(ready) != 1 || ready[0].ID != ids[1] {
		t.Errorf("ready: %+v", ready)
	}
	must(t, m.Claim(ctx, all[0], ids[1], "a", time.Millisecond))
	deadline := time.Now().Add(10 * time.Second)
	for { // until the lease has ended and the other run takes over
		if err = m.Claim(ctx, all[1], ids[1], "b", time.Hour); err == nil || time.Now().After(deadline) {
			break
		}
		refused(t, err, hostdb.ErrConflict, "tenant_id")
	}
	must(t, err)
	lost := &hostdb.MigrationTenant{RunID: all[0], TenantID: ids[1], Worker: "a",
		Status: hostdb.MigrationDone}
	refused(t, m.Finish(ctx, lost), hostdb.ErrConflict, "lease")
	held, err := m.Heartbeat(ctx, "a", time.Hour)
	must(t, err)
	same(t, "held by a", strings.Join(held, " "), ids[0])
	done := &hostdb.MigrationTenant{RunID: all[0], TenantID: ids[0], Worker: "a",
		Status: hostdb.MigrationFailed, VersionBefore: 1, VersionAfter: 2, DurationMS: 7, Error: "bro\x00ken"}
	must(t, m.Finish(ctx, done))
	refused(t, m.Finish(ctx, done), hostdb.ErrConflict, "lease")
	rows, err := m.List(ctx, hostdb.Where("run_id", all[0]), hostdb.Where("tenant_id", ids[0]))
	must(t, err)
	if len(rows) != 1 || rows[0].Status != hostdb.MigrationFailed || rows[0].Error != "bro\uFFFDken" ||
		rows[0].CompletedAt == nil || rows[0].LeaseUntil != nil || rows[0].VersionAfter != 2 ||
		rows[0].DurationMS != 7 {
		t.Errorf("rows = %+v", rows)
	}
	must(t, m.Claim(ctx, all[1], ids[0], "b", time.Hour))
	counts, err := m.Count(ctx, all[0])
	must(t, err)
	if counts[hostdb.MigrationFailed] != 1 || counts[hostdb.MigrationPending] != 1 {
		t.Errorf("counts = %v", counts)
	}
}

func runs(t *testing.T, db *hostdb.DB) {
	ctx := t.Context()
	ids := fleet(t, db, 1, 1)
	run := &hostdb.MigrationRun{TargetVersion: 5}
	must(t, db.MigrationRuns.Begin(ctx, run, hostdb.MigrationPlan{Only: ids, CanaryCount: 1}))
	last, err := db.MigrationRuns.Last(ctx)
	must(t, err)
	same(t, "last", last.ID, run.ID)
	m := db.MigrationTenants
	for i, id := range ids {
		stage, err := m.Stage(ctx, run.ID)
		must(t, err)
		same(t, "stage", stage, i)
		must(t, m.Claim(ctx, run.ID, id, "a", time.Hour))
		status := []string{hostdb.MigrationFailed, hostdb.MigrationPending}[i]
		must(t, m.Finish(ctx, &hostdb.MigrationTenant{RunID: run.ID, TenantID: id, Worker: "a",
			Status: status}))
	}
	ended, err := db.MigrationRuns.End(ctx, run.ID, hostdb.RunPaused)
	must(t, err)
	same(t, "paused", ended.Status, hostdb.RunPaused)
	refused(t, m.Claim(ctx, run.ID, ids[1], "a", time.Hour), hostdb.ErrConflict, "status")
	ended, err = db.MigrationRuns.End(ctx, run.ID, hostdb.RunStopped)
	must(t, err)
	same(t, "still paused", ended.Status, hostdb.RunPaused)
	for i, retry := range []bool{false, true} {
		again, err := db.MigrationRuns.Continue(ctx, run.ID, retry)
		must(t, err)
		same(t, "again", again.Status, hostdb.RunRunning)
		stage, err := m.Stage(ctx, run.ID)
		must(t, err)
		same(t, "stage", stage, 1-i)
	}
	for _, id := range ids {
		must(t, m.Claim(ctx, run.ID, id, "a", time.Hour))
		must(t, m.Finish(ctx, &hostdb.MigrationTenant{RunID: run.ID, TenantID: id, Worker: "a",
			Status: hostdb.MigrationDone}))
	}
	_, err = m.Stage(ctx, run.ID)
	refused(t, err, hostdb.ErrNotFound, "")
	must(t, db.MigrationRuns.Delete(ctx, run.ID)) // with its rows of the ledger
	counts, err := m.Count(ctx, run.ID)
	must(t, err)
	same(t, "rows left", len(counts), 0)
}
