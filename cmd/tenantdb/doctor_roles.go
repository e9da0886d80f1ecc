package main

import (
	"context"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"
)

// serverRole is a role of a server.
type serverRole struct{ server, name string }

// roleQuery asks a database for the role that is connected, and whether every other role may connect too.
const roleQuery = "SELECT session_user::text, " + publicConnects + " FROM pg_database WHERE datname = current_database()"

// hostAccess reports who may connect to the host database.
func (d *doctor) hostAccess(ctx context.Context, conn *pgx.Conn, server string) {
	role := serverRole{server: server}
	var public bool
	if err := conn.QueryRow(ctx, roleQuery).Scan(&role.name, &public); err != nil {
		d.add("host access", wrong, "%v", err)
		return
	}
	d.roles[role]++
	if public {
		d.add("host access", risky, "every role of the server may connect to the host database, a tenant's own too: run tenantdb hostdb lockdown")
		return
	}
	d.add("host access", fine, "only roles with a grant may connect to the host database")
}

// countRole notes as which role a tenant's database is used.
func (d *doctor) countRole(ctx context.Context, mu *sync.Mutex, server string, db *pgx.Conn) error {
	role := serverRole{server: server}
	var public bool
	if err := db.QueryRow(ctx, roleQuery).Scan(&role.name, &public); err != nil {
		return err
	}
	mu.Lock()
	defer mu.Unlock()
	d.roles[role]++
	if public {
		d.exposed++
	}
	return nil
}

// judgeRoles reports roles that reach more than one database, and databases that every role reaches.
func (d *doctor) judgeRoles() {
	if len(d.roles) == 0 {
		d.add("roles", fine, "SQLite has none")
		return
	}
	roles := make(map[serverRole]int) // whatever name their server goes by
	for role, databases := range d.roles {
		roles[serverRole{d.primaryName(role.server), role.name}] += databases
	}
	all, sharing, shared := 0, 0, 0
	for _, databases := range roles {
		all += databases
		if databases > 1 {
			sharing += databases
			shared++
		}
	}
	if sharing == 0 && d.exposed == 0 {
		d.add("roles", fine, "each tenant on PostgreSQL has a role of its own, and no other may connect to its database")
		return
	}
	detail := fmt.Sprintf("of %d databases, the host's included, %d share %d roles, with which one of them reaches the others", all, sharing, shared)
	if d.exposed > 0 {
		detail += fmt.Sprintf("; every role of the server may connect to %d tenants' databases", d.exposed)
	}
	d.add("roles", risky, "%s: see docs/security.md", detail)
}
