// Package hostdbtest is the conformance suite of the host database. Every engine must pass it, errors
// included.
package hostdbtest

import (
	"errors"
	"strings"
	"testing"

	"github.com/tenantdb/tenantdb/hostdb"
)

// Run runs the suite. open returns an empty database with the schema, which is closed when its test ends.
func Run(t *testing.T, open func(t *testing.T) *hostdb.DB) {
	for _, section := range []struct {
		name string
		test func(t *testing.T, db *hostdb.DB)
	}{
		{"what is written is read back", roundTrips},
		{"empty fields get their defaults", defaults},
		{"what is made new is open", constructors},
		{"a row that lacks a column isn't written back", partialRows},
		{"what safety rests on is there", verified},
		{"input is refused with the field", refusals},
		{"keys are unique", uniqueness},
		{"references hold", references},
		{"unknown rows are not found", absences},
		{"the last owner stays", lastOwner},
		{"a row is changed under its lock", changes},
		{"audit rows stay", auditStays},
		{"what happens once is recorded once", onceRecorded},
		{"mutations are audited", mutationsAudited},
		{"users are exported and erased", erasure},
		{"lists are filtered, ordered and paged", lists},
		{"texts compare byte by byte and fold ASCII only", texts},
		{"times keep microseconds", times},
		{"transactions hold together", transactions},
		{"jobs follow the queue's rules", jobs},
		{"webhook events are recorded once", webhooks},
		{"the newest webhook event is found", newestEvent},
		{"overdue subscriptions are counted", overdue},
		{"access is answered for everybody", access},
		{"what doesn't bear on access is no change", quietColumns},
		{"migrations follow the ledger's rules", ledger},
	} {
		t.Run(section.name, func(t *testing.T) {
			t.Parallel()
			section.test(t, open(t))
		})
	}
}

// must ends the test on an error.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// refused checks an error's kind and field. field "" accepts an error without one.
func refused(t *testing.T, err, kind error, field string) {
	t.Helper()
	var about *hostdb.FieldError
	if !errors.Is(err, kind) || (field != "" && (!errors.As(err, &about) || about.Field != field)) {
		t.Errorf("error = %v; want %v on %q", err, kind, field)
	}
}

// says checks an error's reason.
func says(t *testing.T, err error, text string) {
	t.Helper()
	var about *hostdb.FieldError
	if !errors.As(err, &about) || !strings.Contains(about.Reason, text) ||
		strings.Contains(about.Reason, ", or ") {
		t.Errorf("error = %v; want %q", err, text)
	}
}

// same compares two comparable values.
func same[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s = %v, want %v", what, got, want)
	}
}

// fixture is a tenant with its owner.
type fixture struct {
	user   *hostdb.GlobalUser
	tenant *hostdb.TenantCatalog
	owner  *hostdb.Membership
}

// newFixture stores a tenant and its owner.
func newFixture(t *testing.T, db *hostdb.DB) fixture {
	t.Helper()
	id := hostdb.NewID()
	f := fixture{user: &hostdb.GlobalUser{Email: id + "@example.com", OAuthID: "auth|" + id},
		tenant: &hostdb.TenantCatalog{Name: "Acme", Slug: "t-" + id, IsActive: true}}
	must(t, db.Users.Insert(t.Context(), f.user))
	must(t, db.Tenants.Insert(t.Context(), f.tenant))
	f.owner = &hostdb.Membership{UserID: f.user.ID, TenantID: f.tenant.ID, Role: hostdb.RoleOwner,
		IsActive: true}
	must(t, db.Memberships.Insert(t.Context(), f.owner))
	return f
}
