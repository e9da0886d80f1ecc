package hostdb

import (
	"cmp"
	"context"
	"fmt"
	"time"
)

// The statuses of a migration run.
const (
	RunRunning = "running"
	RunPaused  = "paused"  // no further tenant is started until the run is continued
	RunStopped = "stopped" // ended with tenants left, as by too many failures; it may be taken up again
	RunDone    = "done"    // no tenant is left; some may have failed
)

// MigrationRun migrates tenants' databases to a version of their own schema (sys_migration_runs).
type MigrationRun struct {
	ID            string
	Status        string // default RunRunning
	TargetVersion int64
	IsDown        bool // it rolls migrations back
	AtTarget      int  // how many tenants had nothing to do and aren't in the ledger
	CreatedAt     time.Time
	CompletedAt   *time.Time // when it last ended
}

var runRelation = relation[MigrationRun]{
	table: "sys_migration_runs", foreignKey: "run_id",
	columns: []column[MigrationRun]{
		{"id", func(r *MigrationRun) any { return &r.ID }, idRule},
		{"status", func(r *MigrationRun) any { return &r.Status },
			rule{required: true, allowed: []string{RunRunning, RunPaused, RunStopped, RunDone}}},
		{"target_version", func(r *MigrationRun) any { return &r.TargetVersion }, rule{}},
		{"is_down", func(r *MigrationRun) any { return &r.IsDown }, anyBool},
		{"at_target", func(r *MigrationRun) any { return &r.AtTarget }, rule{}},
		{"created_at", func(r *MigrationRun) any { return &r.CreatedAt }, anyTime},
		{"completed_at", func(r *MigrationRun) any { return &r.CompletedAt }, anyTime},
	},
	defaults: func(r *MigrationRun) { setDefault(&r.Status, RunRunning) },
}

// MigrationRuns is the table of migration runs.
type MigrationRuns struct{ Table[MigrationRun] }

// Last returns the newest run. Errors: ErrNotFound.
func (t MigrationRuns) Last(ctx context.Context) (*MigrationRun, error) {
	return t.one(ctx, "ORDER BY id DESC LIMIT 1")
}

// Begin stores a new run and adds the tenants that it has to migrate to the ledger, in one transaction. It
// sets AtTarget. Errors: ErrInvalid.
func (t MigrationRuns) Begin(ctx context.Context, run *MigrationRun, plan MigrationPlan) error {
	if run == nil {
		return invalid("run", "is nil")
	}
	selected, args, err := plan.query(run)
	if err != nil {
		return err
	}
	return t.s.write(ctx, func(tx *Tx) error {
		in := tx.MigrationRuns
		if err := in.Insert(ctx, run); err != nil {
			return err
		}
		all, allArgs := plan.condition("")
		considered := 0
		if err := in.s.queryRow(ctx, "SELECT count(*) FROM core_tenants WHERE "+all, allArgs,
			&considered); err != nil {
			return err
		}
		entered, err := in.s.exec(ctx,
			"INSERT INTO sys_migration_tenants (run_id, tenant_id, stage) SELECT '"+run.ID+
				"', tenant_id, stage FROM ("+
				selected+") AS planned", args, asReported)
		if err != nil {
			return err
		}
		run.AtTarget = max(0, considered-int(entered))
		return in.Update(ctx, run)
	})
}

// Continue restarts a run that was paused or stopped or is done. With retry its failed tenants are tried
// again. Errors: ErrNotFound; ErrInvalid.
func (t MigrationRuns) Continue(ctx context.Context, id string, retry bool) (run *MigrationRun, err error) {
	err = t.s.write(ctx, func(tx *Tx) error {
		if run, err = tx.MigrationRuns.Lock(ctx, id); err != nil {
			return err
		}
		if retry {
			if _, err := tx.MigrationRuns.s.exec(ctx,
				"UPDATE sys_migration_tenants SET status = 'pending', completed_at = NULL"+
					" WHERE run_id = $1 AND status = 'failed'", []any{id}, asReported); err != nil {
				return err
			}
		}
		run.Status, run.CompletedAt = RunRunning, nil
		return tx.MigrationRuns.Update(ctx, run)
	})
	return run, err
}

// End sets the status of a run that is running, and returns its row. A run that was paused meanwhile stays
// paused. Errors: ErrNotFound; ErrInvalid.
func (t MigrationRuns) End(ctx context.Context, id, status string) (run *MigrationRun, err error) {
	err = t.s.write(ctx, func(tx *Tx) error {
		if run, err = tx.MigrationRuns.Lock(ctx, id); err != nil || run.Status != RunRunning {
			return err
		}
		now := tx.db.now()
		run.Status, run.CompletedAt = status, &now
		return tx.MigrationRuns.Update(ctx, run)
	})
	return run, err
}

// MigrationPlan says which tenants a run migrates, and in which order: first the canaries (stage 0), then
// the others in stages of Batch tenants. Tenants that are being provisioned or were dropped are left out.
type MigrationPlan struct {
	Only        []string // tenants' ids; empty: all
	Canary      []string // ids of tenants that go first
	CanaryCount int      // how many more go first
	Batch       int      // tenants per stage; 0: all in one
	Verify      bool     // also tenants that are at the target according to the catalog
	Complete    []string // ids of the SchemaSets that contain every migration up to the target
}

// maxNamed is how many tenants a plan may name.
const maxNamed = 5000

// condition returns the condition for the plan's tenants, and its arguments.
func (p MigrationPlan) condition(alias string) (string, []any) {
	condition := alias + "status IN ('active', 'suspended', 'maintenance')"
	if len(p.Only) == 0 {
		return condition, nil
	}
	places, args := placesFor(p.Only, nil)
	return condition + " AND " + alias + "id IN (" + places + ")", args
}

// query selects tenant_id and stage of the tenants that have something to do. The catalog's version and set
// are raised after an up, so together they prove that a tenant is at the target. They are lowered before a
// down, so they prove nothing for a down.
func (p MigrationPlan) query(run *MigrationRun) (string, []any, error) {
	if p.CanaryCount < 0 || p.Batch < 0 {
		return "", nil, invalid("plan", "CanaryCount and Batch can't be negative")
	}
	if len(p.Complete) > newestSchemaSets {
		return "", nil, invalid("plan", fmt.Sprintf("more than %d sets are complete", newestSchemaSets))
	}
	if len(p.Only) > maxNamed || len(p.Canary) > maxNamed {
		return "", nil, invalid("plan", fmt.Sprintf("more than %d tenants are named", maxNamed))
	}
	for _, id := range append(p.Only[:len(p.Only):len(p.Only)], p.Canary...) {
		if err := idRule.checkText("tenant_id", id); err != nil {
			return "", nil, err
		}
	}
	condition, args := p.condition("")
	if !run.IsDown && !p.Verify {
		var places string
		places, args = placesFor(p.Complete, args)
		condition += fmt.Sprintf(" AND NOT coalesce(schema_version >= %d AND schema_set IN (%s), 0 = 1)",
			run.TargetVersion, cmp.Or(places, "NULL"))
	}
	canary := "0 = 1"
	if len(p.Canary) > 0 {
		var places string
		places, args = placesFor(p.Canary, args)
		canary = "id IN (" + places + ")"
	}
	stage := "1"
	if p.Batch > 0 {
		stage = fmt.Sprintf("1 + (place - 1 - %d) / %d", p.CanaryCount, p.Batch)
	}
	return fmt.Sprintf(`SELECT id AS tenant_id, CASE WHEN is_canary OR place <= %d THEN 0 ELSE %s
		END AS stage FROM (
		SELECT id, is_canary, row_number() OVER (PARTITION BY is_canary ORDER BY id) AS place FROM (
			SELECT id, %s AS is_canary FROM core_tenants WHERE %s) AS chosen) AS placed`, p.CanaryCount,
		stage, canary, condition), args, nil
}

// placesFor appends values to a statement's arguments and returns their placeholders.
func placesFor(values []string, args []any) (string, []any) {
	places := ""
	for i, value := range values {
		if i > 0 {
			places += ", "
		}
		args = append(args, value)
		places += fmt.Sprintf("$%d", len(args))
	}
	return places, args
}
