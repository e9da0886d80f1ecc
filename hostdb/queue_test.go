package hostdb_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// onClock runs a test on both engines with a clock of its own.
func onClock(t *testing.T, test func(t *testing.T, db *hostdb.DB, c *clock)) {
	t.Helper()
	for name, place := range places {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newClock()
			test(t, open(t, hostdb.Config{URL: hostdb.Secret(place(t)), Now: c.Now}), c)
		})
	}
}

func enqueue(t testing.TB, db *hostdb.DB, j hostdb.SystemJob) *hostdb.SystemJob {
	t.Helper()
	fresh, err := db.Jobs.Enqueue(t.Context(), &j)
	if err != nil || !fresh {
		t.Fatalf("Enqueue = %v, %v", fresh, err)
	}
	return &j
}

func claim(t testing.TB, db *hostdb.DB, worker string) *hostdb.SystemJob {
	t.Helper()
	j, err := db.Jobs.Claim(t.Context(), worker, nil, time.Minute)
	must(t, err)
	return j
}

func wantNoJob(t testing.TB, db *hostdb.DB) {
	t.Helper()
	if j, err := db.Jobs.Claim(t.Context(), "nobody", nil, time.Minute); !errors.Is(err, hostdb.ErrNotFound) {
		t.Fatalf("Claim = %+v, %v; want ErrNotFound", j, err)
	}
}

// bulkJobs stores n jobs of a number of tenants by SQL.
func bulkJobs(t testing.TB, db *hostdb.DB, n, tenants int) {
	t.Helper()
	text := `INSERT INTO sys_jobs (id, job_type, tenant_id)
		SELECT lpad(to_hex(i), 32, '0'), 'count', lpad(to_hex(i % $2), 32, 'a')
		FROM generate_series(1, $1::int) i`
	if strings.HasPrefix(db.URI(), "sqlite") {
		text = `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1)
			INSERT INTO sys_jobs (id, job_type, tenant_id)
			SELECT printf('%032x', i), 'count', printf('%032x', i % $2) FROM n`
	}
	_, err := raw(t, db).Exec(text, n, tenants)
	must(t, err)
}

func TestJobs_Claim_onceAmongEightWorkers(t *testing.T) {
	for name, place := range map[string]func(testing.TB) string{"postgres": postgresURL, "file": fileURL} {
		t.Run(name, func(t *testing.T) {
			total := 10_000
			// The race detector makes SQLite twenty times slower.
			if testing.Short() || underRace && name == "file" {
				total = 1000
			}
			db := open(t, hostdb.Config{URL: hostdb.Secret(place(t))})
			bulkJobs(t, db, total, 40)
			var (
				wg  sync.WaitGroup
				ran atomic.Int64
				mu  sync.Mutex
			)
			seen := map[string]string{}
			for w := range 8 {
				wg.Go(func() {
					worker := fmt.Sprint("worker-", w)
					for ran.Load() < int64(total) {
						j, err := db.Jobs.Claim(context.Background(), worker, []string{"count"}, time.Hour)
						if errors.Is(err, hostdb.ErrNotFound) {
							continue
						}
						if err == nil {
							err = db.Jobs.Complete(context.Background(), j)
						}
						if err != nil {
							t.Error(err)
							return
						}
						mu.Lock()
						if other, twice := seen[j.ID]; twice {
							t.Errorf("%s ran for %s and for %s", j.ID, other, worker)
						}
						seen[j.ID] = worker
						mu.Unlock()
						ran.Add(1)
					}
				})
			}
			wg.Wait()
			var done, attempts int
			must(t, raw(t, db).QueryRow("SELECT count(*), sum(attempts) FROM sys_jobs "+
				"WHERE status = 'completed'").Scan(&done, &attempts))
			if done != total || attempts != total || len(seen) != total {
				t.Errorf("%d of %d jobs completed in %d attempts", done, total, attempts)
			}
		})
	}
}

func TestJobs_Claim_takesADeadWorkersJobAfterItsLease(t *testing.T) {
	onClock(t, func(t *testing.T, db *hostdb.DB, c *clock) {
		enqueue(t, db, hostdb.SystemJob{JobType: "x", MaxAttempts: 2})
		lost := claim(t, db, "killed")
		c.add(time.Minute - time.Microsecond)
		wantNoJob(t, db)
		c.add(time.Microsecond)
		again := claim(t, db, "heir")
		if again.ID != lost.ID || again.Attempts != 2 || again.ErrorLog == "" {
			t.Fatalf("claimed %+v", again)
		}
		wantField(t, db.Jobs.Complete(t.Context(), lost), hostdb.ErrConflict, "lease")
		wantField(t, db.Jobs.Heartbeat(t.Context(), lost, time.Minute), hostdb.ErrConflict, "lease")
		c.add(2 * time.Minute) // the last attempt is lost as well
		wantNoJob(t, db)
		dead, err := db.Jobs.Get(t.Context(), lost.ID)
		if err != nil || dead.Status != hostdb.JobFailed || dead.CompletedAt == nil {
			t.Fatalf("job = %+v, %v", dead, err)
		}
	})
}

func TestJobs_Heartbeat_keepsTheJob(t *testing.T) {
	onClock(t, func(t *testing.T, db *hostdb.DB, c *clock) {
		enqueue(t, db, hostdb.SystemJob{JobType: "x"})
		j := claim(t, db, "w")
		for range 5 {
			c.add(50 * time.Second)
			must(t, db.Jobs.Heartbeat(t.Context(), j, time.Minute))
			wantNoJob(t, db)
		}
		stored, err := db.Jobs.Get(t.Context(), j.ID)
		if err != nil || !stored.LeaseUntil.Equal(*j.LeaseUntil) {
			t.Errorf("lease until %v, the model says %v", stored.LeaseUntil, j.LeaseUntil)
		}
		must(t, db.Jobs.Complete(t.Context(), j))
	})
}

func TestJobs_Fail_backsOffAndEndsAsADeadLetter(t *testing.T) {
	onClock(t, func(t *testing.T, db *hostdb.DB, c *clock) {
		enqueue(t, db, hostdb.SystemJob{JobType: "x", MaxAttempts: 3})
		for attempt := 1; attempt <= 3; attempt++ {
			j := claim(t, db, "w")
			must(t, db.Jobs.Fail(t.Context(), j, fmt.Sprint("attempt ", attempt)))
			stored, err := db.Jobs.Get(t.Context(), j.ID)
			must(t, err)
			if stored.Status != j.Status || stored.ErrorLog != j.ErrorLog || stored.Attempts != attempt {
				t.Fatalf("stored %+v, the model says %+v", stored, j)
			}
			if attempt < 3 {
				c.add(hostdb.Backoff(attempt) - time.Microsecond)
				wantNoJob(t, db)
				c.add(time.Microsecond)
			}
		}
		dead, err := db.Jobs.DeadLetters(t.Context())
		if err != nil || len(dead) != 1 || dead[0].ErrorLog != "attempt 3" {
			t.Fatalf("dead letters = %v, %v", dead, err)
		}
		must(t, db.Jobs.Retry(t.Context(), dead[0].ID))
		if j := claim(t, db, "w"); j.Attempts != 1 {
			t.Errorf("attempts = %d after a retry", j.Attempts)
		}
	})
}

func TestBackoff_growsToAnHour(t *testing.T) {
	last := time.Duration(0)
	for attempt := range 2000 {
		pause := hostdb.Backoff(attempt)
		if pause < max(last, 10*time.Second) || pause > time.Hour {
			t.Fatalf("Backoff(%d) = %v after %v", attempt, pause, last)
		}
		last = pause
	}
	if hostdb.Backoff(2) != 20*time.Second || last != time.Hour {
		t.Errorf("Backoff(2) = %v, at last %v", hostdb.Backoff(2), last)
	}
}

func TestJobs_Claim_givesTenantsTurns(t *testing.T) {
	onClock(t, func(t *testing.T, db *hostdb.DB, _ *clock) {
		busy, quiet := hostdb.NewID(), hostdb.NewID()
		for range 50 {
			enqueue(t, db, hostdb.SystemJob{JobType: "x", TenantID: busy})
		}
		for range 10 {
			claim(t, db, "w")
		}
		for range 3 {
			enqueue(t, db, hostdb.SystemJob{JobType: "x", TenantID: quiet})
		}
		enqueue(t, db, hostdb.SystemJob{JobType: "x"}) // jobs without a tenant take turns as one
		var order []string
		for range 8 {
			order = append(order, claim(t, db, "w").TenantID)
		}
		for i, tenant := range order {
			if tenant == quiet && i > 6 || tenant == "" && i > 2 {
				t.Errorf("served in the order %v", order)
			}
		}
		if n := len(slices.DeleteFunc(order, func(id string) bool { return id != quiet })); n != 3 {
			t.Errorf("%d of the quiet tenant's 3 jobs were among the first 8", n)
		}
	})
}

func TestJobs_Claim_inOrderWithinATenant(t *testing.T) {
	onClock(t, func(t *testing.T, db *hostdb.DB, _ *clock) {
		var want []string
		for range 20 {
			want = append(want, enqueue(t, db,
				hostdb.SystemJob{JobType: "x", TenantID: strings.Repeat("a", 32)}).ID)
		}
		for i := range want {
			if j := claim(t, db, "w"); j.ID != want[i] {
				t.Fatalf("job %d is %s, want %s", i, j.ID, want[i])
			}
		}
	})
}

func TestJobs_Claim_waitsForRunAfter(t *testing.T) {
	onClock(t, func(t *testing.T, db *hostdb.DB, c *clock) {
		at := c.Now().Add(time.Hour)
		later := enqueue(t, db, hostdb.SystemJob{JobType: "x", RunAfter: &at})
		now := enqueue(t, db, hostdb.SystemJob{JobType: "x"})
		if j := claim(t, db, "w"); j.ID != now.ID {
			t.Fatal("a job ran before its time")
		}
		must(t, db.Jobs.Cancel(t.Context(), now.ID))
		wantNoJob(t, db)
		c.add(time.Hour)
		if j := claim(t, db, "w"); j.ID != later.ID {
			t.Fatal("another job ran")
		}
		must(t, db.Jobs.Cancel(t.Context(), later.ID))
		past := c.Now().Add(-time.Hour)
		if j := enqueue(t, db, hostdb.SystemJob{JobType: "x", RunAfter: &past}); j.RunAfter != nil ||
			claim(t, db, "w").ID != j.ID {
			t.Error("a job whose time has passed did not run at once")
		}
	})
}

func TestJobs_Enqueue_withItsTransaction(t *testing.T) {
	onClock(t, func(t *testing.T, db *hostdb.DB, _ *clock) {
		tx, err := db.Begin(t.Context())
		must(t, err)
		_, err = tx.Jobs.Enqueue(t.Context(), &hostdb.SystemJob{JobType: "undone"})
		must(t, err)
		must(t, tx.Rollback())
		wantNoJob(t, db)
		tx, err = db.Begin(t.Context())
		must(t, err)
		_, err = tx.Jobs.Enqueue(t.Context(), &hostdb.SystemJob{JobType: "done"})
		must(t, err)
		must(t, tx.Commit())
		if j := claim(t, db, "w"); j.JobType != "done" {
			t.Errorf("claimed %q", j.JobType)
		}
	})
}

func TestJobs_Enqueue_oneJobPerDedupeKey(t *testing.T) {
	onBoth(t, func(t *testing.T, db *hostdb.DB) {
		ids := make([]string, 8)
		var wg sync.WaitGroup
		var fresh atomic.Int32
		for i := range ids {
			wg.Go(func() {
				j := &hostdb.SystemJob{JobType: "x", DedupeKey: "once"}
				stored, err := db.Jobs.Enqueue(context.Background(), j)
				if err != nil {
					t.Error(err)
				}
				if stored {
					fresh.Add(1)
				}
				ids[i] = j.ID
			})
		}
		wg.Wait()
		slices.Sort(ids)
		if ids = slices.Compact(ids); fresh.Load() != 1 || len(ids) != 1 {
			t.Fatalf("%d jobs for one key: %v", fresh.Load(), ids)
		}
		j := claim(t, db, "w")
		if stored, err := db.Jobs.Enqueue(t.Context(),
			&hostdb.SystemJob{JobType: "x", DedupeKey: "once"}); stored || err != nil {
			t.Errorf("a second job while the first runs: %v, %v", stored, err)
		}
		must(t, db.Jobs.Complete(t.Context(), j))
		next := enqueue(t, db, hostdb.SystemJob{JobType: "x", DedupeKey: "once"})
		must(t, db.Jobs.Cancel(t.Context(), next.ID))
		enqueue(t, db, hostdb.SystemJob{JobType: "x", DedupeKey: "once"})
		wantField(t, db.Jobs.Retry(t.Context(), next.ID), hostdb.ErrConflict, "dedupe_key")
	})
}

func TestJobs_Cancel_takesTheJobFromItsWorker(t *testing.T) {
	onClock(t, func(t *testing.T, db *hostdb.DB, c *clock) {
		waiting, running := enqueue(t, db, hostdb.SystemJob{JobType: "x"}), &hostdb.SystemJob{}
		must(t, db.Jobs.Cancel(t.Context(), waiting.ID))
		wantNoJob(t, db)
		enqueue(t, db, hostdb.SystemJob{JobType: "x"})
		running = claim(t, db, "w")
		must(t, db.Jobs.Cancel(t.Context(), running.ID))
		wantField(t, db.Jobs.Heartbeat(t.Context(), running, time.Minute), hostdb.ErrConflict, "lease")
		wantField(t, db.Jobs.Fail(t.Context(), running, "x"), hostdb.ErrConflict, "lease")
		c.add(time.Hour)
		wantNoJob(t, db)
		must(t, db.Jobs.Retry(t.Context(), waiting.ID))
		if j := claim(t, db, "w"); j.ID != waiting.ID {
			t.Error("another job came back")
		}
	})
}

func TestJobs_refuseInvalidInput(t *testing.T) {
	onBoth(t, func(t *testing.T, db *hostdb.DB) {
		ctx := t.Context()
		for field, j := range map[string]*hostdb.SystemJob{"job": nil, "job_type": {},
			"payload": {JobType: "x", Payload: "\xff"}, "tenant_id": {JobType: "x", TenantID: "acme"},
			"max_attempts": {JobType: "x", MaxAttempts: 1001},
			"dedupe_key":   {JobType: "x", DedupeKey: strings.Repeat("k", 513)},
			"id":           {ID: "1", JobType: "x"}} {
			_, err := db.Jobs.Enqueue(ctx, j)
			wantField(t, err, hostdb.ErrInvalid, field)
		}
		_, err := db.Jobs.Claim(ctx, "w", []string{""}, time.Minute)
		wantField(t, err, hostdb.ErrInvalid, "job_type")
		wantField(t, db.Jobs.Heartbeat(ctx, &hostdb.SystemJob{}, 0), hostdb.ErrInvalid, "lease")
		wantField(t, db.Jobs.Complete(ctx, nil), hostdb.ErrInvalid, "job")
		wantField(t, db.Jobs.Fail(ctx, nil, "x"), hostdb.ErrInvalid, "job")
		wantField(t, db.Jobs.Complete(ctx, &hostdb.SystemJob{ID: "x"}), hostdb.ErrInvalid, "id")
		wantField(t, db.Jobs.Cancel(ctx, "x"), hostdb.ErrInvalid, "id")
		taken := enqueue(t, db, hostdb.SystemJob{JobType: "x"})
		_, err = db.Jobs.Enqueue(ctx, &hostdb.SystemJob{ID: taken.ID, JobType: "x"})
		wantField(t, err, hostdb.ErrConflict, "id")
		long := claim(t, db, "w")
		must(t, db.Jobs.Fail(ctx, long, strings.Repeat("é", 8<<10)))
		if got, err := db.Jobs.Get(ctx, long.ID); err != nil || len(got.ErrorLog) != 8<<10 {
			t.Errorf("%d bytes of the reason were kept, %v", len(got.ErrorLog), err)
		}
	})
}

func TestJobs_Claim_returnsASweepsError(t *testing.T) {
	c := newClock() // stands still, so that only a Claim that found nothing sweeps
	db := open(t, hostdb.Config{URL: hostdb.Secret(postgresURL(t)), Now: c.Now})
	wantNoJob(t, db)
	for _, statement := range []string{
		`CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
			BEGIN RAISE EXCEPTION 'the disk is full' USING ERRCODE = '53100'; END $$`,
		"CREATE TRIGGER full_disk BEFORE UPDATE OF run_after " +
			"ON sys_jobs FOR EACH STATEMENT EXECUTE FUNCTION full_disk()",
	} {
		_, err := raw(t, db).Exec(statement)
		must(t, err)
	}
	j, err := db.Jobs.Claim(t.Context(), "w", nil, time.Minute)
	if j != nil || !errors.Is(err, hostdb.ErrUnavailable) || errors.Is(err, hostdb.ErrNotFound) {
		t.Errorf("Claim = %+v, %v; want ErrUnavailable alone", j, err)
	}
}

func TestJobs_Cancel_endsTheClaimForTheSameWorkerToo(t *testing.T) {
	onBoth(t, func(t *testing.T, db *hostdb.DB) {
		ctx, id := t.Context(), enqueue(t, db, hostdb.SystemJob{JobType: "x"}).ID
		old := claim(t, db, "w")
		must(t, db.Jobs.Cancel(ctx, id))
		must(t, db.Jobs.Retry(ctx, id))
		held := claim(t, db, "w")
		if held.ID != id || held.Attempts != old.Attempts {
			t.Fatalf("claimed %+v after %+v", held, old)
		}
		wantField(t, db.Jobs.Heartbeat(ctx, old, time.Hour), hostdb.ErrConflict, "lease")
		wantField(t, db.Jobs.Fail(ctx, old, "x"), hostdb.ErrConflict, "lease")
		wantField(t, db.Jobs.Complete(ctx, old), hostdb.ErrConflict, "lease")
		stored, err := db.Jobs.Get(ctx, id)
		must(t, err)
		must(t, db.Jobs.Complete(ctx, stored)) // the claim is stored in the row
	})
}
