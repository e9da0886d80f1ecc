package fleet

import (
	"context"

	"github.com/tenantdb/tenantdb/hostdb"
)

// server creates and drops tenants' databases. Their names come from the tenants' generated ids, never from
// input.
type server interface {
	// newURL makes the db_url of a new tenant.
	newURL(tenantID string) (hostdb.Secret, error)
	// owns reports whether newURL made the tenant's db_url.
	owns(tenant *hostdb.TenantCatalog) bool
	// list returns the tenant ids in the names of the databases that exist.
	list(ctx context.Context) ([]string, error)
	// create creates the database unless it exists. It returns the version of the schema, which is unknown
	// unless the database is a new copy of a template.
	create(ctx context.Context, tenant *hostdb.TenantCatalog) (int64, error)
	// drop refuses new connections to the database, ends the open ones and removes it. It returns nil if the
	// database doesn't exist.
	drop(ctx context.Context, tenant *hostdb.TenantCatalog) error
}
