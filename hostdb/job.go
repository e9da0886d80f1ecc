package hostdb

import "time"

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
	table: "sys_jobs", refers: "job_id", batch: 100,
	columns: []column[SystemJob]{
		{"id", func(j *SystemJob) any { return &j.ID }, idRule},
		{"job_type", func(j *SystemJob) any { return &j.JobType }, rule{required: true}},
		{"status", func(j *SystemJob) any { return &j.Status },
			rule{required: true, words: []string{JobPending, JobRunning, JobCompleted, JobFailed, JobCancelled}}},
		{"payload", func(j *SystemJob) any { return &j.Payload }, rule{max: maxPayload}},
		{"error_log", func(j *SystemJob) any { return &j.ErrorLog }, rule{max: maxErrorLog}},
		{"created_at", func(j *SystemJob) any { return &j.CreatedAt }, anyTime},
		{"completed_at", func(j *SystemJob) any { return &j.CompletedAt }, anyTime},
		{"tenant_id", func(j *SystemJob) any { return &j.TenantID }, linkRule},
		{"attempts", func(j *SystemJob) any { return &j.Attempts }, rule{most: 1 << 31}},
		{"max_attempts", func(j *SystemJob) any { return &j.MaxAttempts }, rule{least: 1, most: 1000}},
		{"run_after", func(j *SystemJob) any { return &j.RunAfter }, anyTime},
		{"lease_until", func(j *SystemJob) any { return &j.LeaseUntil }, anyTime},
		{"worker", func(j *SystemJob) any { return &j.Worker }, anyText},
		{"claim_id", func(j *SystemJob) any { return &j.ClaimID }, linkRule},
		{"dedupe_key", func(j *SystemJob) any { return &j.DedupeKey }, anyText},
	},
	fill: func(j *SystemJob) {
		orDefault(&j.Status, JobPending)
		if j.MaxAttempts == 0 {
			j.MaxAttempts = DefaultMaxAttempts
		}
	},
}

// Jobs is the queue of jobs. Insert and Update write a row as it is; Enqueue, Claim and the others keep the queue's rules.
type Jobs struct{ Table[SystemJob] }
