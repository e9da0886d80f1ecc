package jobs_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/fleet"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
	"github.com/tenantdb/tenantdb/jobs"
)

func TestMain(m *testing.M) {
	os.Exit(pgtest.Run(m))
}

// world is a product on one engine with the tenants acme and globex, each of whose databases holds its own
// name.
type world struct {
	host    *hostdb.DB
	mw      *tenantdb.Middleware
	tenants map[string]*hostdb.TenantCatalog
}

func onBothEngines(t *testing.T, test func(t *testing.T, w *world)) {
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) {
			ctx, dir := t.Context(), t.TempDir()
			url := "sqlite:" + filepath.Join(dir, "host.db")
			if engine == "postgres" {
				url = pgtest.Database(t)
			}
			w := &world{tenants: make(map[string]*hostdb.TenantCatalog)}
			var err error
			w.host, err = hostdb.Open(ctx, url)
			must(t, err)
			t.Cleanup(func() { _ = w.host.Close() })
			pool, err := tenantdb.NewPool(tenantdb.PoolConfig{SQLiteDir: filepath.Join(dir, "tenants")})
			must(t, err)
			t.Cleanup(func() { must(t, pool.Close(context.Background())) })
			schema := fstest.MapFS{"00001_me.sql": {
				Data: []byte("-- +goose Up\nCREATE TABLE me (name TEXT NOT NULL);\n")}}
			f, err := fleet.New(fleet.Config{Host: w.host, Pool: pool, Migrations: schema, NoTemplate: true})
			must(t, err)
			owner := &hostdb.GlobalUser{OAuthID: "ann", Email: "ann@example.com"}
			must(t, w.host.Users.Insert(ctx, owner))
			for _, slug := range []string{"acme", "globex"} {
				tenant, err := f.Provision(ctx, fleet.Spec{Slug: slug, OwnerID: owner.ID})
				must(t, err)
				t.Cleanup(func() { must(t, f.Drop(context.Background(), tenant.ID)) })
				lease, err := pool.Lease(tenant)
				must(t, err)
				_, err = lease.DB().ExecContext(ctx, "INSERT INTO me (name) VALUES ($1)", slug)
				must(t, err)
				lease.Release()
				w.tenants[slug] = tenant
			}
			nobody := authFunc{}
			w.mw, err = tenantdb.New(tenantdb.Config{Host: w.host, Pool: pool, Authenticator: nobody,
				Tenant: tenantdb.FromHeader("X-Tenant")})
			must(t, err)
			t.Cleanup(func() { must(t, w.mw.Close(context.Background())) })
			test(t, w)
		})
	}
}

// lease is short enough for a test, and longer than a busy machine stands still.
const lease = time.Second

// worker starts one that is fast enough for a test.
func (w *world) worker(t *testing.T, handlers map[string]jobs.Handler) *jobs.Worker {
	t.Helper()
	worker, err := jobs.New(jobs.Config{Host: w.host, Middleware: w.mw, Handlers: handlers,
		PollInterval: 10 * time.Millisecond, Lease: lease})
	must(t, err)
	t.Cleanup(func() { _ = worker.Close(context.Background()) })
	return worker
}

func (w *world) enqueue(t *testing.T, job hostdb.SystemJob) *hostdb.SystemJob {
	t.Helper()
	_, err := w.host.Jobs.Enqueue(t.Context(), &job)
	must(t, err)
	return &job
}

// await waits until a job has that status.
func (w *world) await(t *testing.T, id, status string) *hostdb.SystemJob {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		job, err := w.host.Jobs.Get(t.Context(), id)
		must(t, err)
		if job.Status == status {
			return job
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("the job is %s after 20 s; want %s", job.Status, status)
		}
	}
}

func TestWorker_runsEachJobOnceInItsTenant(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		var mu sync.Mutex
		seen := make(map[string]int)
		worker := w.worker(t, map[string]jobs.Handler{"who": func(ctx context.Context,
			job *hostdb.SystemJob) error {
			var name string
			if err := tenantdb.DB(ctx).QueryRowContext(ctx, "SELECT name FROM me").Scan(&name); err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			seen[job.Payload+" in "+name]++
			return nil
		}})
		var all []*hostdb.SystemJob
		for i := range 20 {
			slug := []string{"acme", "globex"}[i%2]
			all = append(all, w.enqueue(t, hostdb.SystemJob{JobType: "who", TenantID: w.tenants[slug].ID,
				Payload: fmt.Sprint(slug, i)}))
		}
		worker.Wake()
		for _, job := range all {
			w.await(t, job.ID, hostdb.JobCompleted)
		}
		must(t, worker.Close(t.Context()))
		for i, job := range all {
			if key := job.Payload + " in " + []string{"acme", "globex"}[i%2]; seen[key] != 1 {
				t.Errorf("%q happened %d times", key, seen[key])
			}
		}
		if len(seen) != 20 {
			t.Errorf("seen: %v", seen)
		}
	})
}

func TestWorker_failsAJobAfterAnErrorAPanicOrInAClosedTenant(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		w.worker(t, map[string]jobs.Handler{
			"error": func(context.Context, *hostdb.SystemJob) error { return errors.New("out of paper") },
			"panic": func(context.Context, *hostdb.SystemJob) error { panic("on fire") },
			"never": func(context.Context, *hostdb.SystemJob) error {
				t.Error("ran in a closed tenant")
				return nil
			},
		})
		globex := *w.tenants["globex"]
		globex.Status = hostdb.TenantSuspended
		must(t, w.host.Tenants.Update(t.Context(), &globex))
		for kind, want := range map[string]string{"error": "out of paper", "panic": "on fire",
			"never": "suspended"} {
			job := hostdb.SystemJob{JobType: kind, MaxAttempts: 1}
			if kind == "never" {
				job.TenantID = globex.ID
			}
			if ended := w.await(t, w.enqueue(t, job).ID,
				hostdb.JobFailed); !strings.Contains(ended.ErrorLog, want) {
				t.Errorf("%s: error log %q; want %q in it", kind, ended.ErrorLog, want)
			}
		}
		must(t, w.host.Tenants.Update(t.Context(), w.tenants["globex"]))
	})
}

func TestWorker_survivesAHandlerThatExitsItsGoroutine(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		worker, err := jobs.New(jobs.Config{Host: w.host, Middleware: w.mw, Parallel: 1,
			PollInterval: 10 * time.Millisecond,
			Handlers: map[string]jobs.Handler{
				"exit": func(context.Context, *hostdb.SystemJob) error { runtime.Goexit(); return nil },
				"next": func(context.Context, *hostdb.SystemJob) error { return nil },
			}})
		must(t, err)
		defer func() { must(t, worker.Close(context.Background())) }()
		exit := w.enqueue(t, hostdb.SystemJob{JobType: "exit",
			TenantID: w.tenants["acme"].ID, MaxAttempts: 1})
		if ended := w.await(t, exit.ID,
			hostdb.JobFailed); ended.ErrorLog != "the handler exited its goroutine" {
			t.Errorf("error log %q", ended.ErrorLog)
		}
		w.await(t, w.enqueue(t, hostdb.SystemJob{JobType: "next"}).ID, hostdb.JobCompleted)
	})
}

// TestWorker_givesAJobUpWhenItsLeaseEnds cuts a worker off, by errors or by silence,
// while another one is not.
func TestWorker_givesAJobUpWhenItsLeaseEnds(t *testing.T) {
	cuts := map[string]func(t *testing.T, own *hostdb.DB, job *hostdb.SystemJob) (mend func()){
		"every beat fails": func(t *testing.T, own *hostdb.DB, _ *hostdb.SystemJob) func() {
			must(t, own.Close())
			return func() {}
		},
		"every beat hangs": func(t *testing.T, own *hostdb.DB, job *hostdb.SystemJob) func() {
			tx, err := own.Begin(context.Background())
			must(t, err)
			must(t, tx.Jobs.Heartbeat(t.Context(), job, time.Hour)) // locks the row, or all of SQLite
			return func() { must(t, tx.Rollback()) }
		},
	}
	onBothEngines(t, func(t *testing.T, w *world) {
		for name, cut := range cuts {
			t.Run(name, func(t *testing.T) {
				own, err := hostdb.Open(t.Context(), w.host.URI())
				must(t, err)
				defer own.Close()
				started, told := make(chan *hostdb.SystemJob, 1), make(chan error, 1)
				first, err := jobs.New(jobs.Config{Host: own, Lease: lease,
					PollInterval: 10 * time.Millisecond, Parallel: 1,
					Handlers: map[string]jobs.Handler{"long": func(ctx context.Context,
						job *hostdb.SystemJob) error {
						copied := *job
						started <- &copied
						<-ctx.Done()
						told <- context.Cause(ctx)
						return ctx.Err()
					}}})
				must(t, err)
				job := w.enqueue(t, hostdb.SystemJob{JobType: "long"})
				mend := cut(t, own, <-started)
				select {
				case cause := <-told:
					if !strings.Contains(cause.Error(), "its lease ran out") {
						t.Errorf("cause %v", cause)
					}
				case <-time.After(20 * time.Second):
					t.Error("the handler runs on without a lease")
				}
				patience, cancel := context.WithTimeout(context.Background(), 10*time.Second)
				defer cancel()
				must(t, first.Close(patience))
				mend()
				w.worker(t, map[string]jobs.Handler{"long": func(context.Context,
					*hostdb.SystemJob) error {
					return nil
				}})
				if ended := w.await(t, job.ID, hostdb.JobCompleted); ended.Attempts != 2 {
					t.Errorf("%d attempts; want the second to be the other worker's", ended.Attempts)
				}
			})
		}
	})
}

func TestWorker_completesAJobAfterItsLeaseUnlessTakenOver(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		worker, err := jobs.New(jobs.Config{Host: w.host, Lease: lease,
			PollInterval: 10 * time.Millisecond, Parallel: 1,
			Handlers: map[string]jobs.Handler{"long": func(ctx context.Context, job *hostdb.SystemJob) error {
				tx, err := w.host.Begin(context.Background())
				if err != nil {
					return err
				}
				defer func() { _ = tx.Rollback() }()
				copied := *job
				// the worker's own beats hang from here
				if err := tx.Jobs.Heartbeat(ctx, &copied, time.Hour); err != nil {
					return err
				}
				<-ctx.Done()
				return nil
			}}})
		must(t, err)
		defer func() { must(t, worker.Close(context.Background())) }()
		if ended := w.await(t, w.enqueue(t, hostdb.SystemJob{JobType: "long"}).ID,
			hostdb.JobCompleted); ended.Attempts != 1 {
			t.Errorf("%d attempts; want 1", ended.Attempts)
		}
	})
}

func TestWorker_Close_drainsAndThenGivesUp(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		started, finish := make(chan struct{}), make(chan struct{})
		handlers := map[string]jobs.Handler{
			"slow": func(context.Context, *hostdb.SystemJob) error { close(started); <-finish; return nil },
			"hung": func(ctx context.Context, _ *hostdb.SystemJob) error {
				close(started)
				<-ctx.Done()
				return ctx.Err()
			},
		}
		worker := w.worker(t, handlers)
		slow := w.enqueue(t, hostdb.SystemJob{JobType: "slow"})
		<-started
		closed := make(chan error)
		go func() { closed <- worker.Close(context.Background()) }()
		close(finish)
		must(t, <-closed)
		w.await(t, slow.ID, hostdb.JobCompleted)

		started = make(chan struct{})
		worker = w.worker(t, handlers)
		hung := w.enqueue(t, hostdb.SystemJob{JobType: "hung"})
		<-started
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if err := worker.Close(ctx); err == nil || !strings.Contains(err.Error(), hung.ID) {
			t.Errorf("Close = %v; want the job's id", err)
		}
	})
}

func TestWorker_Close_runsAJobThatIsBeingClaimed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, err := hostdb.Open(t.Context(), "sqlite::memory:")
		must(t, err)
		defer host.Close()
		w := &world{host: host}
		job := w.enqueue(t, hostdb.SystemJob{JobType: "x"})
		tx, err := host.Begin(t.Context()) // the claim waits for the only connection
		must(t, err)
		defer func() { _ = tx.Rollback() }()
		worker := w.worker(t, map[string]jobs.Handler{
			"x": func(context.Context, *hostdb.SystemJob) error { return nil },
		})
		synctest.Wait()
		closed := make(chan error, 1)
		go func() { closed <- worker.Close(context.Background()) }()
		synctest.Wait()
		select {
		case err := <-closed:
			t.Fatalf("Close = %v before the claim ended", err)
		default:
			must(t, tx.Rollback())
		}
		must(t, <-closed)
		ended, err := host.Jobs.Get(t.Context(), job.ID)
		must(t, err)
		if ended.Status != hostdb.JobCompleted {
			t.Errorf("the job is %s; want %s", ended.Status, hostdb.JobCompleted)
		}
	})
}

func TestWorker_renewsTheLeaseUntilTheJobIsCancelled(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		started, told := make(chan struct{}, 10), make(chan struct{})
		w.worker(t, map[string]jobs.Handler{
			"long": func(ctx context.Context, _ *hostdb.SystemJob) error {
				started <- struct{}{}
				<-ctx.Done()
				close(told)
				return ctx.Err()
			},
		})
		job := w.enqueue(t, hostdb.SystemJob{JobType: "long"})
		<-started
		first, err := w.host.Jobs.Get(t.Context(), job.ID)
		must(t, err)
		deadline := time.After(20 * time.Second)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for { // the lease moves on although the handler says nothing
			now, err := w.host.Jobs.Get(t.Context(), job.ID)
			must(t, err)
			if now.LeaseUntil.Sub(*first.LeaseUntil) > lease {
				break
			}
			select {
			case <-tick.C:
			case <-deadline:
				t.Fatal("no sign of life")
			}
		}
		must(t, w.host.Jobs.Cancel(t.Context(), job.ID))
		<-told
		if len(started) != 0 {
			t.Error("the job was begun twice")
		}
		w.await(t, job.ID, hostdb.JobCancelled)
	})
}

func TestNew_namesTheField(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	host, err := hostdb.Open(t.Context(), "sqlite::memory:")
	must(t, err)
	defer host.Close()
	some := map[string]jobs.Handler{"x": func(context.Context, *hostdb.SystemJob) error { return nil }}
	many := map[string]jobs.Handler{}
	for i := range hostdb.MaxClaimTypes + 1 {
		many[fmt.Sprint("x", i)] = some["x"]
	}
	for field, cfg := range map[string]jobs.Config{
		"Host": {Handlers: some}, "Handlers: name at most 100": {Host: host, Handlers: many},
		"Handlers": {Host: host}, "Handlers[\"y\"]": {Host: host,
			Handlers: map[string]jobs.Handler{"y": nil}},
		"Parallel": {Host: host, Handlers: some, Parallel: -1},
		"Lease":    {Host: host, Handlers: some, Lease: time.Millisecond},
	} {
		if _, err := jobs.New(cfg); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}

// authFunc lets nobody in.
type authFunc struct{ tenantdb.Authenticator }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
