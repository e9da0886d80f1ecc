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

// stuckAfter is how long provisioning may take before it counts as stuck.
const stuckAfter = time.Hour

// location is where a tenant's database is. It finds tenants that share a database.
type location struct {
	server   string // "" for a file
	database string // or the file; "" for a malformed db_url
}

// locationOf returns the location of a db_url, without its user and parameters.
func (d *doctor) locationOf(url hostdb.Secret) location {
	if path, ok := dburl.File(url.Reveal()); ok {
		if !filepath.IsAbs(path) {
			path = filepath.Join(d.s.flags.TenantsDir, path)
		}
		if whole, err := filepath.EvalSymlinks(path); err == nil {
			path = whole
		}
		path, _ = filepath.Abs(path)
		return location{"", path}
	}
	address, err := dburl.Parse(url.Reveal())
	if err != nil {
		return location{}
	}
	return location{address.Server(), address.Database()}
}

// catalog checks every tenant, several at once.
func (d *doctor) catalog(ctx context.Context) error {
	var mu sync.Mutex // guards d
	counts, turns := make(map[string]int), make(chan struct{}, d.cmd.Parallel)
	var tenants []*hostdb.TenantCatalog // tenants that have a database
	var running sync.WaitGroup
	defer running.Wait()
	for tenant, err := range d.host.Tenants.All(ctx) {
		if err != nil {
			return err
		}
		counts[tenant.Status]++
		if tenant.Status == hostdb.TenantDropped {
			continue
		}
		tenants = append(tenants, tenant)
		turns <- struct{}{}
		running.Go(func() {
			defer func() { <-turns }()
			problem := d.examine(ctx, &mu, tenant)
			mu.Lock()
			defer mu.Unlock()
			if problem != "" {
				d.failing++
				d.add("tenant "+nameOf(tenant), statusWrong, "%s", problem)
			}
		})
	}
	running.Wait()
	d.linkNames()
	owners := make(map[location]string)
	for _, tenant := range tenants {
		at := d.locationOf(tenant.DBURL)
		at.server = d.primaryName(at.server)
		if owner := owners[at]; owner != "" && at.database != "" {
			d.failing++
			d.add("tenant "+nameOf(tenant), statusWrong,
				"its db_url is the database of tenant %s: give each its own database", owner)
		}
		owners[at] = nameOf(tenant)
	}
	summary := ""
	for _, status := range slices.Sorted(maps.Keys(counts)) {
		summary += fmt.Sprintf("%d %s, ", counts[status], status)
	}
	d.add("catalog", statusOK, "%s%d with something wrong", summary, d.failing)
	return ctx.Err()
}

// examine returns what is wrong with a tenant, or "".
func (d *doctor) examine(ctx context.Context, mu *sync.Mutex, tenant *hostdb.TenantCatalog) string {
	if tenant.Status == hostdb.TenantProvisioning {
		if age := d.s.env.now().Sub(tenant.CreatedAt); age > stuckAfter {
			return fmt.Sprintf("its provisioning began at %s and hasn't ended: run tenant create again with "+
				"the same slug and owner, or drop it", cell(tenant.CreatedAt))
		}
		return ""
	}
	owners, err := d.host.Memberships.List(ctx, hostdb.Where("tenant_id", tenant.ID),
		hostdb.Where("role", hostdb.RoleOwner), hostdb.Where("is_active", true), hostdb.Limit(1))
	if err != nil {
		return err.Error()
	}
	problem := ""
	if len(owners) == 0 {
		problem = "it has no active owner; "
	}
	if d.missing[tenant.ID] {
		return problem + "its database doesn't exist: restore it, or drop the tenant"
	}
	if err := d.reach(ctx, mu, tenant); err != nil {
		problem += "its database can't be reached: " + err.Error()
	}
	return problem
}

// reach queries a tenant's database. For the first tenant on a server it queries the server's limits too.
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
	conn, err := lease.PG().Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	address, err := dburl.Parse(tenant.DBURL.Reveal())
	if err != nil {
		return err
	}
	if err := d.countRole(ctx, mu, address.Server(), conn.Conn()); err != nil {
		return err
	}
	mu.Lock()
	load, first := d.load(address)
	load.tenants++
	mu.Unlock()
	if !first {
		return nil
	}
	facts, err := factsOf(ctx, conn.Conn())
	if err != nil {
		return err
	}
	mu.Lock()
	defer mu.Unlock()
	load.serverFacts = facts
	return nil
}
