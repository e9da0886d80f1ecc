package main

import (
	"context"
	"errors"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// jobsCmd is tenantdb jobs.
type jobsCmd struct {
	List   jobsListCmd   `cmd:"" help:"List jobs. Their payloads are not shown."`
	Retry  jobsRetryCmd  `cmd:"" help:"Queue failed or cancelled jobs again, with new attempts."`
	Cancel jobsCancelCmd `cmd:"" help:"Cancel pending or running jobs."`
	Prune  jobsPruneCmd  `cmd:"" help:"Delete jobs that ended long ago."`
	Work   jobsWorkCmd   `cmd:"" help:"Finish tenants whose creation or removal was interrupted."`
}

// jobColumns are the columns of a job, with its tenant's slug.
func jobColumns(n *names) []column[hostdb.SystemJob] {
	return []column[hostdb.SystemJob]{
		{"id", func(j *hostdb.SystemJob) any { return j.ID }, true},
		{"job_type", func(j *hostdb.SystemJob) any { return j.JobType }, true},
		{"status", func(j *hostdb.SystemJob) any { return j.Status }, true},
		{"tenant", func(j *hostdb.SystemJob) any { return n.tenant(j.TenantID) }, true},
		{"tenant_id", func(j *hostdb.SystemJob) any { return j.TenantID }, true},
		{"attempts", func(j *hostdb.SystemJob) any { return j.Attempts }, true},
		{"max_attempts", func(j *hostdb.SystemJob) any { return j.MaxAttempts }, false},
		{"created_at", func(j *hostdb.SystemJob) any { return j.CreatedAt }, true},
		{"run_after", func(j *hostdb.SystemJob) any { return j.RunAfter }, false},
		{"lease_until", func(j *hostdb.SystemJob) any { return j.LeaseUntil }, false},
		{"worker", func(j *hostdb.SystemJob) any { return j.Worker }, false},
		{"completed_at", func(j *hostdb.SystemJob) any { return j.CompletedAt }, false},
		{"error_log", func(j *hostdb.SystemJob) any { return j.ErrorLog }, true},
	}
}

// jobsListCmd is tenantdb jobs list.
type jobsListCmd struct {
	page
	Status *string `enum:"${job_statuses}" help:"Only jobs with this status (${enum})."`
	Type   string  `help:"Only jobs of this type."`
	Tenant string  `placeholder:"TENANT" help:"Only jobs of this tenant (slug or id)."`
}

// Run runs the command.
func (c *jobsListCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	tenant, err := tenantID(ctx, host, c.Tenant)
	if err != nil {
		return err
	}
	filters := c.filters("status", given(c.Status), "job_type", c.Type, "tenant_id", tenant)
	return printList(s, jobColumns(s.names(ctx, host)), host.Jobs.All(ctx, filters...))
}

// jobsRetryCmd is tenantdb jobs retry.
type jobsRetryCmd struct {
	ID     []string `arg:"" optional:"" help:"The jobs' ids."`
	Failed bool     `help:"All failed jobs, instead of named ones."`
}

// Run runs the command.
func (c *jobsRetryCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	if c.Failed == (len(c.ID) > 0) {
		return errors.New("name jobs by their ids, or give --failed")
	}
	ids := c.ID
	if c.Failed {
		for job, err := range host.Jobs.All(ctx, hostdb.Where("status", hostdb.JobFailed)) {
			if err != nil {
				return err
			}
			ids = append(ids, job.ID)
		}
	}
	return s.forJobs(ctx, host, ids, host.Jobs.Retry)
}

// jobsCancelCmd is tenantdb jobs cancel.
type jobsCancelCmd struct {
	ID []string `arg:"" help:"The jobs' ids."`
}

// Run runs the command.
func (c *jobsCancelCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	return s.forJobs(ctx, host, c.ID, host.Jobs.Cancel)
}

// jobsPruneCmd is tenantdb jobs prune.
type jobsPruneCmd struct {
	OlderThan time.Duration `default:"720h" help:"Only jobs that ended at least this long ago."`
	Status    []string      `enum:"${ended_statuses}" default:"completed,cancelled" help:"${prune_status}"`
}

// Help is the long help.
func (*jobsPruneCmd) Help() string {
	return "Failed jobs are kept unless they are selected: --status=completed,cancelled,failed. " +
		"Pending and running jobs are never deleted."
}

// pruned is what jobs prune prints.
type pruned struct{ deleted int64 }

var prunedColumns = []column[pruned]{{"deleted", func(p *pruned) any { return p.deleted }, true}}

// Run runs the command.
func (c *jobsPruneCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	n, err := host.Jobs.Prune(ctx, c.OlderThan, c.Status...)
	if err != nil {
		return err
	}
	return printOne(s, prunedColumns, &pruned{n})
}

// forJobs calls do for each job and prints the changed jobs. Its error names the others.
func (s *session) forJobs(ctx context.Context, host *hostdb.DB, ids []string,
	do func(context.Context, string) error) error {
	var failed error
	err := printList(s, jobColumns(s.names(ctx, host)), func(yield func(*hostdb.SystemJob, error) bool) {
		for _, id := range ids {
			job := &hostdb.SystemJob{}
			err := do(ctx, id)
			if err == nil {
				job, err = host.Jobs.Get(ctx, id)
			}
			if err != nil {
				failed = errors.Join(failed, errors.New("job "+id+": "+err.Error()))
				continue
			}
			if !yield(job, nil) {
				return
			}
		}
	})
	return errors.Join(err, failed)
}
