package hostdb

import (
	"context"
	"iter"
	"strconv"
	"time"
)

// The statuses of a tenant in a migration run.
const (
	MigrationPending = "pending"
	MigrationRunning = "running"
	MigrationDone    = "done"
	MigrationFailed  = "failed"
	MigrationSkipped = "skipped" // dropped before its turn came
)

// maxMigrationError is how much of a failed migration's error is stored.
const maxMigrationError = 2 << 10

// MigrationTenant is a row of the ledger: what a run did, or has to do, in a tenant (sys_migration_tenants).
type MigrationTenant struct {
	ID            string
	RunID         string // required
	TenantID      string // required; only one run at a time has a row with MigrationRunning
	Stage         int    // 0: canaries; a stage begins when the previous one has ended
	Status        string // default MigrationPending
	VersionBefore int64
	VersionAfter  int64
	DurationMS    int64
	Error         string     // up to 2 KiB
	Worker        string     // of a running migration: who runs it
	LeaseUntil    *time.Time // of a running migration: when others may take it over
	CompletedAt   *time.Time
}

var ledgerRelation = relation[MigrationTenant]{
	table: "sys_migration_tenants", foreignKey: "ledger_id", unique: []string{"run_id,tenant_id"},
	columns: []column[MigrationTenant]{
		{"id", func(m *MigrationTenant) any { return &m.ID }, idRule},
		{"run_id", func(m *MigrationTenant) any { return &m.RunID }, idRule},
		{"tenant_id", func(m *MigrationTenant) any { return &m.TenantID }, idRule},
		{"stage", func(m *MigrationTenant) any { return &m.Stage }, rule{}},
		{"status", func(m *MigrationTenant) any { return &m.Status }, rule{required: true,
			allowed: []string{MigrationPending, MigrationRunning, MigrationDone, MigrationFailed,
				MigrationSkipped}}},
		{"version_before", func(m *MigrationTenant) any { return &m.VersionBefore }, rule{}},
		{"version_after", func(m *MigrationTenant) any { return &m.VersionAfter }, rule{}},
		{"duration_ms", func(m *MigrationTenant) any { return &m.DurationMS }, rule{}},
		{"error", func(m *MigrationTenant) any { return &m.Error }, rule{maxBytes: maxMigrationError}},
		{"worker", func(m *MigrationTenant) any { return &m.Worker }, anyText},
		{"lease_until", func(m *MigrationTenant) any { return &m.LeaseUntil }, anyTime},
		{"completed_at", func(m *MigrationTenant) any { return &m.CompletedAt }, anyTime},
	},
	defaults: func(m *MigrationTenant) { setDefault(&m.Status, MigrationPending) },
}

// MigrationTenants is the ledger of migrations. Claim, Heartbeat and Finish keep its rules. Insert and
// Update store a row as it is.
type MigrationTenants struct{ Table[MigrationTenant] }

// PlannedTenant is a tenant with its stage in a run.
type PlannedTenant struct {
	TenantCatalog
	Stage int
}

// Planned iterates over the tenants that a new run would migrate, in its order, page by page. Errors: as for
// [Table.All].
func (t MigrationTenants) Planned(ctx context.Context, run *MigrationRun,
	plan MigrationPlan) iter.Seq2[*PlannedTenant, error] {
	return func(yield func(*PlannedTenant, error) bool) {
		selected, args, err := plan.query(run)
		last := &PlannedTenant{Stage: -1}
		for err == nil {
			var page []*PlannedTenant
			page, err = t.plannedPage(ctx, selected, args, last)
			for _, p := range page {
				if last = p; !yield(p, nil) {
					return
				}
			}
			if err == nil && len(page) < maxPage {
				return
			}
		}
		yield(nil, err)
	}
}

// plannedPage reads the page of a plan that follows a tenant.
func (t MigrationTenants) plannedPage(ctx context.Context, selected string, args []any,
	after *PlannedTenant) ([]*PlannedTenant, error) {
	var page []*PlannedTenant
	places, args := placesFor([]string{after.ID}, args[:len(args):len(args)])
	text := "SELECT p.stage, " + tenantRelation.columnsOf("t") + " FROM (" + selected +
		") AS p JOIN core_tenants t ON t.id = p.tenant_id" + " WHERE p.stage > " + strconv.Itoa(after.Stage) +
		" OR (p.stage = " + strconv.Itoa(after.Stage) + " AND t.id > " + places + ")" +
		" ORDER BY p.stage, t.id LIMIT " + strconv.Itoa(maxPage)
	err := t.s.query(ctx, text, args, func(row scanner) error {
		p := new(PlannedTenant)
		page = append(page, p)
		return row.Scan(tenantRelation.scanTargets(&p.TenantCatalog, []any{&p.Stage})...)
	})
	return page, err
}

// Stage returns the first stage of a run that hasn't ended. Errors: ErrNotFound if all have.
func (t MigrationTenants) Stage(ctx context.Context, runID string) (int, error) {
	var stage int
	err := t.s.queryRow(ctx,
		"SELECT stage FROM sys_migration_tenants WHERE run_id = $1 AND status IN ('pending', 'running')"+
			" ORDER BY stage LIMIT 1", []any{runID}, &stage)
	return stage, err
}

// Ready returns tenants of a run's stage that may be claimed, ordered by id, beginning after an id: those
// that are pending, and those whose lease has ended.
func (t MigrationTenants) Ready(ctx context.Context, runID string, stage int, after string,
	limit int) ([]*TenantCatalog, error) {
	var found []*TenantCatalog
	text := "SELECT " + tenantRelation.columnsOf("t") + ` FROM sys_migration_tenants m JOIN core_tenants t
		ON t.id = m.tenant_id
		WHERE m.run_id = $1 AND m.stage = $2 AND m.tenant_id > $3 AND m.status IN ('pending', 'running')
			AND (m.status = 'pending' OR m.lease_until <= $4)
		ORDER BY m.tenant_id LIMIT ` + strconv.Itoa(limit)
	err := t.s.query(ctx, text, []any{runID, stage, after, t.s.db.engine.time(t.s.db.now())},
		func(row scanner) error {
			tenant, err := tenantRelation.read(row)
			found = append(found, tenant)
			return err
		})
	return found, err
}

// Claim gives a pending tenant of a running run to a worker for a lease, which Heartbeat extends. Only one
// run at a time migrates a tenant. Errors: ErrConflict on "tenant_id" while another run does; ErrConflict on
// "status" if the tenant isn't pending, or the run isn't running.
func (t MigrationTenants) Claim(ctx context.Context, runID, tenantID, worker string,
	lease time.Duration) error {
	claimed, err := t.tryClaim(ctx, runID, tenantID, worker, lease)
	if err == nil && claimed {
		return nil
	}
	if free, err := t.releaseExpired(ctx, tenantID); err != nil {
		return err
	} else if free {
		claimed, err := t.tryClaim(ctx, runID, tenantID, worker, lease)
		if err != nil || claimed {
			return err
		}
	}
	if err != nil {
		return err
	}
	return conflict("status", "the tenant isn't pending, or the run isn't running")
}

// tryClaim is Claim without regard to leases that have ended.
func (t MigrationTenants) tryClaim(ctx context.Context, runID, tenantID, worker string,
	lease time.Duration) (bool, error) {
	touched, err := t.s.exec(ctx, `UPDATE sys_migration_tenants
		SET status = 'running', worker = $3, lease_until = $4, error = NULL
		WHERE run_id = $1 AND tenant_id = $2 AND status = 'pending'
			AND EXISTS (SELECT 1 FROM sys_migration_runs WHERE id = $1 AND status = 'running')`,
		[]any{runID, tenantID, worker, t.s.db.engine.time(t.s.db.now().Add(lease))}, asReported)
	return touched == 1, err
}

// releaseExpired makes a tenant pending again if its lease has ended, and reports whether it did.
func (t MigrationTenants) releaseExpired(ctx context.Context, tenantID string) (bool, error) {
	touched, err := t.s.exec(ctx, `UPDATE sys_migration_tenants
		SET status = 'pending', worker = NULL, lease_until = NULL
		WHERE tenant_id = $1 AND status = 'running' AND lease_until <= $2`,
		[]any{tenantID, t.s.db.engine.time(t.s.db.now())}, asReported)
	return touched > 0, err
}

// Heartbeat extends the leases of all tenants that a worker has claimed, to lease from now, and returns
// those tenants' ids. A missing one was taken over.
func (t MigrationTenants) Heartbeat(ctx context.Context, worker string,
	lease time.Duration) ([]string, error) {
	var held []string
	err := t.s.returning(ctx,
		"UPDATE sys_migration_tenants SET lease_until = $2 WHERE worker = $1 AND status = 'running' "+
			"RETURNING tenant_id", []any{worker, t.s.db.engine.time(t.s.db.now().Add(lease))},
		appendText(&held))
	return held, err
}

// Finish records the result for a tenant that a worker had claimed: Status, the versions, DurationMS and
// Error. The first 2 KiB of the error are stored. It must contain no secret. With MigrationPending the
// tenant waits again. Errors: ErrConflict on "lease" if the worker has lost the tenant.
func (t MigrationTenants) Finish(ctx context.Context, m *MigrationTenant) error {
	now := t.s.db.now()
	m.Error, m.CompletedAt, m.LeaseUntil = storable(m.Error, maxMigrationError), &now, nil
	if m.Status == MigrationPending {
		m.CompletedAt = nil
	}
	completed, err := anyTime.encode(t.s.db.engine, "completed_at", &m.CompletedAt)
	if err != nil {
		return err
	}
	touched, err := t.s.exec(ctx, `UPDATE sys_migration_tenants
		SET status = $4, version_before = $5, version_after = $6, duration_ms = $7,
		error = $8, completed_at = $9, worker = NULL, lease_until = NULL
		WHERE run_id = $1 AND tenant_id = $2 AND worker = $3 AND status = 'running'`,
		[]any{m.RunID, m.TenantID, m.Worker, m.Status, m.VersionBefore, m.VersionAfter, m.DurationMS,
			nullIfEmpty(m.Error), completed}, asReported)
	if err == nil && touched == 0 {
		return conflict("lease", "the tenant is no longer this worker's")
	}
	return err
}

// Count returns how many tenants of a run have each status.
func (t MigrationTenants) Count(ctx context.Context, runID string) (map[string]int, error) {
	counts := make(map[string]int)
	err := t.s.query(ctx, "SELECT status, count(*) FROM sys_migration_tenants WHERE run_id = $1 "+
		"GROUP BY status", []any{runID}, func(row scanner) error {
		var status string
		var n int
		err := row.Scan(&status, &n)
		counts[status] = n
		return err
	})
	return counts, err
}
