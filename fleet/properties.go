package fleet

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// alteration is a statement on a database, in two parts. The database's name stands between them.
type alteration struct{ Before, After string }

// propertiesQuery makes the statements that give a copy the properties that CREATE DATABASE doesn't copy from
// a template: the connection limit, the comment, the grants on the database, and its settings, including
// those for a role in it. Where the template's owner or builder is meant, the executing role takes its place.
// A setting's value is one literal. For the settings that PostgreSQL stores as a list of quoted names
// (GUC_LIST_QUOTE in its sources), each name is a literal, as pg_dump writes them.
const propertiesQuery = `
WITH source AS (
	SELECT oid, datdba, datacl, datconnlimit, shobj_description(oid, 'pg_database') AS comment
	FROM pg_database WHERE oid = $1
), named AS (
	SELECT 0::oid AS oid, 'PUBLIC' AS name
	UNION ALL
	SELECT oid, CASE WHEN oid = (SELECT datdba FROM source) OR oid IN (` + builders + `)
		THEN 'CURRENT_USER' ELSE quote_ident(rolname) END
	FROM pg_roles
), setting AS (
	SELECT setrole, position, split_part(line, '=', 1) AS name, substr(line, strpos(line, '=') + 1) AS value
	FROM pg_db_role_setting
	CROSS JOIN LATERAL unnest(setconfig) WITH ORDINALITY AS one (line, position) WHERE setdatabase = $1
), extra (turn, position, before, after) AS (
	SELECT 1, 0::bigint, 'REVOKE ALL ON DATABASE ', ' FROM PUBLIC, CURRENT_USER'
	FROM source WHERE datacl IS NOT NULL
	UNION ALL
	SELECT 2, position, 'GRANT ' || privilege_type || ' ON DATABASE ',
		' TO ' || name ||
		CASE WHEN is_grantable AND name <> 'CURRENT_USER' THEN ' WITH GRANT OPTION' ELSE '' END
	FROM source CROSS JOIN LATERAL aclexplode(datacl) WITH ORDINALITY
		AS acl (grantor, grantee, privilege_type, is_grantable, position)
	JOIN named ON named.oid = grantee
	UNION ALL
	SELECT 3, position,
		CASE WHEN setrole = 0 THEN 'ALTER DATABASE ' ELSE 'ALTER ROLE ' || named.name || ' IN DATABASE ' END,
		' SET ' || quote_ident(setting.name) || ' TO ' ||
		CASE WHEN setting.name IN ('search_path', 'temp_tablespaces',
			'local_preload_libraries', 'session_preload_libraries') THEN coalesce((
				SELECT string_agg(quote_literal(coalesce(replace(m[1], '""', '"'), lower(m[2]))), ', ')
				FROM regexp_matches(value, '"((?:[^"]|"")*)"|([^",[:space:]]+)', 'g') AS m), '''''')
			ELSE quote_literal(value) END
	FROM setting JOIN named ON named.oid = setrole
	UNION ALL
	SELECT 4, 0, 'COMMENT ON DATABASE ', ' IS ' || quote_literal(comment)
	FROM source WHERE comment IS NOT NULL
	UNION ALL
	SELECT 5, 0, 'ALTER DATABASE ', ' CONNECTION LIMIT ' || datconnlimit FROM source WHERE datconnlimit >= 0
)
SELECT before, after FROM extra ORDER BY turn, position`

// builders selects the templates' roles that own objects in the database $1. There should be one.
const builders = `SELECT refobjid FROM pg_shdepend JOIN pg_roles ON pg_roles.oid = refobjid
	WHERE dbid = $1 AND refclassid = 'pg_authid'::regclass AND deptype = 'o'
	AND starts_with(rolname, '` + templatePrefix + `')`

// propertiesOf reads the properties of a template.
func propertiesOf(ctx context.Context, conn *pgx.Conn, oid uint32) ([]alteration, error) {
	rows, err := conn.Query(ctx, propertiesQuery, oid)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[alteration])
}

// bindingQuery finds references to a template's builder that REASSIGN OWNED would leave in a copy. It changes
// owners, and the grants on what they own. It doesn't change policies, default privileges, user mappings and
// grants on other roles' objects.
const bindingQuery = `
SELECT EXISTS (SELECT FROM pg_shdepend AS d
WHERE dbid = $1 AND refclassid = 'pg_authid'::regclass AND refobjid IN (` + builders + `)
AND (deptype = 'r' OR classid IN ('pg_default_acl'::regclass, 'pg_user_mapping'::regclass)
	OR deptype = 'a' AND NOT EXISTS (SELECT FROM pg_shdepend AS owner
		WHERE owner.dbid = d.dbid AND owner.classid = d.classid AND owner.objid = d.objid
		AND owner.refclassid = d.refclassid AND owner.refobjid = d.refobjid AND owner.deptype = 'o')))`

// isBound reports whether a template is bound to its builder: a tenant's role can't own all that is in a
// copy.
func isBound(ctx context.Context, conn *pgx.Conn, oid uint32) (bound bool, err error) {
	err = conn.QueryRow(ctx, bindingQuery, oid).Scan(&bound)
	return bound, err
}

// statements returns the alterations as statements on a tenant's database.
func statements(properties []alteration, tenantID string) string {
	text := ""
	for _, property := range properties {
		text += property.Before + quoted(tenantID) + property.After + ";\n"
	}
	return text
}
