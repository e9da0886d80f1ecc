package hostdb

import "fmt"

// Format implements fmt.Formatter. It prints the fields with the password hash masked: fmt bypasses Secret's
// own methods for a verb that doesn't apply, such as %s of a struct.
func (u GlobalUser) Format(f fmt.State, verb rune) {
	type plain GlobalUser
	u.PasswordHash = Secret(u.PasswordHash.String())
	fmt.Fprintf(f, fmt.FormatString(f, verb), plain(u))
}

// Format implements fmt.Formatter. It prints the fields with the database URL masked.
func (t TenantCatalog) Format(f fmt.State, verb rune) {
	type plain TenantCatalog
	t.DBURL = Secret(t.DBURL.String())
	fmt.Fprintf(f, fmt.FormatString(f, verb), plain(t))
}
