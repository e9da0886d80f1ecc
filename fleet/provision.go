package fleet

import (
	"context"
	"errors"
	"fmt"

	"github.com/tenantdb/tenantdb/hostdb"
)

// Spec describes a tenant to be.
type Spec struct {
	// Slug is the tenant's name in URLs: lower-case letters, digits and inner hyphens, at most 63.
	Slug string
	// Name is what people read. Default: Slug.
	Name string
	// OwnerID is the id of the user who becomes the first owner.
	OwnerID string
	// PlanTier is the tenant's own plan. Default "free".
	PlanTier string
}

// Provision creates a tenant: its row in the catalog, its database, the schema, the owner's membership. The tenant opens with the
// last step, all of whose changes are one transaction. Each step may run twice: after a failure or a crash the next
// Provision of the same slug by the same owner goes on where the last one stopped. A slug that another tenant has, or that
// another owner has reserved, is hostdb.ErrConflict.
func (f *Fleet) Provision(ctx context.Context, spec Spec) (*hostdb.TenantCatalog, error) {
	tenant, err := f.reserve(ctx, spec)
	if err == nil {
		tenant, err = f.complete(ctx, tenant)
	}
	if err != nil {
		return nil, fmt.Errorf("fleet: provision %q: %w", spec.Slug, err)
	}
	f.logger.InfoContext(ctx, "tenant provisioned", "tenant", tenant.ID, "slug", tenant.Slug)
	return tenant, nil
}

// reserve writes the catalog's row and the owner's membership, which is not active yet, or finds those that an earlier attempt of
// the same owner wrote.
func (f *Fleet) reserve(ctx context.Context, spec Spec) (*hostdb.TenantCatalog, error) {
	if !hostdb.ValidSlug(spec.Slug) {
		return nil, errors.New("Spec.Slug: give 1 to 63 lower-case letters, digits and inner hyphens, not 32 hex digits")
	}
	if _, err := f.host.Users.Get(ctx, spec.OwnerID); err != nil {
		return nil, fmt.Errorf("Spec.OwnerID: %w", err)
	}
	if spec.Name == "" {
		spec.Name = spec.Slug
	}
	id := hostdb.NewID()
	tenant := &hostdb.TenantCatalog{ID: id, Slug: spec.Slug, Name: spec.Name, PlanTier: spec.PlanTier, IsActive: true,
		Status: hostdb.TenantProvisioning, DBURL: hostdb.Secret(f.server.url(id))}
	err := f.host.InTx(ctx, func(tx *hostdb.Tx) error {
		if err := tx.Tenants.Insert(ctx, tenant); err != nil {
			return err
		}
		return tx.Memberships.Insert(ctx, &hostdb.Membership{UserID: spec.OwnerID, TenantID: id, ProfileID: hostdb.NewID(), Role: hostdb.RoleOwner})
	})
	if errors.Is(err, hostdb.ErrConflict) {
		return f.reserved(ctx, spec, err)
	}
	return tenant, err
}

// reserved returns the unfinished tenant of that slug and owner; for any other one the conflict stands.
func (f *Fleet) reserved(ctx context.Context, spec Spec, conflict error) (*hostdb.TenantCatalog, error) {
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

// complete does what is left for a reserved tenant. Two calls in this process take turns.
func (f *Fleet) complete(ctx context.Context, tenant *hostdb.TenantCatalog) (*hostdb.TenantCatalog, error) {
	unlock, err := f.building.lock(ctx, tenant.ID)
	if err != nil {
		return nil, err
	}
	defer unlock()
	version, err := f.build(ctx, tenant)
	if err != nil {
		return nil, err
	}
	opened, err := f.open(ctx, tenant.ID, version)
	if errors.Is(err, errDropped) { // while it was built: what was built must not stay
		if dropErr := f.remove(context.WithoutCancel(ctx), tenant.ID); dropErr != nil {
			return nil, errors.Join(err, dropErr)
		}
	}
	return opened, err
}

// build creates the database and its schema, and returns the schema's version.
func (f *Fleet) build(ctx context.Context, tenant *hostdb.TenantCatalog) (int64, error) {
	if err := f.server.create(ctx, tenant.ID); err != nil {
		return 0, fmt.Errorf("create its database: %w", err)
	}
	lease, err := f.pool.Lease(tenant)
	if err != nil {
		return 0, err
	}
	defer lease.Release()
	way, err := f.schema.route(ctx, lease.DB(), dialectOf(tenant.DBURL), f.schema.latest(), false)
	if err == nil {
		way.from, err = f.schema.walk(ctx, ctx, lease.DB(), dialectOf(tenant.DBURL), way)
	}
	if err != nil {
		return 0, fmt.Errorf("migrate its database: %w", err)
	}
	return way.from, nil
}

// errDropped: the tenant was dropped while it was provisioned.
var errDropped = fmt.Errorf("it was dropped meanwhile: %w", hostdb.ErrConflict)

// open makes the owner a member and opens the tenant, in one transaction, unless something else became of it meanwhile.
func (f *Fleet) open(ctx context.Context, tenantID string, version int64) (tenant *hostdb.TenantCatalog, err error) {
	err = f.host.InTx(ctx, func(tx *hostdb.Tx) error {
		if tenant, err = tx.Tenants.Lock(ctx, tenantID); err != nil {
			return err
		}
		switch tenant.Status {
		case hostdb.TenantActive: // by another call for the same owner
			return nil
		case hostdb.TenantDropped:
			return errDropped
		case hostdb.TenantProvisioning:
		default:
			return fmt.Errorf("its status became %s meanwhile: %w", tenant.Status, hostdb.ErrConflict)
		}
		owners, err := tx.Memberships.List(ctx, hostdb.Where("tenant_id", tenantID))
		if err != nil {
			return err
		}
		for _, owner := range owners {
			owner.IsActive = true
			if err := tx.Memberships.Update(ctx, owner); err != nil {
				return err
			}
		}
		tenant.Status, tenant.SchemaVersion = hostdb.TenantActive, version
		return tx.Tenants.Update(ctx, tenant)
	})
	if err != nil {
		return nil, fmt.Errorf("open it: %w", err)
	}
	return tenant, nil
}

// Drop removes a tenant for good: it is closed to everybody, its requests end, its database is removed. Its row stays in the catalog
// with status dropped, without its slug, which is free again. Dropping a tenant again is not an error. A tenant whose db_url isn't
// one that this fleet gave it is refused: its database is elsewhere.
func (f *Fleet) Drop(ctx context.Context, tenantID string) error {
	err := f.host.InTx(ctx, func(tx *hostdb.Tx) error {
		tenant, err := tx.Tenants.Lock(ctx, tenantID)
		if err != nil {
			return err
		}
		if tenant.DBURL.Reveal() != f.server.url(tenantID) {
			return errors.New("its db_url is not on this fleet's Config.Server")
		}
		tenant.Status, tenant.IsActive, tenant.Slug = hostdb.TenantDropped, false, ""
		return tx.Tenants.Update(ctx, tenant)
	})
	if err != nil {
		return fmt.Errorf("fleet: drop: close it: %w", err)
	}
	if err := f.remove(ctx, tenantID); err != nil {
		return fmt.Errorf("fleet: drop: %w", err)
	}
	f.logger.InfoContext(ctx, "tenant dropped", "tenant", tenantID)
	return nil
}

// remove removes a closed tenant's database once nobody holds it.
func (f *Fleet) remove(ctx context.Context, tenantID string) error {
	if err := f.pool.Drain(ctx, tenantID); err != nil {
		return err
	}
	if err := f.server.drop(ctx, tenantID); err != nil {
		return fmt.Errorf("remove its database: %w", err)
	}
	return nil
}
