package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/dburl"
)

// run is a migration run in this process.
type run struct {
	*Fleet
	row    *hostdb.MigrationRun
	opts   MigrateOptions
	worker string // by which this process's claims are known
	hard   context.Context
	stop   context.CancelCauseFunc // begins no further tenant
	holds  holds

	mu       sync.Mutex // guards what follows; held while Progress is called
	ended    int        // tenants of the run
	total    int
	finished int // by this call
	failed   int
	sets     map[string]string // ids of the sets of migrations that are on record, by the sets
}

// newRun prepares to work on a run.
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

// work works on the run until it is done, and returns nil, or is stopped, and returns why.
func (r *run) work(ctx context.Context) error {
	soft, stop := context.WithCancelCause(ctx)
	hard, abandon := context.WithCancel(context.WithoutCancel(ctx))
	defer abandon()
	r.stop, r.hard = stop, hard
	var beats sync.WaitGroup
	beats.Go(func() {
		keep(hard, r.lease, func(ctx context.Context) error {
			return r.holds.beat(func() ([]string, error) { return r.host.MigrationTenants.Heartbeat(ctx, r.worker, r.lease) })
		}, func() { stop(errLease); abandon() })
	})
	err := r.stages(soft)
	abandon()
	beats.Wait()
	stop(nil)
	return err
}

// stagePause is how long a run waits before it looks again for tenants that others work on.
const stagePause = 200 * time.Millisecond

// stages works on one stage after the other.
func (r *run) stages(soft context.Context) error {
	for {
		stage, err := r.host.MigrationTenants.Stage(soft, r.row.ID)
		switch {
		case errors.Is(err, hostdb.ErrNotFound):
			return nil
		case soft.Err() != nil:
			return context.Cause(soft)
		case err != nil:
			return err
		}
		ended, failed := r.finished, r.failed
		if err := r.pass(soft, stage); err != nil {
			return err
		}
		if soft.Err() != nil {
			return context.Cause(soft)
		}
		if stage == 0 && r.failed > failed {
			return errFailures
		}
		if r.finished == ended {
			if err := r.idle(soft); err != nil {
				return err
			}
		}
	}
}

// idle waits for what other processes do, and finds out whether one of them paused the run.
func (r *run) idle(soft context.Context) error {
	select {
	case <-time.After(stagePause):
	case <-soft.Done():
		return context.Cause(soft)
	}
	row, err := r.host.MigrationRuns.Get(soft, r.row.ID)
	if err == nil && row.Status != hostdb.RunRunning {
		return errPaused
	}
	return err
}

// pass works on every tenant of a stage that nobody works on.
func (r *run) pass(soft context.Context, stage int) error {
	after := ""
	l := line{parallel: r.opts.Parallel, perServer: r.opts.PerServer,
		page: func() ([]*hostdb.TenantCatalog, error) {
			page, err := r.host.MigrationTenants.Ready(soft, r.row.ID, stage, after, lookahead)
			if len(page) > 0 {
				after = page[len(page)-1].ID
			}
			return page, err
		},
		do: func(tenant *hostdb.TenantCatalog) { r.tenant(soft, tenant, stage) }}
	err := l.run(soft)
	if soft.Err() != nil {
		return context.Cause(soft)
	}
	return err
}

// tenant claims a tenant, migrates it and writes down how that ended.
func (r *run) tenant(soft context.Context, tenant *hostdb.TenantCatalog, stage int) {
	err := r.host.MigrationTenants.Claim(r.hard, r.row.ID, tenant.ID, r.worker, r.lease)
	var field *hostdb.FieldError
	switch {
	case err == nil:
	case !errors.As(err, &field):
		r.stop(err)
		return
	case field.Field == "tenant_id": // another run works on it
		return
	default: // this run does elsewhere, or was paused
		if row, err := r.host.MigrationRuns.Get(soft, r.row.ID); err == nil && row.Status != hostdb.RunRunning {
			r.stop(errPaused)
		}
		return
	}
	held, end := r.holds.begin(r.hard, tenant.ID)
	defer end()
	began := time.Now()
	way, err := r.bring(held, soft, tenant)
	from, to := way.from, r.schema.reached(way.applied)
	if !way.known {
		to = from
	}
	entry := &hostdb.MigrationTenant{RunID: r.row.ID, TenantID: tenant.ID, Worker: r.worker, Stage: stage, Status: hostdb.MigrationDone,
		VersionBefore: from, VersionAfter: to, DurationMS: time.Since(began).Milliseconds()}
	switch {
	case errors.Is(err, errInterrupted):
		entry.Status = hostdb.MigrationPending
	case err != nil:
		entry.Status, entry.Error = hostdb.MigrationFailed, dburl.Redact(err.Error(), tenant.DBURL.Reveal())
	}
	if err = context.Cause(held); !errors.Is(err, errTaken) {
		err = r.settle(tenant, entry, way)
	}
	switch {
	case err == nil:
		r.tell(tenant, entry)
	case errors.Is(err, errTaken): // that one writes down how it ends
		r.logger.WarnContext(r.hard, "a tenant was taken over", "run", r.row.ID, "tenant", tenant.ID, "slug", tenant.Slug)
	default:
		r.stop(fmt.Errorf("tenant %s: %w", tenant.ID, err))
	}
}

// unknown is the version of a database that isn't a copy of the template.
const unknown = -1

// bring brings a tenant's database to the run's target, and returns the way that it went.
func (r *run) bring(held, soft context.Context, tenant *hostdb.TenantCatalog) (way route, err error) {
	ctx, cancel := context.WithTimeoutCause(held, r.opts.Timeout, fmt.Errorf("it took longer than %s", r.opts.Timeout))
	defer cancel()
	lease, err := r.pool.Lease(tenant)
	if err != nil {
		return way, err
	}
	defer lease.Close()
	db := lease.Session()
	defer db.Close()
	way, err = r.schema.route(ctx, db, dialectOf(tenant.DBURL), r.row.TargetVersion, r.row.IsDown)
	if err == nil {
		err = way.refuse(r.opts.RefuseLate)
	}
	if err != nil {
		return way, timedOut(ctx, err)
	}
	floor := way.from
	if way.down {
		floor = way.to
	}
	if len(way.steps) > 0 && (way.down || way.late || tenant.SchemaVersion > floor) {
		if err := r.lower(ctx, tenant.ID, floor); err != nil {
			return way, err
		}
	}
	err = r.schema.walk(ctx, soft, db, &way, lockPatience{r.opts.LockTimeout, r.opts.LockRetries})
	return way, timedOut(ctx, err)
}

// timedOut says so where a tenant's time was over.
func timedOut(ctx context.Context, err error) error {
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	return err
}

// lower has the catalog say, before a down or a late up, what version there will be at least, so that no
// request relies on more. Which migrations there are is unknown until the end.
func (r *run) lower(ctx context.Context, tenantID string, version int64) error {
	return r.edit(ctx, tenantID, func(tenant *hostdb.TenantCatalog) error {
		tenant.SchemaVersion, tenant.SchemaSet = min(tenant.SchemaVersion, version), ""
		return nil
	})
}

// settle writes the ledger, and into the catalog what the database has where that is known, in one
// transaction, unless the tenant was taken over.
func (r *run) settle(used *hostdb.TenantCatalog, entry *hostdb.MigrationTenant, way route) error {
	set, err := "", error(nil)
	if way.known {
		if set, err = r.record(way.applied); err != nil {
			return err
		}
	}
	return r.host.InTx(r.hard, func(tx *hostdb.Tx) error {
		_, err := tx.Tenants.Change(r.hard, used.ID, func(tenant *hostdb.TenantCatalog) error {
			switch {
			case tenant.Status == hostdb.TenantDropped:
				entry.Status, entry.Error = hostdb.MigrationSkipped, ""
			case tenant.DBURL != used.DBURL:
				entry.Status, entry.Error = hostdb.MigrationFailed, "it was moved to another database meanwhile"
			case way.known:
				tenant.SchemaVersion, tenant.SchemaSet = r.schema.reached(way.applied), set
			}
			return nil
		})
		if err != nil {
			return err
		}
		err = tx.MigrationTenants.Finish(r.hard, entry)
		if errors.Is(err, hostdb.ErrConflict) {
			return errTaken
		}
		return err
	})
}

// record returns the id of a set of migrations, which most of a run's tenants share.
func (r *run) record(applied []int64) (string, error) {
	slices.Sort(applied)
	key := fmt.Sprint(applied)
	r.mu.Lock()
	set := r.sets[key]
	r.mu.Unlock()
	if set != "" {
		return set, nil
	}
	set, err := r.host.SchemaSets.Record(r.hard, applied)
	if err == nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.sets[key] = set
	}
	return set, err
}

// tell counts a tenant that has ended, tells Progress, and stops the run where too many have failed.
func (r *run) tell(tenant *hostdb.TenantCatalog, entry *hostdb.MigrationTenant) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.finished++
	if entry.Status != hostdb.MigrationPending {
		r.ended++
	}
	if entry.Status == hostdb.MigrationFailed {
		r.failed++
		r.logger.WarnContext(r.hard, "a tenant's migration failed", "run", r.row.ID, "tenant", tenant.ID, "slug", tenant.Slug, "cause", entry.Error)
	}
	if r.opts.Progress != nil {
		result := resultOf(entry, tenant.Slug)
		result.Ended, result.Total = r.ended, r.total
		r.opts.Progress(result)
	}
	tooMany := r.opts.MaxFailures > 0 && r.failed >= r.opts.MaxFailures
	const enough = 20
	tooOften := r.opts.MaxFailureRate > 0 && r.finished >= enough && float64(r.failed) > r.opts.MaxFailureRate*float64(r.finished)
	if tooMany || tooOften {
		r.stop(errFailures)
	}
}

// resultOf is a row of the ledger as the caller sees it.
func resultOf(entry *hostdb.MigrationTenant, slug string) Result {
	return Result{RunID: entry.RunID, TenantID: entry.TenantID, Slug: slug, Status: entry.Status, Stage: entry.Stage, From: entry.VersionBefore,
		To: entry.VersionAfter, Duration: time.Duration(entry.DurationMS) * time.Millisecond, Error: entry.Error}
}

// report ends the run and counts its tenants.
func (r *run) report(ctx context.Context, stopped error) (Report, error) {
	report := Report{RunID: r.row.ID, Target: r.row.TargetVersion, Down: r.row.IsDown, AtTarget: r.row.AtTarget}
	counts, err := r.host.MigrationTenants.Count(ctx, r.row.ID)
	if err != nil {
		return report, err
	}
	report.Done, report.Failed, report.Skipped = counts[hostdb.MigrationDone], counts[hostdb.MigrationFailed], counts[hostdb.MigrationSkipped]
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

// keep gives signs of life, four for each lease, until ctx ends, and calls lose when none has arrived for two
// thirds of a lease: the last third is for what runs to end.
func keep(ctx context.Context, lease time.Duration, beat func(context.Context) error, lose func()) {
	patience := lease * 2 / 3
	over := time.AfterFunc(patience, lose)
	defer over.Stop()
	tick := time.NewTicker(lease / 4)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		since := time.Now()
		timed, cancel := context.WithTimeout(ctx, lease/4)
		err := beat(timed)
		cancel()
		if err == nil {
			over.Reset(time.Until(since.Add(patience)))
		} else if errors.Is(err, hostdb.ErrConflict) { // somebody else has it
			lose()
			return
		}
	}
}
