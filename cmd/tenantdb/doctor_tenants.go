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

// stuckAfter is when a tenant that is being provisioned counts as left behind.
const stuckAfter = time.Hour

// location is where a tenant's database is: two tenants with one are found by it.
type location struct {
	server   string // "" for a file
	database string // or the file; "" where the db_url can't be read
}

// locationOf reads a db_url, whatever its user and parameters.
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

// catalog tries every tenant, several at once.
func (d *doctor) catalog(ctx context.Context) error {
	var mu sync.Mutex // guards d
	counts, turns := make(map[string]int), make(chan struct{}, d.cmd.Parallel)
	var tenants []*hostdb.TenantCatalog // whose databases are compared
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
				d.sick++
				d.add("tenant "+nameOf(tenant), wrong, "%s", problem)
			}
		})
	}
	running.Wait()
	d.join()
	owners := make(map[location]string)
	for _, tenant := range tenants {
		at := d.locationOf(tenant.DBURL)
		at.server = d.primaryName(at.server)
		if owner := owners[at]; owner != "" && at.database != "" {
			d.sick++
			d.add("tenant "+nameOf(tenant), wrong, "its db_url is the database of tenant %s: give each a database of its own", owner)
		}
		owners[at] = nameOf(tenant)
	}
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
	asked, err := askServer(ctx, conn.Conn())
	if err != nil {
		return err
	}
	mu.Lock()
	defer mu.Unlock()
	load.answer = asked
	return nil
}
