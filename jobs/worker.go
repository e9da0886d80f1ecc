// Package jobs runs the jobs of the host database's queue (hostdb.Jobs). A job that names a tenant is run
// with that tenant's database in its context, as a request's handler has it.
//
// A job is run at least once: a worker that dies in the middle of one loses its lease, and another worker
// begins it anew. So a handler must bear to run twice.
package jobs

import (
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

// Handler does one job. Where the job names a tenant, tenantdb.DB(ctx) is that tenant's. An error, or a
// panic, fails the attempt; its text is kept in the job's ErrorLog, so it must hold no secret. So does
// runtime.Goexit. The context ends when the job is cancelled or taken over, when no sign of life has reached
// the host database for a Lease, or when Close runs out of time.
type Handler func(ctx context.Context, job *hostdb.SystemJob) error

// Config describes a Worker. Host and Handlers are needed.
type Config struct {
	// Host is the host database, whose queue is worked on.
	Host *hostdb.DB
	// Middleware enters the tenants of jobs that name one. Nil: such jobs fail.
	Middleware *tenantdb.Middleware
	// Handlers are the job types that this worker knows, and what does them. Jobs of other types are left to
	// other workers. At most hostdb.MaxClaimTypes.
	Handlers map[string]Handler
	// Parallel is how many jobs run at once. Default 4.
	Parallel int
	// Lease is how long a job stays this worker's without a sign of life, at least 100 ms. Default 1 min;
	// signs of life are given three times as often.
	Lease time.Duration
	// PollInterval is how often an idle worker looks for jobs. Default 1 s; Wake makes it look at once.
	PollInterval time.Duration
	// Name tells workers apart in the queue. Default: a new id.
	Name string
	// Logger receives failed attempts (level Warn). Default: none.
	Logger *slog.Logger
}

// Worker works on the queue from New to Close.
type Worker struct {
	cfg     Config
	types   []string
	claims  context.Context // ends when no more jobs are to be claimed
	stop    context.CancelFunc
	work    context.Context // ends when running jobs are to be given up
	abandon context.CancelFunc
	running sync.WaitGroup
	wake    chan struct{}

	mu   sync.Mutex        // guards jobs
	jobs map[string]string // id → type, of those that run
}

// New checks the configuration and starts a Worker.
func New(cfg Config) (*Worker, error) {
	switch {
	case cfg.Host == nil:
		return nil, errors.New("jobs: Config.Host: give the host database")
	case len(cfg.Handlers) == 0:
		return nil, errors.New("jobs: Config.Handlers: name at least one job type")
	case len(cfg.Handlers) > hostdb.MaxClaimTypes:
		return nil, fmt.Errorf("jobs: Config.Handlers: name at most %d job types; share them out among workers", hostdb.MaxClaimTypes)
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
	cfg.setDefaults()
	w := &Worker{cfg: cfg, types: slices.Sorted(maps.Keys(cfg.Handlers)), wake: make(chan struct{}, cfg.Parallel), jobs: make(map[string]string)}
	w.claims, w.stop = context.WithCancel(context.Background())
	w.work, w.abandon = context.WithCancel(context.Background())
	for range cfg.Parallel {
		w.running.Go(w.loop)
	}
	return w, nil
}

// setDefaults fills in what is zero.
func (c *Config) setDefaults() {
	if c.Parallel == 0 {
		c.Parallel = 4
	}
	if c.Lease == 0 {
		c.Lease = time.Minute
	}
	if c.PollInterval == 0 {
		c.PollInterval = time.Second
	}
	if c.Name == "" {
		c.Name = hostdb.NewID()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// Wake has idle workers look for jobs now, as after an Enqueue in this process.
func (w *Worker) Wake() {
	for range cap(w.wake) {
		select {
		case w.wake <- struct{}{}:
		default:
			return
		}
	}
}

// Close claims no further jobs and waits for those that run or are being claimed. When ctx ends first, their
// contexts are cancelled, Close waits for the handlers to return, and the error names the jobs; other workers
// take them over.
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

// unfinished names the jobs that run.
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

// claimTimeout bounds one look for a job.
const claimTimeout = 10 * time.Second

// claim looks for a job. Close doesn't interrupt it: its statement may have committed, and the job be
// nobody's until the lease ends.
func (w *Worker) claim() (*hostdb.SystemJob, error) {
	ctx, cancel := context.WithTimeout(w.work, claimTimeout)
	defer cancel()
	return w.cfg.Host.Jobs.Claim(ctx, w.cfg.Name, w.types, w.cfg.Lease)
}
