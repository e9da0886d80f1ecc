package main

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/dburl"
)

// limitsQuery asks a server for its connections: all, those kept for superusers and the like, those in use.
const limitsQuery = `SELECT current_setting('max_connections')::int, current_setting('superuser_reserved_connections')::int +
	coalesce(current_setting('reserved_connections', true), '0')::int, (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')`

// stuckAfter is when a tenant that is being provisioned counts as left behind.
const stuckAfter = time.Hour

// serverLoad is a PostgreSQL server, and what uses it.
type serverLoad struct {
	host             bool // the host database is on it
	tenants          int
	most, kept, used int
}

// read reads the server's limits by the Scan of limitsQuery's row.
func (l *serverLoad) read(scan func(dest ...any) error) error {
	return scan(&l.most, &l.kept, &l.used)
}

// serverOf names the server of a PostgreSQL URL as pools do: its first host and port. Others have none.
func serverOf(url hostdb.Secret) string {
	address, err := dburl.Parse(url.Reveal())
	if err != nil {
		return ""
	}
	return address.Server()
}

// databaseOf names a tenant's database, whatever its URL's user and parameters, so that two tenants with one are found; "" where the URL
// can't be read.
func (d *doctor) databaseOf(url hostdb.Secret) string {
	if path, ok := dburl.File(url.Reveal()); ok {
		if !filepath.IsAbs(path) {
			path = filepath.Join(d.s.flags.TenantsDir, path)
		}
		if whole, err := filepath.EvalSymlinks(path); err == nil {
			path = whole
		}
		path, _ = filepath.Abs(path)
		return path
	}
	address, err := dburl.Parse(url.Reveal())
	if err != nil {
		return ""
	}
	return address.Server() + "/" + address.Database()
}

// catalog tries every tenant, several at once.
func (d *doctor) catalog(ctx context.Context) error {
	var mu sync.Mutex                 // guards what follows, and d
	owners := make(map[string]string) // of databases
	counts, places := make(map[string]int), make(chan struct{}, d.cmd.Parallel)
	var running sync.WaitGroup
	defer running.Wait()
	for tenant, err := range d.host.Tenants.All(ctx) {
		if err != nil {
			return err
		}
		mu.Lock()
		counts[tenant.Status]++
		mu.Unlock()
		if tenant.Status == hostdb.TenantDropped {
			continue
		}
		mu.Lock()
		database := d.databaseOf(tenant.DBURL)
		if owner := owners[database]; owner != "" && database != "" {
			d.sick++
			d.add("tenant "+nameOf(tenant), wrong, "its db_url is the database of tenant %s: give each a database of its own", owner)
		}
		owners[database] = nameOf(tenant)
		mu.Unlock()
		places <- struct{}{}
		running.Go(func() {
			defer func() { <-places }()
			problem := d.examine(ctx, &mu, tenant)
			mu.Lock()
			defer mu.Unlock()
			if problem != "" {
				d.sick++
				d.add("tenant "+nameOf(tenant), wrong, "%s", problem)
			}
		})
	}
	running.Wait()
	summary := ""
	for _, status := range slices.Sorted(maps.Keys(counts)) {
		summary += fmt.Sprintf("%d %s, ", counts[status], status)
	}
	d.add("catalog", fine, "%s%d with something wrong", summary, d.sick)
	return ctx.Err()
}

// examine says what is wrong with a tenant, or "".
func (d *doctor) examine(ctx context.Context, mu *sync.Mutex, tenant *hostdb.TenantCatalog) string {
	if tenant.Status == hostdb.TenantProvisioning {
		if age := d.s.env.now().Sub(tenant.CreatedAt); age > stuckAfter {
			return fmt.Sprintf("it is being provisioned since %s: run tenant create with the same slug and owner again, or drop it", cell(tenant.CreatedAt))
		}
		return ""
	}
	owners, err := d.host.Memberships.List(ctx, hostdb.Where("tenant_id", tenant.ID), hostdb.Where("role", hostdb.RoleOwner),
		hostdb.Where("is_active", true), hostdb.Limit(1))
	if err != nil {
		return err.Error()
	}
	problem := ""
	if len(owners) == 0 {
		problem = "it has no active owner; "
	}
	if d.missing[tenant.ID] {
		return problem + "its database isn't there: restore it, or drop the tenant"
	}
	if err := d.reach(ctx, mu, tenant); err != nil {
		problem += "its database can't be reached: " + err.Error()
	}
	return problem
}

// reach asks a tenant's database for an answer, and its server for its limits when it is the first on it.
func (d *doctor) reach(ctx context.Context, mu *sync.Mutex, tenant *hostdb.TenantCatalog) error {
	ctx, cancel := context.WithTimeout(ctx, d.cmd.Timeout)
	defer cancel()
	lease, err := d.pool.Lease(tenant)
	if err != nil {
		return err
	}
	defer lease.Release()
	var one int
	if err := lease.ReadDB().QueryRowContext(ctx, "SELECT 1").Scan(&one); err != nil {
		return err
	}
	if lease.PG() == nil {
		return nil
	}
	name := serverOf(tenant.DBURL)
	if err := d.countRole(ctx, mu, name, lease.PG()); err != nil {
		return err
	}
	mu.Lock()
	load := d.servers[name]
	first := load == nil
	if first {
		load = &serverLoad{}
		d.servers[name] = load
	}
	load.tenants++
	mu.Unlock()
	if !first {
		return nil
	}
	var asked serverLoad
	if err := asked.read(lease.DB().QueryRowContext(ctx, limitsQuery).Scan); err != nil {
		return err
	}
	mu.Lock()
	defer mu.Unlock()
	load.most, load.kept, load.used = asked.most, asked.kept, asked.used
	return nil
}

// connections adds up what each server may be asked for, and compares it with what it has.
func (d *doctor) connections() {
	for _, name := range slices.Sorted(maps.Keys(d.servers)) {
		load := d.servers[name]
		app, operator := 0, 0 // of each process of the product; of each run of this program
		if load.tenants > 0 {
			app, operator = d.cmd.Budget, d.s.flags.MaxConns
		}
		if load.host {
			app, operator = app+d.cmd.HostBudget, operator+hostConns
		}
		// A command of the operator's and a migration run at once; provisioning takes one connection of its own.
		need, have := d.cmd.Replicas*app+2*operator+1, load.most-load.kept
		status := fine
		if need > have {
			status = wrong
		}
		d.add("connections", status, "%s: %d×%d for the product + %d for a command + %d for a migration + 1 to provision = %d; "+
			"it has %d - %d reserved = %d, %d in use now", name, d.cmd.Replicas, app, operator, operator, need, load.most, load.kept, have, load.used)
	}
	if len(d.servers) == 0 {
		d.add("connections", fine, "SQLite needs none")
	}
}
