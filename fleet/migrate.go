package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// MigrateOptions says how Migrate works. The zero value brings every tenant to the newest migration, four at
// a time, and stops at the first failure.
type MigrateOptions struct {
	// Run goes on with this run, which was stopped, paused or killed: with its tenants that haven't ended.
	// Target, Down, Only, Canary, CanaryCount, Batch and Verify are the run's own then.
	Run string
	// RetryFailed, with Run: its tenants that failed, too.
	RetryFailed bool
	// Target is the version to reach, one of the migrations'. Default: the newest. With Down: the version to
	// go back to; 0 takes everything back.
	Target int64
	// Down takes the migrations above Target back, by their Down sections.
	Down bool
	// Only names the tenants (slugs or ids) to work on. Default: all but those that are being provisioned or
	// were dropped.
	Only []string
	// Canary names tenants that go first. One failure among the first stops the run.
	Canary []string
	// CanaryCount is how many more go first.
	CanaryCount int
	// Batch is how many tenants, after the canaries, are in a batch: the next one begins when all of it have
	// ended. Default: all.
	Batch int
	// Parallel is how many tenants are worked on at once. Default 4. Each takes a connection out of the
	// pool's budget.
	Parallel int
	// PerServer is how many of them may be on one database server. Default Parallel.
	PerServer int
	// MaxFailures stops the run at so many failures, once the tenants in work have ended. Default 1;
	// negative: never. A call counts its own.
	MaxFailures int
	// MaxFailureRate stops the run when more than this share of the tenants that have ended, 20 or more, have
	// failed. With it the default of MaxFailures is never.
	MaxFailureRate float64
	// Timeout is how long one tenant may take. Default 15 min.
	Timeout time.Duration
	// LockTimeout is how long a migration on PostgreSQL waits for a lock (SET LOCAL lock_timeout) before it
	// lets those go first who wait behind it, and tries again. It holds for migrations in a transaction; one
	// without may leave half of its work behind, as an invalid index, and waits as the server says. Default 2
	// s; negative: as the server says.
	LockTimeout time.Duration
	// LockRetries is how often a migration is tried again after that, or after a deadlock. Each time it waits
	// once or twice as long as LockTimeout. Default 10; negative: never.
	LockRetries int
	// RefuseLate fails a tenant that lacks a migration older than the newest that it has, as after two
	// branches were merged. By default such a migration is applied like the others.
	RefuseLate bool
	// Verify asks every database for its version, also where the catalog says that it has the target, as
	// after a restore.
	Verify bool
	// DryRun asks the planned databases for their versions, and changes nothing: the report counts who is
	// pending. No run is recorded.
	DryRun bool
	// Progress is told of each tenant that has ended, one call at a time.
	Progress func(Result)
}

// Result is how a tenant of a run has ended, or what is planned for it.
type Result struct {
	RunID    string
	TenantID string
	Slug     string
	Status   string // hostdb.MigrationDone, MigrationFailed, MigrationSkipped, or MigrationPending for what is planned or was interrupted
	Stage    int    // 0: a canary
	From     int64  // the version before; in a plan the catalog's, 0 where it is unknown
	To       int64  // the version after; in a plan the target
	Duration time.Duration
	Error    string // why it failed: at most 2 KiB, without secrets
	Ended    int    // how many of the run's tenants have ended, this one included
	Total    int    // how many there are
}

// Report is what became of a run.
type Report struct {
	RunID    string
	Status   string // hostdb.RunDone, RunStopped or RunPaused
	Target   int64
	Down     bool
	AtTarget int // had nothing to do
	Done     int
	Failed   int
	Skipped  int // dropped before their turn came
	Pending  int // not begun, or interrupted
	Duration time.Duration
}

// ErrIncomplete is returned with a report by which not every tenant is at the target: some failed, or the run
// was stopped or paused.
var ErrIncomplete = errors.New("not every tenant is at the target")

// Why a run begins no further tenant.
var (
	errPaused   = errors.New("the run was paused")
	errFailures = errors.New("too many tenants failed")
	errLease    = errors.New("the host database was out of reach for longer than the lease")
)

// Migrate brings tenants' databases to a version of their schema, and writes down in the host database what
// it did to each.
//
// The end of ctx stops the run: what is being applied ends, no further migration begins, and
// MigrateOptions.Run goes on later. Several processes may migrate at once: one of them works on a tenant at a
// time. The report is filled in whenever a run was begun. Errors: ErrIncomplete, together with ctx's where
// that ended; hostdb.ErrNotFound for an unknown tenant or run; those of the host database.
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

// migrate runs a dry run, or a new or an old run.
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
	report, err := r.report(context.WithoutCancel(ctx), stopped)
	if err == nil && report.Failed+report.Pending > 0 {
		err = ErrIncomplete
	}
	if stopped != nil {
		err = fmt.Errorf("%w: %w", ErrIncomplete, stopped)
	}
	return report, err
}

// check fills in the defaults and refuses what makes no sense.
func (f *Fleet) check(o *MigrateOptions) error {
	switch {
	case len(f.schema.migrations) == 0:
		return errors.New("Config.Migrations: there are none")
	case o.Parallel < 0 || o.PerServer < 0 || o.Timeout < 0 || o.CanaryCount < 0 || o.Batch < 0:
		return errors.New("Parallel, PerServer, Timeout, CanaryCount and Batch can't be negative")
	case o.MaxFailureRate < 0 || o.MaxFailureRate >= 1:
		return errors.New("MaxFailureRate: give a share, from 0 to below 1")
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
	o.Parallel = cmp.Or(o.Parallel, 4)
	o.PerServer = cmp.Or(o.PerServer, o.Parallel)
	o.Timeout = cmp.Or(o.Timeout, 15*time.Minute)
	o.LockTimeout = max(0, cmp.Or(o.LockTimeout, 2*time.Second))
	o.LockRetries = max(0, cmp.Or(o.LockRetries, 10))
	if o.MaxFailures == 0 && o.MaxFailureRate == 0 {
		o.MaxFailures = 1
	}
	return nil
}

// begin records a new run, or takes an old one up.
func (f *Fleet) begin(ctx context.Context, opts MigrateOptions) (*hostdb.MigrationRun, error) {
	if opts.Run != "" {
		row, err := f.host.MigrationRuns.Continue(ctx, opts.Run, opts.RetryFailed)
		if err != nil {
			return nil, fmt.Errorf("run %q: %w", opts.Run, err)
		}
		if row.TargetVersion != 0 && !f.schema.has(row.TargetVersion) {
			return nil, fmt.Errorf("run %s: its target %d isn't among Config.Migrations", row.ID, row.TargetVersion)
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

// plan turns names of tenants into ids, and finds the sets of migrations that lack nothing up to the target.
func (f *Fleet) plan(ctx context.Context, opts MigrateOptions) (hostdb.MigrationPlan, error) {
	plan := hostdb.MigrationPlan{CanaryCount: opts.CanaryCount, Batch: opts.Batch, Verify: opts.Verify}
	var err error
	if plan.Only, err = f.ids(ctx, opts.Only); err == nil {
		plan.Canary, err = f.ids(ctx, opts.Canary)
	}
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

// ids finds tenants by slug or id.
func (f *Fleet) ids(ctx context.Context, names []string) ([]string, error) {
	found, err := f.named(ctx, names)
	var ids []string
	for _, tenant := range found {
		ids = append(ids, tenant.ID)
	}
	return ids, err
}

// named finds tenants by slug or id, all or none.
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

// find finds a tenant by slug or id.
func (f *Fleet) find(ctx context.Context, name string) (*hostdb.TenantCatalog, error) {
	find := f.host.Tenants.BySlug
	if hostdb.ValidID(name) {
		find = f.host.Tenants.Get
	}
	tenant, err := find(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("tenant %q: %w", name, err)
	}
	return tenant, nil
}

// Pause has a run begin no further tenant, whichever process it is in; MigrateOptions.Run takes it up again.
// A run that isn't running is left as it is. Errors: hostdb.ErrNotFound.
func (f *Fleet) Pause(ctx context.Context, runID string) error {
	if _, err := f.host.MigrationRuns.End(ctx, runID, hostdb.RunPaused); err != nil {
		return fmt.Errorf("fleet: pause run %q: %w", runID, err)
	}
	return nil
}
