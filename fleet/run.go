package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/dburl"
	"github.com/tenantdb/tenantdb/internal/observe"
)

// run is a migration run in this process.
type run struct {
	*Fleet
	row     *hostdb.MigrationRun
	opts    MigrateOptions
	worker  string          // identifies this process's claims
	workCtx context.Context // ends when running migrations must stop
	stop    func(error)     // lets no further tenant begin
	leases  leases

	mu       sync.Mutex // guards what follows; held while Progress is called
	ended    int        // tenants of the run that have ended
	total    int
	finished int // tenants that have ended in this process
	failed   int
	sets     map[string]string // ids of recorded sets of migrations, by their versions
}

// newRun makes a run and counts its tenants.
func (f *Fleet) newRun(ctx context.Context, row *hostdb.MigrationRun, opts MigrateOptions) (*run, error) {
	counts, err := f.host.MigrationTenants.Count(ctx, row.ID)
	if err != nil {
		return nil, err
	}
	r := &run{Fleet: f, row: row, opts: opts, worker: hostdb.NewID(), sets: make(map[string]string)}
	for status, n := range counts {
		r.total += n
		if status != hostdb.MigrationPending && status != hostdb.MigrationRunning {
			r.ended += n
		}
	}
	return r, nil
}

// work works on the run until it is done. If the run is stopped, work returns why.
//
// When startCtx ends, no further tenant begins. When workCtx ends, running migrations stop too: the leases
// are lost then.
func (r *run) work(ctx context.Context) error {
	startCtx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	workCtx, end := r.keepLease(context.WithoutCancel(ctx), func(ctx context.Context) error {
		return r.leases.renew(func() ([]string, error) {
			return r.host.MigrationTenants.Heartbeat(ctx, r.worker, r.lease)
		})
	})
	defer end()
	r.workCtx = workCtx
	// After a lost lease, other errors follow from it.
	r.stop = func(err error) { stop(cmp.Or(context.Cause(workCtx), err)) }
	context.AfterFunc(workCtx, func() { r.stop(nil) })
	return r.stages(startCtx)
}

// stagePause is how long a run waits before it asks again for tenants that other processes work on.
const stagePause = 200 * time.Millisecond

// stages works on one stage after the other.
func (r *run) stages(startCtx context.Context) error {
	for {
		stage, err := r.host.MigrationTenants.Stage(startCtx, r.row.ID)
		switch {
		case errors.Is(err, hostdb.ErrNotFound):
			return nil
		case startCtx.Err() != nil:
			return context.Cause(startCtx)
		case err != nil:
			return err
		}
		ended, failed := r.finished, r.failed
		if err := r.pass(startCtx, stage); err != nil {
			return err
		}
		if startCtx.Err() != nil {
			return context.Cause(startCtx)
		}
		if stage == 0 && r.failed > failed {
			return errFailures
		}
		if r.finished == ended {
			if err := r.awaitOthers(startCtx); err != nil {
				return err
			}
		}
	}
}

// awaitOthers waits a moment for other processes, and returns errPaused if one of them paused the run.
func (r *run) awaitOthers(startCtx context.Context) error {
	select {
	case <-time.After(stagePause):
	case <-startCtx.Done():
		return context.Cause(startCtx)
	}
	row, err := r.host.MigrationRuns.Get(startCtx, r.row.ID)
	if err == nil && row.Status != hostdb.RunRunning {
		return errPaused
	}
	return err
}

// pass works on every tenant of a stage that no other process works on.
func (r *run) pass(startCtx context.Context, stage int) error {
	after := ""
	d := dispatcher[*hostdb.TenantCatalog]{parallel: r.opts.Parallel, perServer: r.opts.PerServer,
		server: serverOf,
		page: func() ([]*hostdb.TenantCatalog, error) {
			page, err := r.host.MigrationTenants.Ready(startCtx, r.row.ID, stage, after, lookahead)
			if len(page) > 0 {
				after = page[len(page)-1].ID
			}
			return page, err
		},
		do: func(tenant *hostdb.TenantCatalog) { r.runTenant(startCtx, tenant, stage) }}
	err := d.run(startCtx)
	if startCtx.Err() != nil {
		return context.Cause(startCtx)
	}
	return err
}

// runTenant claims a tenant, migrates it and records the result.
func (r *run) runTenant(startCtx context.Context, tenant *hostdb.TenantCatalog, stage int) {
	if !r.claim(startCtx, tenant.ID) {
		return
	}
	leased, end := r.leases.add(r.workCtx, tenant.ID)
	defer end()
	began := time.Now()
	plan, err := r.migrateTenant(leased, startCtx, tenant)
	from, to := plan.from, r.schema.reached(plan.applied)
	if !plan.known {
		to = from
	}
	entry := &hostdb.MigrationTenant{RunID: r.row.ID, TenantID: tenant.ID, Worker: r.worker, Stage: stage,
		Status: hostdb.MigrationDone, VersionBefore: from, VersionAfter: to,
		DurationMS: time.Since(began).Milliseconds()}
	switch {
	case errors.Is(err, errInterrupted):
		entry.Status = hostdb.MigrationPending
	case err != nil:
		entry.Status, entry.Error = hostdb.MigrationFailed, dburl.Redact(err.Error(), tenant.DBURL.Reveal())
	}
	if err = context.Cause(leased); !errors.Is(err, errTakenOver) {
		err = r.recordResult(tenant, entry, plan)
	}
	switch {
	case err == nil:
		observe.Tell(&r.panics, r.watch.Migrated, r.workCtx, r.report(tenant, entry))
	case errors.Is(err, errTakenOver): // the other process records the result
		r.logger.WarnContext(r.workCtx, "a tenant was taken over", "run", r.row.ID, "tenant", tenant.ID,
			"slug", tenant.Slug)
	default:
		r.stop(fmt.Errorf("tenant %s: %w", tenant.ID, err))
	}
}

// claim claims a tenant for this process. It reports false if the tenant isn't free, and stops the run if it
// was paused or the host database fails.
func (r *run) claim(startCtx context.Context, tenantID string) bool {
	err := r.host.MigrationTenants.Claim(r.workCtx, r.row.ID, tenantID, r.worker, r.lease)
	var field *hostdb.FieldError
	switch {
	case err == nil:
		return true
	case !errors.As(err, &field):
		r.stop(err)
	case field.Field == "tenant_id": // another run works on it
	default: // another process of this run works on it, or the run was paused
		row, err := r.host.MigrationRuns.Get(startCtx, r.row.ID)
		if err == nil && row.Status != hostdb.RunRunning {
			r.stop(errPaused)
		}
	}
	return false
}

// unknown is the version of a database that isn't a copy of the template.
const unknown = -1

// migrateTenant migrates a tenant's database to the run's target. It returns the plan with what was applied.
func (r *run) migrateTenant(leased, startCtx context.Context, tenant *hostdb.TenantCatalog) (plan, error) {
	ctx, cancel := context.WithTimeoutCause(leased, r.opts.Timeout,
		fmt.Errorf("it took longer than %s", r.opts.Timeout))
	defer cancel()
	lease, err := r.pool.Lease(tenant)
	if err != nil {
		return plan{}, err
	}
	defer lease.Close()
	db := lease.Session()
	defer db.Close()
	p, err := r.schema.plan(ctx, db, dialectOf(tenant.DBURL), r.row.TargetVersion, r.row.IsDown)
	if err == nil {
		err = p.refuseLate(r.opts.RefuseLate)
	}
	if err != nil {
		return p, withTimeout(ctx, err)
	}
	lowest := p.from
	if p.down {
		lowest = p.to
	}
	if len(p.steps) > 0 && (p.down || p.late || tenant.SchemaVersion > lowest) {
		if err := r.lowerVersion(ctx, tenant.ID, lowest); err != nil {
			return p, err
		}
	}
	err = r.schema.apply(ctx, startCtx, db, &p, lockRetry{r.opts.LockTimeout, r.opts.LockRetries})
	return p, withTimeout(ctx, err)
}

// withTimeout adds the cause to an error if the tenant's time was over.
func withTimeout(ctx context.Context, err error) error {
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	return err
}

// lowerVersion lowers the catalog's version before a down or late migration begins, so that no request relies
// on a higher one. Until the end the set of applied migrations counts as unknown.
func (r *run) lowerVersion(ctx context.Context, tenantID string, version int64) error {
	return r.edit(ctx, tenantID, func(tenant *hostdb.TenantCatalog) error {
		tenant.SchemaVersion, tenant.SchemaSet = min(tenant.SchemaVersion, version), ""
		return nil
	})
}

// recordResult writes the ledger entry and, if it is known, the catalog's version, in one transaction. It
// returns errTakenOver and writes nothing if another process has the tenant.
func (r *run) recordResult(used *hostdb.TenantCatalog, entry *hostdb.MigrationTenant, p plan) error {
	set, err := "", error(nil)
	if p.known {
		if set, err = r.recordSet(p.applied); err != nil {
			return err
		}
	}
	return r.host.InTx(r.workCtx, func(tx *hostdb.Tx) error {
		_, err := tx.Tenants.Change(r.workCtx, used.ID, func(tenant *hostdb.TenantCatalog) error {
			switch {
			case tenant.Status == hostdb.TenantDropped:
				entry.Status, entry.Error = hostdb.MigrationSkipped, ""
			case tenant.DBURL != used.DBURL:
				entry.Status, entry.Error = hostdb.MigrationFailed,
					"it was moved to another database meanwhile"
			case p.known:
				tenant.SchemaVersion, tenant.SchemaSet = r.schema.reached(p.applied), set
			}
			return nil
		})
		if err != nil {
			return err
		}
		err = tx.MigrationTenants.Finish(r.workCtx, entry)
		if errors.Is(err, hostdb.ErrConflict) {
			return errTakenOver
		}
		return err
	})
}

// recordSet returns the id of a set of migrations. Most tenants of a run share one set.
func (r *run) recordSet(applied []int64) (string, error) {
	slices.Sort(applied)
	key := fmt.Sprint(applied)
	r.mu.Lock()
	set := r.sets[key]
	r.mu.Unlock()
	if set != "" {
		return set, nil
	}
	set, err := r.host.SchemaSets.Record(r.workCtx, applied)
	if err == nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.sets[key] = set
	}
	return set, err
}

// report counts a tenant that has ended, calls Progress, and stops the run if too many have failed.
func (r *run) report(tenant *hostdb.TenantCatalog, entry *hostdb.MigrationTenant) Result {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.finished++
	if entry.Status != hostdb.MigrationPending {
		r.ended++
	}
	if entry.Status == hostdb.MigrationFailed {
		r.failed++
		r.logger.WarnContext(r.workCtx, "a tenant's migration failed", "run", r.row.ID, "tenant", tenant.ID,
			"slug", tenant.Slug, "cause", entry.Error)
	}
	result := resultOf(entry, tenant.Slug)
	result.Ended, result.Total = r.ended, r.total
	if r.opts.Progress != nil {
		r.opts.Progress(result)
	}
	if r.opts.tooManyFailed(r.failed, r.finished) {
		r.stop(errFailures)
	}
	return result
}

// resultOf makes the caller's result of a ledger entry.
func resultOf(entry *hostdb.MigrationTenant, slug string) Result {
	return Result{RunID: entry.RunID, TenantID: entry.TenantID, Slug: slug, Status: entry.Status,
		Stage: entry.Stage, From: entry.VersionBefore, To: entry.VersionAfter,
		Duration: time.Duration(entry.DurationMS) * time.Millisecond, Error: entry.Error}
}

// end ends the run and counts its tenants.
func (r *run) end(ctx context.Context, stopped error) (Report, error) {
	report := Report{RunID: r.row.ID, Target: r.row.TargetVersion, Down: r.row.IsDown,
		AtTarget: r.row.AtTarget}
	counts, err := r.host.MigrationTenants.Count(ctx, r.row.ID)
	if err != nil {
		return report, err
	}
	report.Done, report.Failed = counts[hostdb.MigrationDone], counts[hostdb.MigrationFailed]
	report.Skipped = counts[hostdb.MigrationSkipped]
	report.Pending = counts[hostdb.MigrationPending] + counts[hostdb.MigrationRunning]
	status := hostdb.RunDone
	if stopped != nil {
		status = hostdb.RunStopped
	}
	row, err := r.host.MigrationRuns.End(ctx, r.row.ID, status)
	if err == nil {
		report.Status = row.Status
	}
	return report, err
}
