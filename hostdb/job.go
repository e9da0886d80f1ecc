package hostdb

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// The statuses of a job.
const (
	JobPending   = "pending"
	JobRunning   = "running"
	JobCompleted = "completed"
	JobFailed    = "failed" // a dead letter: every attempt failed
	JobCancelled = "cancelled"
)

// DefaultMaxAttempts is how often a job is tried that names no number of its own.
const DefaultMaxAttempts = 5

const (
	maxPayload  = 256 << 10
	maxErrorLog = 8 << 10
)

// SystemJob is work to be done in the background (sys_jobs). Make one with Jobs.Enqueue.
type SystemJob struct {
	ID          string
	JobType     string // required
	Status      string // default JobPending
	Payload     string // up to 256 KiB
	ErrorLog    string // why the last attempt failed, up to 8 KiB
	CreatedAt   time.Time
	CompletedAt *time.Time // when it was completed, failed for good or cancelled
	TenantID    string     // whose job it is; no foreign key
	Attempts    int        // how often it has been claimed
	MaxAttempts int        // default DefaultMaxAttempts, 1,000 at most
	RunAfter    *time.Time // not before; nil: at once
	LeaseUntil  *time.Time // while it runs: when others may take it over
	Worker      string     // while it runs: who runs it
	ClaimID     string     // while it runs: the Claim by which its worker holds it
	DedupeKey   string     // at most one pending or running job has this key
}

var jobRelation = relation[SystemJob]{
	table: "sys_jobs", foreignKey: "job_id", batch: 100,
	columns: []column[SystemJob]{
		{"id", func(j *SystemJob) any { return &j.ID }, idRule},
		{"job_type", func(j *SystemJob) any { return &j.JobType }, rule{required: true}},
		{"status", func(j *SystemJob) any { return &j.Status },
			rule{required: true, allowed: []string{JobPending, JobRunning, JobCompleted, JobFailed,
				JobCancelled}}},
		{"payload", func(j *SystemJob) any { return &j.Payload }, rule{maxBytes: maxPayload}},
		{"error_log", func(j *SystemJob) any { return &j.ErrorLog }, rule{maxBytes: maxErrorLog}},
		{"created_at", func(j *SystemJob) any { return &j.CreatedAt }, anyTime},
		{"completed_at", func(j *SystemJob) any { return &j.CompletedAt }, anyTime},
		{"tenant_id", func(j *SystemJob) any { return &j.TenantID }, optionalID},
		{"attempts", func(j *SystemJob) any { return &j.Attempts }, rule{most: 1 << 31}},
		{"max_attempts", func(j *SystemJob) any { return &j.MaxAttempts }, rule{least: 1, most: 1000}},
		{"run_after", func(j *SystemJob) any { return &j.RunAfter }, anyTime},
		{"lease_until", func(j *SystemJob) any { return &j.LeaseUntil }, anyTime},
		{"worker", func(j *SystemJob) any { return &j.Worker }, anyText},
		{"claim_id", func(j *SystemJob) any { return &j.ClaimID }, optionalID},
		{"dedupe_key", func(j *SystemJob) any { return &j.DedupeKey }, anyText},
	},
	defaults: func(j *SystemJob) {
		setDefault(&j.Status, JobPending)
		if j.MaxAttempts == 0 {
			j.MaxAttempts = DefaultMaxAttempts
		}
	},
}

// Jobs is the queue of jobs. Insert and Update write a row as it is; Enqueue, Claim and the others keep the
// queue's rules.
type Jobs struct{ Table[SystemJob] }

// Prune deletes the jobs with one of these statuses that ended longer ago than age; without statuses those
// that were completed or cancelled. It returns how many. Jobs that haven't ended are never deleted, and
// neither are failed ones that aren't named: they are the dead letters. It goes in steps of 1,000, each a
// transaction of its own, and may be called as often as one likes. Errors: ErrInvalid for a negative age, and
// for a status of jobs that haven't ended.
func (t Jobs) Prune(ctx context.Context, age time.Duration, statuses ...string) (int64, error) {
	if age < 0 {
		return 0, invalid("age", "is negative")
	}
	if len(statuses) == 0 {
		statuses = []string{JobCompleted, JobCancelled}
	}
	for _, status := range statuses {
		if !slices.Contains([]string{JobCompleted, JobFailed, JobCancelled}, status) {
			return 0, invalid("status", "must be one of completed, failed, cancelled")
		}
	}
	named := fmt.Sprintf("status IN ('%s')", strings.Join(statuses, "', '"))
	before := t.s.db.engine.time(t.s.db.now().Add(-age))
	for deleted := int64(0); ; {
		n, err := t.s.exec(ctx, `DELETE FROM sys_jobs WHERE id IN (SELECT id FROM sys_jobs
			WHERE status IN ('completed', 'failed', 'cancelled') AND `+named+` AND completed_at < $1
				ORDER BY completed_at LIMIT 1000)
			AND `+named, []any{before}, asReported) // one that is retried meanwhile stays
		if deleted += n; err != nil || n == 0 {
			return deleted, err
		}
	}
}
