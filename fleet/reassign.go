package fleet

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/dburl"
)

// databaseState is the state of a tenant's database whose tenant has its own role.
type databaseState struct {
	open    bool   // its owner may connect
	builder string // the template's builder, if it owns objects or the tenant's role is its member; else ""
	owns    bool   // builder owns objects in the database
}

// stateOf queries the state of a tenant's database.
func stateOf(ctx context.Context, conn *pgx.Conn, tenantID string) (s databaseState, err error) {
	err = conn.QueryRow(ctx, `
SELECT datallowconn, coalesce(rolname, ''), coalesce(owns, false)
FROM pg_database LEFT JOIN LATERAL (
	SELECT rolname, EXISTS (SELECT FROM pg_shdepend WHERE dbid = pg_database.oid
		AND refclassid = 'pg_authid'::regclass AND refobjid = pg_roles.oid AND deptype = 'o') AS owns
	FROM pg_roles WHERE starts_with(rolname, '`+templatePrefix+`') AND (
		oid IN (SELECT roleid FROM pg_auth_members WHERE member = datdba)
		OR oid IN (SELECT refobjid FROM pg_shdepend WHERE dbid = pg_database.oid
			AND refclassid = 'pg_authid'::regclass AND deptype = 'o'))
	ORDER BY owns DESC LIMIT 1
) AS builder ON true WHERE datname = $1`, databaseOf(tenantID)).Scan(&s.open, &s.builder, &s.owns)
	return s, err
}

// reassign makes the tenant's role the owner of the objects that its database has from a template, and gives
// the database the template's properties, in one transaction. The tenant's role does so itself. Meanwhile it
// is a member of the builder, as REASSIGN OWNED requires. Nobody else uses the role yet.
func (s *postgresServer) reassign(ctx context.Context, conn *pgx.Conn, tenant *hostdb.TenantCatalog,
	state databaseState, from *readyTemplate) error {
	if state.builder == "" {
		return nil
	}
	builder, role := pgx.Identifier{state.builder}.Sanitize(), quoted(tenant.ID)
	if state.owns {
		properties, err := propertiesFor(ctx, conn, state.builder, from)
		if err != nil {
			return err
		}
		if _, err := conn.Exec(ctx, "GRANT "+builder+" TO "+role); err != nil {
			return err
		}
		text := "BEGIN READ WRITE; " + statements(properties, tenant.ID) +
			"REASSIGN OWNED BY " + builder + " TO CURRENT_USER; COMMIT"
		if err := s.asTenant(ctx, tenant, text); err != nil {
			return err
		}
		s.logger.DebugContext(ctx, "provisioning", "tenant", tenant.ID, "step",
			"taken over from the template")
	}
	if _, err := conn.Exec(ctx, "REVOKE "+builder+" FROM "+role); err != nil {
		return fmt.Errorf("leave the template's role: %w", err)
	}
	return nil
}

// propertiesFor returns the properties of the template that a copy was made from, which the builder's name
// tells. After a crash it may be another template than from.
func propertiesFor(ctx context.Context, conn *pgx.Conn, builder string,
	from *readyTemplate) ([]alteration, error) {
	name := builder[:len(builder)-builderSuffix]
	if from != nil && from.name == name {
		return from.properties, nil
	}
	oid, err := closedDatabase(ctx, conn, name)
	if err == nil && oid == 0 {
		err = fmt.Errorf("the template %s is gone: drop the tenant, and provision it again", name)
	}
	if err != nil {
		return nil, err
	}
	return propertiesOf(ctx, conn, oid)
}

// asTenant runs statements in a tenant's database, as its role.
func (s *postgresServer) asTenant(ctx context.Context, tenant *hostdb.TenantCatalog,
	statements string) error {
	address, err := dburl.Parse(tenant.DBURL.Reveal())
	if err != nil {
		return fmt.Errorf("its db_url: %w", err)
	}
	conn, err := s.admins.hosts.Open(ctx, address.Config())
	if err != nil {
		return fmt.Errorf("connect as its role: %w", err)
	}
	defer closeAdmin(conn)
	_, err = conn.Exec(ctx, statements)
	return err
}
