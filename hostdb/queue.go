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

// sweepInterval is how often Claim looks for jobs whose time or whose lease has come, beyond when it finds
// nothing else.
const sweepInterval = 250 * time.Millisecond

// sweeper remembers when the queue was last swept.
type sweeper struct {
	mu   sync.Mutex
	last time.Time
}

// due reports whether it is time to sweep, and takes the turn.
func (w *sweeper) due(now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if age := now.Sub(w.last); age >= 0 && age < sweepInterval {
		return false
	}
	w.last = now
	return true
}

// Enqueue puts a job in line. Of the job it takes JobType, Payload, TenantID, MaxAttempts, RunAfter and
// DedupeKey, and the ID if there is one; it fills in the rest. Where a pending or running job has the same
// DedupeKey, nothing is stored, and the model becomes that job. It reports whether the job is new. On a Tx
// the job exists once the transaction commits. Errors: ErrInvalid; ErrConflict for an ID that is taken.
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
		if !errors.Is(err, ErrNotFound) { // it may have ended between the two statements
			return false, err
		}
	}
	return false, conflict("dedupe_key", "is taken by jobs that come and go")
}

// MaxClaimTypes is how many job types a Claim may name.
const MaxClaimTypes = 100

// maxLease is the longest lease of a job.
const maxLease = 30 * 24 * time.Hour

// checkLease refuses leases out of range.
func checkLease(lease time.Duration) error {
	if lease < time.Millisecond || lease > maxLease {
		return invalid("lease", "must be between 1 ms and 30 days")
	}
	return nil
}

// Claim takes the next job of one of these types (of any, if there are none) for a worker and a lease, which
// Heartbeat extends. Within a type tenants take turns, however many jobs each has in line; a tenant's jobs of
// a type run in the order in which they became ready: those with a RunAfter when its time came, those that
// failed when their pause was over. Among several types, each that has a job ready is as likely to be next as
// any other, however long its line: so tenants share each type's part evenly, and one with jobs of two types
// has its turn in both. A job whose lease is over goes back to its place in line, or fails for good if it has
// no attempt left. A job is given to one worker at a time. A lease is a time by the clock of the process that
// sets it (Config.Now): the clocks of all that share a queue must agree to well within the lease, or one that
// is ahead takes over jobs that are being worked on. Errors: ErrNotFound when no job is ready; ErrInvalid,
// also for more than MaxClaimTypes types.
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

// next claims the first job in the line of one of these types, or of any that has one.
func (t Jobs) claimNext(ctx context.Context, worker string, types []string,
	lease time.Duration) (*SystemJob, error) {
	var err error
	if len(types) == 0 {
		if types, err = t.readyTypes(ctx); err != nil {
			return nil, err
		}
	}
	// Turns of different types don't compare. Chance favours no type, and needs nothing that processes share.
	types = slices.Clone(types)
	rand.Shuffle(len(types), func(i, j int) { types[i], types[j] = types[j], types[i] })
	for some := range slices.Chunk(types, MaxClaimTypes) {
		if job, err := t.claimFirst(ctx, worker, some, lease); !errors.Is(err, ErrNotFound) {
			return job, err
		}
	}
	return nil, ErrNotFound
}

// readyTypes returns the types that have a job ready, by one step through the index for each. It asks where
// writes run: in memory a reader waits for the writer, and not as long.
func (t Jobs) readyTypes(ctx context.Context) (types []string, err error) {
	const first = "(SELECT job_type FROM sys_jobs WHERE status = 'pending' AND run_after IS NULL%s " +
		"ORDER BY job_type LIMIT 1)"
	text := "WITH RECURSIVE kinds(kind) AS (SELECT " + fmt.Sprintf(first, "") + " UNION ALL SELECT " +
		fmt.Sprintf(first, " AND job_type > kind") +
		" FROM kinds WHERE kind IS NOT NULL) SELECT kind FROM kinds WHERE kind IS NOT NULL"
	err = t.s.returning(ctx, text, nil, appendText(&types))
	slices.Sort(types)
	return slices.Compact(types), err // it may have run twice
}

// claimFirst claims the first job in line of the first of these types that has one, in one statement:
// coalesce evaluates no further.
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
	heads = append(heads, "NULL") // SQLite's coalesce takes two at least
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

// sweepQueue puts jobs in line whose time has come and whose lease is over, and fails those without an
// attempt left. It returns how many rows it changed.
func (t Jobs) sweepQueue(ctx context.Context) (int64, error) {
	now := t.s.db.engine.time(t.s.db.now())
	ids := "IN (SELECT id FROM sys_jobs WHERE %s LIMIT 1000)"
	if t.s.db.engine == postgres { // an array is gone through in order, as SQLite goes through its set
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

// Heartbeat extends the lease of a job that Claim returned, to lease from now. Errors: ErrConflict on "lease"
// where the job is no longer this worker's, which should then stop; ErrInvalid.
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

// Complete ends a job that Claim returned. Errors: ErrConflict on "lease" where the job is no longer this
// worker's.
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

// Fail ends an attempt of a job that Claim returned. The job runs again after a pause (Backoff), or becomes a
// dead letter with the status JobFailed if it has no attempt left. Of the reason, 8 KiB are kept; it must
// hold no secret. Errors: ErrConflict on "lease" where the job is no longer this worker's.
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

// Backoff is the pause after a job's attempt failed: 10 s after the first, twice as long after each further
// one, 1 h at most.
func Backoff(attempt int) time.Duration {
	const first, longest = 10 * time.Second, time.Hour
	if attempt > 10 {
		return longest
	}
	return min(first<<max(attempt-1, 0), longest)
}

// updateClaimed updates a job if this worker still holds it by this claim. The number of attempts doesn't
// tell claims apart: Retry resets it.
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

// Cancel ends a pending or running job. Its worker learns of it from the next Heartbeat, Complete or Fail.
// Errors: ErrNotFound; ErrConflict on "status" where the job has ended.
func (t Jobs) Cancel(ctx context.Context, id string) error {
	return t.updateStatus(ctx, id, "status = 'cancelled', completed_at = $2, lease_until = NULL",
		"status IN ('pending', 'running')", t.s.db.engine.time(t.s.db.now()))
}

// Retry puts a failed or cancelled job at the end of its tenant's line, with all its attempts. Errors:
// ErrNotFound; ErrConflict on "status" where the job has not ended or was completed, and on "dedupe_key"
// where another one has taken its place.
func (t Jobs) Retry(ctx context.Context, id string) error {
	return t.updateStatus(ctx, id, `status = 'pending', attempts = 0, run_after = NULL, completed_at = NULL,
		worker
		= NULL,
		claim_id = NULL, lease_until = NULL`, "status IN ('failed', 'cancelled')")
}

// updateStatus updates a job in one of some statuses.
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
	return conflict("status", "doesn't allow it")
}

// DeadLetters returns the jobs that failed for good, ordered by id, a page at a time. Errors: ErrInvalid.
func (t Jobs) DeadLetters(ctx context.Context, filters ...Filter) ([]*SystemJob, error) {
	return t.List(ctx, append([]Filter{Where("status", JobFailed)}, filters...)...)
}

// storable makes a text storable: valid UTF-8 without NUL, cut to a number of bytes.
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
