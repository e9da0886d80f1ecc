package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tenantdb/tenantdb/fleet"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/jobs"
)

// workTimeout is how long running jobs may take after Ctrl-C.
const workTimeout = time.Minute

// jobsWorkCmd is tenantdb jobs work.
type jobsWorkCmd struct {
	migrations
	provisioning
	Parallel int  `default:"4" help:"How many jobs run at once."`
	Drain    bool `help:"End once no such job is left."`
}

// Help is the long help.
func (*jobsWorkCmd) Help() string {
	return "It runs jobs of the type " + fleet.JobTenant + " until Ctrl-C. Jobs of other types are the " +
		"product's. Each attempt is a line on standard error."
}

// Run runs the command.
func (c *jobsWorkCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	if c.Parallel < 1 {
		return errors.New("--parallel is at least 1")
	}
	f, err := s.openFleet(host, c.Migrations, c.provisioning)
	if err != nil {
		return err
	}
	var printing sync.Mutex
	handler := func(ctx context.Context, job *hostdb.SystemJob) error {
		began := time.Now()
		err := f.RunJob(hostdb.WithActor(ctx, s.flags.Actor), job)
		outcome := "ok"
		if err != nil {
			outcome = "failed  " + err.Error()
		}
		printing.Lock()
		defer printing.Unlock()
		fmt.Fprintf(s.env.stderr, "%s  attempt %d  %s  %s\n", job.ID, job.Attempts, brief(time.Since(began)),
			clean(outcome))
		return err
	}
	worker, err := jobs.New(jobs.Config{Host: host, Parallel: c.Parallel, PollInterval: s.env.poll,
		Handlers: map[string]jobs.Handler{fleet.JobTenant: handler}})
	if err != nil {
		return err
	}
	err = c.wait(ctx, s, host)
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), workTimeout)
	defer cancel()
	return errors.Join(err, worker.Close(closing))
}

// wait returns when ctx ends, or with --drain when no job is left.
func (c *jobsWorkCmd) wait(ctx context.Context, s *session, host *hostdb.DB) error {
	tick := time.NewTicker(s.env.poll)
	defer tick.Stop()
	for {
		if c.Drain {
			left := 0
			for _, status := range []string{hostdb.JobPending, hostdb.JobRunning} {
				some, err := host.Jobs.List(ctx, hostdb.Where("job_type", fleet.JobTenant),
					hostdb.Where("status", status), hostdb.Limit(1))
				if err != nil && ctx.Err() == nil {
					return err
				}
				left += len(some)
			}
			if left == 0 {
				return nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}
