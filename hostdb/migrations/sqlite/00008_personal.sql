-- +goose Up
-- The personal parts of audit rows are stored apart, so that they can be erased while the rows stay
-- unchanged. Rows without personal parts are not affected.
CREATE TABLE sys_audit_personal (
    audit_id text NOT NULL,
    part     text NOT NULL,
    owner    text,
    content  text NOT NULL,
    CONSTRAINT sys_audit_personal__id PRIMARY KEY (audit_id, part),
    CONSTRAINT sys_audit_personal__part__check CHECK (part IN ('before', 'after', 'details', 'ip_address'))
) STRICT, WITHOUT ROWID;
CREATE INDEX sys_audit_personal_owner ON sys_audit_personal (owner, audit_id);

-- Moves the personal parts of existing rows. A text that isn't a JSON object was written by another program.
INSERT INTO sys_audit_personal (audit_id, part, owner, content)
    SELECT id, part, CASE WHEN event_type LIKE 'user.%' THEN target_id ELSE nullif(min(value), '') END, json_group_object(key, value)
    FROM (
        SELECT log.id, log.event_type, log.target_id, member.key, member.value,
            CASE WHEN log.event_type LIKE '%.deleted' THEN 'before' ELSE 'after' END AS part
        FROM sys_audit_logs log, json_each(CASE WHEN json_valid(log.details) THEN log.details ELSE '{}' END) AS member
        WHERE log.event_type IN ('user.created', 'user.deleted', 'subscription.created', 'subscription.deleted')
            AND member.key IN ('email', 'oauth_id', 'stripe_cust_id') AND member.type = 'text'
        UNION ALL
        SELECT log.id, log.event_type, log.target_id, member.key, member.value ->> side.place, side.part
        FROM sys_audit_logs log, json_each(CASE WHEN json_valid(log.details) THEN log.details ELSE '{}' END) AS member,
            (SELECT 'before' AS part, '$[0]' AS place UNION ALL SELECT 'after', '$[1]') AS side
        WHERE log.event_type IN ('user.updated', 'subscription.updated')
            AND member.key IN ('email', 'oauth_id', 'stripe_cust_id') AND member.type = 'array' AND member.value ->> side.place IS NOT NULL)
    GROUP BY id, part;
INSERT INTO sys_audit_personal (audit_id, part, owner, content)
    SELECT id, 'ip_address', coalesce(actor_user_id, target_id), ip_address FROM sys_audit_logs WHERE ip_address IS NOT NULL;
DROP TRIGGER sys_audit_logs_update;
UPDATE sys_audit_logs SET ip_address = NULL WHERE ip_address IS NOT NULL;
UPDATE sys_audit_logs SET details = (SELECT json_replace(sys_audit_logs.details, '$.email', json(mark), '$.oauth_id', json(mark),
        '$.stripe_cust_id', json(mark))
    FROM (SELECT CASE WHEN event_type LIKE '%.updated' THEN '["[erased]","[erased]"]' ELSE '"[erased]"' END AS mark))
WHERE id IN (SELECT audit_id FROM sys_audit_personal WHERE part IN ('before', 'after'));
-- +goose StatementBegin
CREATE TRIGGER sys_audit_logs_update BEFORE UPDATE ON sys_audit_logs BEGIN
    SELECT RAISE(ABORT, 'hostdb:immutable:sys_audit_logs');
END;
-- +goose StatementEnd

-- A personal part is written before its audit row and never changed. It can be deleted, but not replaced.
-- +goose StatementBegin
CREATE TRIGGER sys_audit_personal_late BEFORE INSERT ON sys_audit_personal
    WHEN EXISTS (SELECT 1 FROM sys_audit_logs WHERE id = NEW.audit_id) BEGIN
    SELECT RAISE(ABORT, 'hostdb:conflict:id');
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER sys_audit_personal_update BEFORE UPDATE ON sys_audit_personal BEGIN
    SELECT RAISE(ABORT, 'hostdb:immutable:sys_audit_personal');
END;
-- +goose StatementEnd

-- Used by pruning.
CREATE INDEX sys_jobs_ended ON sys_jobs (completed_at) WHERE status IN ('completed', 'failed', 'cancelled');
