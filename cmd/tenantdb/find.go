package main

import (
	"cmp"
	"context"
	"fmt"

	"github.com/tenantdb/tenantdb/hostdb"
)

// userRef names a user in one of three ways.
type userRef struct {
	ID      string `xor:"user" required:"" placeholder:"ID" help:"The user with this id."`
	Email   string `xor:"user" required:"" placeholder:"ADDRESS" help:"The user with this e-mail address."`
	OAuthID string `name:"oauth-id" xor:"user" required:"" placeholder:"SUBJECT" help:"${oauth_id}"`
}

// user returns the user.
func (r userRef) user(ctx context.Context, host *hostdb.DB) (*hostdb.GlobalUser, error) {
	var user *hostdb.GlobalUser
	var err error
	switch {
	case r.ID != "":
		user, err = host.Users.Get(ctx, r.ID)
	case r.Email != "":
		user, err = host.Users.ByEmail(ctx, r.Email)
	default:
		user, err = host.Users.ByOAuthID(ctx, r.OAuthID)
	}
	if err != nil {
		return nil, fmt.Errorf("user %s: %w", r.ID+r.Email+r.OAuthID, err)
	}
	return user, nil
}

// findTenant returns the tenant with a slug or id. No slug is an id.
func findTenant(ctx context.Context, host *hostdb.DB, name string) (*hostdb.TenantCatalog, error) {
	var tenant *hostdb.TenantCatalog
	var err error
	switch {
	case hostdb.ValidID(name):
		tenant, err = host.Tenants.Get(ctx, name)
	case hostdb.ValidSlug(name):
		tenant, err = host.Tenants.BySlug(ctx, name)
	default:
		return nil, fmt.Errorf("tenant %q: neither a slug (1 to 63 of a-z, 0-9 and inner hyphens) "+
			"nor an id (32 hex digits)", name)
	}
	if err != nil {
		return nil, fmt.Errorf("tenant %s: %w", name, err)
	}
	return tenant, nil
}

// findTenants returns the tenants with these slugs or ids, all or none.
func findTenants(ctx context.Context, host *hostdb.DB, names []string) ([]hostdb.TenantCatalog, error) {
	var found []hostdb.TenantCatalog
	for _, name := range names {
		tenant, err := findTenant(ctx, host, name)
		if err != nil {
			return nil, err
		}
		found = append(found, *tenant)
	}
	return found, nil
}

// tenantID returns the id of the tenant with a slug or id, and "" for "".
func tenantID(ctx context.Context, host *hostdb.DB, name string) (string, error) {
	if name == "" {
		return "", nil
	}
	tenant, err := findTenant(ctx, host, name)
	if err != nil {
		return "", err
	}
	return tenant.ID, nil
}

// nameOf returns a tenant's slug, or its id if it has no slug any more.
func nameOf(tenant *hostdb.TenantCatalog) string { return cmp.Or(tenant.Slug, tenant.ID) }
