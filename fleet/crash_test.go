package fleet_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/fleet"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/jobs"
)

// crashPlan is what a child process does until it exits at one of its steps.
type crashPlan struct {
	URL, Dir, Owner string
	Drop            string // the tenant to drop; "" provisions acme
	Migrate         bool   // migrate all tenants with a third migration
	Roles           bool
	At              int // the step, from 0
}

const (
	crashEnv  = "TENANTDB_FLEET_CRASH"
	crashExit = 86 // the child exited at its step
)

// childLease is short, so that the test needn't wait long for a dead child's lease.
const childLease = 500 * time.Millisecond

// stepHandler is a slog.Handler that ends the process at a step.
type stepHandler struct {
	slog.Handler
	left *int
}

func (h stepHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h stepHandler) Handle(_ context.Context, r slog.Record) error {
	if r.Level != slog.LevelDebug {
		return nil
	}
	if *h.left == 0 {
		os.Exit(crashExit)
	}
	*h.left--
	return nil
}

// fleet makes the fleet of the child, and of those that resume its work.
func (p crashPlan) fleet(host *hostdb.DB, pool *tenantdb.Pool, lease time.Duration,
	logger *slog.Logger) (*fleet.Fleet, error) {
	return fleet.New(fleet.Config{Host: host, Pool: pool, Migrations: schema, Seed: seedOnce, Lease: lease,
		Logger: logger, SharedRole: !p.Roles})
}

// seedOnce inserts one row, however often it runs.
func seedOnce(ctx context.Context, tenant *hostdb.TenantCatalog, db *sql.DB) error {
	_, err := db.ExecContext(ctx, "INSERT INTO notes (body) SELECT $1 WHERE NOT EXISTS (SELECT 1 FROM notes)",
		"welcome to "+tenant.Slug)
	return err
}

// crash is the main function of the child.
func crash(plan string) error {
	var p crashPlan
	if err := json.Unmarshal([]byte(plan), &p); err != nil {
		return err
	}
	ctx := context.Background()
	host, err := hostdb.Open(ctx, p.URL)
	if err != nil {
		return err
	}
	pool, err := tenantdb.NewPool(tenantdb.PoolConfig{SQLiteDir: p.Dir})
	if err != nil {
		return err
	}
	if p.Migrate {
		return p.migrate(host, pool)
	}
	f, err := p.fleet(host, pool, childLease, slog.New(stepHandler{slog.DiscardHandler, &p.At}))
	if err != nil {
		return err
	}
	if p.Drop != "" {
		return f.Drop(ctx, p.Drop)
	}
	_, err = f.Provision(ctx, fleet.Spec{Slug: "acme", OwnerID: p.Owner, Trial: true, PlanTier: "pro"})
	return err
}

// migrate exits in the middle of a tenant.
func (p crashPlan) migrate(host *hostdb.DB, pool *tenantdb.Pool) error {
	var begun atomic.Int64
	inGo := hooked(extra(3), func() {
		if begun.Add(1) > int64(p.At) {
			os.Exit(crashExit)
		}
	})
	f, err := fleet.New(fleet.Config{Host: host, Pool: pool, Migrations: schema,
		GoMigrations: inGo, Lease: childLease})
	if err != nil {
		return err
	}
	_, err = f.Migrate(context.Background(), fleet.MigrateOptions{Parallel: 2})
	return err
}

func TestMigrate_resumesAfterKill(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		all := w.tenants(t, 6)
		if !runCrash(t, crashPlan{URL: w.url, Dir: w.dir, Migrate: true, At: 3}) {
			t.Fatal("the child lived on")
		}
		last, err := w.host.MigrationRuns.Last(t.Context())
		must(t, err)
		counts, err := w.host.MigrationTenants.Count(t.Context(), last.ID)
		must(t, err)
		if counts[hostdb.MigrationRunning] == 0 || last.Status != hostdb.RunRunning {
			t.Errorf("the child left %v of a run that is %s", counts, last.Status)
		}
		report, err := w.fleet(t, newest(extra(3))).Migrate(t.Context(), fleet.MigrateOptions{Run: last.ID})
		must(t, err)
		wantCounts(t, report, "done: 0 at target, 6 done, 0 failed, 0 skipped, 0 pending")
		for _, tenant := range all {
			w.at(t, tenant, 3)
		}
	})
}

// runCrash runs a child and reports whether it exited at its step.
func runCrash(t *testing.T, p crashPlan) bool {
	t.Helper()
	plan, err := json.Marshal(p)
	must(t, err)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashEnv+"="+string(plan))
	out, err := cmd.CombinedOutput()
	if code := cmd.ProcessState.ExitCode(); code == crashExit {
		return true
	} else if code != 0 {
		t.Fatalf("the child: %v: %s", err, out)
	}
	return false
}

// onEveryKind runs a test on both engines, and on PostgreSQL with roles, in parallel, since the tests wait
// for leases to end.
func onEveryKind(t *testing.T, test func(t *testing.T, w *world, roles bool)) {
	t.Parallel()
	kinds := map[string]string{"sqlite": "sqlite", "postgres": "postgres", "postgres with roles": "postgres"}
	if underRace { // children start slowly under race; other runs test all kinds
		kinds = map[string]string{"sqlite": "sqlite"}
	}
	for kind, engine := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, engine)
			must(t, w.host.Plans.Insert(t.Context(),
				&hostdb.PricingPlan{ID: "pro", Name: "Pro", TrialDays: 14}))
			test(t, w, kind != engine)
		})
	}
}

func TestProvision_resumesAfterKillAtAnyStep(t *testing.T) {
	heirs := map[string]func(t *testing.T, w *world, f *fleet.Fleet){
		"the next Provision": func(t *testing.T, w *world, f *fleet.Fleet) {
			_, err := f.Provision(t.Context(), fleet.Spec{Slug: "acme", OwnerID: w.owner.ID,
				Trial: true, PlanTier: "pro"})
			// the tenant is open
			if row, find := w.host.Tenants.BySlug(t.Context(), "acme"); find != nil ||
				err != nil && !row.Open() {
				t.Fatalf("Provision = %v", err)
			}
		},
		"a worker": func(t *testing.T, w *world, f *fleet.Fleet) { w.work(t, f) },
	}
	onEveryKind(t, func(t *testing.T, w *world, roles bool) {
		for name, heir := range heirs {
			steps := 0
			for died := true; died; steps++ {
				p := crashPlan{URL: w.url, Dir: w.dir, Owner: w.owner.ID, Roles: roles, At: steps}
				died = runCrash(t, p)
				f, err := p.fleet(w.host, w.pool, time.Minute, nil)
				must(t, err)
				heir(t, w, f)
				w.checkAcme(t, f, fmt.Sprintf("%s after step %d", name, steps),
					name == "a worker" && steps == 0)
			}
			if steps < 6 {
				t.Errorf("only %d steps", steps)
			}
		}
	})
}

// checkAcme checks that there is one complete tenant, or nothing, and drops it.
func (w *world) checkAcme(t *testing.T, f *fleet.Fleet, when string, nothing bool) {
	t.Helper()
	ctx := t.Context()
	tenants, err := w.host.Tenants.List(ctx)
	must(t, err)
	var open []*hostdb.TenantCatalog
	for _, tenant := range tenants {
		if tenant.Status != hostdb.TenantDropped {
			open = append(open, tenant)
		}
	}
	if nothing {
		if len(open) != 0 || w.databases(t) != 0 {
			t.Errorf("%s: %d tenants, %d databases; want nothing", when, len(open), w.databases(t))
		}
		return
	}
	if len(open) != 1 || !open[0].Open() || open[0].SchemaVersion != 2 || w.databases(t) != 1 {
		t.Fatalf("%s: %d tenants, %d databases, the first tenant %+v", when, len(open), w.databases(t), open)
	}
	acme := open[0]
	members, err := w.host.Memberships.ListForTenant(ctx, acme.ID)
	must(t, err)
	trials, err := w.host.Subscriptions.ListForTenant(ctx, acme.ID)
	must(t, err)
	jobsLeft, err := w.host.Jobs.List(ctx, hostdb.Where("status", hostdb.JobPending))
	must(t, err)
	running, err := w.host.Jobs.List(ctx, hostdb.Where("status", hostdb.JobRunning))
	must(t, err)
	if len(members) != 1 || !members[0].IsActive || len(trials) != 1 || !trials[0].ActiveAt(time.Now(), 0) ||
		len(jobsLeft)+len(running) != 0 {
		t.Errorf("%s: members %+v, subscriptions %+v, jobs %+v %+v", when, members, trials, jobsLeft, running)
	}
	lease, err := w.pool.Lease(acme)
	must(t, err)
	var notes int
	must(t,
		lease.DB().QueryRowContext(ctx,
			"SELECT count(*) FROM notes WHERE body = 'welcome to acme'").Scan(&notes))
	lease.Release()
	if notes != 1 {
		t.Errorf("%s: seeded %d times", when, notes)
	}
	must(t, f.Drop(ctx, acme.ID))
	if n := w.databases(t) + w.roles(t); n != 0 {
		t.Errorf("%s: after Drop %d databases and roles are left", when, n)
	}
}

// work runs the queued jobs with a worker.
func (w *world) work(t *testing.T, f *fleet.Fleet) {
	t.Helper()
	worker, err := jobs.New(jobs.Config{Host: w.host,
		Handlers: map[string]jobs.Handler{fleet.JobTenant: f.RunJob}, PollInterval: 20 * time.Millisecond})
	must(t, err)
	defer func() { must(t, worker.Close(context.Background())) }()
	deadline := time.After(time.Minute)
	for {
		unfinished := 0
		for _, status := range []string{hostdb.JobPending, hostdb.JobRunning} {
			list, err := w.host.Jobs.List(t.Context(), hostdb.Where("status", status))
			must(t, err)
			unfinished += len(list)
		}
		if unfinished == 0 {
			return
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-deadline:
			t.Fatal("the jobs don't end")
		}
	}
}

func TestDrop_resumesAfterKillAtAnyStep(t *testing.T) {
	onEveryKind(t, func(t *testing.T, w *world, roles bool) {
		steps := 0
		for died := true; died; steps++ {
			p := crashPlan{URL: w.url, Dir: w.dir, Owner: w.owner.ID, Roles: roles, At: steps}
			f, err := p.fleet(w.host, w.pool, time.Minute, nil)
			must(t, err)
			for _, byWorker := range []bool{false, true} {
				acme, err := f.Provision(t.Context(), fleet.Spec{Slug: "acme", OwnerID: w.owner.ID})
				must(t, err)
				p.Drop = acme.ID
				died = runCrash(t, p)
				row, err := w.host.Tenants.Get(t.Context(), acme.ID)
				must(t, err)
				if row.Open() {
					t.Errorf("step %d: it is open", steps)
				}
				if byWorker {
					w.work(t, f)
				} else {
					must(t, f.Drop(t.Context(), acme.ID))
				}
				if n := w.databases(t) + w.roles(t); n != 0 {
					t.Errorf("step %d: %d databases and roles are left", steps, n)
				}
				if n := w.audited(t, acme, hostdb.EventTenantDropped); n != 1 {
					t.Errorf("step %d: the drop is in the audit log %d times", steps, n)
				}
				if underRace {
					break
				}
			}
		}
		if steps < 3 {
			t.Errorf("only %d steps", steps)
		}
	})
}

func TestDrop_duringProvisionInAnotherProcessLeavesNothing(t *testing.T) {
	onEveryKind(t, func(t *testing.T, w *world, roles bool) {
		f, err := crashPlan{Roles: roles}.fleet(w.host, w.pool, time.Minute, nil)
		must(t, err)
		for step := 1; ; step++ { // 1 is the first step with a row
			p := crashPlan{URL: w.url, Dir: w.dir, Owner: w.owner.ID, Roles: roles, At: step}
			if !runCrash(t, p) {
				break
			}
			row, err := w.host.Tenants.BySlug(t.Context(), "acme")
			must(t, err)
			must(t, f.Drop(t.Context(), row.ID))
			if n := w.databases(t) + w.roles(t); n != 0 {
				t.Errorf("step %d: %d databases and roles are left", step, n)
			}
		}
		row, err := w.host.Tenants.BySlug(t.Context(), "acme")
		must(t, err)
		must(t, f.Drop(t.Context(), row.ID))
		left, err := filepath.Glob(filepath.Join(w.dir, "*"))
		must(t, err)
		if len(left) != 0 {
			t.Errorf("files are left: %v", left)
		}
	})
}
