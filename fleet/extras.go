package fleet

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// alteration is a statement on a database, without the database's name, which stands between its two parts.
type alteration struct{ Before, After string }

// extrasQuery makes the statements that give a copy what CREATE DATABASE doesn't copy from its template: the
// connection limit, the comment, the grants on the database and its settings, also those for a role in it.
// The template's owner, and the lender of its objects, become the role that executes them. A setting's value
// is one literal, but for the settings that PostgreSQL stores as a list of quoted names (GUC_LIST_QUOTE in
// its sources): those are as many literals, as pg_dump writes them.
const extrasQuery = `
WITH source AS (
	SELECT oid, datdba, datacl, datconnlimit, shobj_description(oid, 'pg_database') AS comment FROM pg_database WHERE oid = $1
), named AS (
	SELECT 0::oid AS oid, 'PUBLIC' AS name
	UNION ALL
	SELECT oid, CASE WHEN oid = (SELECT datdba FROM source) OR oid IN (` + lenders + `) THEN 'CURRENT_USER' ELSE quote_ident(rolname) END
	FROM pg_roles
), setting AS (
	SELECT setrole, position, split_part(line, '=', 1) AS name, substr(line, strpos(line, '=') + 1) AS value
	FROM pg_db_role_setting
	CROSS JOIN LATERAL unnest(setconfig) WITH ORDINALITY AS one (line, position) WHERE setdatabase = $1
), extra (turn, position, before, after) AS (
	SELECT 1, 0::bigint, 'REVOKE ALL ON DATABASE ', ' FROM PUBLIC, CURRENT_USER' FROM source WHERE datacl IS NOT NULL
	UNION ALL
	SELECT 2, position, 'GRANT ' || privilege_type || ' ON DATABASE ',
		' TO ' || name || CASE WHEN is_grantable AND name <> 'CURRENT_USER' THEN ' WITH GRANT OPTION' ELSE '' END
	FROM source CROSS JOIN LATERAL aclexplode(datacl) WITH ORDINALITY AS acl (grantor, grantee, privilege_type, is_grantable, position)
	JOIN named ON named.oid = grantee
	UNION ALL
	SELECT 3, position, CASE WHEN setrole = 0 THEN 'ALTER DATABASE ' ELSE 'ALTER ROLE ' || named.name || ' IN DATABASE ' END,
		' SET ' || quote_ident(setting.name) || ' TO ' || CASE WHEN setting.name IN ('search_path', 'temp_tablespaces',
			'local_preload_libraries', 'session_preload_libraries') THEN coalesce((
				SELECT string_agg(quote_literal(coalesce(replace(m[1], '""', '"'), lower(m[2]))), ', ')
				FROM regexp_matches(value, '"((?:[^"]|"")*)"|([^",[:space:]]+)', 'g') AS m), '''''')
			ELSE quote_literal(value) END
	FROM setting JOIN named ON named.oid = setrole
	UNION ALL
	SELECT 4, 0, 'COMMENT ON DATABASE ', ' IS ' || quote_literal(comment) FROM source WHERE comment IS NOT NULL
	UNION ALL
	SELECT 5, 0, 'ALTER DATABASE ', ' CONNECTION LIMIT ' || datconnlimit FROM source WHERE datconnlimit >= 0
)
SELECT before, after FROM extra ORDER BY turn, position`

// lenders selects the template's roles that own something in the database $1. Only one of them should, and
// the tenant's.
const lenders = `SELECT refobjid FROM pg_shdepend JOIN pg_roles ON pg_roles.oid = refobjid
	WHERE dbid = $1 AND refclassid = 'pg_authid'::regclass AND deptype = 'o' AND starts_with(rolname, '` + templatePrefix + `')`

// extrasOf reads what CREATE DATABASE doesn't copy from a template.
func extrasOf(ctx context.Context, conn *pgx.Conn, oid uint32) ([]alteration, error) {
	rows, err := conn.Query(ctx, extrasQuery, oid)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[alteration])
}

// misfitQuery finds what in a template mentions its lender and would go on to do so in a copy: REASSIGN OWNED
// changes owners, and with them the grants on what they own. Policies, default privileges, user mappings and
// grants on what isn't the lender's are left as they are.
const misfitQuery = `
SELECT EXISTS (SELECT FROM pg_shdepend AS d
WHERE dbid = $1 AND refclassid = 'pg_authid'::regclass AND refobjid IN (` + lenders + `)
AND (deptype = 'r' OR classid IN ('pg_default_acl'::regclass, 'pg_user_mapping'::regclass) OR deptype = 'a' AND NOT EXISTS (
	SELECT FROM pg_shdepend AS owner WHERE owner.dbid = d.dbid AND owner.classid = d.classid AND owner.objid = d.objid
	AND owner.refclassid = d.refclassid AND owner.refobjid = d.refobjid AND owner.deptype = 'o')))`

// isMisfit reports whether a tenant's role can't take over all that is in a copy of a template.
func isMisfit(ctx context.Context, conn *pgx.Conn, oid uint32) (misfit bool, err error) {
	err = conn.QueryRow(ctx, misfitQuery, oid).Scan(&misfit)
	return misfit, err
}

// statements are the alterations of a tenant's database.
func statements(extras []alteration, tenantID string) string {
	text := ""
	for _, extra := range extras {
		text += extra.Before + quoted(tenantID) + extra.After + ";\n"
	}
	return text
}
