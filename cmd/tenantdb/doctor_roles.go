package main

import (
	"context"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"
)

// serverRole is a role on a server.
type serverRole struct{ server, name string }

// roleQuery selects the connected role, and whether every other role may connect to the database too.
const roleQuery = "SELECT session_user::text, " + publicConnects +
	" FROM pg_database WHERE datname = current_database()"

// hostAccess reports who may connect to the host database.
func (d *doctor) hostAccess(ctx context.Context, conn *pgx.Conn, server string) {
	role := serverRole{server: server}
	var public bool
	if err := conn.QueryRow(ctx, roleQuery).Scan(&role.name, &public); err != nil {
		d.add("host access", statusWrong, "%v", err)
		return
	}
	d.roles[role]++
	if public {
		d.add("host access", statusRisk, "every role of the server may connect to the host database, "+
			"including the tenants' own roles: run tenantdb hostdb lockdown")
		return
	}
	d.add("host access", statusOK, "only roles with a grant may connect to the host database")
}

// countRole counts the role that a tenant's database is used with.
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
		d.public++
	}
	return nil
}

// roleSharing reports roles that reach several databases, and databases to which every role may connect.
func (d *doctor) roleSharing() {
	if len(d.roles) == 0 {
		d.add("roles", statusOK, "SQLite has none")
		return
	}
	roles := make(map[serverRole]int) // by their server's first name
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
	if sharing == 0 && d.public == 0 {
		d.add("roles", statusOK, "each tenant on PostgreSQL has its own role, and no other may connect to "+
			"its database")
		return
	}
	detail := fmt.Sprintf("of %d databases, including the host's, %d share %d roles, "+
		"so that one of them reaches the others", all, sharing, shared)
	if d.public > 0 {
		detail += fmt.Sprintf("; every role of the server may connect to %d tenants' databases", d.public)
	}
	d.add("roles", statusRisk, "%s: see docs/security.md", detail)
}
