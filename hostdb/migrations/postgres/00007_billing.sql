-- +goose Up
-- The plan that each price last belonged to. A price that has left its plan still means that plan, because
-- subscriptions keep it.
CREATE TABLE host_plan_prices (
    price   text COLLATE "C" NOT NULL,
    plan_id text COLLATE "C" NOT NULL,
    CONSTRAINT host_plan_prices__price PRIMARY KEY (price)
);
INSERT INTO host_plan_prices (price, plan_id)
    SELECT stripe_price_monthly, min(id) FROM core_pricing_plans WHERE stripe_price_monthly IS NOT NULL GROUP BY 1;
INSERT INTO host_plan_prices (price, plan_id)
    SELECT stripe_price_yearly, min(id) FROM core_pricing_plans WHERE stripe_price_yearly IS NOT NULL GROUP BY 1
    ON CONFLICT (price) DO NOTHING;
-- +goose StatementBegin
CREATE FUNCTION host_note_prices() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO host_plan_prices (price, plan_id)
        SELECT DISTINCT p, NEW.id FROM unnest(ARRAY[NEW.stripe_price_monthly, NEW.stripe_price_yearly]) AS p
            WHERE p IS NOT NULL
        ON CONFLICT (price) DO UPDATE SET plan_id = excluded.plan_id;
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER core_pricing_plans_priced AFTER INSERT OR UPDATE ON core_pricing_plans
    FOR EACH ROW EXECUTE FUNCTION host_note_prices();
ALTER TABLE core_pricing_plans ENABLE ALWAYS TRIGGER core_pricing_plans_priced;
-- +goose StatementBegin
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION %I.host_note_prices() SET search_path = %I, pg_temp', current_schema(), current_schema());
END $$;
-- +goose StatementEnd

-- Used to find the events about one subscription.
CREATE INDEX core_stripe_webhook_events_sub ON core_stripe_webhook_events (stripe_sub_id, id);

-- The event that a subscription has its plan from, and when a renewal's payment last failed.
ALTER TABLE core_subscriptions
    ADD COLUMN plan_event        text COLLATE "C",
    ADD COLUMN invoice_failed_at timestamptz,
    ADD CONSTRAINT core_subscriptions__invoice_failed_at__check
        CHECK (invoice_failed_at >= '0001-01-01 00:00:00Z' AND invoice_failed_at < '10000-01-01 00:00:00Z');
