package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/tenantdb/tenantdb/fleet"
	"github.com/tenantdb/tenantdb/hostdb"
)

// migrateCmd is tenantdb migrate.
type migrateCmd struct {
	Up      migrateUpCmd      `cmd:"" help:"Migrate tenants' databases to the newest migration, or to --to."`
	Status  migrateStatusCmd  `cmd:"" help:"List the tenants and the versions of their schemas."`
	Plan    migratePlanCmd    `cmd:"" help:"List what up would do, in order, according to the catalog."`
	Down    migrateDownCmd    `cmd:"" help:"Undo migrations."`
	Retry   migrateRetryCmd   `cmd:"" help:"Resume a run with its failed and its pending tenants."`
	Pause   migratePauseCmd   `cmd:"" help:"${pause}"`
	Runs    migrateRunsCmd    `cmd:"" help:"List the runs."`
	Results migrateResultsCmd `cmd:"" help:"List what a run did to each tenant."`
}

// migrations is the flag of commands that need migrations.
type migrations struct {
	Migrations string `env:"TENANTDB_MIGRATIONS" required:"" placeholder:"DIR" help:"${migrations}"`
}

// selection selects and orders tenants.
type selection struct {
	Tenants     []string `arg:"" optional:"" help:"Slugs or ids. Default: all tenants that have a database."`
	Canary      []string `placeholder:"TENANT,…" help:"${canary}"`
	CanaryCount int      `placeholder:"N" help:"How many further tenants go first."`
	Batch       int      `placeholder:"N" help:"${batch}"`
	Verify      bool     `help:"Ask every database for its version, instead of the catalog."`
}

// pace limits how fast a run goes, and says when it stops.
type pace struct {
	Parallel       int           `default:"4" help:"How many tenants are migrated at once."`
	PerServer      int           `placeholder:"N" help:"How many at once on one server. Default: --parallel."`
	MaxFailures    int           `placeholder:"N" help:"${max_failures}"`
	MaxFailureRate float64       `placeholder:"SHARE" help:"${max_failure_rate}"`
	Timeout        time.Duration `default:"15m" help:"How long one tenant may take."`
	LockTimeout    time.Duration `default:"2s" help:"${lock_timeout}"`
	LockRetries    int           `default:"10" help:"How many times it tries again; -1 is never."`
	RefuseLate     bool          `help:"${refuse_late}"`
}

// paceFlags are the flags that the printed retry command repeats.
var paceFlags = []string{"migrations", "parallel", "per-server", "max-failures",
	"max-failure-rate", "timeout",
	"lock-timeout", "lock-retries", "refuse-late"}

func (c selection) apply(o *fleet.MigrateOptions) {
	o.Only, o.Canary, o.CanaryCount = c.Tenants, c.Canary, c.CanaryCount
	o.Batch, o.Verify = c.Batch, c.Verify
}

func (c pace) apply(o *fleet.MigrateOptions) {
	o.Parallel, o.PerServer, o.Timeout = c.Parallel, c.PerServer, c.Timeout
	o.MaxFailures, o.MaxFailureRate = c.MaxFailures, c.MaxFailureRate
	o.LockTimeout, o.LockRetries, o.RefuseLate = c.LockTimeout, c.LockRetries, c.RefuseLate
}

// migrateUpCmd is tenantdb migrate up.
type migrateUpCmd struct {
	selection
	migrations
	pace
	To     int64 `placeholder:"VERSION" help:"The version to reach. Default: the newest."`
	DryRun bool  `help:"Ask the databases what is pending, and change nothing."`
}

// Help is the long help.
func (*migrateUpCmd) Help() string {
	return `Progress goes to standard error, a line for each tenant, or one changing line on a terminal.
Ctrl-C stops the run after the migrations that are running; the summary says how to resume it. A tenant
that fails stays at the last migration that succeeded.`
}

// Run runs the command.
func (c *migrateUpCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	opts := fleet.MigrateOptions{Target: c.To, DryRun: c.DryRun}
	c.selection.apply(&opts)
	c.pace.apply(&opts)
	f, err := s.openFleet(host, c.Migrations, noProvisioning)
	if err != nil {
		return err
	}
	return s.migrate(ctx, f, opts)
}

// migrateDownCmd is tenantdb migrate down.
type migrateDownCmd struct {
	selection
	migrations
	pace
	confirmation
	To int64 `required:"" placeholder:"VERSION" help:"The version to go back to; 0 undoes every migration."`
}

// Run runs the command.
func (c *migrateDownCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	opts := fleet.MigrateOptions{Target: c.To, Down: true}
	c.selection.apply(&opts)
	c.pace.apply(&opts)
	f, err := s.openFleet(host, c.Migrations, noProvisioning)
	if err != nil {
		return err
	}
	word, where := "down", tenants(len(c.Tenants))
	switch len(c.Tenants) {
	case 0:
		where = "all tenants"
	case 1:
		word, where = c.Tenants[0], clean(c.Tenants[0])
	}
	what := fmt.Sprintf("This undoes the migrations above %d in %s, and deletes their data.", c.To, where)
	if err := s.confirm(ctx, c.confirmation, word, what); err != nil {
		return err
	}
	return s.migrate(ctx, f, opts)
}

// migrateRetryCmd is tenantdb migrate retry.
type migrateRetryCmd struct {
	ID string `arg:"" name:"run" optional:"" help:"The run's id. Default: the last run."`
	migrations
	pace
}

// Run runs the command.
func (c *migrateRetryCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	f, err := s.openFleet(host, c.Migrations, noProvisioning)
	if err != nil {
		return err
	}
	id, err := runID(ctx, host, c.ID)
	if err != nil {
		return err
	}
	opts := fleet.MigrateOptions{Run: id, RetryFailed: true}
	c.pace.apply(&opts)
	return s.migrate(ctx, f, opts)
}

// runID returns the given id, or that of the last run.
func runID(ctx context.Context, host *hostdb.DB, given string) (string, error) {
	if given != "" {
		return given, nil
	}
	run, err := host.MigrationRuns.Last(ctx)
	if errors.Is(err, hostdb.ErrNotFound) {
		return "", errors.New("there has been no run yet")
	}
	if err != nil {
		return "", err
	}
	return run.ID, nil
}

// migratePlanCmd is tenantdb migrate plan.
type migratePlanCmd struct {
	selection
	migrations
	To    int64 `placeholder:"VERSION" help:"The version to reach. Default: the newest."`
	Check bool  `help:"Exit with 3 if something is pending."`
}

var resultColumns = []column[fleet.Result]{
	{"slug", func(r *fleet.Result) any { return r.Slug }, true},
	{"tenant_id", func(r *fleet.Result) any { return r.TenantID }, true},
	{"stage", func(r *fleet.Result) any { return r.Stage }, true},
	{"status", func(r *fleet.Result) any { return r.Status }, true},
	{"from", func(r *fleet.Result) any { return r.From }, true},
	{"to", func(r *fleet.Result) any { return r.To }, true},
	{"duration_ms", func(r *fleet.Result) any { return r.Duration.Milliseconds() }, true},
	{"error", func(r *fleet.Result) any { return r.Error }, true},
}

// Run runs the command.
func (c *migratePlanCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	opts := fleet.MigrateOptions{Target: c.To}
	c.selection.apply(&opts)
	f, err := s.openFleet(host, c.Migrations, noProvisioning)
	if err != nil {
		return err
	}
	pending := 0
	err = printList(s, resultColumns, pointers(f.Plan(ctx, opts), func(fleet.Result) { pending++ }))
	return checkPending(err, c.Check, pending)
}

// checkPending returns err, or with --check an error if tenants are pending.
func checkPending(err error, check bool, pending int) error {
	if err == nil && check && pending > 0 {
		return &exitError{exitPending, "migrations are pending for " + tenants(pending)}
	}
	return err
}

// pointers turns a sequence of values into rows, and calls count for each.
func pointers[M any](values iter.Seq2[M, error], count func(M)) iter.Seq2[*M, error] {
	return func(yield func(*M, error) bool) {
		for value, err := range values {
			if err == nil {
				count(value)
			}
			if !yield(&value, err) {
				return
			}
		}
	}
}

// migrateStatusCmd is tenantdb migrate status.
type migrateStatusCmd struct {
	Tenants []string `arg:"" optional:"" help:"Slugs or ids. Default: all tenants that weren't dropped."`
	migrations
	Check bool `help:"Exit with 3 if something is pending."`
}

var statusColumns = []column[fleet.TenantStatus]{
	{"slug", func(t *fleet.TenantStatus) any { return t.Slug }, true},
	{"tenant_id", func(t *fleet.TenantStatus) any { return t.TenantID }, true},
	{"status", func(t *fleet.TenantStatus) any { return t.Status }, true},
	{"schema_version", func(t *fleet.TenantStatus) any { return t.Version }, true},
	{"newest", func(t *fleet.TenantStatus) any { return t.Latest }, true},
	{"pending", func(t *fleet.TenantStatus) any { return t.Pending }, true},
	{"unknown", func(t *fleet.TenantStatus) any { return t.Unknown }, true},
}

// Run runs the command.
func (c *migrateStatusCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	f, err := s.openFleet(host, c.Migrations, noProvisioning)
	if err != nil {
		return err
	}
	pending := 0
	err = printList(s, statusColumns, pointers(f.Status(ctx, c.Tenants...), func(t fleet.TenantStatus) {
		if (t.Pending > 0 || t.Unknown) && t.Status != hostdb.TenantProvisioning { // provisioning migrates it
			pending++
		}
	}))
	return checkPending(err, c.Check, pending)
}

// migratePauseCmd is tenantdb migrate pause.
type migratePauseCmd struct {
	ID string `arg:"" name:"run" optional:"" help:"The run's id. Default: the last run."`
}

// Run runs the command.
func (c *migratePauseCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	f, err := s.openFleet(host, "", noProvisioning)
	if err != nil {
		return err
	}
	id, err := runID(ctx, host, c.ID)
	if err != nil {
		return err
	}
	if err := f.Pause(ctx, id); err != nil {
		return err
	}
	run, err := host.MigrationRuns.Get(ctx, id)
	if err != nil {
		return err
	}
	return printOne(s, runColumns, run)
}

// migrateRunsCmd is tenantdb migrate runs.
type migrateRunsCmd struct{ page }

var runColumns = []column[hostdb.MigrationRun]{
	{"id", func(r *hostdb.MigrationRun) any { return r.ID }, true},
	{"status", func(r *hostdb.MigrationRun) any { return r.Status }, true},
	{"target_version", func(r *hostdb.MigrationRun) any { return r.TargetVersion }, true},
	{"is_down", func(r *hostdb.MigrationRun) any { return r.IsDown }, true},
	{"at_target", func(r *hostdb.MigrationRun) any { return r.AtTarget }, true},
	{"created_at", func(r *hostdb.MigrationRun) any { return r.CreatedAt }, true},
	{"completed_at", func(r *hostdb.MigrationRun) any { return r.CompletedAt }, true},
}

// Run runs the command.
func (c *migrateRunsCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	return printList(s, runColumns, host.MigrationRuns.All(ctx, c.filters()...))
}

// migrateResultsCmd is tenantdb migrate results.
type migrateResultsCmd struct {
	ID     string  `arg:"" name:"run" optional:"" help:"The run's id. Default: the last run."`
	Status *string `enum:"${migration_statuses}" help:"Only tenants with this status (${enum})."`
}

// Run runs the command.
func (c *migrateResultsCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	f, err := s.openFleet(host, "", noProvisioning)
	if err != nil {
		return err
	}
	id, err := runID(ctx, host, c.ID)
	if err != nil {
		return err
	}
	return printList(s, resultColumns, pointers(f.Results(ctx, id, given(c.Status)), func(fleet.Result) {}))
}
