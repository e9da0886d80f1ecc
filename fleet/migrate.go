package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// MigrateOptions are the options of [Fleet.Migrate]. The zero value migrates every tenant to the newest
// migration, four at a time, and stops at the first failure.
type MigrateOptions struct {
	// Run resumes this run, which was stopped, paused or killed, with the tenants that haven't ended. Target,
	// Down, Only, Canary, CanaryCount, Batch and Verify are ignored then.
	Run string
	// RetryFailed has a resumed Run include the tenants that failed.
	RetryFailed bool
	// Target is the version to migrate to, one of the migrations'. The default is the newest. With Down, 0
	// undoes every migration.
	Target int64
	// Down undoes the migrations above Target, by their Down sections.
	Down bool
	// Only selects tenants by their slugs or ids. The default is all tenants but those that are being
	// provisioned or were dropped.
	Only []string
	// Canary selects tenants that go first. One failure among the canaries stops the run.
	Canary []string
	// CanaryCount is how many further tenants go first.
	CanaryCount int
	// Batch is how many tenants, after the canaries, make up a batch. The next batch begins when all tenants
	// of a batch have ended. The default is one batch.
	Batch int
	// Parallel is how many tenants are migrated at once. Each uses a connection of the pool's budget. The
	// default is 4.
	Parallel int
	// PerServer is how many of them may be on one database server. The default is Parallel.
	PerServer int
	// MaxFailures stops the run after this many failures in this call. Running tenants are finished. The
	// default is 1. A negative number means no limit.
	MaxFailures int
	// MaxFailureRate stops the run when more than this share of the tenants has failed, once 20 have ended.
	// If it is set, the default of MaxFailures is no limit.
	MaxFailureRate float64
	// Timeout is how long one tenant may take. The default is 15 min.
	Timeout time.Duration
	// LockTimeout is how long a migration on PostgreSQL waits for a lock (SET LOCAL lock_timeout) before it
	// lets transactions that wait behind it go first, and tries again. It applies to migrations in a
	// transaction: others could leave an invalid index behind. The default is 2 s. With a negative duration
	// the server's setting applies.
	LockTimeout time.Duration
	// LockRetries is how many times a migration is tried again after a lock timeout or a deadlock. Before
	// each retry it waits LockTimeout to twice that. The default is 10. A negative number means no retry.
	LockRetries int
	// RefuseLate fails a tenant that lacks a migration older than its newest one, as after a merge of two
	// branches. By default such a migration is applied like the others.
	RefuseLate bool
	// Verify asks every database for its version, even if the catalog says that it is at the target. Use it
	// after a restore.
	Verify bool
	// DryRun asks the planned databases for their versions and changes nothing. The report counts the pending
	// tenants. No run is recorded.
	DryRun bool
	// Progress is called with each tenant that has ended, one call at a time.
	Progress func(Result)
}

// Result is the result of a run for one tenant, or what is planned for it.
type Result struct {
	RunID    string
	TenantID string
	Slug     string
	// Status is hostdb.MigrationDone, MigrationFailed or MigrationSkipped. It is MigrationPending for a
	// tenant that is planned or was interrupted.
	Status   string
	Stage    int   // 0: a canary
	From     int64 // the version before; in a plan the catalog's, or 0 if that is unknown
	To       int64 // the version after; in a plan the target
	Duration time.Duration
	Error    string // why it failed: at most 2 KiB, without secrets
	Ended    int    // how many of the run's tenants have ended, including this one
	Total    int    // how many tenants the run has
}

// Report is the result of a run, or of [Fleet.Each].
type Report struct {
	RunID    string
	Status   string // hostdb.RunDone, RunStopped or RunPaused
	Target   int64
	Down     bool
	AtTarget int // had nothing to do
	Done     int
	Failed   int
	Skipped  int // were dropped before their turn, or skipped with ErrSkipTenant
	Pending  int // not begun, or interrupted
	Duration time.Duration
}

// ErrIncomplete comes with a report in which not every tenant is done: some failed, or the run was stopped or
// paused.
var ErrIncomplete = errors.New("not every tenant is done")

// The reasons for which a run begins no further tenant.
var (
	errPaused   = errors.New("the run was paused")
	errFailures = errors.New("too many tenants failed")
	errLease    = errors.New("the host database was out of reach for longer than the lease")
)

// Migrate migrates the tenants' databases to a version of the schema, and records the result of each in the
// host database.
//
// When ctx ends, running migrations are finished, no further one begins, and the run can be resumed with
// [MigrateOptions.Run]. Several processes may migrate at once; only one of them works on a tenant at a time.
//
// The report is set whenever a run was begun. Errors: [ErrIncomplete], joined with the error of ctx if that
// ended; hostdb.ErrNotFound for an unknown tenant or run; errors of the host database.
func (f *Fleet) Migrate(ctx context.Context, opts MigrateOptions) (Report, error) {
	began := time.Now()
	if err := f.check(&opts); err != nil {
		return Report{}, fmt.Errorf("fleet: migrate: %w", err)
	}
	report, err := f.migrate(ctx, opts)
	report.Duration = time.Since(began)
	if err != nil {
		return report, fmt.Errorf("fleet: migrate: %w", err)
	}
	return report, nil
}

// migrate does a dry run, or begins or resumes a run.
func (f *Fleet) migrate(ctx context.Context, opts MigrateOptions) (Report, error) {
	if opts.DryRun {
		return f.dryRun(ctx, opts)
	}
	row, err := f.begin(ctx, opts)
	if err != nil {
		return Report{}, err
	}
	r, err := f.newRun(ctx, row, opts)
	if err != nil {
		return Report{RunID: row.ID}, err
	}
	stopped := r.work(ctx)
	report, err := r.end(context.WithoutCancel(ctx), stopped)
	if err == nil && report.Failed+report.Pending > 0 {
		err = ErrIncomplete
	}
	if stopped != nil {
		err = fmt.Errorf("%w: %w", ErrIncomplete, stopped)
	}
	return report, err
}

// check sets the defaults of the options and validates them.
func (f *Fleet) check(o *MigrateOptions) error {
	switch {
	case len(f.schema.migrations) == 0:
		return errors.New("Config.Migrations: there are none")
	case o.RetryFailed && o.Run == "":
		return errors.New("RetryFailed: name the Run")
	case o.Run != "" && o.DryRun:
		return errors.New("DryRun: a run that has begun can't be tried")
	case o.Target != 0 && !f.schema.has(o.Target):
		return fmt.Errorf("Target: there is no migration %d", o.Target)
	}
	if o.Target == 0 && !o.Down {
		o.Target = f.schema.latest()
	}
	o.LockTimeout = max(0, cmp.Or(o.LockTimeout, 2*time.Second))
	o.LockRetries = max(0, cmp.Or(o.LockRetries, 10))
	return o.checkLimits()
}

// checkLimits sets the defaults of the options that Each has too, and validates them.
func (o *MigrateOptions) checkLimits() error {
	switch {
	case o.Parallel < 0 || o.PerServer < 0 || o.Timeout < 0 || o.CanaryCount < 0 || o.Batch < 0:
		return errors.New("Parallel, PerServer, Timeout, CanaryCount and Batch can't be negative")
	case o.MaxFailureRate < 0 || o.MaxFailureRate >= 1:
		return errors.New("MaxFailureRate: give a share, from 0 to below 1")
	}
	o.Parallel = cmp.Or(o.Parallel, 4)
	o.PerServer = cmp.Or(o.PerServer, o.Parallel)
	o.Timeout = cmp.Or(o.Timeout, 15*time.Minute)
	if o.MaxFailures == 0 && o.MaxFailureRate == 0 {
		o.MaxFailures = 1
	}
	return nil
}

// tooManyFailed reports whether a run stops after so many failures among the tenants that have finished.
func (o *MigrateOptions) tooManyFailed(failed, finished int) bool {
	const enough = 20
	return o.MaxFailures > 0 && failed >= o.MaxFailures ||
		o.MaxFailureRate > 0 && finished >= enough && float64(failed) > o.MaxFailureRate*float64(finished)
}

// begin records a new run, or resumes an old one.
func (f *Fleet) begin(ctx context.Context, opts MigrateOptions) (*hostdb.MigrationRun, error) {
	if opts.Run != "" {
		row, err := f.host.MigrationRuns.Continue(ctx, opts.Run, opts.RetryFailed)
		if err != nil {
			return nil, fmt.Errorf("run %q: %w", opts.Run, err)
		}
		if row.TargetVersion != 0 && !f.schema.has(row.TargetVersion) {
			return nil, fmt.Errorf("run %s: its target %d isn't among Config.Migrations",
				row.ID, row.TargetVersion)
		}
		return row, nil
	}
	plan, err := f.plan(ctx, opts)
	if err != nil {
		return nil, err
	}
	row := &hostdb.MigrationRun{TargetVersion: opts.Target, IsDown: opts.Down}
	return row, f.host.MigrationRuns.Begin(ctx, row, plan)
}

// chosen makes a plan, for which it looks up the named tenants.
func (f *Fleet) chosen(ctx context.Context, opts MigrateOptions) (plan hostdb.MigrationPlan, err error) {
	plan = hostdb.MigrationPlan{CanaryCount: opts.CanaryCount, Batch: opts.Batch, Verify: opts.Verify}
	if plan.Only, err = f.ids(ctx, opts.Only); err == nil {
		plan.Canary, err = f.ids(ctx, opts.Canary)
	}
	return plan, err
}

// plan looks up the named tenants, and the sets of migrations that are complete up to the target.
func (f *Fleet) plan(ctx context.Context, opts MigrateOptions) (hostdb.MigrationPlan, error) {
	plan, err := f.chosen(ctx, opts)
	if err != nil || opts.Down {
		return plan, err
	}
	sets, err := f.host.SchemaSets.Newest(ctx)
	for id, applied := range sets {
		if len(f.schema.missing(applied, opts.Target)) == 0 {
			plan.Complete = append(plan.Complete, id)
		}
	}
	return plan, err
}

// ids returns the ids of tenants with these slugs or ids.
func (f *Fleet) ids(ctx context.Context, names []string) ([]string, error) {
	found, err := f.named(ctx, names)
	var ids []string
	for _, tenant := range found {
		ids = append(ids, tenant.ID)
	}
	return ids, err
}

// named returns the tenants with these slugs or ids, all or none.
func (f *Fleet) named(ctx context.Context, names []string) ([]*hostdb.TenantCatalog, error) {
	var found []*hostdb.TenantCatalog
	for _, name := range names {
		tenant, err := f.find(ctx, name)
		if err != nil {
			return nil, err
		}
		found = append(found, tenant)
	}
	return found, nil
}

// find returns the tenant with a slug or id.
func (f *Fleet) find(ctx context.Context, name string) (*hostdb.TenantCatalog, error) {
	get := f.host.Tenants.BySlug
	if hostdb.ValidID(name) {
		get = f.host.Tenants.Get
	}
	tenant, err := get(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("tenant %q: %w", name, err)
	}
	return tenant, nil
}

// Pause has a run begin no further tenant, in whichever process it is. [MigrateOptions.Run] resumes it.
// Pausing a run that isn't running changes nothing. Errors: hostdb.ErrNotFound.
func (f *Fleet) Pause(ctx context.Context, runID string) error {
	if _, err := f.host.MigrationRuns.End(ctx, runID, hostdb.RunPaused); err != nil {
		return fmt.Errorf("fleet: pause run %q: %w", runID, err)
	}
	return nil
}
