package fleet

import (
	"context"
	"fmt"

	"github.com/tenantdb/tenantdb/hostdb"
)

// Inventory is where the catalog and the server of Config.Server disagree, as they do after one of them was
// restored from a backup.
type Inventory struct {
	// Strays are the ids in the names of tenants' databases for which the catalog has no row. On a server
	// that several products share they may be another product's.
	Strays []string
	// Missing are the tenants, open or closed, whose database should be on the server and isn't.
	Missing []*hostdb.TenantCatalog
}

// Inventory compares the catalog with the databases that are there.
func (f *Fleet) Inventory(ctx context.Context) (Inventory, error) {
	found, err := f.inventory(ctx)
	if err != nil {
		return Inventory{}, fmt.Errorf("fleet: inventory: %w", err)
	}
	return found, nil
}

// inventory lists the databases before the rows, since a row is older than its database, and again before it
// calls one missing.
func (f *Fleet) inventory(ctx context.Context) (found Inventory, err error) {
	there, err := f.databases(ctx)
	if err != nil {
		return found, err
	}
	var missing []*hostdb.TenantCatalog
	for tenant, err := range f.host.Tenants.All(ctx) {
		if err != nil {
			return found, err
		}
		hasOne := tenant.Status != hostdb.TenantDropped && tenant.Status != hostdb.TenantProvisioning && f.server.owns(tenant)
		if hasOne && !there[tenant.ID] {
			missing = append(missing, tenant)
		}
		delete(there, tenant.ID)
	}
	for id := range there {
		found.Strays = append(found.Strays, id)
	}
	if len(missing) == 0 {
		return found, nil
	}
	if there, err = f.databases(ctx); err != nil {
		return found, err
	}
	for _, tenant := range missing {
		if !there[tenant.ID] {
			found.Missing = append(found.Missing, tenant)
		}
	}
	return found, nil
}

// databases are the ids in the names of the databases that are there.
func (f *Fleet) databases(ctx context.Context) (map[string]bool, error) {
	ids, err := f.server.list(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the databases: %w", err)
	}
	there := make(map[string]bool, len(ids))
	for _, id := range ids {
		there[id] = true
	}
	return there, nil
}
