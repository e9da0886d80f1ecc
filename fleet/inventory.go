package fleet

import (
	"context"
	"fmt"

	"github.com/tenantdb/tenantdb/hostdb"
)

// Inventory holds the differences between the catalog and the databases on [Config.Server], as they appear
// after a restore from a backup.
type Inventory struct {
	// Orphans are the tenant ids in the names of databases that have no row in the catalog. On a shared
	// server they may belong to another product.
	Orphans []string
	// Missing are the tenants, open or closed, whose database should be on the server but isn't.
	Missing []*hostdb.TenantCatalog
}

// Inventory compares the catalog with the databases that exist.
func (f *Fleet) Inventory(ctx context.Context) (Inventory, error) {
	found, err := f.inventory(ctx)
	if err != nil {
		return Inventory{}, fmt.Errorf("fleet: inventory: %w", err)
	}
	return found, nil
}

// inventory lists the databases before the rows, since a row is older than its database. Before it reports a
// database as missing, it lists them again.
func (f *Fleet) inventory(ctx context.Context) (found Inventory, err error) {
	existing, err := f.databases(ctx)
	if err != nil {
		return found, err
	}
	var missing []*hostdb.TenantCatalog
	for tenant, err := range f.host.Tenants.All(ctx) {
		if err != nil {
			return found, err
		}
		hasDatabase := tenant.Status != hostdb.TenantDropped && tenant.Status != hostdb.TenantProvisioning
		if hasDatabase && f.server.owns(tenant) && !existing[tenant.ID] {
			missing = append(missing, tenant)
		}
		delete(existing, tenant.ID)
	}
	for id := range existing {
		found.Orphans = append(found.Orphans, id)
	}
	if len(missing) == 0 {
		return found, nil
	}
	if existing, err = f.databases(ctx); err != nil {
		return found, err
	}
	for _, tenant := range missing {
		if !existing[tenant.ID] {
			found.Missing = append(found.Missing, tenant)
		}
	}
	return found, nil
}

// databases returns the tenant ids in the names of the databases that exist.
func (f *Fleet) databases(ctx context.Context) (map[string]bool, error) {
	ids, err := f.server.list(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the databases: %w", err)
	}
	existing := make(map[string]bool, len(ids))
	for _, id := range ids {
		existing[id] = true
	}
	return existing, nil
}
