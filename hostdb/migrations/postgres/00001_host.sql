-- +goose Up
-- Times are in the years 1 to 9999, which every driver can read.
CREATE TABLE core_users (
    id             text COLLATE "C" NOT NULL DEFAULT replace(gen_random_uuid()::text, '-', ''),
    email          text COLLATE "C" NOT NULL,
    oauth_id       text COLLATE "C",
    password_hash  text COLLATE "C",
    stripe_cust_id text COLLATE "C",
    is_sys_admin   boolean NOT NULL DEFAULT false,
    created_at     timestamptz NOT NULL DEFAULT now(),
    last_login     timestamptz,
    CONSTRAINT core_users__id PRIMARY KEY (id),
    CONSTRAINT core_users__oauth_id UNIQUE (oauth_id),
    CONSTRAINT core_users__id__check CHECK (id ~ '^[0-9a-f]{32}$'),
    CONSTRAINT core_users__email__check CHECK (email <> ''),
    CONSTRAINT core_users__created_at__check
        CHECK (created_at >= '0001-01-01 00:00:00Z' AND created_at < '10000-01-01 00:00:00Z'),
    CONSTRAINT core_users__last_login__check
        CHECK (last_login >= '0001-01-01 00:00:00Z' AND last_login < '10000-01-01 00:00:00Z')
);
-- In collation "C" lower() only changes ASCII letters.
CREATE UNIQUE INDEX core_users__email ON core_users (lower(email));
CREATE INDEX core_users_stripe_cust_id ON core_users (stripe_cust_id);

CREATE TABLE core_tenants (
    id             text COLLATE "C" NOT NULL DEFAULT replace(gen_random_uuid()::text, '-', ''),
    name           text COLLATE "C" NOT NULL,
    db_url         text COLLATE "C",
    is_active      boolean NOT NULL DEFAULT true,
    plan_tier      text COLLATE "C" NOT NULL DEFAULT 'free',
    created_at     timestamptz NOT NULL DEFAULT now(),
    slug           text COLLATE "C",
    status         text COLLATE "C" NOT NULL DEFAULT 'active',
    schema_version bigint,
    active_owners  bigint NOT NULL DEFAULT 0,
    CONSTRAINT core_tenants__id PRIMARY KEY (id),
    CONSTRAINT core_tenants__slug UNIQUE (slug),
    CONSTRAINT core_tenants__id__check CHECK (id ~ '^[0-9a-f]{32}$'),
    CONSTRAINT core_tenants__name__check CHECK (name <> ''),
    CONSTRAINT core_tenants__slug__check
        CHECK (slug ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$' AND slug !~ '^[0-9a-f]{32}$'),
    CONSTRAINT core_tenants__status__check
        CHECK (status IN ('provisioning', 'active', 'suspended', 'maintenance', 'dropped')),
    CONSTRAINT core_tenants__schema_version__check CHECK (schema_version > 0),
    CONSTRAINT core_tenants__active_owners__check CHECK (active_owners >= 0),
    CONSTRAINT core_tenants__created_at__check
        CHECK (created_at >= '0001-01-01 00:00:00Z' AND created_at < '10000-01-01 00:00:00Z')
);

CREATE TABLE core_memberships (
    id              text COLLATE "C" NOT NULL DEFAULT replace(gen_random_uuid()::text, '-', ''),
    user_id         text COLLATE "C" NOT NULL,
    tenant_id       text COLLATE "C" NOT NULL,
    profile_id      text COLLATE "C",
    meta_attributes text COLLATE "C",
    role            text COLLATE "C" NOT NULL DEFAULT 'member',
    is_active       boolean NOT NULL DEFAULT true,
    created_at      timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT core_memberships__id PRIMARY KEY (id),
    CONSTRAINT core_memberships__user_id__tenant_id UNIQUE (user_id, tenant_id),
    CONSTRAINT core_memberships__user_id__fkey FOREIGN KEY (user_id) REFERENCES core_users (id),
    CONSTRAINT core_memberships__tenant_id__fkey FOREIGN KEY (tenant_id) REFERENCES core_tenants (id),
    CONSTRAINT core_memberships__id__check CHECK (id ~ '^[0-9a-f]{32}$'),
    CONSTRAINT core_memberships__role__check CHECK (role ~ '^[a-z][a-z0-9_]{0,31}$'),
    CONSTRAINT core_memberships__created_at__check
        CHECK (created_at >= '0001-01-01 00:00:00Z' AND created_at < '10000-01-01 00:00:00Z')
);
CREATE INDEX core_memberships_tenant_id ON core_memberships (tenant_id, id);

CREATE TABLE core_pricing_plans (
    id                   text COLLATE "C" NOT NULL DEFAULT replace(gen_random_uuid()::text, '-', ''),
    name                 text COLLATE "C" NOT NULL,
    description          text COLLATE "C",
    stripe_price_monthly text COLLATE "C",
    stripe_price_yearly  text COLLATE "C",
    amount_monthly       bigint NOT NULL DEFAULT 0,
    amount_yearly        bigint NOT NULL DEFAULT 0,
    currency             text COLLATE "C" NOT NULL DEFAULT 'usd',
    trial_days           bigint NOT NULL DEFAULT 30,
    features             text COLLATE "C",
    tier_level           bigint NOT NULL DEFAULT 0,
    is_active            boolean NOT NULL DEFAULT true,
    sort_order           bigint NOT NULL DEFAULT 0,
    created_at           timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT core_pricing_plans__id PRIMARY KEY (id),
    CONSTRAINT core_pricing_plans__id__check CHECK (id <> ''),
    CONSTRAINT core_pricing_plans__name__check CHECK (name <> ''),
    CONSTRAINT core_pricing_plans__amount_monthly__check CHECK (amount_monthly >= 0),
    CONSTRAINT core_pricing_plans__amount_yearly__check CHECK (amount_yearly >= 0),
    CONSTRAINT core_pricing_plans__currency__check CHECK (currency ~ '^[a-z]{3}$'),
    CONSTRAINT core_pricing_plans__trial_days__check CHECK (trial_days BETWEEN 0 AND 3650),
    CONSTRAINT core_pricing_plans__tier_level__check CHECK (tier_level >= 0),
    CONSTRAINT core_pricing_plans__created_at__check
        CHECK (created_at >= '0001-01-01 00:00:00Z' AND created_at < '10000-01-01 00:00:00Z')
);
CREATE INDEX core_pricing_plans_stripe_price_monthly ON core_pricing_plans (stripe_price_monthly);
CREATE INDEX core_pricing_plans_stripe_price_yearly ON core_pricing_plans (stripe_price_yearly);

CREATE TABLE core_subscriptions (
    id                   text COLLATE "C" NOT NULL DEFAULT replace(gen_random_uuid()::text, '-', ''),
    tenant_id            text COLLATE "C" NOT NULL,
    stripe_sub_id        text COLLATE "C",
    stripe_cust_id       text COLLATE "C",
    plan_tier            text COLLATE "C" NOT NULL DEFAULT 'free',
    status               text COLLATE "C" NOT NULL DEFAULT 'incomplete',
    current_period_end   timestamptz,
    cancel_at_period_end boolean NOT NULL DEFAULT false,
    payment_type         text COLLATE "C" NOT NULL DEFAULT 'subscription',
    amount_cents         bigint NOT NULL DEFAULT 0,
    product_name         text COLLATE "C",
    trial_end            timestamptz,
    created_at           timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT core_subscriptions__id PRIMARY KEY (id),
    CONSTRAINT core_subscriptions__stripe_sub_id UNIQUE (stripe_sub_id),
    CONSTRAINT core_subscriptions__tenant_id__fkey FOREIGN KEY (tenant_id) REFERENCES core_tenants (id),
    CONSTRAINT core_subscriptions__id__check CHECK (id ~ '^[0-9a-f]{32}$'),
    CONSTRAINT core_subscriptions__status__check CHECK (status ~ '^[a-z][a-z0-9_]{0,31}$'),
    CONSTRAINT core_subscriptions__payment_type__check CHECK (payment_type IN ('subscription', 'one_time')),
    CONSTRAINT core_subscriptions__amount_cents__check CHECK (amount_cents >= 0),
    CONSTRAINT core_subscriptions__current_period_end__check
        CHECK (current_period_end >= '0001-01-01 00:00:00Z' AND current_period_end < '10000-01-01 00:00:00Z'),
    CONSTRAINT core_subscriptions__trial_end__check
        CHECK (trial_end >= '0001-01-01 00:00:00Z' AND trial_end < '10000-01-01 00:00:00Z'),
    CONSTRAINT core_subscriptions__created_at__check
        CHECK (created_at >= '0001-01-01 00:00:00Z' AND created_at < '10000-01-01 00:00:00Z')
);
CREATE INDEX core_subscriptions_tenant_id ON core_subscriptions (tenant_id, id);
CREATE INDEX core_subscriptions_stripe_cust_id ON core_subscriptions (stripe_cust_id);

CREATE TABLE sys_audit_logs (
    id            text COLLATE "C" NOT NULL DEFAULT replace(gen_random_uuid()::text, '-', ''),
    actor_user_id text COLLATE "C",
    event_type    text COLLATE "C" NOT NULL,
    target_id     text COLLATE "C",
    details       text COLLATE "C",
    ip_address    text COLLATE "C",
    created_at    timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT sys_audit_logs__id PRIMARY KEY (id),
    CONSTRAINT sys_audit_logs__id__check CHECK (id ~ '^[0-9a-f]{32}$'),
    CONSTRAINT sys_audit_logs__event_type__check CHECK (event_type <> ''),
    CONSTRAINT sys_audit_logs__created_at__check
        CHECK (created_at >= '0001-01-01 00:00:00Z' AND created_at < '10000-01-01 00:00:00Z')
);
CREATE INDEX sys_audit_logs_target_id ON sys_audit_logs (target_id, id);
CREATE INDEX sys_audit_logs_actor_user_id ON sys_audit_logs (actor_user_id, id);

CREATE TABLE sys_jobs (
    id           text COLLATE "C" NOT NULL DEFAULT replace(gen_random_uuid()::text, '-', ''),
    job_type     text COLLATE "C" NOT NULL,
    status       text COLLATE "C" NOT NULL DEFAULT 'pending',
    payload      text COLLATE "C",
    error_log    text COLLATE "C",
    created_at   timestamptz NOT NULL DEFAULT now(),
    completed_at timestamptz,
    tenant_id    text COLLATE "C",
    attempts     bigint NOT NULL DEFAULT 0,
    max_attempts bigint NOT NULL DEFAULT 5,
    run_after    timestamptz,
    lease_until  timestamptz,
    worker       text COLLATE "C",
    claim_id     text COLLATE "C",
    dedupe_key   text COLLATE "C",
    turn         bigint NOT NULL DEFAULT 0,
    CONSTRAINT sys_jobs__id PRIMARY KEY (id),
    CONSTRAINT sys_jobs__id__check CHECK (id ~ '^[0-9a-f]{32}$'),
    CONSTRAINT sys_jobs__job_type__check CHECK (job_type <> ''),
    CONSTRAINT sys_jobs__status__check CHECK (status IN ('pending', 'running', 'completed', 'failed', 'cancelled')),
    CONSTRAINT sys_jobs__tenant_id__check CHECK (tenant_id ~ '^[0-9a-f]{32}$'),
    CONSTRAINT sys_jobs__attempts__check CHECK (attempts >= 0),
    CONSTRAINT sys_jobs__max_attempts__check CHECK (max_attempts BETWEEN 1 AND 1000),
    CONSTRAINT sys_jobs__created_at__check
        CHECK (created_at >= '0001-01-01 00:00:00Z' AND created_at < '10000-01-01 00:00:00Z'),
    CONSTRAINT sys_jobs__completed_at__check
        CHECK (completed_at >= '0001-01-01 00:00:00Z' AND completed_at < '10000-01-01 00:00:00Z'),
    CONSTRAINT sys_jobs__run_after__check
        CHECK (run_after >= '0001-01-01 00:00:00Z' AND run_after < '10000-01-01 00:00:00Z'),
    CONSTRAINT sys_jobs__lease_until__check
        CHECK (lease_until >= '0001-01-01 00:00:00Z' AND lease_until < '10000-01-01 00:00:00Z')
);
CREATE UNIQUE INDEX sys_jobs__dedupe_key ON sys_jobs (dedupe_key) WHERE status IN ('pending', 'running');
CREATE INDEX sys_jobs_ready ON sys_jobs (turn, id) WHERE status = 'pending' AND run_after IS NULL;
CREATE INDEX sys_jobs_delayed ON sys_jobs (run_after) WHERE status = 'pending' AND run_after IS NOT NULL;
CREATE INDEX sys_jobs_queue ON sys_jobs ((coalesce(tenant_id, '')), turn) WHERE status = 'pending' AND run_after IS NULL;
CREATE INDEX sys_jobs_leased ON sys_jobs (lease_until) WHERE status = 'running';
CREATE INDEX sys_jobs_failed ON sys_jobs (id) WHERE status = 'failed';

CREATE TABLE core_stripe_webhook_events (
    id           text COLLATE "C" NOT NULL DEFAULT replace(gen_random_uuid()::text, '-', ''),
    event_id     text COLLATE "C" NOT NULL,
    event_type   text COLLATE "C" NOT NULL,
    status       text COLLATE "C" NOT NULL DEFAULT 'processed',
    payload_json text COLLATE "C",
    created_at   timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT core_stripe_webhook_events__id PRIMARY KEY (id),
    CONSTRAINT core_stripe_webhook_events__event_id UNIQUE (event_id),
    CONSTRAINT core_stripe_webhook_events__id__check CHECK (id ~ '^[0-9a-f]{32}$'),
    CONSTRAINT core_stripe_webhook_events__event_id__check CHECK (event_id <> ''),
    CONSTRAINT core_stripe_webhook_events__event_type__check CHECK (event_type <> ''),
    CONSTRAINT core_stripe_webhook_events__status__check
        CHECK (status IN ('processed', 'failed', 'skipped_out_of_order', 'parked')),
    CONSTRAINT core_stripe_webhook_events__created_at__check
        CHECK (created_at >= '0001-01-01 00:00:00Z' AND created_at < '10000-01-01 00:00:00Z')
);
CREATE INDEX core_stripe_webhook_events_status ON core_stripe_webhook_events (status, id) WHERE status <> 'processed';

-- The log of changes, from which every process invalidates its caches.
CREATE TABLE host_changes (
    id        bigint GENERATED ALWAYS AS IDENTITY,
    xid       xid8 NOT NULL DEFAULT pg_current_xact_id(),
    kind      text COLLATE "C" NOT NULL,
    user_id   text COLLATE "C",
    tenant_id text COLLATE "C",
    plan_id   text COLLATE "C",
    PRIMARY KEY (xid, id)
);
-- Snapshots by age say which changes may be pruned. The floor is the transaction below which they have been.
CREATE TABLE host_feed_marks (
    taken_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    snapshot pg_snapshot NOT NULL DEFAULT pg_current_snapshot()
);
CREATE TABLE host_feed_floor (
    one   boolean PRIMARY KEY DEFAULT true CHECK (one),
    floor xid8 NOT NULL DEFAULT '0'
);
INSERT INTO host_feed_floor DEFAULT VALUES;
