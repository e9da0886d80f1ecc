-- +goose Up
-- The latest of Stripe's events that a subscription reflects. Events arrive in any order, and only a later
-- one may change the row.
ALTER TABLE core_subscriptions ADD COLUMN last_event_at text
    CONSTRAINT core_subscriptions__last_event_at__check
        CHECK (instr(last_event_at, char(0)) = 0 AND last_event_at > '0001'
            AND substr(last_event_at, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]Z'
            AND strftime('%Y-%m-%dT%H:%M:%S', substr(last_event_at, 1, 19), '+0 days') IS substr(last_event_at, 1, 19));
ALTER TABLE core_subscriptions ADD COLUMN last_event_rank integer NOT NULL DEFAULT 0
    CONSTRAINT core_subscriptions__last_event_rank__check CHECK (last_event_rank >= 0);
ALTER TABLE core_subscriptions ADD COLUMN last_event_id text;

-- The subscription and tenant that an event concerns, by which a parked one is found once they exist, and
-- the reason of its status.
ALTER TABLE core_stripe_webhook_events ADD COLUMN stripe_sub_id text;
ALTER TABLE core_stripe_webhook_events ADD COLUMN tenant_id text
    CONSTRAINT core_stripe_webhook_events__tenant_id__check
        CHECK (instr(tenant_id, char(0)) = 0 AND length(tenant_id) = 32 AND tenant_id NOT GLOB '*[^0-9a-f]*');
ALTER TABLE core_stripe_webhook_events ADD COLUMN reason text;
CREATE INDEX core_stripe_webhook_events_parked_sub ON core_stripe_webhook_events (stripe_sub_id, id) WHERE status = 'parked';
CREATE INDEX core_stripe_webhook_events_parked_tenant ON core_stripe_webhook_events (tenant_id, id) WHERE status = 'parked';
