package fleet

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// Suspend closes a tenant to its members until Resume, and waits until this process's requests on it have
// ended or ctx has: once it has returned nil, none of them begins on what was known of the tenant before
// ([tenantdb.Pool.Drain]). It waits for other processes, which hear of it by the change feed, where
// [Config.WaitForOthers] says so; one that is cut off from the host database isn't covered: it goes on until
// its CacheConfig.MaxStaleIfDown. A suspended tenant is left as it is. Errors: hostdb.ErrNotFound;
// hostdb.ErrConflict for one that is being provisioned or was dropped; that of ctx, by when the tenant is
// closed all the same.
func (f *Fleet) Suspend(ctx context.Context, tenantID string) error {
	return f.move(ctx, "suspend", tenantID, hostdb.TenantSuspended, hostdb.TenantActive, hostdb.TenantMaintenance)
}

// Resume opens a suspended tenant. An active one is left as it is. Errors: as for Suspend; hostdb.ErrConflict
// for one in maintenance.
func (f *Fleet) Resume(ctx context.Context, tenantID string) error {
	return f.move(ctx, "resume", tenantID, hostdb.TenantActive, hostdb.TenantSuspended)
}

// Maintenance closes an active tenant for a while (its requests are answered with 503 and Retry-After), or
// opens it again. Like Suspend it waits until this process's requests have ended, and for other processes
// where Config.WaitForOthers says so; what Suspend says about one that is cut off holds here too. Errors: as
// for Suspend; hostdb.ErrConflict for a suspended one.
func (f *Fleet) Maintenance(ctx context.Context, tenantID string, on bool) error {
	if on {
		return f.move(ctx, "maintenance", tenantID, hostdb.TenantMaintenance, hostdb.TenantActive)
	}
	return f.move(ctx, "maintenance", tenantID, hostdb.TenantActive, hostdb.TenantMaintenance)
}

// Rename gives a tenant another slug, another name, or both; an empty one stays as it is. The database is
// named after the tenant's id, so that requests go on. Errors: hostdb.ErrNotFound; hostdb.ErrInvalid, for one
// of Config.ReservedSlugs too; hostdb.ErrConflict for a slug that another tenant has, and for a dropped
// tenant.
func (f *Fleet) Rename(ctx context.Context, tenantID, slug, name string) error {
	err := f.edit(ctx, tenantID, func(tenant *hostdb.TenantCatalog) error {
		if tenant.Status == hostdb.TenantDropped {
			return fmt.Errorf("its status is %s: %w", tenant.Status, hostdb.ErrConflict)
		}
		if slug != "" && slug != tenant.Slug {
			if err := f.checkSlug(slug); err != nil {
				return err
			}
			tenant.Slug = slug
		}
		if name != "" {
			tenant.Name = name
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("fleet: rename: %w", err)
	}
	f.logger.InfoContext(ctx, "tenant renamed", "tenant", tenantID, "slug", slug)
	return nil
}

// move changes a tenant's status to one, from any of the others, and has whoever still uses a closed tenant's
// database end.
func (f *Fleet) move(ctx context.Context, what, tenantID, to string, from ...string) error {
	err := f.edit(ctx, tenantID, func(tenant *hostdb.TenantCatalog) error {
		if tenant.Status != to && !slices.Contains(from, tenant.Status) {
			return fmt.Errorf("its status is %s: %w", tenant.Status, hostdb.ErrConflict)
		}
		tenant.Status = to
		return nil
	})
	if err == nil && to != hostdb.TenantActive {
		err = f.drain(ctx, tenantID)
	}
	if err != nil {
		return fmt.Errorf("fleet: %s: %w", what, err)
	}
	f.logger.InfoContext(ctx, "tenant's status changed", "tenant", tenantID, "status", to)
	return nil
}

// drain waits until nobody uses a closed tenant's database: this process's requests, and others for as long
// as they are given.
func (f *Fleet) drain(ctx context.Context, tenantID string) error {
	others := time.NewTimer(f.others)
	defer others.Stop()
	if err := f.pool.Drain(ctx, tenantID); err != nil {
		return err
	}
	select {
	case <-others.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for other processes: %w", ctx.Err())
	}
}

// edit changes a tenant's row in one transaction, which the host database audits; where nothing differs,
// nothing is written.
func (f *Fleet) edit(ctx context.Context, tenantID string, change func(*hostdb.TenantCatalog) error) error {
	_, err := f.host.Tenants.Change(ctx, tenantID, change)
	return err
}
