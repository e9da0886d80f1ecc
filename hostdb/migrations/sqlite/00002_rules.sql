-- +goose Up
-- Audit rows are never changed, nor replaced by INSERT OR REPLACE, which fires no DELETE trigger.
-- +goose StatementBegin
CREATE TRIGGER sys_audit_logs_update BEFORE UPDATE ON sys_audit_logs BEGIN
    SELECT RAISE(ABORT, 'hostdb:immutable:sys_audit_logs');
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER sys_audit_logs_delete BEFORE DELETE ON sys_audit_logs BEGIN
    SELECT RAISE(ABORT, 'hostdb:immutable:sys_audit_logs');
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER sys_audit_logs_replace BEFORE INSERT ON sys_audit_logs WHEN EXISTS (SELECT 1 FROM sys_audit_logs WHERE id = NEW.id) BEGIN
    SELECT RAISE(ABORT, 'hostdb:conflict:id');
END;
-- +goose StatementEnd

-- A tenant keeps an active owner. There is one writer at a time, so counting rows is safe here. It is right
-- after OR REPLACE too: the replaced row belongs to the new row's tenant, because a taken id is refused.
-- +goose StatementBegin
CREATE TRIGGER core_memberships_keep_id BEFORE INSERT ON core_memberships
    WHEN EXISTS (SELECT 1 FROM core_memberships WHERE id = NEW.id AND tenant_id <> NEW.tenant_id) BEGIN
    SELECT RAISE(ABORT, 'hostdb:conflict:id');
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER core_memberships_take_id BEFORE UPDATE OF id ON core_memberships
    WHEN NEW.id <> OLD.id AND EXISTS (SELECT 1 FROM core_memberships WHERE id = NEW.id) BEGIN
    SELECT RAISE(ABORT, 'hostdb:conflict:id');
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER core_memberships_owners_insert AFTER INSERT ON core_memberships BEGIN
    UPDATE core_tenants SET active_owners = (SELECT count(*) FROM core_memberships
        WHERE tenant_id = NEW.tenant_id AND is_active AND role = 'owner') WHERE id = NEW.tenant_id;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER core_memberships_owners_update AFTER UPDATE ON core_memberships
    WHEN (OLD.is_active AND OLD.role = 'owner') <> (NEW.is_active AND NEW.role = 'owner')
        OR OLD.tenant_id <> NEW.tenant_id OR OLD.user_id <> NEW.user_id BEGIN
    UPDATE core_tenants SET active_owners = (SELECT count(*) FROM core_memberships
        WHERE tenant_id = NEW.tenant_id AND is_active AND role = 'owner') WHERE id = NEW.tenant_id;
    UPDATE core_tenants SET active_owners = (SELECT count(*) FROM core_memberships
        WHERE tenant_id = OLD.tenant_id AND is_active AND role = 'owner') WHERE id = OLD.tenant_id;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER core_memberships_owners_delete AFTER DELETE ON core_memberships WHEN (OLD.is_active AND OLD.role = 'owner') BEGIN
    UPDATE core_tenants SET active_owners = (SELECT count(*) FROM core_memberships
        WHERE tenant_id = OLD.tenant_id AND is_active AND role = 'owner') WHERE id = OLD.tenant_id;
END;
-- +goose StatementEnd
-- A tenant that is dropped or being provisioned needs no owner, but can't become active without one.
-- +goose StatementBegin
CREATE TRIGGER core_tenants_keep_owner BEFORE UPDATE OF active_owners, status ON core_tenants
    WHEN NEW.active_owners = 0 AND (OLD.active_owners > 0 AND NEW.status NOT IN ('provisioning', 'dropped')
        OR OLD.status <> 'active' AND NEW.status = 'active') BEGIN
    SELECT RAISE(ABORT, 'hostdb:conflict:last_owner');
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER core_tenants_count BEFORE UPDATE OF active_owners ON core_tenants
    WHEN NEW.active_owners <> OLD.active_owners AND NEW.active_owners <> (SELECT count(*) FROM core_memberships
        WHERE tenant_id = OLD.id AND is_active AND role = 'owner') BEGIN
    SELECT RAISE(ABORT, 'hostdb:immutable:active_owners');
END;
-- +goose StatementEnd
-- A new row is counted as well, because it may have replaced one with members.
-- +goose StatementBegin
CREATE TRIGGER core_tenants_count_insert AFTER INSERT ON core_tenants BEGIN
    UPDATE core_tenants SET active_owners = (SELECT count(*) FROM core_memberships
        WHERE tenant_id = NEW.id AND is_active AND role = 'owner') WHERE id = NEW.id AND active_owners <> (SELECT count(*)
        FROM core_memberships WHERE tenant_id = NEW.id AND is_active AND role = 'owner');
    SELECT RAISE(ABORT, 'hostdb:conflict:last_owner') FROM core_tenants WHERE id = NEW.id AND active_owners = 0
        AND status NOT IN ('provisioning', 'dropped') AND EXISTS (SELECT 1 FROM core_memberships WHERE tenant_id = NEW.id);
END;
-- +goose StatementEnd

-- A job gets its tenant's next turn when it becomes ready, whatever inserts or changes it: a tenant with
-- thousands of waiting jobs delays another tenant's only job by one. Only a job whose worker has died keeps
-- its turn.
-- +goose StatementBegin
CREATE TRIGGER sys_jobs_turn AFTER INSERT ON sys_jobs WHEN NEW.status = 'pending' AND NEW.run_after IS NULL BEGIN
    UPDATE sys_jobs SET turn = 1 + max(
        coalesce((SELECT turn FROM sys_jobs WHERE status = 'pending' AND run_after IS NULL
            AND coalesce(tenant_id, '') = coalesce(NEW.tenant_id, '') AND id <> NEW.id ORDER BY turn DESC LIMIT 1), 0),
        coalesce((SELECT turn - 1 FROM sys_jobs WHERE status = 'pending' AND run_after IS NULL AND id <> NEW.id
            ORDER BY turn LIMIT 1), 0))
    WHERE id = NEW.id;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER sys_jobs_turn_again AFTER UPDATE OF status, run_after ON sys_jobs
    WHEN NEW.status = 'pending' AND NEW.run_after IS NULL AND OLD.status <> 'running'
        AND (OLD.status <> 'pending' OR OLD.run_after IS NOT NULL) BEGIN
    UPDATE sys_jobs SET turn = 1 + max(
        coalesce((SELECT turn FROM sys_jobs WHERE status = 'pending' AND run_after IS NULL
            AND coalesce(tenant_id, '') = coalesce(NEW.tenant_id, '') AND id <> NEW.id ORDER BY turn DESC LIMIT 1), 0),
        coalesce((SELECT turn - 1 FROM sys_jobs WHERE status = 'pending' AND run_after IS NULL AND id <> NEW.id
            ORDER BY turn LIMIT 1), 0))
    WHERE id = NEW.id;
END;
-- +goose StatementEnd

-- Columns that don't affect access (last_login, the password's hash, the counter of owners, a
-- subscription's last event) are not logged.
-- +goose StatementBegin
CREATE TRIGGER core_users_inserted AFTER INSERT ON core_users BEGIN
    INSERT INTO host_changes (kind, user_id) VALUES ('user', NEW.id);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER core_users_updated AFTER UPDATE ON core_users
    WHEN OLD.id IS NOT NEW.id OR OLD.email IS NOT NEW.email OR OLD.oauth_id IS NOT NEW.oauth_id OR OLD.stripe_cust_id IS NOT
        NEW.stripe_cust_id OR OLD.is_sys_admin IS NOT NEW.is_sys_admin OR OLD.created_at IS NOT NEW.created_at BEGIN
    INSERT INTO host_changes (kind, user_id) VALUES ('user', OLD.id);
    INSERT INTO host_changes (kind, user_id) SELECT 'user', NEW.id
        WHERE OLD.id IS NOT NEW.id;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER core_users_deleted AFTER DELETE ON core_users BEGIN
    INSERT INTO host_changes (kind, user_id) VALUES ('user', OLD.id);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER core_tenants_inserted AFTER INSERT ON core_tenants BEGIN
    INSERT INTO host_changes (kind, tenant_id) VALUES ('tenant', NEW.id);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER core_tenants_updated AFTER UPDATE ON core_tenants
    WHEN OLD.id IS NOT NEW.id OR OLD.name IS NOT NEW.name OR OLD.db_url IS NOT NEW.db_url OR OLD.is_active IS NOT
        NEW.is_active OR OLD.plan_tier IS NOT NEW.plan_tier OR OLD.created_at IS NOT NEW.created_at OR OLD.slug IS
        NOT NEW.slug OR OLD.status IS NOT NEW.status OR OLD.schema_version IS NOT NEW.schema_version BEGIN
    INSERT INTO host_changes (kind, tenant_id) VALUES ('tenant', OLD.id);
    INSERT INTO host_changes (kind, tenant_id) SELECT 'tenant', NEW.id
        WHERE OLD.id IS NOT NEW.id;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER core_tenants_deleted AFTER DELETE ON core_tenants BEGIN
    INSERT INTO host_changes (kind, tenant_id) VALUES ('tenant', OLD.id);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER core_memberships_inserted AFTER INSERT ON core_memberships BEGIN
    INSERT INTO host_changes (kind, user_id, tenant_id) VALUES ('membership', NEW.user_id, NEW.tenant_id);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER core_memberships_updated AFTER UPDATE ON core_memberships
    WHEN OLD.id IS NOT NEW.id OR OLD.user_id IS NOT NEW.user_id OR OLD.tenant_id IS NOT NEW.tenant_id OR OLD.profile_id IS
        NOT NEW.profile_id OR OLD.meta_attributes IS NOT NEW.meta_attributes OR OLD.role IS NOT NEW.role OR
        OLD.is_active IS NOT NEW.is_active OR OLD.created_at IS NOT NEW.created_at BEGIN
    INSERT INTO host_changes (kind, user_id, tenant_id) VALUES ('membership', OLD.user_id, OLD.tenant_id);
    INSERT INTO host_changes (kind, user_id, tenant_id) SELECT 'membership', NEW.user_id, NEW.tenant_id
        WHERE OLD.user_id IS NOT NEW.user_id OR OLD.tenant_id IS NOT NEW.tenant_id;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER core_memberships_deleted AFTER DELETE ON core_memberships BEGIN
    INSERT INTO host_changes (kind, user_id, tenant_id) VALUES ('membership', OLD.user_id, OLD.tenant_id);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER core_subscriptions_inserted AFTER INSERT ON core_subscriptions BEGIN
    INSERT INTO host_changes (kind, tenant_id) VALUES ('subscription', NEW.tenant_id);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER core_subscriptions_updated AFTER UPDATE ON core_subscriptions
    WHEN OLD.id IS NOT NEW.id OR OLD.tenant_id IS NOT NEW.tenant_id OR OLD.stripe_sub_id IS NOT NEW.stripe_sub_id OR
        OLD.stripe_cust_id IS NOT NEW.stripe_cust_id OR OLD.plan_tier IS NOT NEW.plan_tier OR OLD.status IS NOT
        NEW.status OR OLD.current_period_end IS NOT NEW.current_period_end OR OLD.cancel_at_period_end IS NOT
        NEW.cancel_at_period_end OR OLD.payment_type IS NOT NEW.payment_type OR OLD.amount_cents IS NOT
        NEW.amount_cents OR OLD.product_name IS NOT NEW.product_name OR OLD.trial_end IS NOT NEW.trial_end OR
        OLD.created_at IS NOT NEW.created_at BEGIN
    INSERT INTO host_changes (kind, tenant_id) VALUES ('subscription', OLD.tenant_id);
    INSERT INTO host_changes (kind, tenant_id) SELECT 'subscription', NEW.tenant_id
        WHERE OLD.tenant_id IS NOT NEW.tenant_id;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER core_subscriptions_deleted AFTER DELETE ON core_subscriptions BEGIN
    INSERT INTO host_changes (kind, tenant_id) VALUES ('subscription', OLD.tenant_id);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER core_pricing_plans_inserted AFTER INSERT ON core_pricing_plans BEGIN
    INSERT INTO host_changes (kind, plan_id) VALUES ('plan', NEW.id);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER core_pricing_plans_updated AFTER UPDATE ON core_pricing_plans
    WHEN OLD.id IS NOT NEW.id OR OLD.name IS NOT NEW.name OR OLD.description IS NOT NEW.description OR
        OLD.stripe_price_monthly IS NOT NEW.stripe_price_monthly OR OLD.stripe_price_yearly IS NOT
        NEW.stripe_price_yearly OR OLD.amount_monthly IS NOT NEW.amount_monthly OR OLD.amount_yearly IS NOT
        NEW.amount_yearly OR OLD.currency IS NOT NEW.currency OR OLD.trial_days IS NOT NEW.trial_days OR
        OLD.features IS NOT NEW.features OR OLD.tier_level IS NOT NEW.tier_level OR OLD.is_active IS NOT
        NEW.is_active OR OLD.sort_order IS NOT NEW.sort_order OR OLD.created_at IS NOT NEW.created_at BEGIN
    INSERT INTO host_changes (kind, plan_id) VALUES ('plan', OLD.id);
    INSERT INTO host_changes (kind, plan_id) SELECT 'plan', NEW.id
        WHERE OLD.id IS NOT NEW.id;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER core_pricing_plans_deleted AFTER DELETE ON core_pricing_plans BEGIN
    INSERT INTO host_changes (kind, plan_id) VALUES ('plan', OLD.id);
END;
-- +goose StatementEnd

-- OR REPLACE deletes conflicting rows without firing DELETE triggers, so rows that may be replaced are
-- logged beforehand. Rows that share the new one's tenant and user, or id, are logged with it.
-- +goose StatementBegin
CREATE TRIGGER core_users_replacing BEFORE INSERT ON core_users BEGIN
    INSERT INTO host_changes (kind, user_id) SELECT 'user', id FROM core_users WHERE oauth_id = NEW.oauth_id;
    INSERT INTO host_changes (kind, user_id) SELECT 'user', id FROM core_users WHERE lower(email) = lower(NEW.email);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER core_users_replacing_update BEFORE UPDATE OF oauth_id, email ON core_users BEGIN
    INSERT INTO host_changes (kind, user_id) SELECT 'user', id FROM core_users WHERE oauth_id = NEW.oauth_id AND id <> OLD.id;
    INSERT INTO host_changes (kind, user_id) SELECT 'user', id FROM core_users WHERE lower(email) = lower(NEW.email) AND id <> OLD.id;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER core_tenants_replacing BEFORE INSERT ON core_tenants BEGIN
    INSERT INTO host_changes (kind, tenant_id) SELECT 'tenant', id FROM core_tenants WHERE slug = NEW.slug;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER core_tenants_replacing_update BEFORE UPDATE OF slug ON core_tenants BEGIN
    INSERT INTO host_changes (kind, tenant_id) SELECT 'tenant', id FROM core_tenants WHERE slug = NEW.slug AND id <> OLD.id;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER core_memberships_replacing BEFORE INSERT ON core_memberships BEGIN
    INSERT INTO host_changes (kind, user_id, tenant_id) SELECT 'membership', user_id, tenant_id FROM core_memberships WHERE id = NEW.id;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER core_subscriptions_replacing BEFORE INSERT ON core_subscriptions BEGIN
    INSERT INTO host_changes (kind, tenant_id) SELECT 'subscription', tenant_id FROM core_subscriptions WHERE id = NEW.id;
    INSERT INTO host_changes (kind, tenant_id) SELECT 'subscription', tenant_id FROM core_subscriptions WHERE stripe_sub_id = NEW.stripe_sub_id;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER core_subscriptions_replacing_update BEFORE UPDATE OF id, stripe_sub_id ON core_subscriptions BEGIN
    INSERT INTO host_changes (kind, tenant_id) SELECT 'subscription', tenant_id FROM core_subscriptions
        WHERE id = NEW.id AND id <> OLD.id;
    INSERT INTO host_changes (kind, tenant_id) SELECT 'subscription', tenant_id FROM core_subscriptions
        WHERE stripe_sub_id = NEW.stripe_sub_id AND id <> OLD.id;
END;
-- +goose StatementEnd
