package hostdb

import "strings"

// The triggers by table. alwaysTriggers fire in every session, originTriggers in sessions other than a
// replication's.
var (
	alwaysTriggers = map[string]string{
		"core_users": "core_users_changed core_users_updated core_users_truncated",
		"core_pricing_plans": "core_pricing_plans_changed core_pricing_plans_updated " +
			"core_pricing_plans_truncated " + "core_pricing_plans_priced",
		"core_subscriptions": "core_subscriptions_changed core_subscriptions_updated " +
			"core_subscriptions_truncated",
		"core_tenants": "core_tenants_changed core_tenants_updated core_tenants_truncated " +
			"core_tenants_keep_owner core_tenants_count_insert core_tenants_count",
		"core_memberships": "core_memberships_changed core_memberships_updated core_memberships_truncated " +
			"core_memberships_owners core_memberships_owners_all",
		"sys_audit_logs":     "sys_audit_logs_rows sys_audit_logs_all",
		"sys_audit_personal": "sys_audit_personal_late sys_audit_personal_rows sys_audit_personal_all",
	}
	originTriggers = map[string]string{"sys_jobs": "sys_jobs_turn sys_jobs_turn_again"}
)

// uniqueKeys are primary keys, unique constraints and unique indexes. Each has an index of its name.
var uniqueKeys = strings.Fields("core_users__id core_users__oauth_id core_users__email core_tenants__id " +
	"core_tenants__slug " + "core_memberships__id core_memberships__user_id__tenant_id " +
	"core_pricing_plans__id core_subscriptions__id " +
	"core_subscriptions__stripe_sub_id sys_audit_logs__id sys_audit_personal__id sys_jobs__id " +
	"sys_jobs__dedupe_key core_stripe_webhook_events__id " +
	"core_stripe_webhook_events__event_id sys_migration_runs__id sys_migration_tenants__id " +
	"sys_schema_sets__id " +
	"sys_migration_tenants__run_id__tenant_id sys_migration_tenants__tenant_id host_changes_pkey " +
	"host_feed_floor_pkey " + "host_plan_prices__price")

// otherConstraints are the foreign keys, and the checks that another program might violate.
var otherConstraints = strings.Fields("core_memberships__user_id__fkey core_memberships__tenant_id__fkey " +
	"core_subscriptions__tenant_id__fkey sys_migration_tenants__run_id__fkey " +
	"sys_migration_tenants__tenant_id__fkey " +
	"core_users__id__check core_tenants__id__check core_tenants__slug__check core_tenants__status__check " +
	"core_tenants__active_owners__check core_memberships__id__check core_memberships__role__check " +
	"core_subscriptions__payment_type__check host_feed_floor_one_check")

// verifyPostgres is the query for faults. A constraint whose internal triggers are disabled is enforced only
// for older rows.
var verifyPostgres = `WITH triggers (relation, name, mode) AS (VALUES ` + literals(triggerRows()...) + `),
	keys (name) AS (VALUES ` + literals(singles(uniqueKeys)...) + `), constraints (name) AS (VALUES ` +
	literals(singles(otherConstraints)...) + `),
	ours AS (SELECT c.oid FROM pg_class c WHERE c.relnamespace = (SELECT relnamespace FROM pg_class
	WHERE oid = to_regclass('host_changes'))
		AND c.relkind IN ('r', 'p') AND (c.relname LIKE 'core\_%' OR c.relname LIKE 'sys\_%'
		OR c.relname LIKE 'host\_%'))
	SELECT 'trigger ' || w.name,
		CASE WHEN t.oid IS NULL THEN 'is missing' WHEN t.tgenabled = 'D' THEN 'is disabled'
		ELSE 'doesn''t fire in every session' END,
		CASE WHEN t.oid IS NULL THEN
			'run its CREATE TRIGGER statement of hostdb/migrations/postgres again, and what follows it there'
			ELSE format('ALTER TABLE %s ENABLE %sTRIGGER %s', w.relation, CASE w.mode WHEN 'A' THEN 'ALWAYS '
			ELSE '' END, w.name) END
	FROM triggers w LEFT JOIN pg_trigger t ON t.tgrelid = to_regclass(w.relation) AND t.tgname = w.name
	AND NOT t.tgisinternal
	WHERE t.oid IS NULL OR t.tgenabled NOT IN ('A', w.mode::"char")
	UNION ALL
	SELECT 'key ' || k.name, CASE WHEN i.indexrelid IS NULL THEN 'is missing' ELSE 'isn''t valid' END,
		CASE WHEN i.indexrelid IS NULL THEN
		'make it as hostdb/migrations/postgres does; rows that share a value have to go first'
			ELSE format('REINDEX INDEX %s', k.name) END
	FROM keys k LEFT JOIN pg_index i ON i.indexrelid = to_regclass(k.name) AND i.indrelid IN (SELECT oid
	FROM ours) AND i.indisunique
	WHERE i.indexrelid IS NULL OR NOT i.indisvalid OR NOT i.indisready
	UNION ALL
	SELECT 'constraint ' || w.name, 'is missing', 'add it as hostdb/migrations/postgres does'
	FROM constraints w WHERE w.name NOT IN (SELECT conname::text FROM pg_constraint
	WHERE conrelid IN (SELECT oid FROM ours))
	UNION ALL
	SELECT 'constraint ' || conname, 'isn''t validated', format('ALTER TABLE %s VALIDATE CONSTRAINT %I',
	conrelid::regclass, conname)
	FROM pg_constraint WHERE conrelid IN (SELECT oid FROM ours) AND NOT convalidated
	UNION ALL
	SELECT 'constraint ' || c.conname, 'isn''t enforced', format('ALTER TABLE %s ENABLE TRIGGER %I',
	t.tgrelid::regclass, t.tgname)
	FROM pg_trigger t JOIN pg_constraint c ON c.oid = t.tgconstraint
	WHERE t.tgrelid IN (SELECT oid FROM ours) AND t.tgisinternal AND t.tgenabled IN ('D', 'R')
	UNION ALL
	SELECT 'table host_feed_floor', 'has no row',
		'INSERT INTO host_feed_floor (floor) VALUES (pg_snapshot_xmin(pg_current_snapshot()))'
	WHERE NOT EXISTS (SELECT FROM host_feed_floor)
	UNION ALL
	SELECT 'table host_feed_floor', 'names a transaction that hasn''t happened',
	'open the host database again, or let a process listen to Changes'
	FROM host_feed_floor WHERE floor > pg_snapshot_xmax(pg_current_snapshot())
	ORDER BY 1, 2, 3`

// triggerRows returns the triggers with their tables and how they are enabled (pg_trigger.tgenabled).
func triggerRows() (rows [][]string) {
	for mode, tables := range map[string]map[string]string{"A": alwaysTriggers, "O": originTriggers} {
		for table, names := range tables {
			for name := range strings.FieldsSeq(names) {
				rows = append(rows, []string{table, name, mode})
			}
		}
	}
	return rows
}

// singles returns a row for each word.
func singles(words []string) (rows [][]string) {
	for _, word := range words {
		rows = append(rows, []string{word})
	}
	return rows
}
