package hostdb

import (
	"context"
	"time"
)

// ClaimJob takes one job for a worker and a lease, as [Jobs.Claim] does, without regard to its turn and its
// RunAfter. The job must be pending, or its lease must have ended. A job whose lease has ended and that has
// no attempt left fails for good. Errors: ErrNotFound if the job has ended or doesn't exist; ErrConflict on
// "lease" while another worker holds it; ErrInvalid.
func (t Jobs) ClaimJob(ctx context.Context, id, worker string, lease time.Duration) (*SystemJob, error) {
	if err := t.r.checkID(id); err != nil {
		return nil, err
	}
	if err := (rule{required: true}).checkText("worker", worker); err != nil {
		return nil, err
	}
	if err := checkLease(lease); err != nil {
		return nil, err
	}
	e, now := t.s.db.engine, t.s.db.now()
	var job *SystemJob
	err := t.s.returning(ctx, `UPDATE sys_jobs SET status = 'running', attempts = attempts + 1, run_after =
		NULL, worker = $2, lease_until = $3,
		claim_id = $4 WHERE id = $1 AND (status = 'pending' OR (status = 'running' AND lease_until <= $5
		AND attempts < max_attempts))
		RETURNING `+t.r.columnList(), []any{id, worker, e.time(now.Add(lease)), NewID(), e.time(now)},
		func(row scanner) (err error) {
			job, err = t.r.read(row)
			return err
		})
	if err != nil || job != nil {
		return job, err
	}
	ended, err := t.s.exec(ctx, leaseEnded+
		" WHERE id = $2 AND status = 'running' AND lease_until <= $1 AND attempts >= max_attempts",
		[]any{e.time(now), id}, asReported)
	if err != nil {
		return nil, err
	}
	there, err := t.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	if ended == 0 && there.Status == JobRunning {
		return nil, conflict("lease", "another worker holds the job")
	}
	return nil, ErrNotFound
}
