package hostdb_test

import (
	"database/sql"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pressly/goose/v3"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
)

// wantShare claims n jobs and checks how many of them are a tenant's.
func wantShare(t *testing.T, db *hostdb.DB, tenant string, n, want int) {
	t.Helper()
	got := 0
	for range n {
		if claim(t, db, "w").TenantID == tenant {
			got++
		}
	}
	if got != want {
		t.Errorf("%d of %d jobs were the tenant's, want %d", got, n, want)
	}
}

// line enqueues n jobs of a tenant.
func line(t *testing.T, db *hostdb.DB, tenant string, n int, at *time.Time) (ids []string) {
	t.Helper()
	for range n {
		ids = append(ids, enqueue(t, db,
			hostdb.SystemJob{JobType: "x", TenantID: tenant, RunAfter: at, MaxAttempts: 1}).ID)
	}
	return ids
}

func TestJobs_Claim_givesTurnsToJobsDueAtOnce(t *testing.T) {
	onClock(t, func(t *testing.T, db *hostdb.DB, c *clock) {
		late, steady := hostdb.NewID(), hostdb.NewID()
		at := c.Now().Add(time.Hour)
		line(t, db, late, 40, &at)
		line(t, db, steady, 60, nil)
		wantShare(t, db, steady, 40, 40) // the turns have gone on
		c.add(time.Hour)
		wantShare(t, db, late, 20, 10)
	})
}

func TestJobs_Claim_isNotDelayedByATenantsFutureJobs(t *testing.T) {
	onClock(t, func(t *testing.T, db *hostdb.DB, c *clock) {
		late, steady := hostdb.NewID(), hostdb.NewID()
		at := c.Now().Add(time.Hour)
		line(t, db, late, 40, &at)
		line(t, db, steady, 20, nil)
		line(t, db, late, 5, nil)
		wantShare(t, db, late, 10, 5)
	})
}

func TestJobs_Retry_givesTurns(t *testing.T) {
	onClock(t, func(t *testing.T, db *hostdb.DB, _ *clock) {
		dead, steady := hostdb.NewID(), hostdb.NewID()
		ids := line(t, db, dead, 20, nil)
		for range ids {
			must(t, db.Jobs.Fail(t.Context(), claim(t, db, "w"), "broken"))
		}
		line(t, db, steady, 60, nil)
		wantShare(t, db, steady, 40, 40)
		for _, id := range ids {
			must(t, db.Jobs.Retry(t.Context(), id))
		}
		wantShare(t, db, dead, 20, 10)
	})
}

// A failed job that becomes due again waits behind the others, like a new one. The job of a worker that died
// keeps its place.
func TestJobs_Claim_keepsTheTurnOfADeadWorkersJob(t *testing.T) {
	onClock(t, func(t *testing.T, db *hostdb.DB, c *clock) {
		tenant := hostdb.NewID()
		first := enqueue(t, db, hostdb.SystemJob{JobType: "x", TenantID: tenant})
		line(t, db, tenant, 5, nil)
		claim(t, db, "killed")
		c.add(2 * time.Minute)
		if j := claim(t, db, "heir"); j.ID != first.ID {
			t.Error("a later job went first")
		}
	})
}

// typed enqueues n jobs of a type and a tenant.
func typed(t *testing.T, db *hostdb.DB, jobType, tenant string, n int) {
	t.Helper()
	for range n {
		enqueue(t, db, hostdb.SystemJob{JobType: jobType, TenantID: tenant})
	}
}

// claimTypes claims n jobs of some types and returns how many of them are a tenant's.
func claimTypes(t *testing.T, db *hostdb.DB, types []string, tenant string, n int) (got int) {
	t.Helper()
	for range n {
		j, err := db.Jobs.Claim(t.Context(), "w", types, time.Minute)
		must(t, err)
		if j.TenantID == tenant {
			got++
		}
	}
	return got
}

func TestJobs_Claim_isNotDelayedByAnUnservedType(t *testing.T) {
	onClock(t, func(t *testing.T, db *hostdb.DB, _ *clock) {
		a, b, served := hostdb.NewID(), hostdb.NewID(), []string{"x"}
		typed(t, db, "nobody-serves-this", a, 1)
		typed(t, db, "x", a, 100)
		claimTypes(t, db, served, a, 50)
		typed(t, db, "x", b, 60)
		if got := claimTypes(t, db, served, b, 40); got != 20 {
			t.Errorf("%d of 40 jobs were the later tenant's, want 20", got)
		}
	})
}

// A type with many past turns has no disadvantage beside a new one.
func TestJobs_Claim_favoursNoType(t *testing.T) {
	for name, types := range map[string][]string{"named": {"y", "x", "empty"}, "any": nil} {
		t.Run(name, func(t *testing.T) {
			onClock(t, func(t *testing.T, db *hostdb.DB, _ *clock) {
				a, b := hostdb.NewID(), hostdb.NewID()
				typed(t, db, "x", a, 150)
				claimTypes(t, db, types, a, 50)
				typed(t, db, "y", b, 100)
				// Fails once in 10^9 runs.
				if got := claimTypes(t, db, types, b, 100); got < 20 || got > 80 {
					t.Errorf("%d of 100 jobs were of the later type", got)
				}
			})
		})
	}
}

func TestJobs_Update_givesANewTurnToAChangedType(t *testing.T) {
	onClock(t, func(t *testing.T, db *hostdb.DB, _ *clock) {
		a, b := hostdb.NewID(), hostdb.NewID()
		typed(t, db, "x", a, 20)
		typed(t, db, "y", b, 5)
		moved, err := db.Jobs.List(t.Context(), hostdb.Where("job_type", "x"))
		must(t, err)
		last := moved[len(moved)-1]
		last.JobType = "y"
		must(t, db.Jobs.Update(t.Context(), last))
		if got := claimTypes(t, db, []string{"y"}, a, 2); got != 1 {
			t.Errorf("%d of 2 jobs were the other tenant's, want 1", got)
		}
	})
}

func TestOpen_upgradeSetsTheTurnsOfPendingJobs(t *testing.T) {
	for name, place := range map[string]string{"postgres": pgtest.Database(t), "file": fileURL(t)} {
		t.Run(name, func(t *testing.T) {
			pool, dialect, files := rawURL(t, place), goose.DialectPostgres, "migrations/postgres"
			if name == "file" {
				dialect, files = goose.DialectSQLite3, "migrations/sqlite"
			}
			old, err := goose.NewProvider(dialect, pool, os.DirFS(files),
				goose.WithTableName("host_schema_version"), goose.WithDisableGlobalRegistry(true))
			must(t, err)
			_, err = old.UpTo(t.Context(), 4)
			must(t, err)
			a, b := strings.Repeat("a", 32), strings.Repeat("b", 32)
			insert := func(id int, jobType, tenant, status string) {
				_, err := pool.Exec(`INSERT INTO sys_jobs (id, job_type, tenant_id, status, run_after)
					VALUES ($1, $2, $3, 'pending', NULL)`,
					fmt.Sprintf("%032x", id), jobType, tenant)
				must(t, err)
				if status == "running" {
					_, err = pool.Exec(`UPDATE sys_jobs SET status = 'running', attempts = 1, worker =
						'killed', claim_id = id, lease_until = $2 WHERE id = $1`,
						fmt.Sprintf("%032x", id), "2026-01-01T00:00:00.000000Z")
					must(t, err)
				}
			}
			insert(1, "nobody-serves-this", a, "pending")
			insert(100, "x", a, "running")
			for i := range 40 {
				insert(101+i, "x", a, "pending")
			}
			// The state after 50 claims.
			_, err = pool.Exec("UPDATE sys_jobs SET turn = turn + 50 WHERE job_type = 'x'")
			must(t, err)
			for i := range 40 {
				insert(201+i, "x", b, "pending")
			}
			db := open(t, hostdb.Config{URL: hostdb.Secret(place)})
			first, err := db.Jobs.Claim(t.Context(), "w", []string{"x"}, time.Hour)
			must(t, err)
			if first.ID != fmt.Sprintf("%032x", 100) {
				t.Errorf("%s went first, before the job whose worker is gone", first.ID)
			}
			if got := claimTypes(t, db, []string{"x"}, b, 40); got < 20 || got > 21 {
				t.Errorf("%d of 40 jobs were the later tenant's, want half", got)
			}
			typed(t, db, "x", hostdb.NewID(), 1)
			if next := claimTypes(t, db, []string{"x"}, b, 3); next > 2 {
				t.Error("a new tenant's job doesn't take its turn")
			}
		})
	}
}

// Neither a claim nor a new job reads jobs of other types.
func TestJobs_Claim_readsNoOtherTypes(t *testing.T) {
	const ready = " FROM sys_jobs WHERE status = 'pending' AND run_after IS NULL AND job_type = 'x'"
	for name, place := range map[string]func(testing.TB) string{"postgres": postgresURL, "file": fileURL} {
		t.Run(name, func(t *testing.T) {
			db := open(t, hostdb.Config{URL: hostdb.Secret(place(t))})
			pool, explain := raw(t, db), "EXPLAIN QUERY PLAN "
			bulkJobs(t, db, 2000, 10)
			if name == "postgres" {
				explain = "EXPLAIN "
				_, err := pool.Exec("ANALYZE sys_jobs")
				must(t, err)
			}
			for text, index := range map[string]string{
				"SELECT id" + ready + " ORDER BY turn, id LIMIT 1": "sys_jobs_ready",
				"SELECT turn" + ready + " AND coalesce(tenant_id, '') = '" + hostdb.NewID() +
					"' ORDER BY turn DESC LIMIT 1": "sys_jobs_queue",
			} {
				plan := explained(t, pool, explain+text)
				if !strings.Contains(plan, index) || !strings.Contains(plan, "job_type") ||
					strings.Contains(strings.ToUpper(plan), "SORT") || strings.Contains(plan, "TEMP B-TREE") {
					t.Errorf("%s\n%s", text, plan)
				}
			}
		})
	}
}

// explained returns a query's plan.
func explained(t *testing.T, pool *sql.DB, text string) string {
	t.Helper()
	rows, err := pool.Query(text)
	must(t, err)
	defer rows.Close()
	columns, err := rows.Columns()
	must(t, err)
	var plan strings.Builder
	for rows.Next() {
		var line string
		cells := make([]any, len(columns))
		for i := range cells {
			cells[i] = new(any)
		}
		cells[len(cells)-1] = &line
		must(t, rows.Scan(cells...))
		plan.WriteString(line + "\n")
	}
	must(t, rows.Err())
	return plan.String()
}
