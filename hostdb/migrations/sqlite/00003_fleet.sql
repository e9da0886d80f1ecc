-- +goose Up
-- A run migrates tenants' databases to a version of their own schema.
CREATE TABLE sys_migration_runs (
    id             text NOT NULL DEFAULT (lower(hex(randomblob(16)))),
    status         text NOT NULL DEFAULT 'running',
    target_version integer NOT NULL,
    is_down        integer NOT NULL DEFAULT 0,
    at_target      integer NOT NULL DEFAULT 0,
    created_at     text NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')),
    completed_at   text,
    CONSTRAINT sys_migration_runs__id PRIMARY KEY (id),
    CONSTRAINT sys_migration_runs__id__check CHECK (instr(id, char(0)) = 0 AND length(id) = 32 AND id NOT GLOB '*[^0-9a-f]*'),
    CONSTRAINT sys_migration_runs__status__check CHECK (status IN ('running', 'paused', 'stopped', 'done')),
    CONSTRAINT sys_migration_runs__target_version__check CHECK (target_version >= 0),
    CONSTRAINT sys_migration_runs__is_down__check CHECK (is_down IN (0, 1)),
    CONSTRAINT sys_migration_runs__at_target__check CHECK (at_target >= 0),
    CONSTRAINT sys_migration_runs__created_at__check
        CHECK (instr(created_at, char(0)) = 0 AND created_at > '0001'
            AND substr(created_at, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]Z'
            AND strftime('%Y-%m-%dT%H:%M:%S', substr(created_at, 1, 19), '+0 days') IS substr(created_at, 1, 19)),
    CONSTRAINT sys_migration_runs__completed_at__check
        CHECK (instr(completed_at, char(0)) = 0 AND completed_at > '0001'
            AND substr(completed_at, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]Z'
            AND strftime('%Y-%m-%dT%H:%M:%S', substr(completed_at, 1, 19), '+0 days') IS substr(completed_at, 1, 19))
) STRICT;

-- The ledger: what a run did, or has to do, in each tenant.
CREATE TABLE sys_migration_tenants (
    id             text NOT NULL DEFAULT (lower(hex(randomblob(16)))),
    run_id         text NOT NULL,
    tenant_id      text NOT NULL,
    stage          integer NOT NULL DEFAULT 0,
    status         text NOT NULL DEFAULT 'pending',
    version_before integer NOT NULL DEFAULT 0,
    version_after  integer NOT NULL DEFAULT 0,
    duration_ms    integer NOT NULL DEFAULT 0,
    error          text,
    worker         text,
    lease_until    text,
    completed_at   text,
    CONSTRAINT sys_migration_tenants__id PRIMARY KEY (id),
    CONSTRAINT sys_migration_tenants__run_id__tenant_id UNIQUE (run_id, tenant_id),
    CONSTRAINT sys_migration_tenants__run_id__fkey FOREIGN KEY (run_id) REFERENCES sys_migration_runs (id) ON DELETE CASCADE,
    CONSTRAINT sys_migration_tenants__tenant_id__fkey FOREIGN KEY (tenant_id) REFERENCES core_tenants (id) ON DELETE CASCADE,
    CONSTRAINT sys_migration_tenants__id__check CHECK (instr(id, char(0)) = 0 AND length(id) = 32 AND id NOT GLOB '*[^0-9a-f]*'),
    CONSTRAINT sys_migration_tenants__status__check CHECK (status IN ('pending', 'running', 'done', 'failed', 'skipped')),
    CONSTRAINT sys_migration_tenants__lease_until__check
        CHECK ((status = 'running') = (lease_until IS NOT NULL AND worker IS NOT NULL)
            AND instr(lease_until, char(0)) = 0 AND lease_until > '0001'
            AND substr(lease_until, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]Z'
            AND strftime('%Y-%m-%dT%H:%M:%S', substr(lease_until, 1, 19), '+0 days') IS substr(lease_until, 1, 19)),
    CONSTRAINT sys_migration_tenants__completed_at__check
        CHECK (instr(completed_at, char(0)) = 0 AND completed_at > '0001'
            AND substr(completed_at, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]Z'
            AND strftime('%Y-%m-%dT%H:%M:%S', substr(completed_at, 1, 19), '+0 days') IS substr(completed_at, 1, 19))
) STRICT;
-- Only one run at a time migrates a tenant.
CREATE UNIQUE INDEX sys_migration_tenants__tenant_id ON sys_migration_tenants (tenant_id) WHERE status = 'running';
CREATE INDEX sys_migration_tenants_tenant_id ON sys_migration_tenants (tenant_id);
CREATE INDEX sys_migration_tenants_unfinished ON sys_migration_tenants (run_id, stage, tenant_id) WHERE status IN ('pending', 'running');
CREATE INDEX sys_migration_tenants_run_id ON sys_migration_tenants (run_id, id);
