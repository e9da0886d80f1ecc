-- +goose Up
-- Turns are counted per job type, because the jobs that wait for workers of another type don't delay this
-- one's.
DROP INDEX sys_jobs_ready;
DROP INDEX sys_jobs_queue;
CREATE INDEX sys_jobs_ready ON sys_jobs (job_type, turn, id) WHERE status = 'pending' AND run_after IS NULL;
CREATE INDEX sys_jobs_queue ON sys_jobs (job_type, (coalesce(tenant_id, '')), turn) WHERE status = 'pending' AND run_after IS NULL;

-- A job gets its tenant's next turn of its type when it becomes ready, whatever inserts or changes it: a
-- tenant with thousands of waiting jobs delays another tenant's only job by one. Only a job whose worker
-- has died keeps its turn.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION host_take_turn() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    NEW.turn := 1 + greatest(
        (SELECT turn FROM sys_jobs WHERE status = 'pending' AND run_after IS NULL AND job_type = NEW.job_type
            AND coalesce(tenant_id, '') = coalesce(NEW.tenant_id, '') ORDER BY turn DESC LIMIT 1),
        (SELECT turn - 1 FROM sys_jobs WHERE status = 'pending' AND run_after IS NULL AND job_type = NEW.job_type
            ORDER BY turn, id LIMIT 1),
        0);
    RETURN NEW;
END $$;
-- +goose StatementEnd
DROP TRIGGER sys_jobs_turn_again ON sys_jobs;
CREATE TRIGGER sys_jobs_turn_again BEFORE UPDATE OF status, run_after, job_type ON sys_jobs FOR EACH ROW
    WHEN (NEW.status = 'pending' AND NEW.run_after IS NULL AND OLD.status <> 'running'
        AND (OLD.status <> 'pending' OR OLD.run_after IS NOT NULL OR OLD.job_type <> NEW.job_type)) EXECUTE FUNCTION host_take_turn();

-- Replacing the function has reset its search path. pg_temp comes first in one that doesn't name it.
-- +goose StatementBegin
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION %I.host_take_turn() SET search_path = %I, pg_temp', current_schema(), current_schema());
END $$;
-- +goose StatementEnd

-- Waiting jobs get new turns within each type, a tenant's jobs in their old order. Running jobs come first,
-- because they may return.
UPDATE sys_jobs SET turn = renewed.turn FROM (
    SELECT id, row_number() OVER (PARTITION BY job_type, coalesce(tenant_id, '') ORDER BY status = 'pending', turn, id) AS turn
    FROM sys_jobs WHERE status = 'running' OR status = 'pending' AND run_after IS NULL) AS renewed
WHERE sys_jobs.id = renewed.id;
