package fleet

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/dburl"
	"github.com/tenantdb/tenantdb/internal/hook"
)

// EachOptions are the options of [Fleet.Each]. The zero value visits every tenant, four at a time, and stops
// at the first failure.
type EachOptions struct {
	// Only selects tenants by their slugs or ids. The default is all tenants but those that are being
	// provisioned or were dropped.
	Only []string
	// Canary selects tenants that go first. One failure among the canaries ends the call.
	Canary []string
	// CanaryCount is how many further tenants go first.
	CanaryCount int
	// Batch is how many tenants, after the canaries, make up a batch. The next batch begins when all tenants
	// of a batch have ended. The default is one batch.
	Batch int
	// Parallel is how many tenants are visited at once. The default is 4.
	Parallel int
	// PerServer is how many of them may be on one database server. The default is Parallel.
	PerServer int
	// MaxFailures ends the call after this many failures. Tenants that have begun are finished. The default
	// is 1. A negative number means no limit.
	MaxFailures int
	// MaxFailureRate ends the call when more than this share of the tenants has failed, once 20 have ended.
	// If it is set, the default of MaxFailures is no limit.
	MaxFailureRate float64
	// Timeout is how long one tenant may take. The default is 15 min.
	Timeout time.Duration
	// Progress is called with each tenant that has ended, one call at a time.
	Progress func(Result)
}

// Tenant is a tenant that [Fleet.Each] visits, with its database. The handles are the visit's own: they are
// closed when it ends.
type Tenant struct {
	*hostdb.TenantCatalog
	lease *tenantdb.Lease
}

// DB returns a handle to the tenant's database.
func (t *Tenant) DB() *sql.DB { return t.lease.DB() }

// ReadDB returns a handle for reading; see the function [tenantdb.ReadDB].
func (t *Tenant) ReadDB() *sql.DB { return t.lease.ReadDB() }

// PG returns the tenant's database in pgx's shape, or nil for a tenant on SQLite.
func (t *Tenant) PG() *tenantdb.PGX { return t.lease.PG() }

// ErrSkipTenant is what a function returns to [Fleet.Each] to have the tenant counted as skipped.
var ErrSkipTenant = errors.New("fleet: skip this tenant")

// Each calls a function for every tenant, several at once, such as to fill a new column or to send a report.
// Suspended tenants and those in maintenance are among them: the function sees their Status, and may return
// [ErrSkipTenant]. Tenants that are created after the call has begun aren't visited.
//
// The tenants' connections come from [Config.Pool], and count in its budget. A service that wants a context
// for tenantdb.DB calls [tenantdb.Middleware.Enter] in the function.
//
// Nothing is recorded in the host database. A call that ended early is repeated from the start, so the
// function should do no harm where it has done its work already. When ctx ends, no further tenant begins, and
// the context of those that have begun ends too: those that return an error then are pending. If the function
// panics, its tenant has failed.
//
// The report has no RunID and no Target. Errors: [ErrIncomplete], joined with the first failure's error, or
// with the error of ctx if that ended; hostdb.ErrNotFound for an unknown tenant; errors of the host database.
func (f *Fleet) Each(ctx context.Context, opts EachOptions,
	do func(ctx context.Context, tenant *Tenant) error) (Report, error) {
	began := time.Now()
	limits := opts.limits()
	if err := limits.checkLimits(); err != nil {
		return Report{}, fmt.Errorf("fleet: each: %w", err)
	}
	stages, err := f.eachStages(ctx, limits)
	if err != nil {
		return Report{}, fmt.Errorf("fleet: each: %w", err)
	}
	e := &each{Fleet: f, opts: limits, do: do}
	for _, stage := range stages {
		e.total += len(stage)
	}
	err = e.run(ctx, stages)
	e.report.Status = hostdb.RunDone
	if err != nil {
		e.report.Status = hostdb.RunStopped
	}
	e.report.Pending = e.total - e.report.Done - e.report.Failed - e.report.Skipped
	e.report.Duration = time.Since(began)
	if err = errors.Join(err, e.first); err != nil {
		return e.report, fmt.Errorf("fleet: each: %w: %w", ErrIncomplete, err)
	}
	return e.report, nil
}

// limits returns the options as a migration has them. A migration of all tenants, whatever their version,
// visits the same ones in the same order.
func (o EachOptions) limits() MigrateOptions {
	return MigrateOptions{Only: o.Only, Canary: o.Canary, CanaryCount: o.CanaryCount, Batch: o.Batch,
		Parallel: o.Parallel, PerServer: o.PerServer, MaxFailures: o.MaxFailures,
		MaxFailureRate: o.MaxFailureRate, Timeout: o.Timeout, Progress: o.Progress, Verify: true}
}

// visit is a tenant whose turn comes.
type visit struct{ tenantID, server string }

// eachStages returns the tenants that are visited, the canaries first. Few servers have many tenants, so
// their names are shared.
func (f *Fleet) eachStages(ctx context.Context, opts MigrateOptions) ([][]visit, error) {
	plan, err := f.chosen(ctx, opts)
	if err != nil {
		return nil, err
	}
	stages := make([][]visit, 1) // that of the canaries, perhaps empty
	servers := make(map[string]string)
	for tenant, err := range f.host.MigrationTenants.Planned(ctx, new(hostdb.MigrationRun), plan) {
		if err != nil {
			return nil, err
		}
		for len(stages) <= tenant.Stage {
			stages = append(stages, nil)
		}
		server := serverOf(&tenant.TenantCatalog)
		if _, known := servers[server]; !known {
			servers[server] = server
		}
		stages[tenant.Stage] = append(stages[tenant.Stage], visit{tenant.ID, servers[server]})
	}
	return stages, nil
}

// each is a call of Each.
type each struct {
	*Fleet
	opts  MigrateOptions
	do    func(context.Context, *Tenant) error
	stop  func(error) // lets no further tenant begin
	total int

	mu     sync.Mutex // guards what follows; held while Progress is called
	report Report
	first  error // of the first tenant that failed
}

// run visits one stage after the other. If the call ends early, run returns why.
func (e *each) run(ctx context.Context, stages [][]visit) error {
	startCtx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	e.stop = stop
	for stage, visits := range stages {
		d := dispatcher[visit]{parallel: e.opts.Parallel, perServer: e.opts.PerServer,
			page: func() ([]visit, error) {
				page := visits[:min(lookahead, len(visits))]
				visits = visits[len(page):]
				return page, nil
			},
			server: func(v visit) string { return v.server },
			do:     func(v visit) { e.visit(ctx, v.tenantID, stage) }}
		if err := d.run(startCtx); err != nil {
			return err
		}
		if stage == 0 && e.report.Failed > 0 {
			return errFailures
		}
		if startCtx.Err() != nil {
			return context.Cause(startCtx)
		}
	}
	return nil
}

// maxResultError is how many bytes of an error a Result has.
const maxResultError = 2 << 10

// visit visits a tenant and counts the result.
func (e *each) visit(ctx context.Context, tenantID string, stage int) {
	began := time.Now()
	tenant, err := e.visitOne(ctx, tenantID)
	result := Result{TenantID: tenantID, Slug: tenant.Slug, Status: hostdb.MigrationDone, Stage: stage,
		Duration: time.Since(began)}
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case err == nil:
		e.report.Done++
	case ctx.Err() != nil: // interrupted
		result.Status = hostdb.MigrationPending
	case errors.Is(err, ErrSkipTenant):
		result.Status = hostdb.MigrationSkipped
		e.report.Skipped++
	default:
		result.Status = hostdb.MigrationFailed
		text := dburl.Redact(err.Error(), tenant.DBURL.Reveal())
		result.Error = strings.ToValidUTF8(text[:min(len(text), maxResultError)], "")
		e.report.Failed++
		if e.first == nil {
			e.first = fmt.Errorf("tenant %s: %w", cmp.Or(tenant.Slug, tenantID), err)
		}
		e.logger.WarnContext(ctx, "a tenant's work failed", "tenant", tenantID, "slug", tenant.Slug, "cause",
			result.Error)
	}
	result.Ended, result.Total = e.report.Done+e.report.Skipped+e.report.Failed, e.total
	if e.opts.Progress != nil {
		e.opts.Progress(result)
	}
	if e.opts.tooManyFailed(e.report.Failed, result.Ended) {
		e.stop(errFailures)
	}
}

// errExited fails a tenant whose function called [runtime.Goexit].
var errExited = errors.New("the function exited the goroutine")

// visitOne calls the function for a tenant, as the catalog has it now.
func (e *each) visitOne(ctx context.Context, tenantID string) (*hostdb.TenantCatalog, error) {
	tenant, err := e.host.Tenants.Get(ctx, tenantID)
	if errors.Is(err, hostdb.ErrNotFound) || err == nil && tenant.Status == hostdb.TenantDropped {
		return &hostdb.TenantCatalog{}, ErrSkipTenant
	}
	if err != nil {
		return &hostdb.TenantCatalog{}, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, e.opts.Timeout,
		fmt.Errorf("it took longer than %s", e.opts.Timeout))
	defer cancel()
	lease, err := e.pool.Lease(tenant)
	if err != nil {
		return tenant, err
	}
	defer lease.Close()
	err = hook.Run(errExited, func() error { return e.do(ctx, &Tenant{tenant, lease}) })
	return tenant, withTimeout(ctx, err)
}
