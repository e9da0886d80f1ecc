package fleet

import (
	"context"

	"github.com/tenantdb/tenantdb/hostdb"
)

// server is where tenants' databases stand. Names come from the tenant's generated id, never from input.
type server interface {
	// address makes up the db_url of a new tenant's database.
	address(tenantID string) (hostdb.Secret, error)
	// owns reports whether a tenant's db_url is one that address made.
	owns(tenant *hostdb.TenantCatalog) bool
	// list returns the ids in the names of the tenants' databases that are there.
	list(ctx context.Context) ([]string, error)
	// create creates the database, and returns its schema's version: unknown where it isn't fresh from a
	// template. One that exists already is not an error.
	create(ctx context.Context, tenant *hostdb.TenantCatalog) (int64, error)
	// drop fences the database off and removes it; one that is gone already is not an error.
	drop(ctx context.Context, tenant *hostdb.TenantCatalog) error
}
