package fleet

import (
	"context"
	"errors"
	"fmt"

	"github.com/tenantdb/tenantdb/hostdb"
)

// Drop removes a tenant for good: it is closed to everybody, its requests end, its database is fenced off and
// removed, and its role. Its row stays in the catalog with status dropped, without its slug, which is free
// again. The audit log tells of the closing as of every change of the row, and of the end, once, as
// hostdb.EventTenantDropped. A tenant that is being provisioned is dropped once the process that works on it,
// or its lease, has ended. The work is recorded as a job with JobTenant: after a crash another Drop goes on,
// or a worker with RunJob. Dropping a tenant again is not an error. A tenant whose db_url isn't one that this
// fleet gave it is refused: its database is elsewhere.
func (f *Fleet) Drop(ctx context.Context, tenantID string) error {
	tenant, job, err := f.close(ctx, tenantID)
	if err != nil {
		return fmt.Errorf("fleet: drop: close it: %w", err)
	}
	f.logger.DebugContext(ctx, "dropping", "tenant", tenantID, "step", "closed")
	for job == nil {
		if job, err = f.orderOf(ctx, tenant, false); err != nil {
			return fmt.Errorf("fleet: drop: %w", err)
		}
	}
	if _, err = f.underLease(ctx, job, tenant, f.clear); err != nil {
		return fmt.Errorf("fleet: drop: %w", err)
	}
	f.logger.InfoContext(ctx, "tenant dropped", "tenant", tenantID)
	return nil
}

// close makes the tenant's row a tombstone, and records a job, which this process holds unless somebody works
// on the tenant.
func (f *Fleet) close(ctx context.Context, tenantID string) (tenant *hostdb.TenantCatalog, job *hostdb.SystemJob, err error) {
	err = f.host.InTx(ctx, func(tx *hostdb.Tx) error {
		job = nil
		tenant, err = tx.Tenants.Change(ctx, tenantID, func(tenant *hostdb.TenantCatalog) error {
			if !f.server.owns(tenant) {
				return errors.New("its db_url is not on this fleet's Config.Server")
			}
			tenant.Status, tenant.IsActive, tenant.Slug = hostdb.TenantDropped, false, ""
			return nil
		})
		if err != nil {
			return err
		}
		order, err := f.enqueue(ctx, tx, tenantID, false)
		if err == nil && order.Status == hostdb.JobPending {
			job, err = tx.Jobs.ClaimJob(ctx, order.ID, f.name, f.lease)
		}
		return err
	})
	return tenant, job, err
}

// clear removes a closed tenant's database, under its job's lease.
func (f *Fleet) clear(ctx context.Context, tenant *hostdb.TenantCatalog, _ *hostdb.SystemJob, seal sealing) (*hostdb.TenantCatalog, error) {
	return tenant, f.remove(ctx, tenant, seal)
}

// remove removes a closed tenant's database once nobody holds it, as far as drain waits.
func (f *Fleet) remove(ctx context.Context, tenant *hostdb.TenantCatalog, seal sealing) error {
	if err := f.drain(ctx, tenant.ID); err != nil {
		return err
	}
	f.logger.DebugContext(ctx, "dropping", "tenant", tenant.ID, "step", "drained")
	if err := f.server.drop(ctx, tenant); err != nil {
		return fmt.Errorf("remove its database: %w", err)
	}
	f.logger.DebugContext(ctx, "dropping", "tenant", tenant.ID, "step", "removed")
	return f.host.InTx(ctx, func(tx *hostdb.Tx) error {
		if _, err := tx.Tenants.Lock(ctx, tenant.ID); err != nil {
			return err
		}
		if err := tx.AuditLogs.RecordOnce(ctx, hostdb.EventTenantDropped, tenant.ID); err != nil {
			return err
		}
		return seal(tx)
	})
}
