package jobs

import (
	"context"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/observe"
)

// Observer is told what a [Worker] does, for metrics and traces. Every function is optional. They may be
// called concurrently, and none is called while the worker holds a lock. A panic is recovered and changes
// nothing. The first one is logged to [Config.Logger], at level Error.
type Observer struct {
	// Claimed is called before a job runs. The context that it returns, the given one or one derived from it,
	// is the handler's.
	Claimed func(context.Context, ClaimInfo) context.Context
	// Ended is called when an attempt has ended and that is recorded.
	Ended func(context.Context, EndInfo)
	// Depth is called every 15 s with the length of the queue, of all types. The worker asks the host
	// database for it only if Depth is set. The work grows with the queue.
	Depth func(context.Context, DepthInfo)
}

// Result is how an attempt of a job ended.
type Result string

// The results.
const (
	ResultDone       Result = "done"
	ResultFailed     Result = "failed"     // it will run again
	ResultDead       Result = "dead"       // no attempt is left
	ResultLost       Result = "lost"       // it was cancelled or taken over, or its lease ran out
	ResultUnrecorded Result = "unrecorded" // the host database didn't take the end: it will run again
)

// ClaimInfo is about a job that was claimed.
type ClaimInfo struct {
	JobID, JobType string
	TenantID       string // "" without a tenant
	Attempt        int    // from 1
	// Delay is how long ago the job was enqueued or, if it has a time to run after, how long ago that was.
	Delay time.Duration
}

// EndInfo is about an attempt that ended.
type EndInfo struct {
	JobID, JobType string
	TenantID       string // "" without a tenant
	Attempt        int    // from 1
	Duration       time.Duration
	Result         Result
	// Err is the handler's error, or why the end can't be recorded; nil if Result is done.
	Err error
}

// DepthInfo is the length of the queue.
type DepthInfo struct {
	hostdb.QueueDepth
}

// watch tells a worker's observer.
type watch struct {
	Observer
	panics observe.Panics
}

// open sets the observer, if there is one.
func (w *watch) open(cfg *Config) {
	if cfg.Observer != nil {
		w.Observer = *cfg.Observer
	}
	w.panics.Logger = cfg.Logger
}

// claimed tells of a job that was claimed. It returns the handler's context.
func (w *watch) claimed(ctx context.Context, job *hostdb.SystemJob) context.Context {
	if w.Claimed == nil {
		return ctx
	}
	due := job.CreatedAt
	if job.RunAfter != nil && job.RunAfter.After(due) {
		due = *job.RunAfter
	}
	return observe.Start(&w.panics, w.Claimed, ctx, ClaimInfo{JobID: job.ID, JobType: job.JobType,
		TenantID: job.TenantID, Attempt: job.Attempts, Delay: max(0, time.Since(due))})
}

// ended tells how an attempt ended.
func (w *watch) ended(ctx context.Context, job *hostdb.SystemJob, took time.Duration, r Result, err error) {
	observe.Tell(&w.panics, w.Ended, ctx, EndInfo{JobID: job.ID, JobType: job.JobType,
		TenantID: job.TenantID, Attempt: job.Attempts, Duration: took, Result: r, Err: err})
}

// depthInterval is how often the observer is told the length of the queue.
const depthInterval = 15 * time.Second

// reportDepth tells the observer the length of the queue, until the worker closes.
func (w *Worker) reportDepth() {
	tick := time.NewTicker(depthInterval)
	defer tick.Stop()
	for {
		ctx, cancel := context.WithTimeout(w.claims, claimTimeout)
		depth, err := w.cfg.Host.Jobs.Depth(ctx)
		cancel()
		if err == nil {
			observe.Tell(&w.watch.panics, w.watch.Depth, w.claims, DepthInfo{depth})
		} else if w.claims.Err() == nil {
			w.cfg.Logger.Warn("the queue's length can't be read", "cause", err.Error())
		}
		select {
		case <-tick.C:
		case <-w.claims.Done():
			return
		}
	}
}
