-- +goose Up
-- Trigger functions that write have this schema as their search path and run with their owner's rights, so
-- that they don't depend on another program's role, nor on a session's search path and temporary tables.

-- Audit rows are never changed.
-- +goose StatementBegin
CREATE FUNCTION host_refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is insert-only', TG_TABLE_NAME USING ERRCODE = 'HD001', TABLE = TG_TABLE_NAME;
END $$;
-- +goose StatementEnd
CREATE TRIGGER sys_audit_logs_rows BEFORE UPDATE OR DELETE ON sys_audit_logs
    FOR EACH ROW EXECUTE FUNCTION host_refuse_audit_change();
CREATE TRIGGER sys_audit_logs_all BEFORE TRUNCATE ON sys_audit_logs
    FOR EACH STATEMENT EXECUTE FUNCTION host_refuse_audit_change();
ALTER TABLE sys_audit_logs ENABLE ALWAYS TRIGGER sys_audit_logs_rows;
ALTER TABLE sys_audit_logs ENABLE ALWAYS TRIGGER sys_audit_logs_all;

-- A tenant keeps an active owner. The counter is in the tenant's row, so that concurrent removals conflict
-- there.
-- +goose StatementBegin
CREATE FUNCTION host_count_owners() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    was text := NULL;
    now_is text := NULL;
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        UPDATE core_tenants SET active_owners = 0 WHERE active_owners > 0;
        RETURN NULL;
    END IF;
    IF TG_OP <> 'INSERT' AND OLD.is_active AND OLD.role = 'owner' THEN
        was := OLD.tenant_id;
    END IF;
    IF TG_OP <> 'DELETE' AND NEW.is_active AND NEW.role = 'owner' THEN
        now_is := NEW.tenant_id;
    END IF;
    IF was IS NOT DISTINCT FROM now_is THEN
        RETURN NULL;
    END IF;
    IF now_is IS NOT NULL THEN
        UPDATE core_tenants SET active_owners = active_owners + 1 WHERE id = now_is;
    END IF;
    IF was IS NOT NULL THEN
        UPDATE core_tenants SET active_owners = active_owners - 1 WHERE id = was;
    END IF;
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER core_memberships_owners AFTER INSERT OR UPDATE OR DELETE ON core_memberships
    FOR EACH ROW EXECUTE FUNCTION host_count_owners();
CREATE TRIGGER core_memberships_owners_all AFTER TRUNCATE ON core_memberships
    FOR EACH STATEMENT EXECUTE FUNCTION host_count_owners();
ALTER TABLE core_memberships ENABLE ALWAYS TRIGGER core_memberships_owners;
ALTER TABLE core_memberships ENABLE ALWAYS TRIGGER core_memberships_owners_all;

-- A tenant that is dropped or being provisioned needs no owner, but can't become active without one.
-- +goose StatementBegin
CREATE FUNCTION host_keep_owner() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a tenant keeps at least one active owner' USING ERRCODE = 'HD002', TABLE = TG_TABLE_NAME;
END $$;
-- +goose StatementEnd
CREATE TRIGGER core_tenants_keep_owner BEFORE UPDATE OF active_owners, status ON core_tenants FOR EACH ROW
    WHEN (NEW.active_owners = 0 AND (OLD.active_owners > 0 AND NEW.status NOT IN ('provisioning', 'dropped')
        OR OLD.status <> 'active' AND NEW.status = 'active'))
    EXECUTE FUNCTION host_keep_owner();
ALTER TABLE core_tenants ENABLE ALWAYS TRIGGER core_tenants_keep_owner;

-- Only the triggers may change the count, except to correct it: the row is locked by now, and later changes
-- count from there.
-- +goose StatementBegin
CREATE FUNCTION host_check_owners() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    counted bigint := (SELECT count(*) FROM core_memberships WHERE tenant_id = NEW.id AND is_active AND role = 'owner');
BEGIN
    IF TG_OP = 'INSERT' THEN
        NEW.active_owners := counted;
    ELSIF NEW.active_owners <> counted THEN
        RAISE EXCEPTION 'active_owners is counted by triggers' USING ERRCODE = 'HD001', TABLE = TG_TABLE_NAME, COLUMN = 'active_owners';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER core_tenants_count_insert BEFORE INSERT ON core_tenants FOR EACH ROW EXECUTE FUNCTION host_check_owners();
CREATE TRIGGER core_tenants_count BEFORE UPDATE OF active_owners ON core_tenants FOR EACH ROW
    WHEN (NEW.active_owners <> OLD.active_owners AND pg_trigger_depth() = 0) EXECUTE FUNCTION host_check_owners();
ALTER TABLE core_tenants ENABLE ALWAYS TRIGGER core_tenants_count_insert;
ALTER TABLE core_tenants ENABLE ALWAYS TRIGGER core_tenants_count;

-- A job gets its tenant's next turn when it becomes ready, whatever inserts or changes it: a tenant with
-- thousands of waiting jobs delays another tenant's only job by one. Only a job whose worker has died keeps
-- its turn.
-- +goose StatementBegin
CREATE FUNCTION host_take_turn() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    NEW.turn := 1 + greatest(
        (SELECT turn FROM sys_jobs WHERE status = 'pending' AND run_after IS NULL
            AND coalesce(tenant_id, '') = coalesce(NEW.tenant_id, '') ORDER BY turn DESC LIMIT 1),
        (SELECT turn - 1 FROM sys_jobs WHERE status = 'pending' AND run_after IS NULL ORDER BY turn LIMIT 1),
        0);
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER sys_jobs_turn BEFORE INSERT ON sys_jobs FOR EACH ROW
    WHEN (NEW.status = 'pending' AND NEW.run_after IS NULL) EXECUTE FUNCTION host_take_turn();
CREATE TRIGGER sys_jobs_turn_again BEFORE UPDATE OF status, run_after ON sys_jobs FOR EACH ROW
    WHEN (NEW.status = 'pending' AND NEW.run_after IS NULL AND OLD.status <> 'running'
        AND (OLD.status <> 'pending' OR OLD.run_after IS NOT NULL)) EXECUTE FUNCTION host_take_turn();

-- +goose StatementBegin
CREATE FUNCTION host_log_change() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        INSERT INTO host_changes (kind) VALUES ('reset');
    ELSIF TG_TABLE_NAME = 'core_users' THEN
        IF TG_OP <> 'INSERT' THEN
            INSERT INTO host_changes (kind, user_id) VALUES ('user', OLD.id);
        END IF;
        IF TG_OP = 'INSERT' OR (TG_OP = 'UPDATE' AND OLD.id <> NEW.id) THEN
            INSERT INTO host_changes (kind, user_id) VALUES ('user', NEW.id);
        END IF;
    ELSIF TG_TABLE_NAME = 'core_tenants' THEN
        IF TG_OP <> 'INSERT' THEN
            INSERT INTO host_changes (kind, tenant_id) VALUES ('tenant', OLD.id);
        END IF;
        IF TG_OP = 'INSERT' OR (TG_OP = 'UPDATE' AND OLD.id <> NEW.id) THEN
            INSERT INTO host_changes (kind, tenant_id) VALUES ('tenant', NEW.id);
        END IF;
    ELSIF TG_TABLE_NAME = 'core_memberships' THEN
        IF TG_OP <> 'INSERT' THEN
            INSERT INTO host_changes (kind, user_id, tenant_id) VALUES ('membership', OLD.user_id, OLD.tenant_id);
        END IF;
        IF TG_OP = 'INSERT' OR (TG_OP = 'UPDATE' AND (OLD.user_id, OLD.tenant_id) <> (NEW.user_id, NEW.tenant_id)) THEN
            INSERT INTO host_changes (kind, user_id, tenant_id) VALUES ('membership', NEW.user_id, NEW.tenant_id);
        END IF;
    ELSIF TG_TABLE_NAME = 'core_subscriptions' THEN
        IF TG_OP <> 'INSERT' THEN
            INSERT INTO host_changes (kind, tenant_id) VALUES ('subscription', OLD.tenant_id);
        END IF;
        IF TG_OP = 'INSERT' OR (TG_OP = 'UPDATE' AND OLD.tenant_id <> NEW.tenant_id) THEN
            INSERT INTO host_changes (kind, tenant_id) VALUES ('subscription', NEW.tenant_id);
        END IF;
    ELSE
        IF TG_OP <> 'INSERT' THEN
            INSERT INTO host_changes (kind, plan_id) VALUES ('plan', OLD.id);
        END IF;
        IF TG_OP = 'INSERT' OR (TG_OP = 'UPDATE' AND OLD.id <> NEW.id) THEN
            INSERT INTO host_changes (kind, plan_id) VALUES ('plan', NEW.id);
        END IF;
    END IF;
    -- It only wakes pollers. Duplicates within a transaction are sent once.
    IF current_setting('hostdb.notify', true) IS DISTINCT FROM 'off' THEN
        PERFORM pg_notify('hostdb_changes', '');
    END IF;
    RETURN NULL;
END $$;
-- +goose StatementEnd

-- Columns that don't affect access (last_login, the password's hash, the counter of owners, a
-- subscription's last event) are not logged.
CREATE TRIGGER core_users_changed AFTER INSERT OR DELETE ON core_users FOR EACH ROW EXECUTE FUNCTION host_log_change();
CREATE TRIGGER core_users_updated AFTER UPDATE ON core_users FOR EACH ROW
    WHEN ((OLD.id, OLD.email, OLD.oauth_id, OLD.stripe_cust_id, OLD.is_sys_admin, OLD.created_at)
        IS DISTINCT FROM (NEW.id, NEW.email, NEW.oauth_id, NEW.stripe_cust_id, NEW.is_sys_admin, NEW.created_at))
    EXECUTE FUNCTION host_log_change();
CREATE TRIGGER core_tenants_changed AFTER INSERT OR DELETE ON core_tenants FOR EACH ROW EXECUTE FUNCTION host_log_change();
CREATE TRIGGER core_tenants_updated AFTER UPDATE ON core_tenants FOR EACH ROW
    WHEN ((OLD.id, OLD.name, OLD.db_url, OLD.is_active, OLD.plan_tier, OLD.created_at, OLD.slug, OLD.status, OLD.schema_version)
        IS DISTINCT FROM
        (NEW.id, NEW.name, NEW.db_url, NEW.is_active, NEW.plan_tier, NEW.created_at, NEW.slug, NEW.status, NEW.schema_version))
    EXECUTE FUNCTION host_log_change();
CREATE TRIGGER core_memberships_changed AFTER INSERT OR DELETE ON core_memberships
    FOR EACH ROW EXECUTE FUNCTION host_log_change();
CREATE TRIGGER core_memberships_updated AFTER UPDATE ON core_memberships FOR EACH ROW
    WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION host_log_change();
CREATE TRIGGER core_subscriptions_changed AFTER INSERT OR DELETE ON core_subscriptions
    FOR EACH ROW EXECUTE FUNCTION host_log_change();
CREATE TRIGGER core_subscriptions_updated AFTER UPDATE ON core_subscriptions FOR EACH ROW
    WHEN ((OLD.id, OLD.tenant_id, OLD.stripe_sub_id, OLD.stripe_cust_id, OLD.plan_tier, OLD.status,
         OLD.current_period_end, OLD.cancel_at_period_end, OLD.payment_type, OLD.amount_cents,
         OLD.product_name, OLD.trial_end, OLD.created_at)
        IS DISTINCT FROM
        (NEW.id, NEW.tenant_id, NEW.stripe_sub_id, NEW.stripe_cust_id, NEW.plan_tier, NEW.status,
         NEW.current_period_end, NEW.cancel_at_period_end, NEW.payment_type, NEW.amount_cents,
         NEW.product_name, NEW.trial_end, NEW.created_at))
    EXECUTE FUNCTION host_log_change();
CREATE TRIGGER core_pricing_plans_changed AFTER INSERT OR DELETE ON core_pricing_plans
    FOR EACH ROW EXECUTE FUNCTION host_log_change();
CREATE TRIGGER core_pricing_plans_updated AFTER UPDATE ON core_pricing_plans FOR EACH ROW
    WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION host_log_change();

-- +goose StatementBegin
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['core_users', 'core_tenants', 'core_memberships', 'core_subscriptions', 'core_pricing_plans'] LOOP
        EXECUTE format('CREATE TRIGGER %I AFTER TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION host_log_change()',
            name || '_truncated', name);
        EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER %I', name, name || '_changed');
        EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER %I', name, name || '_updated');
        EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER %I', name, name || '_truncated');
    END LOOP;
END $$;
-- +goose StatementEnd

-- pg_temp comes first in a search path that doesn't name it.
-- +goose StatementBegin
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['host_count_owners', 'host_check_owners', 'host_take_turn', 'host_log_change'] LOOP
        EXECUTE format('ALTER FUNCTION %I.%I() SET search_path = %I, pg_temp', current_schema(), name, current_schema());
    END LOOP;
END $$;
-- +goose StatementEnd
