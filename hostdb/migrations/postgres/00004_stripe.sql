-- +goose Up
-- The latest of Stripe's events that a subscription reflects. Events arrive in any order, and only a later
-- one may change the row.
ALTER TABLE core_subscriptions
    ADD COLUMN last_event_at   timestamptz,
    ADD COLUMN last_event_rank bigint NOT NULL DEFAULT 0,
    ADD COLUMN last_event_id   text COLLATE "C",
    ADD CONSTRAINT core_subscriptions__last_event_at__check
        CHECK (last_event_at >= '0001-01-01 00:00:00Z' AND last_event_at < '10000-01-01 00:00:00Z'),
    ADD CONSTRAINT core_subscriptions__last_event_rank__check CHECK (last_event_rank >= 0);

-- The subscription and tenant that an event concerns, by which a parked one is found once they exist, and
-- the reason of its status.
ALTER TABLE core_stripe_webhook_events
    ADD COLUMN stripe_sub_id text COLLATE "C",
    ADD COLUMN tenant_id     text COLLATE "C",
    ADD COLUMN reason        text COLLATE "C",
    ADD CONSTRAINT core_stripe_webhook_events__tenant_id__check CHECK (tenant_id ~ '^[0-9a-f]{32}$');
CREATE INDEX core_stripe_webhook_events_parked_sub ON core_stripe_webhook_events (stripe_sub_id, id) WHERE status = 'parked';
CREATE INDEX core_stripe_webhook_events_parked_tenant ON core_stripe_webhook_events (tenant_id, id) WHERE status = 'parked';
