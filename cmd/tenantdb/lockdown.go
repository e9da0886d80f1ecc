package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/dburl"
)

// hostdbCmd is tenantdb hostdb.
type hostdbCmd struct {
	Lockdown hostdbLockdownCmd `cmd:"" help:"${lockdown}"`
}

// hostdbLockdownCmd is tenantdb hostdb lockdown.
type hostdbLockdownCmd struct {
	confirmation
	Allow []string `placeholder:"ROLE" help:"${lockdown_allow}"`
}

// Help is the long help.
func (*hostdbLockdownCmd) Help() string {
	return `PostgreSQL lets every role connect to a new database. This command revokes that right (REVOKE
CONNECT … FROM PUBLIC). First it grants CONNECT to the roles of the host database's URL and of
TENANTDB_SERVER_URL, to the roles that are connected now, and to those of --allow, but never to a tenant's
role. Superusers and the database's owner may always connect. It lists the roles that lose the right, and
asks for confirmation.`
}

// tenantRole matches the names of tenants' roles.
var tenantRole = regexp.MustCompile(`^tenant_[0-9a-f]{32}$`)

// lockdown is what the command did, or would do.
type lockdown struct {
	database       string
	allowed, loses []string
}

// Run runs the command.
func (c *hostdbLockdownCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	if _, ok := dburl.File(host.URI()); ok {
		return errors.New("SQLite has no roles: the file's permissions say who may open it")
	}
	conn, err := connectTo(ctx, host)
	if err != nil {
		return fmt.Errorf("host database: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	plan, err := c.lock(ctx, s, conn, false)
	if err != nil {
		return err
	}
	what := fmt.Sprintf("After this, only these roles may connect to %s: %s.\nThese lose the right: %s.",
		plan.database, listed(plan.allowed), listed(plan.loses))
	if err := s.confirm(ctx, c.confirmation, plan.database, what); err != nil {
		return err
	}
	if plan, err = c.lock(ctx, s, conn, true); err != nil {
		return err
	}
	return printOne(s, []column[lockdown]{
		{"database", func(l *lockdown) any { return l.database }, true},
		{"may_connect", func(l *lockdown) any { return listed(l.allowed) }, true},
		{"lost_it", func(l *lockdown) any { return listed(l.loses) }, true},
	}, plan)
}

// listed lists roles.
func listed(roles []string) string {
	if len(roles) == 0 {
		return "none"
	}
	return clean(strings.Join(roles, ", "))
}

// publicConnects is a condition on a row of pg_database: every role may connect to the database.
const publicConnects = "EXISTS (SELECT FROM aclexplode(coalesce(datacl, acldefault('d', datdba)))" +
	" WHERE grantee = 0 AND privilege_type = 'CONNECT')"

// lock changes the rights in one transaction, and returns who may connect then. Without commit it rolls back.
func (c *hostdbLockdownCmd) lock(ctx context.Context, s *session, conn *pgx.Conn,
	commit bool) (*lockdown, error) {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	var plan lockdown
	var owner string
	var owns bool
	err = tx.QueryRow(ctx, "SELECT datname, pg_get_userbyid(datdba), pg_has_role(datdba, 'USAGE')"+
		" FROM pg_database WHERE datname = current_database()").Scan(&plan.database, &owner, &owns)
	if err != nil {
		return nil, err
	}
	if !owns {
		return nil, fmt.Errorf("only the owner of the database %s may do this: the role %s, or a superuser",
			clean(plan.database), clean(owner))
	}
	grantees, err := c.grantees(ctx, s, tx)
	if err != nil {
		return nil, err
	}
	before, err := connecting(ctx, tx)
	if err != nil {
		return nil, err
	}
	database := pgx.Identifier{plan.database}.Sanitize()
	for _, role := range grantees {
		_, err := tx.Exec(ctx, "GRANT CONNECT ON DATABASE "+database+" TO "+pgx.Identifier{role}.Sanitize())
		if err != nil {
			return nil, err
		}
	}
	if _, err := tx.Exec(ctx, "REVOKE CONNECT ON DATABASE "+database+" FROM PUBLIC"); err != nil {
		return nil, err
	}
	if plan.allowed, err = connecting(ctx, tx); err != nil {
		return nil, err
	}
	stays := func(role string) bool { return slices.Contains(plan.allowed, role) }
	plan.loses = slices.DeleteFunc(before, stays)
	var open bool
	err = tx.QueryRow(ctx, "SELECT "+publicConnects+" OR NOT has_database_privilege(datname, 'CONNECT')"+
		" FROM pg_database WHERE datname = current_database()").Scan(&open)
	if err != nil {
		return nil, err
	}
	if open {
		return nil, errors.New("the server did not change who may connect; nothing was done")
	}
	if !commit {
		return &plan, nil
	}
	return &plan, tx.Commit(ctx)
}

// grantees returns the roles that keep the right to connect: those of the URLs, the connected ones, and those
// of
// --allow.
func (c *hostdbLockdownCmd) grantees(ctx context.Context, s *session, tx pgx.Tx) ([]string, error) {
	rows, err := tx.Query(ctx, "SELECT current_user::text UNION SELECT session_user::text UNION"+
		" SELECT usename::text FROM pg_stat_activity JOIN pg_roles ON rolname = usename"+
		" WHERE datname = current_database()")
	if err != nil {
		return nil, err
	}
	roles, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, err
	}
	roles = slices.DeleteFunc(roles, tenantRole.MatchString)
	server := s.env.getenv("TENANTDB_SERVER_URL")
	if _, ok := dburl.File(server); server != "" && !ok {
		address, err := dburl.Parse(server)
		if err != nil {
			return nil, fmt.Errorf("TENANTDB_SERVER_URL: %w", err)
		}
		here, err := dburl.Parse(tx.Conn().Config().ConnString())
		if err == nil && here.Server() == address.Server() {
			roles = append(roles, address.User())
		}
	}
	return append(roles, c.Allow...), nil
}

// connecting returns the login roles that may connect to the database, without tenants' roles.
func connecting(ctx context.Context, tx pgx.Tx) ([]string, error) {
	rows, err := tx.Query(ctx, "SELECT rolname::text FROM pg_roles"+
		" WHERE rolcanlogin AND has_database_privilege(oid, current_database(), 'CONNECT') ORDER BY rolname")
	if err != nil {
		return nil, err
	}
	roles, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return slices.DeleteFunc(roles, tenantRole.MatchString), err
}
