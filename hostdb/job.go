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

// DefaultMaxAttempts is how often a job without MaxAttempts is tried.
const DefaultMaxAttempts = 5

const (
	maxPayload  = 256 << 10
	maxErrorLog = 8 << 10
)

// SystemJob is a background job (sys_jobs). [Jobs.Enqueue] stores one.
type SystemJob struct {
	ID          string
	JobType     string // required
	Status      string // default JobPending
	Payload     string // up to 256 KiB
	ErrorLog    string // why the last attempt failed, up to 8 KiB
	CreatedAt   time.Time
	CompletedAt *time.Time // when it completed, failed for good or was cancelled
	TenantID    string     // the tenant that it is for; no foreign key
	Attempts    int        // how often it has been claimed
	MaxAttempts int        // default DefaultMaxAttempts, at most 1,000
	RunAfter    *time.Time // not before this time; nil: at once
	LeaseUntil  *time.Time // of a running job: when others may take it over
	Worker      string     // of a running job: who runs it
	ClaimID     string     // of a running job: identifies the worker's claim
	DedupeKey   string     // unique among pending and running jobs
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

// Jobs is the queue of jobs. Enqueue, Claim and the others keep the queue's rules. Insert and Update store a
// row as it is.
type Jobs struct{ Table[SystemJob] }

// Prune deletes the jobs with one of these statuses that ended longer than age ago, and returns how many.
// Without statuses it deletes those that completed or were cancelled. It never deletes jobs that haven't
// ended, and failed jobs, which are the dead letters, only if JobFailed is named. It works in transactions
// of up to 1,000 rows, and may be called as often as needed. Errors: ErrInvalid for a negative age, and for
// a status of jobs that haven't ended.
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
	return t.s.execBatches(ctx, `DELETE FROM sys_jobs WHERE id IN (SELECT id FROM sys_jobs
			WHERE status IN ('completed', 'failed', 'cancelled') AND `+named+` AND completed_at < $1
			ORDER BY completed_at LIMIT 1000)
		AND `+named, before) // a job that is retried meanwhile stays
}
