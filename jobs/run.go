package jobs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// errTakenOver is the cause of a handler's context when the job is no longer this worker's.
var errTakenOver = errors.New("the job was cancelled or taken over")

// run does a claimed job and says how it ended.
func (w *Worker) run(job *hostdb.SystemJob) {
	w.mu.Lock()
	w.jobs[job.ID] = job.JobType
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		delete(w.jobs, job.ID)
		w.mu.Unlock()
	}()
	ctx, cancel := context.WithCancelCause(w.work)
	beating := make(chan struct{})
	go func() {
		defer close(beating)
		w.heartbeat(ctx, job, cancel)
	}()
	err := w.call(ctx, job)
	lost := errors.Is(context.Cause(ctx), errTakenOver)
	cancel(nil)
	<-beating
	if lost {
		w.cfg.Logger.Warn("a job was cancelled or taken over", "job", job.ID, "type", job.JobType)
		return
	}
	w.finish(job, err)
}

// heartbeat keeps the job's lease until ctx ends, and ends ctx when it is lost.
func (w *Worker) heartbeat(ctx context.Context, job *hostdb.SystemJob, lose context.CancelCauseFunc) {
	tick := time.NewTicker(w.cfg.Lease / 3)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		sign := *job // the handler may be reading the job
		if err := w.cfg.Host.Jobs.Heartbeat(ctx, &sign, w.cfg.Lease); errors.Is(err, hostdb.ErrConflict) {
			lose(errTakenOver)
			return
		}
	}
}

// call runs the handler, inside the job's tenant where it has one. A panic is an error.
func (w *Worker) call(ctx context.Context, job *hostdb.SystemJob) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	if job.TenantID != "" {
		if w.cfg.Middleware == nil {
			return errors.New("the job names a tenant, and Config.Middleware is nil")
		}
		inside, leave, err := w.cfg.Middleware.Enter(ctx, job.TenantID)
		if err != nil {
			return err
		}
		defer leave()
		ctx = inside
	}
	return w.cfg.Handlers[job.JobType](ctx, job)
}

// finish writes down how an attempt ended. Where that can't be done, the lease runs out and the job is begun anew.
func (w *Worker) finish(job *hostdb.SystemJob, failure error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.work), w.cfg.Lease)
	defer cancel()
	var err error
	if failure == nil {
		err = w.cfg.Host.Jobs.Complete(ctx, job)
	} else {
		w.cfg.Logger.Warn("a job failed", "job", job.ID, "type", job.JobType, "attempt", job.Attempts, "cause", failure.Error())
		err = w.cfg.Host.Jobs.Fail(ctx, job, failure.Error())
	}
	if err != nil {
		w.cfg.Logger.Warn("a job's end can't be written down", "job", job.ID, "type", job.JobType, "cause", err.Error())
	}
}
