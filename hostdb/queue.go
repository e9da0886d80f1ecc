package hostdb

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// Claim sweeps due jobs at most this often, and whenever the queue looks empty.
const sweepInterval = 250 * time.Millisecond

// sweeper remembers when the queue was last swept.
type sweeper struct {
	mu   sync.Mutex
	last time.Time
}

// due reports whether it is time to sweep. If so, it counts as swept from now on.
func (w *sweeper) due(now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if age := now.Sub(w.last); age >= 0 && age < sweepInterval {
		return false
	}
	w.last = now
	return true
}

// Enqueue adds a job to the queue. It takes JobType, Payload, TenantID, MaxAttempts, RunAfter and DedupeKey
// from the model, and the ID if there is one, and fills in the rest. If a pending or running job has the
// same DedupeKey, nothing is stored, and the model becomes that job. It reports whether the job is new. On a
// Tx the job exists once the transaction commits. Errors: ErrInvalid; ErrConflict for an ID that is taken.
func (t Jobs) Enqueue(ctx context.Context, j *SystemJob) (bool, error) {
	if j == nil {
		return false, invalid("job", "is nil")
	}
	fresh := SystemJob{ID: j.ID, JobType: j.JobType, Payload: j.Payload, TenantID: j.TenantID,
		MaxAttempts: j.MaxAttempts, RunAfter: j.RunAfter, DedupeKey: j.DedupeKey}
	if fresh.RunAfter != nil && !fresh.RunAfter.After(t.s.db.now()) {
		fresh.RunAfter = nil
	}
	args, err := t.newRow(&fresh)
	if err != nil {
		return false, err
	}
	for range attempts {
		stored, err := t.s.exec(ctx, t.r.insertText()+
			" ON CONFLICT (dedupe_key) WHERE status IN ('pending', 'running') DO NOTHING", args, asReported)
		if err != nil {
			return false, err
		}
		if stored == 1 {
			*j = fresh
			return true, nil
		}
		there, err := t.one(ctx, "WHERE dedupe_key = $1 AND status IN ('pending', 'running')",
			fresh.DedupeKey)
		if err == nil {
			*j = *there
			return false, nil
		}
		if !errors.Is(err, ErrNotFound) { // the job may have ended between the two statements
			return false, err
		}
	}
	return false, conflict("dedupe_key", "is taken by other jobs again and again")
}

// MaxClaimTypes is how many job types a Claim may name.
const MaxClaimTypes = 100

// maxLease is the longest lease of a job.
const maxLease = 30 * 24 * time.Hour

// checkLease returns an error for a lease out of range.
func checkLease(lease time.Duration) error {
	if lease < time.Millisecond || lease > maxLease {
		return invalid("lease", "must be between 1 ms and 30 days")
	}
	return nil
}

// Claim takes the next job of one of these types (of any type if there are none) for a worker and a lease,
// which [Jobs.Heartbeat] extends. A job has one worker at a time.
//
// Within a type tenants take turns, however many jobs each has waiting. A tenant's jobs of a type run in the
// order in which they became ready: at once, at their RunAfter, or when the pause after a failure was over.
// Each of several types that have a job ready is equally likely to be next. So tenants share each type's
// part evenly, and a tenant with jobs of two types has its turn in both.
//
// A job whose lease has ended returns to its place in the queue, or fails for good if it has no attempt
// left. Leases are measured by the clock of the process that sets them (Config.Now). The clocks of all
// processes that share a queue must agree to well within the lease; otherwise one that is ahead takes over
// jobs in progress.
//
// Errors: ErrNotFound if no job is ready; ErrInvalid, also for more than MaxClaimTypes types.
func (t Jobs) Claim(ctx context.Context, worker string, types []string,
	lease time.Duration) (*SystemJob, error) {
	if err := (rule{required: true}).checkText("worker", worker); err != nil {
		return nil, err
	}
	if err := checkLease(lease); err != nil {
		return nil, err
	}
	if len(types) > MaxClaimTypes {
		return nil, invalid("job_type", fmt.Sprintf("more than %d are named", MaxClaimTypes))
	}
	for _, name := range types {
		if err := (rule{required: true}).checkText("job_type", name); err != nil {
			return nil, err
		}
	}
	if t.s.db.sweep.due(t.s.db.now()) {
		if _, err := t.sweepQueue(ctx); err != nil {
			return nil, err
		}
	}
	job, err := t.claimNext(ctx, worker, types, lease)
	if !errors.Is(err, ErrNotFound) {
		return job, err
	}
	found, err := t.sweepQueue(ctx)
	if err != nil {
		return nil, err
	}
	if found == 0 {
		return nil, ErrNotFound
	}
	return t.claimNext(ctx, worker, types, lease)
}

// claimNext claims the first waiting job of one of these types, or of any type that has one.
func (t Jobs) claimNext(ctx context.Context, worker string, types []string,
	lease time.Duration) (*SystemJob, error) {
	var err error
	if len(types) == 0 {
		if types, err = t.readyTypes(ctx); err != nil {
			return nil, err
		}
	}
	// Turns of different types can't be compared. A random order favours no type, and needs no state shared
	// between processes.
	types = slices.Clone(types)
	rand.Shuffle(len(types), func(i, j int) { types[i], types[j] = types[j], types[i] })
	for some := range slices.Chunk(types, MaxClaimTypes) {
		if job, err := t.claimFirst(ctx, worker, some, lease); !errors.Is(err, ErrNotFound) {
			return job, err
		}
	}
	return nil, ErrNotFound
}

// readyTypes returns the types that have a job ready, by one index step for each. It runs where writes run:
// in memory a reader would wait for the writer, and not as long.
func (t Jobs) readyTypes(ctx context.Context) (types []string, err error) {
	const first = "(SELECT job_type FROM sys_jobs WHERE status = 'pending' AND run_after IS NULL%s " +
		"ORDER BY job_type LIMIT 1)"
	text := "WITH RECURSIVE kinds(kind) AS (SELECT " + fmt.Sprintf(first, "") + " UNION ALL SELECT " +
		fmt.Sprintf(first, " AND job_type > kind") +
		" FROM kinds WHERE kind IS NOT NULL) SELECT kind FROM kinds WHERE kind IS NOT NULL"
	err = t.s.returning(ctx, text, nil, appendText(&types))
	slices.Sort(types)
	return slices.Compact(types), err // a retried statement appends its rows again
}

// claimFirst claims the first waiting job of the first of these types that has one, in one statement:
// coalesce evaluates its arguments in order and no further.
func (t Jobs) claimFirst(ctx context.Context, worker string, types []string,
	lease time.Duration) (*SystemJob, error) {
	e := t.s.db.engine
	skip := ""
	if e == postgres {
		skip = " FOR UPDATE SKIP LOCKED"
	}
	args := []any{worker, e.time(t.s.db.now().Add(lease)), NewID()}
	heads := make([]string, len(types), len(types)+1)
	for i, name := range types {
		args = append(args, name)
		heads[i] = fmt.Sprintf("(SELECT id FROM sys_jobs WHERE status = 'pending' AND run_after IS NULL "+
			"AND job_type = $%d"+
			" ORDER BY turn, id LIMIT 1%s)", len(args), skip)
	}
	heads = append(heads, "NULL") // SQLite's coalesce requires two arguments
	var job *SystemJob
	err := t.s.returning(ctx, `UPDATE sys_jobs SET status = 'running', attempts = attempts + 1, worker = $1,
		lease_until = $2, claim_id = $3
		WHERE id = coalesce(`+strings.Join(heads, ", ")+") RETURNING "+t.r.columnList(), args,
		func(row scanner) (err error) {
			job, err = t.r.read(row)
			return err
		})
	if err == nil && job == nil {
		return nil, ErrNotFound
	}
	return job, err
}

// leaseEnded takes jobs from their workers at the time $1.
const leaseEnded = `UPDATE sys_jobs SET worker = NULL, claim_id = NULL, lease_until = NULL, error_log =
	'the lease ended',
	completed_at = CASE WHEN attempts < max_attempts THEN NULL ELSE $1 END,
	status = CASE WHEN attempts < max_attempts THEN 'pending' ELSE 'failed' END`

// sweepQueue makes jobs ready whose time has come or whose lease has ended, and fails those without an
// attempt left. It returns how many rows it changed.
func (t Jobs) sweepQueue(ctx context.Context) (int64, error) {
	now := t.s.db.engine.time(t.s.db.now())
	ids := "IN (SELECT id FROM sys_jobs WHERE %s LIMIT 1000)"
	if t.s.db.engine == postgres { // an array keeps the order of the subquery, as SQLite's set does
		ids = "= ANY (ARRAY(SELECT id FROM sys_jobs WHERE %s LIMIT 1000 FOR UPDATE SKIP LOCKED))"
	}
	var swept int64
	for _, text := range []string{
		"UPDATE sys_jobs SET run_after = NULL WHERE id " +
			fmt.Sprintf(ids, "status = 'pending' AND run_after <= $1 ORDER BY run_after"),
		leaseEnded + " WHERE id " +
			fmt.Sprintf(ids, "status = 'running' AND lease_until <= $1 ORDER BY lease_until"),
	} {
		touched, err := t.s.exec(ctx, text, []any{now}, asReported)
		if err != nil {
			return swept, err
		}
		swept += touched
	}
	return swept, nil
}

// Heartbeat extends the lease of a job that Claim returned, to lease from now. Errors: ErrConflict on
// "lease" if the worker has lost the job, and should stop; ErrInvalid.
func (t Jobs) Heartbeat(ctx context.Context, j *SystemJob, lease time.Duration) error {
	if err := checkLease(lease); err != nil {
		return err
	}
	until := t.s.db.now().Add(lease)
	err := t.updateClaimed(ctx, j, "lease_until = $4", t.s.db.engine.time(until))
	if err == nil {
		j.LeaseUntil = &until
	}
	return err
}

// Complete ends a job that Claim returned. Errors: ErrConflict on "lease" if the worker has lost the job.
func (t Jobs) Complete(ctx context.Context, j *SystemJob) error {
	now := t.s.db.now()
	err := t.updateClaimed(ctx, j,
		"status = 'completed', completed_at = $4, lease_until = NULL, error_log = NULL",
		t.s.db.engine.time(now))
	if err == nil {
		j.Status, j.CompletedAt, j.LeaseUntil, j.ErrorLog = JobCompleted, &now, nil, ""
	}
	return err
}

// QueueDepth is how many jobs of all types there are.
type QueueDepth struct {
	Ready   int64 // may be claimed now
	Delayed int64 // wait for their RunAfter
	Running int64
	Dead    int64 // every attempt failed; see [Jobs.DeadLetters]
}

// Depth returns how many jobs of all types there are. It counts entries of indexes, so it takes longer the
// more jobs there are.
func (t Jobs) Depth(ctx context.Context) (QueueDepth, error) {
	var d QueueDepth
	now := t.s.db.engine.time(t.s.db.now())
	err := t.s.queryRow(ctx, `SELECT
		(SELECT count(*) FROM sys_jobs WHERE status = 'pending' AND run_after IS NULL) +
		(SELECT count(*) FROM sys_jobs WHERE status = 'pending' AND run_after <= $1),
		(SELECT count(*) FROM sys_jobs WHERE status = 'pending' AND run_after > $1),
		(SELECT count(*) FROM sys_jobs WHERE status = 'running'),
		(SELECT count(*) FROM sys_jobs WHERE status = 'failed')`,
		[]any{now}, &d.Ready, &d.Delayed, &d.Running, &d.Dead)
	return d, err
}

// Fail ends an attempt of a job that Claim returned. The job runs again after a pause ([Backoff]), or
// becomes a dead letter with the status JobFailed if it has no attempt left. The first 8 KiB of reason are
// stored. It must contain no secret. Errors: ErrConflict on "lease" if the worker has lost the job.
func (t Jobs) Fail(ctx context.Context, j *SystemJob, reason string) error {
	reason = storable(reason, maxErrorLog)
	now := t.s.db.now()
	if j != nil && j.Attempts >= j.MaxAttempts {
		err := t.updateClaimed(ctx, j,
			"status = 'failed', completed_at = $4, lease_until = NULL, error_log = $5",
			t.s.db.engine.time(now), nullIfEmpty(reason))
		if err == nil {
			j.Status, j.CompletedAt, j.LeaseUntil, j.ErrorLog = JobFailed, &now, nil, reason
		}
		return err
	}
	var again time.Time
	if j != nil {
		again = now.Add(Backoff(j.Attempts))
	}
	err := t.updateClaimed(ctx, j,
		"status = 'pending', run_after = $4, worker = NULL, claim_id = NULL, lease_until "+
			"= NULL, error_log = $5", t.s.db.engine.time(again), nullIfEmpty(reason))
	if err == nil {
		j.Status, j.RunAfter, j.Worker, j.ClaimID, j.LeaseUntil, j.ErrorLog = JobPending, &again, "", "", nil,
			reason
	}
	return err
}

// Backoff returns the pause after a job's attempt failed: 10 s after the first, doubling up to 1 h.
func Backoff(attempt int) time.Duration {
	const first, longest = 10 * time.Second, time.Hour
	if attempt > 10 {
		return longest
	}
	return min(first<<max(attempt-1, 0), longest)
}

// updateClaimed updates a job that the worker still holds by this claim. Attempts don't identify a claim,
// because Retry resets them.
func (t Jobs) updateClaimed(ctx context.Context, j *SystemJob, set string, args ...any) error {
	if j == nil {
		return invalid("job", "is nil")
	}
	if err := t.r.checkID(j.ID); err != nil {
		return err
	}
	touched, err := t.s.exec(ctx, "UPDATE sys_jobs SET "+set+
		" WHERE id = $1 AND worker = $2 AND claim_id = $3 AND status = 'running'",
		append([]any{j.ID, j.Worker, j.ClaimID}, args...), asReported)
	if err == nil && touched == 0 {
		return conflict("lease", "the job is no longer this worker's")
	}
	return err
}

// Cancel ends a pending or running job. Its worker is told by the next Heartbeat, Complete or Fail. Errors:
// ErrNotFound; ErrConflict on "status" if the job has ended.
func (t Jobs) Cancel(ctx context.Context, id string) error {
	return t.updateStatus(ctx, id, "status = 'cancelled', completed_at = $2, lease_until = NULL",
		"status IN ('pending', 'running')", t.s.db.engine.time(t.s.db.now()))
}

// Retry puts a failed or cancelled job at the end of its tenant's jobs, with all its attempts. Errors:
// ErrNotFound; ErrConflict on "status" if the job has not ended or completed, and on "dedupe_key" if another
// job has taken its place.
func (t Jobs) Retry(ctx context.Context, id string) error {
	return t.updateStatus(ctx, id, `status = 'pending', attempts = 0, run_after = NULL, completed_at = NULL,
		worker
		= NULL,
		claim_id = NULL, lease_until = NULL`, "status IN ('failed', 'cancelled')")
}

// updateStatus updates a job that meets a condition on its status.
func (t Jobs) updateStatus(ctx context.Context, id, set, condition string, args ...any) error {
	if err := t.r.checkID(id); err != nil {
		return err
	}
	touched, err := t.s.exec(ctx, "UPDATE sys_jobs SET "+set+" WHERE id = $1 AND "+condition,
		append([]any{id}, args...), asReported)
	if err != nil || touched == 1 {
		return err
	}
	if _, err := t.Get(ctx, id); err != nil {
		return err
	}
	return conflict("status", "doesn't allow this")
}

// DeadLetters returns the jobs that failed for good, as [Table.List] does. Errors: ErrInvalid.
func (t Jobs) DeadLetters(ctx context.Context, filters ...Filter) ([]*SystemJob, error) {
	return t.List(ctx, append([]Filter{Where("status", JobFailed)}, filters...)...)
}

// storable returns a text as valid UTF-8 without NUL, of at most limit bytes.
func storable(s string, limit int) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}
