-- +goose Up
-- Times are texts of fixed width, so that they sort as times: 2026-01-31T12:00:00.000000Z. Tables are
-- strict, so that a column contains only its type. GLOB and length stop at a NUL, which PostgreSQL refuses.
-- Tables that affect access, and the audit log, have no rowid: it would be a second key by which OR REPLACE
-- could replace a row.
CREATE TABLE core_users (
    id             text NOT NULL DEFAULT (lower(hex(randomblob(16)))),
    email          text NOT NULL,
    oauth_id       text,
    password_hash  text,
    stripe_cust_id text,
    is_sys_admin   integer NOT NULL DEFAULT 0,
    created_at     text NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')),
    last_login     text,
    CONSTRAINT core_users__id PRIMARY KEY (id),
    CONSTRAINT core_users__oauth_id UNIQUE (oauth_id),
    CONSTRAINT core_users__id__check CHECK (instr(id, char(0)) = 0 AND length(id) = 32 AND id NOT GLOB '*[^0-9a-f]*'),
    CONSTRAINT core_users__email__check CHECK (email <> '' AND instr(email, char(0)) = 0),
    CONSTRAINT core_users__oauth_id__check CHECK (instr(oauth_id, char(0)) = 0),
    CONSTRAINT core_users__is_sys_admin__check CHECK (is_sys_admin IN (0, 1)),
    CONSTRAINT core_users__created_at__check
        CHECK (instr(created_at, char(0)) = 0 AND created_at > '0001'
            AND substr(created_at, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]Z'
            AND strftime('%Y-%m-%dT%H:%M:%S', substr(created_at, 1, 19), '+0 days') IS substr(created_at, 1, 19)),
    CONSTRAINT core_users__last_login__check
        CHECK (instr(last_login, char(0)) = 0 AND last_login > '0001'
            AND substr(last_login, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]Z'
            AND strftime('%Y-%m-%dT%H:%M:%S', substr(last_login, 1, 19), '+0 days') IS substr(last_login, 1, 19))
) STRICT, WITHOUT ROWID;
-- lower() only changes ASCII letters.
CREATE UNIQUE INDEX core_users__email ON core_users (lower(email));
CREATE INDEX core_users_stripe_cust_id ON core_users (stripe_cust_id);

CREATE TABLE core_tenants (
    id             text NOT NULL DEFAULT (lower(hex(randomblob(16)))),
    name           text NOT NULL,
    db_url         text,
    is_active      integer NOT NULL DEFAULT 1,
    plan_tier      text NOT NULL DEFAULT 'free',
    created_at     text NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')),
    slug           text,
    status         text NOT NULL DEFAULT 'active',
    schema_version integer,
    active_owners  integer NOT NULL DEFAULT 0,
    CONSTRAINT core_tenants__id PRIMARY KEY (id),
    CONSTRAINT core_tenants__slug UNIQUE (slug),
    CONSTRAINT core_tenants__id__check CHECK (instr(id, char(0)) = 0 AND length(id) = 32 AND id NOT GLOB '*[^0-9a-f]*'),
    CONSTRAINT core_tenants__name__check CHECK (name <> '' AND instr(name, char(0)) = 0),
    CONSTRAINT core_tenants__slug__check
        CHECK (instr(slug, char(0)) = 0 AND length(slug) <= 63
            AND slug GLOB '[a-z0-9]*' AND slug GLOB '*[a-z0-9]' AND slug NOT GLOB '*[^a-z0-9-]*'
            AND NOT (length(slug) = 32 AND slug NOT GLOB '*[^0-9a-f]*')),
    CONSTRAINT core_tenants__status__check
        CHECK (status IN ('provisioning', 'active', 'suspended', 'maintenance', 'dropped')),
    CONSTRAINT core_tenants__schema_version__check CHECK (schema_version > 0),
    CONSTRAINT core_tenants__active_owners__check CHECK (active_owners >= 0),
    CONSTRAINT core_tenants__is_active__check CHECK (is_active IN (0, 1)),
    CONSTRAINT core_tenants__created_at__check
        CHECK (instr(created_at, char(0)) = 0 AND created_at > '0001'
            AND substr(created_at, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]Z'
            AND strftime('%Y-%m-%dT%H:%M:%S', substr(created_at, 1, 19), '+0 days') IS substr(created_at, 1, 19))
) STRICT, WITHOUT ROWID;

CREATE TABLE core_memberships (
    id              text NOT NULL DEFAULT (lower(hex(randomblob(16)))),
    user_id         text NOT NULL,
    tenant_id       text NOT NULL,
    profile_id      text,
    meta_attributes text,
    role            text NOT NULL DEFAULT 'member',
    is_active       integer NOT NULL DEFAULT 1,
    created_at      text NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')),
    CONSTRAINT core_memberships__id PRIMARY KEY (id),
    CONSTRAINT core_memberships__user_id__tenant_id UNIQUE (user_id, tenant_id),
    CONSTRAINT core_memberships__user_id__fkey FOREIGN KEY (user_id) REFERENCES core_users (id),
    CONSTRAINT core_memberships__tenant_id__fkey FOREIGN KEY (tenant_id) REFERENCES core_tenants (id),
    CONSTRAINT core_memberships__id__check CHECK (instr(id, char(0)) = 0 AND length(id) = 32 AND id NOT GLOB '*[^0-9a-f]*'),
    CONSTRAINT core_memberships__role__check
        CHECK (instr(role, char(0)) = 0 AND length(role) <= 32 AND role GLOB '[a-z]*' AND role NOT GLOB '*[^a-z0-9_]*'),
    CONSTRAINT core_memberships__is_active__check CHECK (is_active IN (0, 1)),
    CONSTRAINT core_memberships__created_at__check
        CHECK (instr(created_at, char(0)) = 0 AND created_at > '0001'
            AND substr(created_at, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]Z'
            AND strftime('%Y-%m-%dT%H:%M:%S', substr(created_at, 1, 19), '+0 days') IS substr(created_at, 1, 19))
) STRICT, WITHOUT ROWID;
CREATE INDEX core_memberships_tenant_id ON core_memberships (tenant_id, id);

CREATE TABLE core_pricing_plans (
    id                   text NOT NULL DEFAULT (lower(hex(randomblob(16)))),
    name                 text NOT NULL,
    description          text,
    stripe_price_monthly text,
    stripe_price_yearly  text,
    amount_monthly       integer NOT NULL DEFAULT 0,
    amount_yearly        integer NOT NULL DEFAULT 0,
    currency             text NOT NULL DEFAULT 'usd',
    trial_days           integer NOT NULL DEFAULT 30,
    features             text,
    tier_level           integer NOT NULL DEFAULT 0,
    is_active            integer NOT NULL DEFAULT 1,
    sort_order           integer NOT NULL DEFAULT 0,
    created_at           text NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')),
    CONSTRAINT core_pricing_plans__id PRIMARY KEY (id),
    CONSTRAINT core_pricing_plans__id__check CHECK (id <> '' AND instr(id, char(0)) = 0),
    CONSTRAINT core_pricing_plans__name__check CHECK (name <> '' AND instr(name, char(0)) = 0),
    CONSTRAINT core_pricing_plans__amount_monthly__check CHECK (amount_monthly >= 0),
    CONSTRAINT core_pricing_plans__amount_yearly__check CHECK (amount_yearly >= 0),
    CONSTRAINT core_pricing_plans__currency__check CHECK (instr(currency, char(0)) = 0 AND currency GLOB '[a-z][a-z][a-z]'),
    CONSTRAINT core_pricing_plans__trial_days__check CHECK (trial_days BETWEEN 0 AND 3650),
    CONSTRAINT core_pricing_plans__tier_level__check CHECK (tier_level >= 0),
    CONSTRAINT core_pricing_plans__is_active__check CHECK (is_active IN (0, 1)),
    CONSTRAINT core_pricing_plans__created_at__check
        CHECK (instr(created_at, char(0)) = 0 AND created_at > '0001'
            AND substr(created_at, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]Z'
            AND strftime('%Y-%m-%dT%H:%M:%S', substr(created_at, 1, 19), '+0 days') IS substr(created_at, 1, 19))
) STRICT, WITHOUT ROWID;
CREATE INDEX core_pricing_plans_stripe_price_monthly ON core_pricing_plans (stripe_price_monthly);
CREATE INDEX core_pricing_plans_stripe_price_yearly ON core_pricing_plans (stripe_price_yearly);

CREATE TABLE core_subscriptions (
    id                   text NOT NULL DEFAULT (lower(hex(randomblob(16)))),
    tenant_id            text NOT NULL,
    stripe_sub_id        text,
    stripe_cust_id       text,
    plan_tier            text NOT NULL DEFAULT 'free',
    status               text NOT NULL DEFAULT 'incomplete',
    current_period_end   text,
    cancel_at_period_end integer NOT NULL DEFAULT 0,
    payment_type         text NOT NULL DEFAULT 'subscription',
    amount_cents         integer NOT NULL DEFAULT 0,
    product_name         text,
    trial_end            text,
    created_at           text NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')),
    CONSTRAINT core_subscriptions__id PRIMARY KEY (id),
    CONSTRAINT core_subscriptions__stripe_sub_id UNIQUE (stripe_sub_id),
    CONSTRAINT core_subscriptions__tenant_id__fkey FOREIGN KEY (tenant_id) REFERENCES core_tenants (id),
    CONSTRAINT core_subscriptions__id__check CHECK (instr(id, char(0)) = 0 AND length(id) = 32 AND id NOT GLOB '*[^0-9a-f]*'),
    CONSTRAINT core_subscriptions__status__check
        CHECK (instr(status, char(0)) = 0 AND length(status) <= 32 AND status GLOB '[a-z]*' AND status NOT GLOB '*[^a-z0-9_]*'),
    CONSTRAINT core_subscriptions__payment_type__check CHECK (payment_type IN ('subscription', 'one_time')),
    CONSTRAINT core_subscriptions__amount_cents__check CHECK (amount_cents >= 0),
    CONSTRAINT core_subscriptions__cancel_at_period_end__check CHECK (cancel_at_period_end IN (0, 1)),
    CONSTRAINT core_subscriptions__current_period_end__check
        CHECK (instr(current_period_end, char(0)) = 0 AND current_period_end > '0001'
            AND substr(current_period_end, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]Z'
            AND strftime('%Y-%m-%dT%H:%M:%S', substr(current_period_end, 1, 19), '+0 days') IS substr(current_period_end, 1, 19)),
    CONSTRAINT core_subscriptions__trial_end__check
        CHECK (instr(trial_end, char(0)) = 0 AND trial_end > '0001'
            AND substr(trial_end, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]Z'
            AND strftime('%Y-%m-%dT%H:%M:%S', substr(trial_end, 1, 19), '+0 days') IS substr(trial_end, 1, 19)),
    CONSTRAINT core_subscriptions__created_at__check
        CHECK (instr(created_at, char(0)) = 0 AND created_at > '0001'
            AND substr(created_at, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]Z'
            AND strftime('%Y-%m-%dT%H:%M:%S', substr(created_at, 1, 19), '+0 days') IS substr(created_at, 1, 19))
) STRICT, WITHOUT ROWID;
CREATE INDEX core_subscriptions_tenant_id ON core_subscriptions (tenant_id, id);
CREATE INDEX core_subscriptions_stripe_cust_id ON core_subscriptions (stripe_cust_id);

CREATE TABLE sys_audit_logs (
    id            text NOT NULL DEFAULT (lower(hex(randomblob(16)))),
    actor_user_id text,
    event_type    text NOT NULL,
    target_id     text,
    details       text,
    ip_address    text,
    created_at    text NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')),
    CONSTRAINT sys_audit_logs__id PRIMARY KEY (id),
    CONSTRAINT sys_audit_logs__id__check CHECK (instr(id, char(0)) = 0 AND length(id) = 32 AND id NOT GLOB '*[^0-9a-f]*'),
    CONSTRAINT sys_audit_logs__event_type__check CHECK (event_type <> '' AND instr(event_type, char(0)) = 0),
    CONSTRAINT sys_audit_logs__created_at__check
        CHECK (instr(created_at, char(0)) = 0 AND created_at > '0001'
            AND substr(created_at, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]Z'
            AND strftime('%Y-%m-%dT%H:%M:%S', substr(created_at, 1, 19), '+0 days') IS substr(created_at, 1, 19))
) STRICT, WITHOUT ROWID;
CREATE INDEX sys_audit_logs_target_id ON sys_audit_logs (target_id, id);
CREATE INDEX sys_audit_logs_actor_user_id ON sys_audit_logs (actor_user_id, id);

CREATE TABLE sys_jobs (
    id           text NOT NULL DEFAULT (lower(hex(randomblob(16)))),
    job_type     text NOT NULL,
    status       text NOT NULL DEFAULT 'pending',
    payload      text,
    error_log    text,
    created_at   text NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')),
    completed_at text,
    tenant_id    text,
    attempts     integer NOT NULL DEFAULT 0,
    max_attempts integer NOT NULL DEFAULT 5,
    run_after    text,
    lease_until  text,
    worker       text,
    claim_id     text,
    dedupe_key   text,
    turn         integer NOT NULL DEFAULT 0,
    CONSTRAINT sys_jobs__id PRIMARY KEY (id),
    CONSTRAINT sys_jobs__id__check CHECK (instr(id, char(0)) = 0 AND length(id) = 32 AND id NOT GLOB '*[^0-9a-f]*'),
    CONSTRAINT sys_jobs__job_type__check CHECK (job_type <> '' AND instr(job_type, char(0)) = 0),
    CONSTRAINT sys_jobs__status__check CHECK (status IN ('pending', 'running', 'completed', 'failed', 'cancelled')),
    CONSTRAINT sys_jobs__tenant_id__check
        CHECK (instr(tenant_id, char(0)) = 0 AND length(tenant_id) = 32 AND tenant_id NOT GLOB '*[^0-9a-f]*'),
    CONSTRAINT sys_jobs__attempts__check CHECK (attempts >= 0),
    CONSTRAINT sys_jobs__max_attempts__check CHECK (max_attempts BETWEEN 1 AND 1000),
    CONSTRAINT sys_jobs__created_at__check
        CHECK (instr(created_at, char(0)) = 0 AND created_at > '0001'
            AND substr(created_at, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]Z'
            AND strftime('%Y-%m-%dT%H:%M:%S', substr(created_at, 1, 19), '+0 days') IS substr(created_at, 1, 19)),
    CONSTRAINT sys_jobs__completed_at__check
        CHECK (instr(completed_at, char(0)) = 0 AND completed_at > '0001'
            AND substr(completed_at, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]Z'
            AND strftime('%Y-%m-%dT%H:%M:%S', substr(completed_at, 1, 19), '+0 days') IS substr(completed_at, 1, 19)),
    CONSTRAINT sys_jobs__run_after__check
        CHECK (instr(run_after, char(0)) = 0 AND run_after > '0001'
            AND substr(run_after, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]Z'
            AND strftime('%Y-%m-%dT%H:%M:%S', substr(run_after, 1, 19), '+0 days') IS substr(run_after, 1, 19)),
    CONSTRAINT sys_jobs__lease_until__check
        CHECK (instr(lease_until, char(0)) = 0 AND lease_until > '0001'
            AND substr(lease_until, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]Z'
            AND strftime('%Y-%m-%dT%H:%M:%S', substr(lease_until, 1, 19), '+0 days') IS substr(lease_until, 1, 19))
) STRICT;
CREATE UNIQUE INDEX sys_jobs__dedupe_key ON sys_jobs (dedupe_key) WHERE status IN ('pending', 'running');
CREATE INDEX sys_jobs_ready ON sys_jobs (turn, id) WHERE status = 'pending' AND run_after IS NULL;
CREATE INDEX sys_jobs_delayed ON sys_jobs (run_after) WHERE status = 'pending' AND run_after IS NOT NULL;
CREATE INDEX sys_jobs_queue ON sys_jobs (coalesce(tenant_id, ''), turn) WHERE status = 'pending' AND run_after IS NULL;
CREATE INDEX sys_jobs_leased ON sys_jobs (lease_until) WHERE status = 'running';
CREATE INDEX sys_jobs_failed ON sys_jobs (id) WHERE status = 'failed';

CREATE TABLE core_stripe_webhook_events (
    id           text NOT NULL DEFAULT (lower(hex(randomblob(16)))),
    event_id     text NOT NULL,
    event_type   text NOT NULL,
    status       text NOT NULL DEFAULT 'processed',
    payload_json text,
    created_at   text NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')),
    CONSTRAINT core_stripe_webhook_events__id PRIMARY KEY (id),
    CONSTRAINT core_stripe_webhook_events__event_id UNIQUE (event_id),
    CONSTRAINT core_stripe_webhook_events__id__check
        CHECK (instr(id, char(0)) = 0 AND length(id) = 32 AND id NOT GLOB '*[^0-9a-f]*'),
    CONSTRAINT core_stripe_webhook_events__event_id__check CHECK (event_id <> '' AND instr(event_id, char(0)) = 0),
    CONSTRAINT core_stripe_webhook_events__event_type__check CHECK (event_type <> '' AND instr(event_type, char(0)) = 0),
    CONSTRAINT core_stripe_webhook_events__status__check
        CHECK (status IN ('processed', 'failed', 'skipped_out_of_order', 'parked')),
    CONSTRAINT core_stripe_webhook_events__created_at__check
        CHECK (instr(created_at, char(0)) = 0 AND created_at > '0001'
            AND substr(created_at, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]Z'
            AND strftime('%Y-%m-%dT%H:%M:%S', substr(created_at, 1, 19), '+0 days') IS substr(created_at, 1, 19))
) STRICT;
CREATE INDEX core_stripe_webhook_events_status ON core_stripe_webhook_events (status, id) WHERE status <> 'processed';

-- The log of changes, from which every process invalidates its caches.
CREATE TABLE host_changes (
    id         integer PRIMARY KEY AUTOINCREMENT,
    kind       text NOT NULL,
    user_id    text,
    tenant_id  text,
    plan_id    text,
    changed_at text NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
) STRICT;
-- The highest id that was pruned.
CREATE TABLE host_feed_floor (
    one   integer PRIMARY KEY DEFAULT 1 CHECK (one = 1),
    floor integer NOT NULL DEFAULT 0
) STRICT;
INSERT INTO host_feed_floor DEFAULT VALUES;
