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

// serverLoad is a PostgreSQL server by one of its names, and what uses it by that name.
type serverLoad struct {
	answer
	host    bool // the host database is on it
	tenants int
	hosts   []string      // that are named with it, itself included
	others  []*serverLoad // the same server by its other names, once names are joined
	name    string
}

// answer is what a server says of itself.
type answer struct {
	most, kept, used int
	started          int64  // when the running server started, in microseconds
	system           string // the identifier of its data, "" where the role may not read it
	pooled           bool   // a pooler stands before it
}

// load returns what is known of the server of an address; first: nothing was before. The caller holds the
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

// limitsQuery asks a server for its connections: all, those kept for superusers and the like, those in use;
// and since when it runs.
const limitsQuery = `SELECT current_setting('max_connections')::int, current_setting('superuser_reserved_connections')::int +
	coalesce(current_setting('reserved_connections', true), '0')::int, (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
	(extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint`

// askServer asks a server for its limits, and which one it is.
func askServer(ctx context.Context, conn *pgx.Conn) (a answer, err error) {
	if err = conn.QueryRow(ctx, limitsQuery).Scan(&a.most, &a.kept, &a.used, &a.started); err != nil {
		return a, err
	}
	err = conn.QueryRow(ctx, "SELECT system_identifier::text FROM pg_control_system()").Scan(&a.system)
	var refused *pgconn.PgError
	if err != nil && !errors.As(err, &refused) { // some providers keep it to themselves
		return a, err
	}
	a.pooled, err = pghosts.Pooled(ctx, conn.PgConn())
	return a, err
}

// is reports whether two answers came from one running server. A primary and its standby have the same data,
// but not the same start. Where a role may not read the identifier, the start to the microsecond decides
// alone.
func (a answer) is(b answer) bool {
	return a.started != 0 && a.started == b.started && (a.system == b.system || a.system == "" || b.system == "")
}

// sorted are the servers by their names.
func (d *doctor) sorted() []*serverLoad {
	var all []*serverLoad
	for _, name := range slices.Sorted(maps.Keys(d.servers)) {
		all = append(all, d.servers[name])
	}
	return all
}

// join has each server know itself by its other names.
func (d *doctor) join() {
	all := d.sorted()
	for _, a := range all {
		for _, b := range all {
			if a != b && a.is(b.answer) {
				a.others = append(a.others, b)
			}
		}
	}
}

// primaryName is the first of a server's names.
func (d *doctor) primaryName(name string) string {
	if load := d.servers[name]; load != nil && len(load.others) > 0 {
		return min(name, load.others[0].name)
	}
	return name
}

// names reports servers that are named in two ways: each name has a budget of its own.
func (d *doctor) names() {
	found := false
	for _, load := range d.sorted() {
		if d.primaryName(load.name) == load.name && len(load.others) > 0 {
			found = true
			d.judgeNames(append([]*serverLoad{load}, load.others...))
		}
		for _, other := range d.sorted() {
			if other.name <= load.name || slices.Contains(load.others, other) {
				continue
			}
			if i := slices.IndexFunc(load.hosts, func(host string) bool { return slices.Contains(other.hosts, host) }); i >= 0 {
				found = true
				d.add("servers", risky, "%s and %s both name %s among their hosts: where that serves, it has the budget of each. Give all "+
					"URLs the same hosts", load.name, other.name, load.hosts[i])
			}
		}
	}
	if !found && len(d.servers) > 0 {
		d.add("servers", fine, "each is named in one way")
	}
}

// judgeNames judges the names of one server. Those of poolers have to be others than its own.
func (d *doctor) judgeNames(names []*serverLoad) {
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
		d.add("servers", wrong, "%s are one server, and each name has a budget of its own: name it in one way, in the URLs of the tenants and of "+
			"the host database", strings.Join(list, " and "))
		return
	}
	d.add("servers", note, "%s are one server: what is opened by each name adds up", strings.Join(list, " and "))
}

// connections adds up what each server may be asked for, and compares it with what it has.
func (d *doctor) connections() {
	for _, load := range d.sorted() {
		if d.primaryName(load.name) != load.name {
			continue
		}
		app, operator := 0, 0 // of each process of the product; of each run of this program
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
		// A command of the operator's and a migration run at once; provisioning takes one connection of its
		// own.
		need, have := d.cmd.Processes*app+2*operator+1, load.most-load.kept
		status := fine
		if need > have {
			status = wrong
		}
		d.add("connections", status, "%s: %d×%d for the product + %d for a command + %d for a migration + 1 to provision = %d; "+
			"it has %d - %d reserved = %d, %d in use now", names[3:], d.cmd.Processes, app, operator, operator, need, load.most, load.kept, have, load.used)
	}
	if len(d.servers) == 0 {
		d.add("connections", fine, "SQLite needs none")
	}
}
