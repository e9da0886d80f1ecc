package fleet

import (
	"context"
	"fmt"
	"iter"
	"sync"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/dburl"
)

// Latest returns the version of the newest migration, or 0 without migrations.
func (f *Fleet) Latest() int64 {
	return f.schema.latest()
}

// Plan iterates over what [Fleet.Migrate] with these options would do, according to the catalog. In each
// result Status is hostdb.MigrationPending, From the catalog's version, and To the target. An error ends the
// iteration. Errors: as for Migrate.
func (f *Fleet) Plan(ctx context.Context, opts MigrateOptions) iter.Seq2[Result, error] {
	return func(yield func(Result, error) bool) {
		plan, err := hostdb.MigrationPlan{}, f.check(&opts)
		if err == nil {
			plan, err = f.plan(ctx, opts)
		}
		if err != nil {
			yield(Result{}, fmt.Errorf("fleet: plan: %w", err))
			return
		}
		var sets map[string][]int64
		if sets, err = f.host.SchemaSets.Newest(ctx); err != nil {
			yield(Result{}, fmt.Errorf("fleet: plan: %w", err))
			return
		}
		run := &hostdb.MigrationRun{TargetVersion: opts.Target, IsDown: opts.Down}
		for tenant, err := range f.host.MigrationTenants.Planned(ctx, run, plan) {
			if err != nil {
				yield(Result{}, fmt.Errorf("fleet: plan: %w", err))
				return
			}
			result := Result{TenantID: tenant.ID, Slug: tenant.Slug, Status: hostdb.MigrationPending,
				Stage: tenant.Stage, From: f.version(&tenant.TenantCatalog, sets), To: opts.Target}
			if !yield(result, nil) {
				return
			}
		}
	}
}

// version returns a tenant's version according to the catalog. A known set of migrations decides, since
// SchemaVersion was computed with the migrations of that time.
func (f *Fleet) version(tenant *hostdb.TenantCatalog, sets map[string][]int64) int64 {
	if applied, known := sets[tenant.SchemaSet]; known {
		return min(tenant.SchemaVersion, f.schema.reached(applied))
	}
	return tenant.SchemaVersion
}

// dryRun asks every planned database for its version.
func (f *Fleet) dryRun(ctx context.Context, opts MigrateOptions) (Report, error) {
	report := Report{Target: opts.Target, Down: opts.Down}
	plan, err := f.plan(ctx, opts)
	if err != nil {
		return report, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	run := &hostdb.MigrationRun{TargetVersion: opts.Target, IsDown: opts.Down}
	next, stop := iter.Pull2(f.host.MigrationTenants.Planned(ctx, run, plan))
	defer stop()
	var mu sync.Mutex
	d := dispatcher[*hostdb.TenantCatalog]{parallel: opts.Parallel, perServer: opts.PerServer,
		server: serverOf,
		page: func() (page []*hostdb.TenantCatalog, err error) {
			for len(page) < lookahead {
				tenant, err, more := next()
				if !more || err != nil {
					return page, err
				}
				page = append(page, &tenant.TenantCatalog)
			}
			return page, nil
		},
		do: func(tenant *hostdb.TenantCatalog) {
			result := f.try(ctx, tenant, opts)
			mu.Lock()
			defer mu.Unlock()
			switch result.Status {
			case hostdb.MigrationDone:
				report.AtTarget++
			case hostdb.MigrationFailed:
				report.Failed++
			default:
				report.Pending++
			}
			if opts.Progress != nil {
				opts.Progress(result)
			}
		}}
	if err := d.run(ctx); err != nil {
		return report, err
	}
	if report.Failed > 0 {
		return report, ErrIncomplete
	}
	return report, ctx.Err()
}

// try asks a tenant's database for its version, and returns what a migration would do.
func (f *Fleet) try(ctx context.Context, tenant *hostdb.TenantCatalog, opts MigrateOptions) Result {
	result := Result{TenantID: tenant.ID, Slug: tenant.Slug, Status: hostdb.MigrationPending}
	ctx, cancel := context.WithTimeout(ctx, opts.Timeout)
	defer cancel()
	lease, err := f.pool.Lease(tenant)
	if err == nil {
		defer lease.Close()
		var p plan
		p, err = f.schema.plan(ctx, lease.DB(), dialectOf(tenant.DBURL), opts.Target, opts.Down)
		if err == nil {
			err = p.refuseLate(opts.RefuseLate)
		}
		result.From, result.To = p.from, p.to
		if len(p.steps) == 0 {
			result.Status = hostdb.MigrationDone
		}
	}
	if err != nil {
		result.Status = hostdb.MigrationFailed
		result.Error = dburl.Redact(err.Error(), tenant.DBURL.Reveal())
	}
	return result
}

// Results iterates over the results of a run. A status, such as hostdb.MigrationFailed, selects those that
// have it. An error ends the iteration.
func (f *Fleet) Results(ctx context.Context, runID, status string) iter.Seq2[Result, error] {
	filters := []hostdb.Filter{hostdb.Where("run_id", runID)}
	if status != "" {
		filters = append(filters, hostdb.Where("status", status))
	}
	return func(yield func(Result, error) bool) {
		for entry, err := range f.host.MigrationTenants.All(ctx, filters...) {
			var tenant *hostdb.TenantCatalog
			if err == nil {
				tenant, err = f.host.Tenants.Get(ctx, entry.TenantID)
			}
			if err != nil {
				yield(Result{}, fmt.Errorf("fleet: results of run %q: %w", runID, err))
				return
			}
			if !yield(resultOf(entry, tenant.Slug), nil) {
				return
			}
		}
	}
}

// TenantStatus is the version of a tenant's schema, according to the catalog.
type TenantStatus struct {
	TenantID string
	Slug     string
	Status   string // of the tenant
	Version  int64  // 0: unknown
	Latest   int64  // the newest migration's version
	Pending  int    // how many migrations the database lacks
	// Unknown means that the catalog doesn't know which migrations the database has. Pending is an estimate
	// then, and the next Migrate asks the database.
	Unknown bool
}

// Status iterates over the tenants, or the tenants with these slugs or ids, without dropped ones. An error
// ends the iteration. Errors: hostdb.ErrNotFound.
func (f *Fleet) Status(ctx context.Context, only ...string) iter.Seq2[TenantStatus, error] {
	return func(yield func(TenantStatus, error) bool) {
		sets, err := f.host.SchemaSets.Newest(ctx)
		if err != nil {
			yield(TenantStatus{}, fmt.Errorf("fleet: status: %w", err))
			return
		}
		for tenant, err := range f.tenants(ctx, only) {
			if err != nil {
				yield(TenantStatus{}, fmt.Errorf("fleet: status: %w", err))
				return
			}
			if tenant.Status == hostdb.TenantDropped {
				continue
			}
			if !yield(f.status(tenant, sets), nil) {
				return
			}
		}
	}
}

// status makes a tenant's status.
func (f *Fleet) status(tenant *hostdb.TenantCatalog, sets map[string][]int64) TenantStatus {
	s := TenantStatus{TenantID: tenant.ID, Slug: tenant.Slug, Status: tenant.Status,
		Version: f.version(tenant, sets), Latest: f.schema.latest()}
	applied, known := sets[tenant.SchemaSet]
	s.Unknown = !known || tenant.SchemaVersion < min(f.schema.reached(applied), s.Latest)
	if s.Unknown {
		s.Pending = len(f.schema.missing(nil, s.Latest)) - len(f.schema.missing(nil, s.Version))
	} else {
		s.Pending = len(f.schema.missing(applied, s.Latest))
	}
	return s
}

// tenants iterates over all tenants, or over the named ones. It looks all names up before it yields a tenant.
func (f *Fleet) tenants(ctx context.Context, names []string) iter.Seq2[*hostdb.TenantCatalog, error] {
	if len(names) == 0 {
		return f.host.Tenants.All(ctx)
	}
	return func(yield func(*hostdb.TenantCatalog, error) bool) {
		found, err := f.named(ctx, names)
		if err != nil {
			yield(nil, err)
			return
		}
		for _, tenant := range found {
			if !yield(tenant, nil) {
				return
			}
		}
	}
}
