// Package jobs runs the jobs of the host database's queue, [hostdb.Jobs]. A job that names a tenant runs with
// that tenant's database in its context, as a request's handler does.
//
// A job runs at least once. When a worker dies, the lease of its job ends and another worker runs the job
// again. So handlers must be idempotent.
package jobs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
)

// Handler does one job. If the job names a tenant, tenantdb.DB(ctx) is that tenant's database.
//
// An error, a panic or [runtime.Goexit] fails the attempt. The error's text is stored in the job's ErrorLog,
// so it must hold no secrets.
//
// The context ends when the job is cancelled or taken over, when no heartbeat has reached the host database
// for [Config.Lease], or when the context of [Worker.Close] ends.
type Handler func(ctx context.Context, job *hostdb.SystemJob) error

// Config configures a Worker. Host and Handlers are required.
type Config struct {
	// Host is the host database, which holds the queue.
	Host *hostdb.DB
	// Middleware opens the tenant of a job that names one. If it is nil, such jobs fail.
	Middleware *tenantdb.Middleware
	// Handlers maps job types to their handlers, at most [hostdb.MaxClaimTypes]. Jobs of other types are left
	// to other workers.
	Handlers map[string]Handler
	// Parallel is how many jobs run at once. The default is 4.
	Parallel int
	// Lease is how long a job stays this worker's without a heartbeat, at least 100 ms. There are three
	// heartbeats per lease. The default is 1 min.
	Lease time.Duration
	// PollInterval is how often an idle worker looks for jobs. The default is 1 s. [Worker.Wake] has it look
	// at once.
	PollInterval time.Duration
	// Name identifies the worker in the queue. The default is a new id.
	Name string
	// Logger receives failed attempts, at level Warn. The default is no log.
	Logger *slog.Logger
	// Observer is told what the worker does. The default is none.
	Observer *Observer
}

// Worker runs jobs of the queue from [New] to [Worker.Close].
type Worker struct {
	cfg     Config
	types   []string
	claims  context.Context // ends when no more jobs may be claimed
	stop    context.CancelFunc
	work    context.Context // ends when running jobs must be given up
	abandon context.CancelFunc
	running sync.WaitGroup
	watch   watch
	wake    chan struct{}

	mu   sync.Mutex        // guards jobs
	jobs map[string]string // the running jobs: id → type
}

// New checks the configuration and starts a Worker.
func New(cfg Config) (*Worker, error) {
	switch {
	case cfg.Host == nil:
		return nil, errors.New("jobs: Config.Host: give the host database")
	case len(cfg.Handlers) == 0:
		return nil, errors.New("jobs: Config.Handlers: name at least one job type")
	case len(cfg.Handlers) > hostdb.MaxClaimTypes:
		return nil, fmt.Errorf("jobs: Config.Handlers: name at most %d job types; use several workers for "+
			"more",
			hostdb.MaxClaimTypes)
	case cfg.Parallel < 0 || cfg.PollInterval < 0:
		return nil, errors.New("jobs: Config.Parallel, Config.PollInterval: can't be negative")
	case cfg.Lease != 0 && cfg.Lease < 100*time.Millisecond:
		return nil, errors.New("jobs: Config.Lease: give at least 100ms")
	}
	for name, handler := range cfg.Handlers {
		if name == "" || handler == nil {
			return nil, fmt.Errorf("jobs: Config.Handlers[%q]: give a name and a function", name)
		}
	}
	cfg.Parallel = cmp.Or(cfg.Parallel, 4)
	cfg.Lease = cmp.Or(cfg.Lease, time.Minute)
	cfg.PollInterval = cmp.Or(cfg.PollInterval, time.Second)
	cfg.Name = cmp.Or(cfg.Name, hostdb.NewID())
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	w := &Worker{cfg: cfg, types: slices.Sorted(maps.Keys(cfg.Handlers)),
		wake: make(chan struct{}, cfg.Parallel),
		jobs: make(map[string]string)}
	w.watch.open(&cfg)
	w.claims, w.stop = context.WithCancel(context.Background())
	w.work, w.abandon = context.WithCancel(context.Background())
	for range cfg.Parallel {
		w.running.Go(w.loop)
	}
	if w.watch.Depth != nil {
		w.running.Go(w.reportDepth)
	}
	return w, nil
}

// Wake has an idle worker look for jobs at once, as after an Enqueue in this process.
func (w *Worker) Wake() {
	for range cap(w.wake) {
		select {
		case w.wake <- struct{}{}:
		default:
			return
		}
	}
}

// Close claims no further jobs and waits for the running ones, including one that is being claimed. If ctx
// ends first, Close cancels the handlers' contexts, waits for the handlers to return, and returns an error
// that names their jobs. Other workers take these jobs over.
func (w *Worker) Close(ctx context.Context) error {
	w.stop()
	done := make(chan struct{})
	go func() {
		w.running.Wait()
		close(done)
	}()
	select {
	case <-done:
		w.abandon()
		return nil
	case <-ctx.Done():
	}
	unfinished := w.unfinished()
	w.abandon()
	<-done
	if len(unfinished) == 0 {
		return nil
	}
	return fmt.Errorf("jobs: given up: %s: %w", strings.Join(unfinished, ", "), ctx.Err())
}

// unfinished names the running jobs.
func (w *Worker) unfinished() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var names []string
	for id, kind := range w.jobs {
		names = append(names, kind+" "+id)
	}
	slices.Sort(names)
	return names
}

// loop claims and runs one job after the other.
func (w *Worker) loop() {
	idle := time.NewTimer(0)
	defer idle.Stop()
	for w.claims.Err() == nil {
		asked := time.Now()
		job, err := w.claim()
		if err == nil {
			w.run(job, asked)
			continue
		}
		if !errors.Is(err, hostdb.ErrNotFound) && w.claims.Err() == nil {
			w.cfg.Logger.Warn("no job can be claimed", "cause", err.Error())
		}
		idle.Reset(w.cfg.PollInterval)
		select {
		case <-idle.C:
		case <-w.wake:
		case <-w.claims.Done():
		}
	}
}

// claimTimeout bounds one query for a job.
const claimTimeout = 10 * time.Second

// claim claims a job. Close doesn't interrupt it: if its statement had committed, nobody would run the job
// until the lease ends.
func (w *Worker) claim() (*hostdb.SystemJob, error) {
	ctx, cancel := context.WithTimeout(w.work, claimTimeout)
	defer cancel()
	return w.cfg.Host.Jobs.Claim(ctx, w.cfg.Name, w.types, w.cfg.Lease)
}
