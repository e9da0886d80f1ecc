package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/dburl"
	"github.com/tenantdb/tenantdb/internal/heartbeat"
)

// JobTenant is the type of the jobs that record the work of [Fleet.Provision] and [Fleet.Drop]. Such a job
// has the database follow the tenant's row: it completes a tenant that is being provisioned, and removes the
// database of a dropped one.
const JobTenant = "fleet.tenant"

// jobPayload is the payload of a job with JobTenant.
type jobPayload struct {
	Tenant string `json:"tenant"`
	Trial  bool   `json:"trial,omitempty"`
}

// leaseCheck comes last in a job's last transaction. It fails the transaction if the lease was lost.
type leaseCheck = func(*hostdb.Tx) error

// keepLease renews a lease in the host database until stop is called. The context that it returns ends with
// errLease after two thirds of a lease without success. The last third is for running work to stop.
func (f *Fleet) keepLease(ctx context.Context,
	renew func(context.Context) error) (leased context.Context, stop func() (lost bool)) {
	return heartbeat.Start(ctx, heartbeat.Lease{Since: time.Now(), Interval: f.lease / 4,
		Patience: f.lease * 2 / 3, Lost: errLease, Renew: renew})
}

// enqueue records a job for a tenant, or returns the one that hasn't ended.
func (f *Fleet) enqueue(ctx context.Context, tx *hostdb.Tx, tenantID string,
	trial bool) (*hostdb.SystemJob, error) {
	payload, err := json.Marshal(jobPayload{Tenant: tenantID, Trial: trial})
	if err != nil {
		return nil, err
	}
	job := &hostdb.SystemJob{JobType: JobTenant, Payload: string(payload),
		DedupeKey: JobTenant + ":" + tenantID}
	_, err = tx.Jobs.Enqueue(ctx, job)
	return job, err
}

// payloadOf reads a job's payload. A malformed one names no tenant.
func payloadOf(job *hostdb.SystemJob) (p jobPayload) {
	if json.Unmarshal([]byte(job.Payload), &p) != nil {
		return jobPayload{}
	}
	return p
}

// claimPause is the time between two attempts to claim a job that another process has.
const claimPause = 100 * time.Millisecond

// claimJob claims the job of a tenant that isn't open, and creates it if there is none. It waits while
// another process has the job. It returns nil if the tenant is open or the job has ended meanwhile.
func (f *Fleet) claimJob(ctx context.Context, tenant *hostdb.TenantCatalog,
	trial bool) (*hostdb.SystemJob, error) {
	var job *hostdb.SystemJob
	err := f.host.InTx(ctx, func(tx *hostdb.Tx) error {
		job = nil
		now, err := tx.Tenants.Get(ctx, tenant.ID)
		if err == nil && now.Status != hostdb.TenantActive {
			job, err = f.enqueue(ctx, tx, tenant.ID, trial)
		}
		return err
	})
	if err != nil || job == nil {
		return nil, err
	}
	for {
		claimed, err := f.host.Jobs.ClaimJob(ctx, job.ID, f.name, f.lease)
		switch {
		case errors.Is(err, hostdb.ErrNotFound):
			return nil, nil
		case !errors.Is(err, hostdb.ErrConflict):
			return claimed, err
		}
		select {
		case <-time.After(claimPause):
		case <-ctx.Done():
			return nil, fmt.Errorf("somebody else works on it: %w", ctx.Err())
		}
	}
}

// completeUnneeded completes a claimed job that has nothing left to do. Nil is no job.
func (f *Fleet) completeUnneeded(ctx context.Context, job *hostdb.SystemJob) {
	if job == nil {
		return
	}
	// If this fails, the lease ends, and a worker finds nothing to do.
	if err := f.host.Jobs.Complete(ctx, job); err != nil {
		f.logger.WarnContext(ctx, "a job's end can't be recorded", "job", job.ID, "cause", err.Error())
	}
}

// jobWork is the work of a job on its tenant. It returns the tenant as it is then.
type jobWork func(context.Context, *hostdb.TenantCatalog, *hostdb.SystemJob,
	leaseCheck) (*hostdb.TenantCatalog, error)

// underLease does a claimed job. The work's context ends when the lease is lost. The job completes with the
// work's last transaction. If the work fails, so does the job, and it runs again.
func (f *Fleet) underLease(ctx context.Context, job *hostdb.SystemJob, tenant *hostdb.TenantCatalog,
	do jobWork) (*hostdb.TenantCatalog, error) {
	renewed := *job
	leased, stop := f.keepLease(ctx, func(ctx context.Context) error {
		return f.host.Jobs.Heartbeat(ctx, &renewed, f.lease)
	})
	result, err := do(leased, tenant, job, func(tx *hostdb.Tx) error {
		done := *job
		return tx.Jobs.Complete(leased, &done)
	})
	lost := stop()
	switch {
	case err == nil:
		return result, nil
	case lost:
		return nil, fmt.Errorf("%w: %w", errLease, err)
	}
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), f.lease)
	defer cancel()
	failErr := f.host.Jobs.Fail(late, job, dburl.Redact(err.Error(), tenant.DBURL.Reveal()))
	if failErr != nil && !errors.Is(failErr, hostdb.ErrConflict) {
		err = errors.Join(err, failErr)
	}
	return nil, err
}

// RunJob handles jobs of the type [JobTenant] in a jobs.Worker:
//
//	jobs.Config{Handlers: map[string]jobs.Handler{fleet.JobTenant: f.RunJob}}
func (f *Fleet) RunJob(ctx context.Context, job *hostdb.SystemJob) error {
	tenant, err := f.host.Tenants.Get(ctx, payloadOf(job).Tenant)
	if err != nil {
		return fmt.Errorf("fleet: job %s: its tenant: %w", job.ID, err)
	}
	do := f.finishProvision
	switch tenant.Status {
	case hostdb.TenantProvisioning:
	case hostdb.TenantDropped:
		do = f.finishDrop
	default:
		return nil
	}
	_, err = do(ctx, tenant, job, func(tx *hostdb.Tx) error { // the worker completes the job
		renewed := *job
		return tx.Jobs.Heartbeat(ctx, &renewed, f.lease)
	})
	switch {
	case errors.Is(err, errDropped): // its database is removed by now
		return nil
	case err != nil:
		return fmt.Errorf("fleet: tenant %s: %s", tenant.ID, dburl.Redact(err.Error(), tenant.DBURL.Reveal()))
	}
	return nil
}
