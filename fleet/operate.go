package fleet

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// Suspend closes a tenant to its members until [Fleet.Resume], and waits for the tenant's requests in this
// process to end. When it returns nil, no request of this process begins on older facts
// ([tenantdb.Pool.Drain]).
//
// Other processes hear of the change by the change feed. Suspend waits for them only as long as
// [Config.WaitForOthers] says. A process that is cut off from the host database goes on until its
// CacheConfig.MaxStaleIfDown.
//
// Suspending a suspended tenant changes nothing. Errors: hostdb.ErrNotFound; hostdb.ErrConflict for a tenant
// that is being provisioned or was dropped; the error of ctx, if that ends first. The tenant is closed even
// then.
func (f *Fleet) Suspend(ctx context.Context, tenantID string) error {
	return f.setStatus(ctx, "suspend", tenantID, hostdb.TenantSuspended, hostdb.TenantActive,
		hostdb.TenantMaintenance)
}

// Resume opens a suspended tenant. Resuming an active tenant changes nothing. Errors: as for [Fleet.Suspend];
// hostdb.ErrConflict for a tenant in maintenance.
func (f *Fleet) Resume(ctx context.Context, tenantID string) error {
	return f.setStatus(ctx, "resume", tenantID, hostdb.TenantActive, hostdb.TenantSuspended)
}

// Maintenance closes an active tenant for a while, or opens it again. While it is closed, its requests are
// answered with 503 and Retry-After. Maintenance waits for requests and for other processes as
// [Fleet.Suspend] does. Errors: as for Suspend; hostdb.ErrConflict for a suspended tenant.
func (f *Fleet) Maintenance(ctx context.Context, tenantID string, on bool) error {
	if on {
		return f.setStatus(ctx, "maintenance", tenantID, hostdb.TenantMaintenance, hostdb.TenantActive)
	}
	return f.setStatus(ctx, "maintenance", tenantID, hostdb.TenantActive, hostdb.TenantMaintenance)
}

// Rename changes a tenant's slug, its name, or both; an empty one isn't changed. Requests go on, since the
// database is named after the tenant's id. Errors: hostdb.ErrNotFound; hostdb.ErrInvalid for a malformed or
// reserved slug; hostdb.ErrConflict for a slug that another tenant has, and for a dropped tenant.
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

// setStatus changes a tenant's status to one, from one of the others. If that closes the tenant, it drains
// it.
func (f *Fleet) setStatus(ctx context.Context, what, tenantID, to string, from ...string) error {
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

// drain waits for this process's requests on a closed tenant to end, and gives other processes the time of
// Config.WaitForOthers.
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

// edit changes a tenant's row in one transaction.
func (f *Fleet) edit(ctx context.Context, tenantID string, change func(*hostdb.TenantCatalog) error) error {
	_, err := f.host.Tenants.Change(ctx, tenantID, change)
	return err
}
