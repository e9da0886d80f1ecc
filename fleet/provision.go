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
// Provision of the same slug goes on where the last one stopped. A slug that an existing tenant has is hostdb.ErrConflict.
func (f *Fleet) Provision(ctx context.Context, spec Spec) (*hostdb.TenantCatalog, error) {
	tenant, err := f.reserve(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("fleet: provision %q: %w", spec.Slug, err)
	}
	if err := f.build(ctx, tenant); err != nil {
		return nil, fmt.Errorf("fleet: provision %q: %w", spec.Slug, err)
	}
	if err := f.open(ctx, tenant, spec.OwnerID); err != nil {
		return nil, fmt.Errorf("fleet: provision %q: %w", spec.Slug, err)
	}
	f.logger.InfoContext(ctx, "tenant provisioned", "tenant", tenant.ID, "slug", tenant.Slug)
	return tenant, nil
}

// reserve writes the catalog's row, or finds the one that an earlier attempt wrote.
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
	err := f.host.Tenants.Insert(ctx, tenant)
	if !errors.Is(err, hostdb.ErrConflict) {
		return tenant, err
	}
	earlier, findErr := f.host.Tenants.BySlug(ctx, spec.Slug)
	if findErr != nil || earlier.Status != hostdb.TenantProvisioning {
		return nil, err
	}
	return earlier, nil
}

// build creates the database and its schema.
func (f *Fleet) build(ctx context.Context, tenant *hostdb.TenantCatalog) error {
	if err := f.server.create(ctx, tenant.ID); err != nil {
		return fmt.Errorf("create its database: %w", err)
	}
	lease, err := f.pool.Lease(tenant)
	if err != nil {
		return err
	}
	defer lease.Release()
	if tenant.SchemaVersion, err = f.migrate(ctx, lease.DB()); err != nil {
		return fmt.Errorf("migrate its database: %w", err)
	}
	return nil
}

// open makes the owner a member and opens the tenant, in one transaction.
func (f *Fleet) open(ctx context.Context, tenant *hostdb.TenantCatalog, ownerID string) error {
	opened := *tenant
	opened.Status = hostdb.TenantActive
	err := f.host.InTx(ctx, func(tx *hostdb.Tx) error {
		owner := &hostdb.Membership{UserID: ownerID, TenantID: tenant.ID, ProfileID: hostdb.NewID(), Role: hostdb.RoleOwner, IsActive: true}
		if err := tx.Memberships.Insert(ctx, owner); err != nil {
			return err
		}
		return tx.Tenants.Update(ctx, &opened)
	})
	if err != nil {
		return fmt.Errorf("open it: %w", err)
	}
	*tenant = opened
	return nil
}

// Drop removes a tenant for good: it is closed to everybody, its requests end, its database is removed. Its row stays in the catalog
// with status dropped, without its slug, which is free again. Dropping a tenant again is not an error.
func (f *Fleet) Drop(ctx context.Context, tenantID string) error {
	tenant, err := f.host.Tenants.Get(ctx, tenantID)
	if err != nil {
		return fmt.Errorf("fleet: drop: %w", err)
	}
	tenant.Status, tenant.IsActive, tenant.Slug = hostdb.TenantDropped, false, ""
	if err := f.host.Tenants.Update(ctx, tenant); err != nil {
		return fmt.Errorf("fleet: drop: close it: %w", err)
	}
	if err := f.pool.Drain(ctx, tenantID); err != nil {
		return fmt.Errorf("fleet: drop: %w", err)
	}
	if err := f.server.drop(ctx, tenantID); err != nil {
		return fmt.Errorf("fleet: drop: remove its database: %w", err)
	}
	f.logger.InfoContext(ctx, "tenant dropped", "tenant", tenantID)
	return nil
}
