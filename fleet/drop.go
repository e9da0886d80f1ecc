package fleet

import (
	"context"
	"errors"
	"fmt"

	"github.com/tenantdb/tenantdb/hostdb"
)

// Drop removes a tenant and its database for good. First the tenant is closed to everybody. Once its requests
// have ended, new connections to its database are refused, and the database and its role are removed.
//
// The tenant's row stays in the catalog with the status dropped and without a slug, which is free again. The
// audit log records the change of the row, and the end of the work, once, as [hostdb.EventTenantDropped].
//
// The work is recorded as a job of the type [JobTenant]. After a crash another Drop resumes it, or a worker
// with [Fleet.RunJob]. Drop waits while another process works on the tenant, as when it is being provisioned.
// Dropping a tenant again is not an error. Drop refuses a tenant whose db_url this fleet didn't make: its
// database is elsewhere.
func (f *Fleet) Drop(ctx context.Context, tenantID string) error {
	tenant, job, err := f.markDropped(ctx, tenantID)
	if err != nil {
		return fmt.Errorf("fleet: drop: close it: %w", err)
	}
	f.logger.DebugContext(ctx, "dropping", "tenant", tenantID, "step", "closed")
	for job == nil {
		if job, err = f.claimJob(ctx, tenant, false); err != nil {
			return fmt.Errorf("fleet: drop: %w", err)
		}
	}
	if _, err = f.underLease(ctx, job, tenant, f.finishDrop); err != nil {
		return fmt.Errorf("fleet: drop: %w", err)
	}
	f.logger.InfoContext(ctx, "tenant dropped", "tenant", tenantID)
	return nil
}

// markDropped closes the tenant and records the job. It claims the job, and returns nil for it if another
// process works on the tenant.
func (f *Fleet) markDropped(ctx context.Context, tenantID string) (tenant *hostdb.TenantCatalog,
	job *hostdb.SystemJob, err error) {
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
		queued, err := f.enqueue(ctx, tx, tenantID, false)
		if err == nil && queued.Status == hostdb.JobPending {
			job, err = tx.Jobs.ClaimJob(ctx, queued.ID, f.name, f.lease)
		}
		return err
	})
	return tenant, job, err
}

// removeAndEnd removes the database of a dropped tenant. It is a jobWork.
func (f *Fleet) removeAndEnd(ctx context.Context, tenant *hostdb.TenantCatalog, _ *hostdb.SystemJob,
	check leaseCheck) (*hostdb.TenantCatalog, error) {
	return tenant, f.removeDatabase(ctx, tenant, check)
}

// removeDatabase removes a closed tenant's database after its requests have ended.
func (f *Fleet) removeDatabase(ctx context.Context, tenant *hostdb.TenantCatalog, check leaseCheck) error {
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
		return check(tx)
	})
}
