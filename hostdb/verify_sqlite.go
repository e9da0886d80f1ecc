package hostdb

import "strings"

// sqliteObjects are the triggers and the unique indexes. Other constraints are part of their tables.
var sqliteObjects = map[string][]string{
	"trigger": strings.Fields("sys_audit_logs_update sys_audit_logs_delete sys_audit_logs_replace " +
		"sys_audit_personal_late " + "sys_audit_personal_update core_memberships_keep_id " +
		"core_memberships_take_id core_memberships_owners_insert core_memberships_owners_update " +
		"core_memberships_owners_delete " +
		"core_tenants_keep_owner core_tenants_count core_tenants_count_insert sys_jobs_turn " +
		"sys_jobs_turn_again " +
		"core_users_inserted core_users_updated core_users_deleted core_users_replacing " +
		"core_users_replacing_update " +
		"core_tenants_inserted core_tenants_updated core_tenants_deleted core_tenants_replacing " +
		"core_tenants_replacing_update " +
		"core_memberships_inserted core_memberships_updated core_memberships_deleted " +
		"core_memberships_replacing " +
		"core_subscriptions_inserted core_subscriptions_updated core_subscriptions_deleted " +
		"core_subscriptions_replacing " +
		"core_subscriptions_replacing_update core_pricing_plans_inserted core_pricing_plans_updated " +
		"core_pricing_plans_deleted " + "core_pricing_plans_priced_new core_pricing_plans_priced_anew"),
	"index": strings.Fields("core_users__email sys_jobs__dedupe_key sys_migration_tenants__tenant_id"),
}

// verifySQLite is the query for faults.
var verifySQLite = `WITH wanted (type, name) AS (VALUES ` + literals(objectRows()...) + `)
	SELECT w.type || ' ' || w.name, 'is missing', 'run its CREATE statement of hostdb/migrations/sqlite again'
	FROM wanted w WHERE NOT EXISTS (SELECT 1 FROM sqlite_schema s WHERE s.type = w.type AND s.name = w.name)
	UNION ALL
	SELECT 'table host_feed_floor', 'has no row',
		'INSERT INTO host_feed_floor (floor) SELECT coalesce(max(seq), 0) FROM sqlite_sequence ' ||
			'WHERE name = ''host_changes'''
	WHERE NOT EXISTS (SELECT 1 FROM host_feed_floor)
	ORDER BY 1, 2, 3`

func objectRows() (rows [][]string) {
	for kind, names := range sqliteObjects {
		for _, name := range names {
			rows = append(rows, []string{kind, name})
		}
	}
	return rows
}
