package jobs

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// errTakenOver is the cause of a handler's context when the job is no longer this worker's, or may be so.
var errTakenOver = errors.New("the job was cancelled or taken over, or its lease ran out")

// errExited fails an attempt whose handler called runtime.Goexit, as a test's FailNow does.
var errExited = errors.New("the handler exited its goroutine")

// run does a job and says how it ended. The lease began no earlier than since.
func (w *Worker) run(job *hostdb.SystemJob, since time.Time) {
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
		w.heartbeat(ctx, job, since, cancel)
	}()
	err := w.call(ctx, job)
	lost := errors.Is(context.Cause(ctx), errTakenOver)
	cancel(nil)
	<-beating
	if lost && err != nil { // a success counts if nobody has begun the job since; Complete finds out
		w.cfg.Logger.Warn("a job was given up", "job", job.ID, "type", job.JobType, "cause", errTakenOver.Error())
		return
	}
	w.finish(job, err)
}

// heartbeat keeps the job's lease until ctx ends, and ends ctx when the lease is lost or has run out: the
// host database may be out of reach of this worker only, and another one begin the job.
func (w *Worker) heartbeat(ctx context.Context, job *hostdb.SystemJob, since time.Time, lose context.CancelCauseFunc) {
	over := time.AfterFunc(time.Until(since.Add(w.cfg.Lease)), func() { lose(errTakenOver) })
	defer over.Stop()
	tick := time.NewTicker(w.cfg.Lease / 3)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		since = time.Now() // the new lease begins no earlier
		switch err := w.beat(ctx, job); {
		case err == nil:
			over.Reset(time.Until(since.Add(w.cfg.Lease)))
		case errors.Is(err, hostdb.ErrConflict):
			lose(errTakenOver)
			return
		}
	}
}

// beat extends the job's lease. One that hangs leaves time for another.
func (w *Worker) beat(ctx context.Context, job *hostdb.SystemJob) error {
	ctx, cancel := context.WithTimeout(ctx, w.cfg.Lease/3)
	defer cancel()
	sign := *job // the handler may be reading the job
	return w.cfg.Host.Jobs.Heartbeat(ctx, &sign, w.cfg.Lease)
}

// call runs the handler on a goroutine of its own and waits for it. A panic is an error, and so is
// runtime.Goexit.
func (w *Worker) call(ctx context.Context, job *hostdb.SystemJob) error {
	err := errExited
	var handler sync.WaitGroup
	handler.Go(func() {
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("panic: %v", p)
			}
		}()
		err = w.handle(ctx, job)
	})
	handler.Wait()
	return err
}

// handle calls the handler, inside the job's tenant where it has one.
func (w *Worker) handle(ctx context.Context, job *hostdb.SystemJob) error {
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

// finish writes down how an attempt ended. Where that can't be done, the lease runs out and the job is begun
// anew.
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
