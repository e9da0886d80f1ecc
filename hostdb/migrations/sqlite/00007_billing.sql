-- +goose Up
-- The plan that each price last belonged to. A price that has left its plan still means that plan, because
-- subscriptions keep it.
CREATE TABLE host_plan_prices (
    price   text NOT NULL,
    plan_id text NOT NULL,
    CONSTRAINT host_plan_prices__price PRIMARY KEY (price)
) STRICT, WITHOUT ROWID;
INSERT INTO host_plan_prices (price, plan_id)
    SELECT stripe_price_monthly, min(id) FROM core_pricing_plans WHERE stripe_price_monthly IS NOT NULL GROUP BY 1;
INSERT OR IGNORE INTO host_plan_prices (price, plan_id)
    SELECT stripe_price_yearly, min(id) FROM core_pricing_plans WHERE stripe_price_yearly IS NOT NULL GROUP BY 1;
-- The upserts name their conflict target, so that an OR clause of the statement that fires the trigger
-- doesn't apply to them.
-- +goose StatementBegin
CREATE TRIGGER core_pricing_plans_priced_new AFTER INSERT ON core_pricing_plans BEGIN
    INSERT INTO host_plan_prices (price, plan_id) SELECT NEW.stripe_price_monthly, NEW.id
        WHERE NEW.stripe_price_monthly IS NOT NULL
        ON CONFLICT (price) DO UPDATE SET plan_id = excluded.plan_id;
    INSERT INTO host_plan_prices (price, plan_id) SELECT NEW.stripe_price_yearly, NEW.id
        WHERE NEW.stripe_price_yearly IS NOT NULL
        ON CONFLICT (price) DO UPDATE SET plan_id = excluded.plan_id;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER core_pricing_plans_priced_anew AFTER UPDATE ON core_pricing_plans BEGIN
    INSERT INTO host_plan_prices (price, plan_id) SELECT NEW.stripe_price_monthly, NEW.id
        WHERE NEW.stripe_price_monthly IS NOT NULL
        ON CONFLICT (price) DO UPDATE SET plan_id = excluded.plan_id;
    INSERT INTO host_plan_prices (price, plan_id) SELECT NEW.stripe_price_yearly, NEW.id
        WHERE NEW.stripe_price_yearly IS NOT NULL
        ON CONFLICT (price) DO UPDATE SET plan_id = excluded.plan_id;
END;
-- +goose StatementEnd

-- Used to find the events about one subscription.
CREATE INDEX core_stripe_webhook_events_sub ON core_stripe_webhook_events (stripe_sub_id, id);

-- The event that a subscription has its plan from, and when a renewal's payment last failed.
ALTER TABLE core_subscriptions ADD COLUMN plan_event text;
ALTER TABLE core_subscriptions ADD COLUMN invoice_failed_at text
    CONSTRAINT core_subscriptions__invoice_failed_at__check
        CHECK (instr(invoice_failed_at, char(0)) = 0 AND invoice_failed_at > '0001'
            AND substr(invoice_failed_at, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]Z'
            AND strftime('%Y-%m-%dT%H:%M:%S', substr(invoice_failed_at, 1, 19), '+0 days') IS substr(invoice_failed_at, 1, 19));
