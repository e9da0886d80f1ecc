-- +goose Up
-- The personal parts of audit rows are stored apart, so that they can be erased while the rows stay
-- unchanged. Rows without personal parts are not affected.
CREATE TABLE sys_audit_personal (
    audit_id text COLLATE "C" NOT NULL,
    part     text COLLATE "C" NOT NULL,
    owner    text COLLATE "C",
    content  text COLLATE "C" NOT NULL,
    CONSTRAINT sys_audit_personal__id PRIMARY KEY (audit_id, part),
    CONSTRAINT sys_audit_personal__part__check CHECK (part IN ('before', 'after', 'details', 'ip_address'))
);
CREATE INDEX sys_audit_personal_owner ON sys_audit_personal (owner, audit_id);

-- Moves the personal parts of existing rows. The function returns NULL for a text that isn't a JSON object,
-- which another program wrote.
-- +goose StatementBegin
CREATE FUNCTION host_json_object(given text) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    RETURN CASE WHEN jsonb_typeof(given::jsonb) = 'object' THEN given::jsonb END;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END $$;
-- +goose StatementEnd
INSERT INTO sys_audit_personal (audit_id, part, owner, content)
    SELECT log.id, side.part, CASE WHEN log.event_type LIKE 'user.%' THEN log.target_id ELSE nullif(min(side.value), '') END,
        jsonb_object_agg(member.key, side.value)::text
    FROM (SELECT id, event_type, target_id, host_json_object(details) AS details FROM sys_audit_logs WHERE event_type IN ('user.created',
            'user.updated', 'user.deleted', 'subscription.created', 'subscription.updated', 'subscription.deleted')) AS log,
        LATERAL jsonb_each(log.details) AS member,
        LATERAL (VALUES
            ('before', CASE WHEN log.event_type LIKE '%.updated' THEN member.value ->> 0
                WHEN log.event_type LIKE '%.deleted' THEN member.value #>> '{}' END),
            ('after', CASE WHEN log.event_type LIKE '%.updated' THEN member.value ->> 1
                WHEN log.event_type LIKE '%.created' THEN member.value #>> '{}' END)) AS side (part, value)
    WHERE member.key IN ('email', 'oauth_id', 'stripe_cust_id') AND side.value IS NOT NULL
    GROUP BY log.id, log.event_type, log.target_id, side.part;
INSERT INTO sys_audit_personal (audit_id, part, owner, content)
    SELECT id, 'ip_address', coalesce(actor_user_id, target_id), ip_address FROM sys_audit_logs WHERE ip_address IS NOT NULL;
ALTER TABLE sys_audit_logs DISABLE TRIGGER sys_audit_logs_rows;
UPDATE sys_audit_logs SET ip_address = NULL WHERE ip_address IS NOT NULL;
UPDATE sys_audit_logs SET details = (details::jsonb || marks.marked)::text FROM (
    SELECT log.id, jsonb_object_agg(name, CASE WHEN log.event_type LIKE '%.updated' THEN '["[erased]", "[erased]"]'::jsonb
        ELSE '"[erased]"'::jsonb END) AS marked
    FROM sys_audit_personal p JOIN sys_audit_logs log ON log.id = p.audit_id, LATERAL jsonb_object_keys(p.content::jsonb) AS name
    WHERE p.part IN ('before', 'after') GROUP BY log.id) AS marks
WHERE sys_audit_logs.id = marks.id;
ALTER TABLE sys_audit_logs ENABLE ALWAYS TRIGGER sys_audit_logs_rows;
DROP FUNCTION host_json_object(text);

-- A personal part is written before its audit row and never changed. It can be deleted, but not replaced.
-- +goose StatementBegin
CREATE FUNCTION host_refuse_late_personal() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM sys_audit_logs WHERE id = NEW.audit_id) THEN
        RAISE EXCEPTION 'the audit row is there already' USING ERRCODE = '23505', CONSTRAINT = 'sys_audit_logs__id';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
-- +goose StatementBegin
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION %I.host_refuse_late_personal() SET search_path = %I, pg_temp', current_schema(), current_schema());
END $$;
-- +goose StatementEnd
CREATE TRIGGER sys_audit_personal_late BEFORE INSERT ON sys_audit_personal
    FOR EACH ROW EXECUTE FUNCTION host_refuse_late_personal();
CREATE TRIGGER sys_audit_personal_rows BEFORE UPDATE ON sys_audit_personal
    FOR EACH ROW EXECUTE FUNCTION host_refuse_audit_change();
CREATE TRIGGER sys_audit_personal_all BEFORE TRUNCATE ON sys_audit_personal
    FOR EACH STATEMENT EXECUTE FUNCTION host_refuse_audit_change();
ALTER TABLE sys_audit_personal ENABLE ALWAYS TRIGGER sys_audit_personal_late;
ALTER TABLE sys_audit_personal ENABLE ALWAYS TRIGGER sys_audit_personal_rows;
ALTER TABLE sys_audit_personal ENABLE ALWAYS TRIGGER sys_audit_personal_all;

-- Used by pruning.
CREATE INDEX sys_jobs_ended ON sys_jobs (completed_at) WHERE status IN ('completed', 'failed', 'cancelled');
