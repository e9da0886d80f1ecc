package jobs

import (
	"context"
	"errors"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/heartbeat"
	"github.com/tenantdb/tenantdb/internal/hook"
)

// errTakenOver ends a handler's context when another worker has the job, or may have it.
var errTakenOver = errors.New("the job was cancelled or taken over, or its lease ran out")

// errExited fails an attempt whose handler called [runtime.Goexit], as a test's FailNow does.
var errExited = errors.New("the handler exited its goroutine")

// run does a job and records how it ended. The job's lease began at since or later.
func (w *Worker) run(job *hostdb.SystemJob, since time.Time) {
	w.mu.Lock()
	w.jobs[job.ID] = job.JobType
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		delete(w.jobs, job.ID)
		w.mu.Unlock()
	}()
	renewed := *job // the handler may be reading the job
	observed := w.watch.claimed(w.work, job)
	began := time.Now()
	ctx, stop := heartbeat.Start(observed, heartbeat.Lease{Since: since, Interval: w.cfg.Lease / 3,
		Patience: w.cfg.Lease, Lost: errTakenOver, Renew: func(ctx context.Context) error {
			return w.cfg.Host.Jobs.Heartbeat(ctx, &renewed, w.cfg.Lease)
		}})
	err := hook.Run(errExited, func() error { return w.handle(ctx, job) })
	// A success counts although the lease was lost, unless another worker has begun the job. Complete finds
	// out.
	if lost := stop(); lost && err != nil {
		w.cfg.Logger.Warn("a job was given up", "job", job.ID, "type", job.JobType, "cause",
			errTakenOver.Error())
		w.watch.ended(observed, job, time.Since(began), ResultLost, err)
		return
	}
	took := time.Since(began)
	result, err := w.finish(job, err)
	w.watch.ended(observed, job, took, result, err)
}

// handle calls the handler, with the job's tenant in its context if the job names one.
func (w *Worker) handle(ctx context.Context, job *hostdb.SystemJob) error {
	if job.TenantID != "" {
		if w.cfg.Middleware == nil {
			return errors.New("the job names a tenant, and Config.Middleware is nil")
		}
		tenantCtx, leave, err := w.cfg.Middleware.Enter(ctx, job.TenantID)
		if err != nil {
			return err
		}
		defer leave()
		ctx = tenantCtx
	}
	return w.cfg.Handlers[job.JobType](ctx, job)
}

// finish records how an attempt ended, and returns that. If that fails, the lease runs out and a worker runs
// the job again.
func (w *Worker) finish(job *hostdb.SystemJob, failure error) (Result, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.work), w.cfg.Lease)
	defer cancel()
	var err error
	if failure == nil {
		err = w.cfg.Host.Jobs.Complete(ctx, job)
	} else {
		w.cfg.Logger.Warn("a job failed", "job", job.ID, "type", job.JobType, "attempt", job.Attempts,
			"cause", failure.Error())
		err = w.cfg.Host.Jobs.Fail(ctx, job, failure.Error())
	}
	if err != nil {
		w.cfg.Logger.Warn("a job's end can't be recorded", "job", job.ID, "type", job.JobType,
			"cause", err.Error())
		return ResultUnrecorded, err
	}
	switch {
	case failure == nil:
		return ResultDone, nil
	case job.Status == hostdb.JobFailed:
		return ResultDead, failure
	}
	return ResultFailed, failure
}
