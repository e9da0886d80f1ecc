-- +goose Up
-- A run migrates tenants' databases to a version of their own schema.
CREATE TABLE sys_migration_runs (
    id             text COLLATE "C" NOT NULL DEFAULT replace(gen_random_uuid()::text, '-', ''),
    status         text COLLATE "C" NOT NULL DEFAULT 'running',
    target_version bigint NOT NULL,
    is_down        boolean NOT NULL DEFAULT false,
    at_target      bigint NOT NULL DEFAULT 0,
    created_at     timestamptz NOT NULL DEFAULT now(),
    completed_at   timestamptz,
    CONSTRAINT sys_migration_runs__id PRIMARY KEY (id),
    CONSTRAINT sys_migration_runs__id__check CHECK (id ~ '^[0-9a-f]{32}$'),
    CONSTRAINT sys_migration_runs__status__check CHECK (status IN ('running', 'paused', 'stopped', 'done')),
    CONSTRAINT sys_migration_runs__target_version__check CHECK (target_version >= 0),
    CONSTRAINT sys_migration_runs__at_target__check CHECK (at_target >= 0),
    CONSTRAINT sys_migration_runs__created_at__check
        CHECK (created_at >= '0001-01-01 00:00:00Z' AND created_at < '10000-01-01 00:00:00Z'),
    CONSTRAINT sys_migration_runs__completed_at__check
        CHECK (completed_at >= '0001-01-01 00:00:00Z' AND completed_at < '10000-01-01 00:00:00Z')
);

-- The ledger: what a run did, or has to do, in each tenant.
CREATE TABLE sys_migration_tenants (
    id             text COLLATE "C" NOT NULL DEFAULT replace(gen_random_uuid()::text, '-', ''),
    run_id         text COLLATE "C" NOT NULL,
    tenant_id      text COLLATE "C" NOT NULL,
    stage          bigint NOT NULL DEFAULT 0,
    status         text COLLATE "C" NOT NULL DEFAULT 'pending',
    version_before bigint NOT NULL DEFAULT 0,
    version_after  bigint NOT NULL DEFAULT 0,
    duration_ms    bigint NOT NULL DEFAULT 0,
    error          text COLLATE "C",
    worker         text COLLATE "C",
    lease_until    timestamptz,
    completed_at   timestamptz,
    CONSTRAINT sys_migration_tenants__id PRIMARY KEY (id),
    CONSTRAINT sys_migration_tenants__run_id__tenant_id UNIQUE (run_id, tenant_id),
    CONSTRAINT sys_migration_tenants__run_id__fkey FOREIGN KEY (run_id) REFERENCES sys_migration_runs (id) ON DELETE CASCADE,
    CONSTRAINT sys_migration_tenants__tenant_id__fkey FOREIGN KEY (tenant_id) REFERENCES core_tenants (id) ON DELETE CASCADE,
    CONSTRAINT sys_migration_tenants__id__check CHECK (id ~ '^[0-9a-f]{32}$'),
    CONSTRAINT sys_migration_tenants__status__check CHECK (status IN ('pending', 'running', 'done', 'failed', 'skipped')),
    CONSTRAINT sys_migration_tenants__lease_until__check
        CHECK ((status = 'running') = (lease_until IS NOT NULL AND worker IS NOT NULL)
            AND lease_until >= '0001-01-01 00:00:00Z' AND lease_until < '10000-01-01 00:00:00Z'),
    CONSTRAINT sys_migration_tenants__completed_at__check
        CHECK (completed_at >= '0001-01-01 00:00:00Z' AND completed_at < '10000-01-01 00:00:00Z')
);
-- Only one run at a time migrates a tenant.
CREATE UNIQUE INDEX sys_migration_tenants__tenant_id ON sys_migration_tenants (tenant_id) WHERE status = 'running';
CREATE INDEX sys_migration_tenants_tenant_id ON sys_migration_tenants (tenant_id);
CREATE INDEX sys_migration_tenants_unfinished ON sys_migration_tenants (run_id, stage, tenant_id) WHERE status IN ('pending', 'running');
CREATE INDEX sys_migration_tenants_run_id ON sys_migration_tenants (run_id, id);
