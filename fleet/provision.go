package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/tenantdb/tenantdb/hostdb"
)

// Spec describes a tenant to provision.
type Spec struct {
	// Slug is the tenant's name in URLs: at most 63 lower-case letters, digits and inner hyphens, and none of
	// [Config.ReservedSlugs].
	Slug string
	// Name is the name that people read. The default is Slug.
	Name string
	// OwnerID is the id of the user who becomes the first owner.
	OwnerID string
	// PlanTier is the tenant's own plan. The default is "free".
	PlanTier string
	// Trial starts the plan's trial when the tenant opens: a subscription with the status "trialing" for the
	// plan's trial_days.
	Trial bool
}

// Provision creates a tenant: its row in the catalog, its database with the schema and the content of
// [Config.Seed], and the owner's membership. The last step opens the tenant, in one transaction.
//
// The work is recorded as a job of the type [JobTenant]. After a failure or a crash the next Provision of the
// same slug by the same owner resumes it, or a worker with [Fleet.RunJob]. [Fleet.Drop] removes what there
// is. While another process provisions the slug, Provision waits.
//
// Errors: hostdb.ErrInvalid, in a *hostdb.FieldError on "slug", for a malformed or reserved slug;
// hostdb.ErrConflict for a slug that another tenant has or another owner has reserved; hostdb.ErrNotFound for
// an unknown owner, or an unknown plan with Trial.
func (f *Fleet) Provision(ctx context.Context, spec Spec) (*hostdb.TenantCatalog, error) {
	tenant, err := f.provision(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("fleet: provision %q: %w", spec.Slug, err)
	}
	f.logger.InfoContext(ctx, "tenant provisioned", "tenant", tenant.ID, "slug", tenant.Slug)
	return tenant, nil
}

func (f *Fleet) provision(ctx context.Context, spec Spec) (*hostdb.TenantCatalog, error) {
	if err := f.checkSpec(ctx, &spec); err != nil {
		return nil, err
	}
	f.logger.DebugContext(ctx, "provisioning", "slug", spec.Slug, "step", "begun")
	tenant, job, err := f.reserve(ctx, spec)
	if errors.Is(err, hostdb.ErrConflict) {
		tenant, err = f.findReserved(ctx, spec, err)
	}
	if err != nil {
		return nil, err
	}
	f.logger.DebugContext(ctx, "provisioning", "tenant", tenant.ID, "step", "reserved")
	for job == nil {
		if job, err = f.claimJob(ctx, tenant, spec.Trial); err != nil {
			return nil, err
		}
		if tenant, err = f.host.Tenants.Get(ctx, tenant.ID); err != nil ||
			tenant.Status == hostdb.TenantActive {
			f.completeUnneeded(ctx, job)
			return tenant, err
		}
	}
	return f.underLease(ctx, job, tenant, f.finishProvision)
}

// checkSpec sets the defaults of a spec and validates it.
func (f *Fleet) checkSpec(ctx context.Context, spec *Spec) error {
	if err := f.checkSlug(spec.Slug); err != nil {
		return err
	}
	if _, err := f.host.Users.Get(ctx, spec.OwnerID); err != nil {
		return fmt.Errorf("Spec.OwnerID: %w", err)
	}
	spec.Name = cmp.Or(spec.Name, spec.Slug)
	spec.PlanTier = cmp.Or(spec.PlanTier, hostdb.TierFree)
	if !spec.Trial {
		return nil
	}
	plan, err := f.host.Plans.Get(ctx, spec.PlanTier)
	if err == nil && plan.TrialDays == 0 {
		err = &hostdb.FieldError{Field: "trial_days", Err: hostdb.ErrInvalid, Reason: "the plan has no trial"}
	}
	if err != nil {
		return fmt.Errorf("Spec.Trial: plan %q: %w", spec.PlanTier, err)
	}
	return nil
}

// reserve writes the catalog's row, the owner's membership, which isn't active yet, and the job, which it
// claims.
func (f *Fleet) reserve(ctx context.Context, spec Spec) (tenant *hostdb.TenantCatalog,
	job *hostdb.SystemJob, err error) {
	id := hostdb.NewID()
	address, err := f.server.newURL(id)
	if err != nil {
		return nil, nil, err
	}
	tenant = &hostdb.TenantCatalog{ID: id, Slug: spec.Slug, Name: spec.Name, PlanTier: spec.PlanTier,
		IsActive: true, Status: hostdb.TenantProvisioning, DBURL: address}
	err = f.host.InTx(ctx, func(tx *hostdb.Tx) error {
		if err := tx.Tenants.Insert(ctx, tenant); err != nil {
			return err
		}
		owner := &hostdb.Membership{UserID: spec.OwnerID, TenantID: id, ProfileID: hostdb.NewID(),
			Role: hostdb.RoleOwner}
		if err := tx.Memberships.Insert(ctx, owner); err != nil {
			return err
		}
		job, err = f.enqueue(ctx, tx, id, spec.Trial)
		if err == nil {
			job, err = tx.Jobs.ClaimJob(ctx, job.ID, f.name, f.lease)
		}
		return err
	})
	return tenant, job, err
}

// findReserved returns the tenant that the same owner has begun to provision, or the conflict.
func (f *Fleet) findReserved(ctx context.Context, spec Spec, conflict error) (*hostdb.TenantCatalog, error) {
	tenant, err := f.host.Tenants.BySlug(ctx, spec.Slug)
	if err != nil || tenant.Status != hostdb.TenantProvisioning {
		return nil, conflict
	}
	owner, err := f.host.Memberships.Find(ctx, spec.OwnerID, tenant.ID)
	if err != nil || owner.Role != hostdb.RoleOwner {
		return nil, conflict
	}
	return tenant, nil
}

// buildAndOpen does the remaining steps for a reserved tenant. It is a jobWork.
func (f *Fleet) buildAndOpen(ctx context.Context, tenant *hostdb.TenantCatalog, job *hostdb.SystemJob,
	check leaseCheck) (*hostdb.TenantCatalog, error) {
	applied, err := f.build(ctx, tenant)
	if err != nil {
		return nil, err
	}
	set, err := f.host.SchemaSets.Record(ctx, applied)
	if err != nil {
		return nil, fmt.Errorf("record its schema: %w", err)
	}
	built := &hostdb.TenantCatalog{ID: tenant.ID, SchemaVersion: f.schema.reached(applied), SchemaSet: set}
	opened, err := f.open(ctx, built, job, check)
	if errors.Is(err, errDropped) { // its database must not stay
		if dropErr := f.removeDatabase(ctx, tenant, check); dropErr != nil {
			return nil, errors.Join(err, dropErr)
		}
	}
	return opened, err
}

// build creates the database with its schema and content. It returns the versions of the applied migrations.
func (f *Fleet) build(ctx context.Context, tenant *hostdb.TenantCatalog) ([]int64, error) {
	version, err := f.server.create(ctx, tenant)
	if err != nil {
		return nil, fmt.Errorf("create its database: %w", err)
	}
	applied := f.schema.missing(nil, f.schema.latest())
	f.logger.DebugContext(ctx, "provisioning", "tenant", tenant.ID, "step", "database created")
	if version != unknown && f.seed == nil {
		return applied, nil
	}
	lease, err := f.pool.Lease(tenant)
	if err != nil {
		return nil, err
	}
	defer lease.Release()
	if version == unknown {
		db := lease.Session()
		applied, err = f.schema.migrateToLatest(ctx, db, dialectOf(tenant.DBURL))
		if err = errors.Join(err, db.Close()); err != nil {
			return nil, fmt.Errorf("migrate its database: %w", err)
		}
		f.logger.DebugContext(ctx, "provisioning", "tenant", tenant.ID, "step", "migrated")
	}
	if f.seed != nil {
		if err := f.seed(ctx, tenant, lease.DB()); err != nil {
			return nil, fmt.Errorf("seed its database: %w", err)
		}
		f.logger.DebugContext(ctx, "provisioning", "tenant", tenant.ID, "step", "seeded")
	}
	return applied, nil
}

// errDropped means that the tenant was dropped while it was being provisioned.
var errDropped = fmt.Errorf("it was dropped meanwhile: %w", hostdb.ErrConflict)

// open activates the owner's membership and opens the tenant with the schema that was built, in one
// transaction. It fails if the tenant is no longer being provisioned.
func (f *Fleet) open(ctx context.Context, built *hostdb.TenantCatalog, job *hostdb.SystemJob,
	check leaseCheck) (tenant *hostdb.TenantCatalog, err error) {
	err = f.host.InTx(ctx, func(tx *hostdb.Tx) error {
		tenant, err = tx.Tenants.Change(ctx, built.ID, func(tenant *hostdb.TenantCatalog) error {
			switch tenant.Status {
			case hostdb.TenantDropped:
				return errDropped
			case hostdb.TenantProvisioning:
			default:
				return fmt.Errorf("its status became %s meanwhile: %w", tenant.Status, hostdb.ErrConflict)
			}
			tenant.Status = hostdb.TenantActive
			tenant.SchemaVersion, tenant.SchemaSet = built.SchemaVersion, built.SchemaSet
			return admitOwner(ctx, tx, tenant, payloadOf(job).Trial)
		})
		if err != nil {
			return err
		}
		f.logger.DebugContext(ctx, "provisioning", "tenant", built.ID, "step", "opening")
		return check(tx)
	})
	if err != nil {
		return nil, fmt.Errorf("open it: %w", err)
	}
	f.logger.DebugContext(ctx, "provisioning", "tenant", built.ID, "step", "opened")
	return tenant, nil
}

// admitOwner activates the memberships that were reserved, and starts the trial of the tenant's plan.
func admitOwner(ctx context.Context, tx *hostdb.Tx, tenant *hostdb.TenantCatalog, trial bool) error {
	owners, err := tx.Memberships.ListForTenant(ctx, tenant.ID)
	if err != nil {
		return err
	}
	for _, owner := range owners {
		owner.IsActive = true
		if err := tx.Memberships.Update(ctx, owner); err != nil {
			return err
		}
	}
	if trial {
		_, _, err = tx.Subscriptions.StartTrial(ctx, tenant.ID, tenant.PlanTier)
	}
	return err
}
