package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/dburl"
)

// JobTenant is the type of the jobs by which Provision and Drop record their work. Whoever runs one brings a
// tenant to what its row says: one that is being provisioned is finished, one that was dropped loses its
// database.
const JobTenant = "fleet.tenant"

// order is a job's payload.
type order struct {
	Tenant string `json:"tenant"`
	Trial  bool   `json:"trial,omitempty"`
}

// sealing is the last thing in a job's last transaction: it fails where the job is somebody else's by now.
type sealing = func(*hostdb.Tx) error

// enqueue records a job for a tenant, or finds the one that hasn't ended.
func (f *Fleet) enqueue(ctx context.Context, tx *hostdb.Tx, tenantID string, trial bool) (*hostdb.SystemJob, error) {
	payload, err := json.Marshal(order{Tenant: tenantID, Trial: trial})
	if err != nil {
		return nil, err
	}
	job := &hostdb.SystemJob{JobType: JobTenant, Payload: string(payload), DedupeKey: JobTenant + ":" + tenantID}
	_, err = tx.Jobs.Enqueue(ctx, job)
	return job, err
}

// orderIn reads a job's payload; one that can't be read is about no tenant.
func orderIn(job *hostdb.SystemJob) (o order) {
	if json.Unmarshal([]byte(job.Payload), &o) != nil {
		return order{}
	}
	return o
}

// leasePause is how long to wait before asking again for a job that another process holds.
const leasePause = 100 * time.Millisecond

// orderOf claims the job of a tenant that isn't open, a new one where there is none, once nobody else holds
// it. It returns nil where the tenant is open, or the job ended meanwhile.
func (f *Fleet) orderOf(ctx context.Context, tenant *hostdb.TenantCatalog, trial bool) (*hostdb.SystemJob, error) {
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
		case <-time.After(leasePause):
		case <-ctx.Done():
			return nil, fmt.Errorf("somebody else works on it: %w", ctx.Err())
		}
	}
}

// leave ends a job, if there is one, for which there is nothing left to do.
func (f *Fleet) leave(ctx context.Context, job *hostdb.SystemJob) {
	if job == nil {
		return
	}
	if err := f.host.Jobs.Complete(ctx, job); err != nil { // its lease ends, and a worker finds that there is nothing to do
		f.logger.WarnContext(ctx, "a job's end can't be written down", "job", job.ID, "cause", err.Error())
	}
}

// work is what is done for a tenant under a job's lease.
type work func(context.Context, *hostdb.TenantCatalog, *hostdb.SystemJob, sealing) (*hostdb.TenantCatalog, error)

// underLease does a claimed job. Its context ends when the lease is lost. The job completes with the last
// transaction, or fails, and runs again.
func (f *Fleet) underLease(ctx context.Context, job *hostdb.SystemJob, tenant *hostdb.TenantCatalog, do work) (*hostdb.TenantCatalog, error) {
	held, lose := context.WithCancelCause(ctx)
	beating, sign := make(chan struct{}), *job
	go func() {
		defer close(beating)
		keep(held, f.lease, func(ctx context.Context) error { return f.host.Jobs.Heartbeat(ctx, &sign, f.lease) }, func() { lose(errLease) })
	}()
	result, err := do(held, tenant, job, func(tx *hostdb.Tx) error {
		done := *job
		return tx.Jobs.Complete(held, &done)
	})
	lost := errors.Is(context.Cause(held), errLease)
	lose(nil)
	<-beating
	switch {
	case err == nil:
		return result, nil
	case lost:
		return nil, fmt.Errorf("%w: %w", errLease, err)
	}
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), f.lease)
	defer cancel()
	if failErr := f.host.Jobs.Fail(late, job, dburl.Redact(err.Error(), tenant.DBURL.Reveal())); failErr != nil && !errors.Is(failErr, hostdb.ErrConflict) {
		err = errors.Join(err, failErr)
	}
	return nil, err
}

// RunJob is the handler of jobs with JobTenant for a jobs.Worker: Handlers:
// map[string]jobs.Handler{fleet.JobTenant: f.RunJob}.
func (f *Fleet) RunJob(ctx context.Context, job *hostdb.SystemJob) error {
	tenant, err := f.host.Tenants.Get(ctx, orderIn(job).Tenant)
	if err != nil {
		return fmt.Errorf("fleet: job %s: its tenant: %w", job.ID, err)
	}
	do := f.complete
	switch tenant.Status {
	case hostdb.TenantProvisioning:
	case hostdb.TenantDropped:
		do = f.clear
	default:
		return nil
	}
	_, err = do(ctx, tenant, job, func(tx *hostdb.Tx) error { // the worker completes it; here only the lease is made sure of
		held := *job
		return tx.Jobs.Heartbeat(ctx, &held, f.lease)
	})
	switch {
	case errors.Is(err, errDropped): // and what was built is gone
		return nil
	case err != nil:
		return fmt.Errorf("fleet: tenant %s: %s", tenant.ID, dburl.Redact(err.Error(), tenant.DBURL.Reveal()))
	}
	return nil
}
