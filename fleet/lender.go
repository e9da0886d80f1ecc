package fleet

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/dburl"
)

// databaseState is how far a tenant's database with a role of its own is.
type databaseState struct {
	open    bool   // to its owner
	lender  string // the template's role that still owns what is in it, or that the tenant's is still a member of; "" if none
	lending bool   // it still owns something
}

// stateOf asks for the state of a tenant's database.
func stateOf(ctx context.Context, conn *pgx.Conn, tenantID string) (s databaseState, err error) {
	err = conn.QueryRow(ctx, `
SELECT datallowconn, coalesce(rolname, ''), coalesce(lending, false)
FROM pg_database LEFT JOIN LATERAL (
	SELECT rolname, EXISTS (SELECT FROM pg_shdepend WHERE dbid = pg_database.oid AND refclassid = 'pg_authid'::regclass
		AND refobjid = pg_roles.oid AND deptype = 'o') AS lending
	FROM pg_roles WHERE starts_with(rolname, '`+templatePrefix+`') AND (
		oid IN (SELECT roleid FROM pg_auth_members WHERE member = datdba)
		OR oid IN (SELECT refobjid FROM pg_shdepend WHERE dbid = pg_database.oid AND refclassid = 'pg_authid'::regclass AND deptype = 'o'))
	ORDER BY lending DESC LIMIT 1
) AS lender ON true WHERE datname = $1`, databaseOf(tenantID)).Scan(&s.open, &s.lender, &s.lending)
	return s, err
}

// takeOver makes the tenant's role the owner of what it has from a template, and its database the template's
// equal, in one transaction. The role does so itself. It is the lender's member meanwhile, which REASSIGN
// OWNED needs, and nobody uses it yet.
func (s *postgresServer) takeOver(ctx context.Context, conn *pgx.Conn, tenant *hostdb.TenantCatalog, state databaseState, from *finished) error {
	if state.lender == "" {
		return nil
	}
	lender, role := pgx.Identifier{state.lender}.Sanitize(), quoted(tenant.ID)
	if state.lending {
		extras, err := extrasFor(ctx, conn, state.lender, from)
		if err != nil {
			return err
		}
		if _, err := conn.Exec(ctx, "GRANT "+lender+" TO "+role); err != nil {
			return err
		}
		text := statements(extras, tenant.ID)
		if err := s.asTenant(ctx, tenant, "BEGIN READ WRITE; "+text+"REASSIGN OWNED BY "+lender+" TO CURRENT_USER; COMMIT"); err != nil {
			return err
		}
		s.logger.DebugContext(ctx, "provisioning", "tenant", tenant.ID, "step", "taken over from the template")
	}
	if _, err := conn.Exec(ctx, "REVOKE "+lender+" FROM "+role); err != nil {
		return fmt.Errorf("leave the template's role: %w", err)
	}
	return nil
}

// extrasFor returns what a copy lacks of its template, which the lender's name tells. After a crash that
// needn't be the one at hand.
func extrasFor(ctx context.Context, conn *pgx.Conn, lender string, from *finished) ([]alteration, error) {
	name := lender[:len(lender)-lenderSuffix]
	if from != nil && from.name == name {
		return from.extras, nil
	}
	oid, err := closedDatabase(ctx, conn, name)
	if err == nil && oid == 0 {
		err = fmt.Errorf("the template %s is gone: drop the tenant, and provision it again", name)
	}
	if err != nil {
		return nil, err
	}
	return extrasOf(ctx, conn, oid)
}

// asTenant runs statements in a tenant's database, with its role.
func (s *postgresServer) asTenant(ctx context.Context, tenant *hostdb.TenantCatalog, statements string) error {
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
