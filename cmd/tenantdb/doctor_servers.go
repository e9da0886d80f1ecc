package main

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenantdb/tenantdb/internal/dburl"
	"github.com/tenantdb/tenantdb/internal/pghosts"
)

// serverLoad is a PostgreSQL server under one of its names, and what uses this name.
type serverLoad struct {
	serverFacts
	host    bool // the host database is on it
	tenants int
	hosts   []string      // the hosts of the URLs with this name
	others  []*serverLoad // the same server under its other names; set by linkNames
	name    string
}

// serverFacts are what a server reports about itself.
type serverFacts struct {
	maxConns, reserved, used int
	started                  int64  // the start time in microseconds
	system                   string // the identifier of its data, or "" if the role may not read it
	pooled                   bool   // a pooler stands before it
}

// load returns the entry of an address's server. It reports first if the entry is new. The caller holds the
// lock that guards d.
func (d *doctor) load(address *dburl.URL) (load *serverLoad, first bool) {
	name := address.Server()
	if load = d.servers[name]; load == nil {
		load, first = &serverLoad{name: name}, true
		d.servers[name] = load
	}
	for _, host := range address.Hosts() {
		if !slices.Contains(load.hosts, host) {
			load.hosts = append(load.hosts, host)
		}
	}
	return load, first
}

// limitsQuery selects how many connections a server allows, how many of them are reserved, how many are in
// use, and the server's start time.
const limitsQuery = `SELECT current_setting('max_connections')::int,
	current_setting('superuser_reserved_connections')::int +
		coalesce(current_setting('reserved_connections', true), '0')::int,
	(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
	(extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint`

// factsOf queries a server's limits and identity.
func factsOf(ctx context.Context, conn *pgx.Conn) (a serverFacts, err error) {
	if err = conn.QueryRow(ctx, limitsQuery).Scan(&a.maxConns, &a.reserved, &a.used, &a.started); err != nil {
		return a, err
	}
	err = conn.QueryRow(ctx, "SELECT system_identifier::text FROM pg_control_system()").Scan(&a.system)
	var refused *pgconn.PgError
	if err != nil && !errors.As(err, &refused) { // some providers don't allow the query
		return a, err
	}
	a.pooled, err = pghosts.Pooled(ctx, conn.PgConn())
	return a, err
}

// same reports whether two facts are of one running server. A primary and its standby have the same
// identifier but different start times. If a role may not read the identifier, the start time decides alone.
func (a serverFacts) same(b serverFacts) bool {
	return a.started != 0 && a.started == b.started &&
		(a.system == b.system || a.system == "" || b.system == "")
}

// sorted returns the servers by name.
func (d *doctor) sorted() []*serverLoad {
	var all []*serverLoad
	for _, name := range slices.Sorted(maps.Keys(d.servers)) {
		all = append(all, d.servers[name])
	}
	return all
}

// linkNames sets the other names of each server.
func (d *doctor) linkNames() {
	all := d.sorted()
	for _, a := range all {
		for _, b := range all {
			if a != b && a.same(b.serverFacts) {
				a.others = append(a.others, b)
			}
		}
	}
}

// primaryName returns the first of a server's names.
func (d *doctor) primaryName(name string) string {
	if load := d.servers[name]; load != nil && len(load.others) > 0 {
		return min(name, load.others[0].name)
	}
	return name
}

// serverNames reports servers with several names. Pools give each name its own budget.
func (d *doctor) serverNames() {
	found := false
	for _, load := range d.sorted() {
		if d.primaryName(load.name) == load.name && len(load.others) > 0 {
			found = true
			d.nameConflict(append([]*serverLoad{load}, load.others...))
		}
		for _, other := range d.sorted() {
			if other.name <= load.name || slices.Contains(load.others, other) {
				continue
			}
			i := slices.IndexFunc(load.hosts, func(host string) bool {
				return slices.Contains(other.hosts, host)
			})
			if i >= 0 {
				found = true
				d.add("servers", statusRisk, "%s and %s both include the host %s. While that host serves, "+
					"it gets both budgets. Give all URLs the same hosts",
					load.name, other.name, load.hosts[i])
			}
		}
	}
	if !found && len(d.servers) > 0 {
		d.add("servers", statusOK, "each is named in one way")
	}
}

// nameConflict reports the names of one server. A pooler needs another name than its server.
func (d *doctor) nameConflict(names []*serverLoad) {
	direct := 0
	var list []string
	for _, load := range names {
		if load.pooled {
			list = append(list, load.name+" (a pooler)")
			continue
		}
		direct++
		list = append(list, load.name)
	}
	if direct > 1 {
		d.add("servers", statusWrong, "%s are one server, and each name gets its own budget: use one name "+
			"in the URLs of the tenants and of the host database", strings.Join(list, " and "))
		return
	}
	d.add("servers", statusNote, "%s are one server: the connections under each name add up",
		strings.Join(list, " and "))
}

// connections compares the sum of the connections that may be opened to each server with its limit.
func (d *doctor) connections() {
	for _, load := range d.sorted() {
		if d.primaryName(load.name) != load.name {
			continue
		}
		app, operator := 0, 0 // connections of each process of the product, and of each run of this program
		names := ""
		for _, by := range append([]*serverLoad{load}, load.others...) {
			if by.tenants > 0 {
				app, operator = app+d.cmd.Budget, operator+d.s.flags.MaxConns
			}
			if by.host {
				app, operator = app+d.cmd.HostBudget, operator+hostConns
			}
			names += " = " + by.name
		}
		// An operator's command and a migration may run at once. Provisioning takes one more connection.
		need, have := d.cmd.Processes*app+2*operator+1, load.maxConns-load.reserved
		status := statusOK
		if need > have {
			status = statusWrong
		}
		d.add("connections", status, "%s: %d×%d for the product + %d for a command + %d for a migration "+
			"+ 1 to provision = %d; it has %d - %d reserved = %d, %d in use now",
			names[3:], d.cmd.Processes, app, operator, operator, need,
			load.maxConns, load.reserved, have, load.used)
	}
	if len(d.servers) == 0 {
		d.add("connections", statusOK, "SQLite needs none")
	}
}
