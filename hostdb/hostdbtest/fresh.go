package hostdbtest

import (
	"strings"
	"testing"

	"github.com/tenantdb/tenantdb/hostdb"
)

// constructors checks that rows as the constructors return them let their users in, and are stored
// unchanged.
func constructors(t *testing.T, db *hostdb.DB) {
	ctx := t.Context()
	user, tenant, plan := hostdb.NewUser("ada@example.com", "auth|ada"), hostdb.NewTenant("Acme", "acme"),
		hostdb.NewPlan("pro", "Pro")
	member, subscription := hostdb.NewMembership(user.ID, tenant.ID, ""),
		hostdb.NewSubscription(tenant.ID, "pro")
	must(t, db.Users.Insert(ctx, user))
	must(t, db.Tenants.Insert(ctx, tenant))
	must(t, db.Plans.Insert(ctx, plan))
	must(t, db.Memberships.Insert(ctx, member))
	must(t, db.Subscriptions.Insert(ctx, subscription))
	found, err := db.Access(ctx, hostdb.UserKey{OAuthID: "auth|ada"}, hostdb.TenantKey{Slug: "acme"})
	must(t, err)
	same(t, "user", found.User.ID, user.ID)
	same(t, "tenant is open", found.Tenant.Open(), true)
	same(t, "tenant's tier", found.Tenant.PlanTier, hostdb.TierFree)
	same(t, "membership is active", found.Membership.IsActive, true)
	same(t, "role", found.Membership.Role, hostdb.RoleMember)
	same(t, "subscription", found.Subscriptions[0].ID, subscription.ID)
	same(t, "subscription's status", found.Subscriptions[0].Status, hostdb.SubscriptionIncomplete)
	same(t, "payment type", found.Subscriptions[0].PaymentType, hostdb.PaymentSubscription)
	onSale, err := db.Plans.OnSale(ctx)
	must(t, err)
	if len(onSale) != 1 || onSale[0].ID != "pro" || onSale[0].TrialDays != 30 || onSale[0].TierLevel != 1 ||
		onSale[0].Currency != "usd" {
		t.Errorf("on sale: %+v", onSale)
	}
}

// partialRows checks that the user of an Access, or a copy, doesn't overwrite the password's hash, which it
// lacks.
func partialRows(t *testing.T, db *hostdb.DB) {
	ctx, f := t.Context(), newFixture(t, db)
	f.user.PasswordHash = "hash"
	must(t, db.Users.Update(ctx, f.user))
	found, err := db.Access(ctx, hostdb.UserKey{ID: f.user.ID}, hostdb.TenantKey{ID: f.tenant.ID})
	must(t, err)
	partial := *found.User
	partial.StripeCustID = "cus_1"
	for what, write := range map[string]func() error{
		"Update": func() error { return db.Users.Update(ctx, &partial) },
		"Insert": func() error { return db.Users.Insert(ctx, &partial) },
		"Change to it": func() error {
			_, err := db.Users.Change(ctx, f.user.ID,
				func(u *hostdb.GlobalUser) error { *u = partial; return nil })
			return err
		},
		"Update in a Tx": func() error {
			return db.InTx(ctx,
				func(tx *hostdb.Tx) error { return tx.Users.Update(ctx, &partial) })
		},
	} {
		err := write()
		refused(t, err, hostdb.ErrInvalid, "password_hash")
		if err != nil && !strings.Contains(err.Error(), "Change") {
			t.Errorf("%s: error = %v; it doesn't name Change", what, err)
		}
	}
	_, err = db.Users.Change(ctx, f.user.ID,
		func(u *hostdb.GlobalUser) error { u.StripeCustID = "cus_1"; return nil })
	must(t, err)
	stored, err := db.Users.Get(ctx, f.user.ID)
	must(t, err)
	same(t, "password's hash", stored.PasswordHash.Reveal(), "hash")
	same(t, "customer", stored.StripeCustID, "cus_1")
	must(t, db.Tenants.Update(ctx, found.Tenant)) // the tenant is complete
	must(t, db.Memberships.Update(ctx, found.Membership))
}

// verified checks that Verify finds nothing wrong.
func verified(t *testing.T, db *hostdb.DB) {
	faults, err := db.Verify(t.Context())
	must(t, err)
	for _, fault := range faults {
		t.Error(fault)
	}
}
