package fleet

import (
	"slices"

	"github.com/tenantdb/tenantdb/hostdb"
)

// DefaultReservedSlugs returns the slugs that are reserved by default: host names with a meaning to products,
// browsers, mail servers or name servers.
func DefaultReservedSlugs() []string {
	return []string{"account", "accounts", "admin", "api", "app", "assets", "auth", "autoconfig",
		"autodiscover", "billing", "blog", "cdn", "dashboard", "docs", "email", "files", "ftp", "help",
		"hostmaster", "imap", "internal", "isatap", "localhost", "login", "logout", "mail", "media",
		"mta-sts", "mx", "ns", "ns1", "ns2", "oauth", "pop", "postmaster", "register", "root", "signin",
		"signup", "smtp", "sso", "static", "status", "support", "system", "webhook", "webhooks",
		"webmaster", "wpad", "www"}
}

// checkSlug refuses a slug that no tenant may be given.
func (f *Fleet) checkSlug(slug string) error {
	switch {
	case !hostdb.ValidSlug(slug):
		return &hostdb.FieldError{Field: "slug", Err: hostdb.ErrInvalid,
			Reason: "give 1 to 63 lower-case letters, digits and inner hyphens, not 32 hex digits"}
	case slices.Contains(f.reservedSlugs, slug):
		return &hostdb.FieldError{Field: "slug", Err: hostdb.ErrInvalid,
			Reason: "is reserved; choose another, or see Config.ReservedSlugs"}
	}
	return nil
}
