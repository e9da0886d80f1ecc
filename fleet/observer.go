package fleet

import (
	"context"
	"errors"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/dburl"
	"github.com/tenantdb/tenantdb/internal/observe"
)

// Observer is told what a [Fleet] does, for metrics and traces. Every function is optional. They may be
// called concurrently, and none is called while the fleet holds a lock or a transaction. A panic is recovered
// and changes nothing. The first one is logged to [Config.Logger], at level Error.
type Observer struct {
	// Provisioned is called when [Fleet.Provision] or [Fleet.RunJob] has worked on a new tenant. A spec that
	// is refused begins no work.
	Provisioned func(context.Context, ProvisionInfo)
	// Migrated is called with each tenant that has ended in a run of [Fleet.Migrate], or was interrupted.
	Migrated func(context.Context, Result)
	// Dropped is called when [Fleet.Drop] or [Fleet.RunJob] has worked on removing a tenant's database.
	Dropped func(context.Context, DropInfo)
}

// ProvisionInfo is about the work on a new tenant.
type ProvisionInfo struct {
	TenantID string
	// Duration is how long it took, from when the tenant's row was there.
	Duration time.Duration
	// Err is why the tenant isn't open yet; nil if it is. It has no secret.
	Err error
}

// DropInfo is about the removal of a tenant's database.
type DropInfo struct {
	TenantID string
	Duration time.Duration
	// Err is why the database may still be there; nil if it isn't. It has no secret.
	Err error
}

// finishProvision does the remaining steps for a reserved tenant, and tells the observer. It is a jobWork.
func (f *Fleet) finishProvision(ctx context.Context, tenant *hostdb.TenantCatalog, job *hostdb.SystemJob,
	check leaseCheck) (*hostdb.TenantCatalog, error) {
	began := time.Now()
	opened, err := f.buildAndOpen(ctx, tenant, job, check)
	observe.Tell(&f.panics, f.watch.Provisioned, ctx,
		ProvisionInfo{TenantID: tenant.ID, Duration: time.Since(began), Err: redacted(err, tenant)})
	return opened, err
}

// finishDrop removes a dropped tenant's database, and tells the observer. It is a jobWork.
func (f *Fleet) finishDrop(ctx context.Context, tenant *hostdb.TenantCatalog, job *hostdb.SystemJob,
	check leaseCheck) (*hostdb.TenantCatalog, error) {
	began := time.Now()
	dropped, err := f.removeAndEnd(ctx, tenant, job, check)
	observe.Tell(&f.panics, f.watch.Dropped, ctx,
		DropInfo{TenantID: tenant.ID, Duration: time.Since(began), Err: redacted(err, tenant)})
	return dropped, err
}

// redacted returns an error without the secrets of the tenant's address.
func redacted(err error, tenant *hostdb.TenantCatalog) error {
	if err == nil {
		return nil
	}
	return errors.New(dburl.Redact(err.Error(), tenant.DBURL.Reveal()))
}
