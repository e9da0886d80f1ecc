package tenantdbtest

import (
	"context"
	"errors"
	"sync"

	"github.com/tenantdb/tenantdb/fleet"
	"github.com/tenantdb/tenantdb/hostdb"
)

// found are the ids of rows that were made by name, once each.
type found struct{ rows sync.Map } // name → func() (id string, err error)

// id returns the id of a row. The first call for a name makes the row, and others wait for that.
func (f *found) id(name string, make func() (string, error)) (string, error) {
	once, _ := f.rows.LoadOrStore(name, sync.OnceValues(make))
	return once.(func() (string, error))()
}

// User returns the user with a name, whom the first call makes. The name is also the subject of the user's
// tokens (oauth_id), and the e-mail address is name@example.com.
func (k *Kit) User(name string) *hostdb.GlobalUser {
	k.t.Helper()
	ctx := k.t.Context()
	id, err := k.users.id(name, func() (string, error) {
		user := hostdb.NewUser(name+"@example.com", name)
		return user.ID, k.Host.Users.Insert(ctx, user)
	})
	var user *hostdb.GlobalUser
	if err == nil {
		user, err = k.Host.Users.Get(ctx, id)
	}
	if err != nil {
		k.t.Fatalf("tenantdbtest: User(%q): %v", name, err)
	}
	return user
}

// Tenant returns the tenant with a slug, which the first call creates as [fleet.Fleet.Provision] does: with
// its own database and its schema, on the plan "free". Its first owner is a user that the kit makes; see
// [Kit.Owner].
func (k *Kit) Tenant(slug string) *hostdb.TenantCatalog {
	k.t.Helper()
	ctx := k.t.Context()
	id, err := k.tenants.id(slug, func() (string, error) {
		owner := hostdb.NewUser("owner-of-"+slug+"@example.com", "owner-of-"+slug)
		if err := k.Host.Users.Insert(ctx, owner); err != nil {
			return "", err
		}
		tenant, err := k.Fleet.Provision(ctx, fleet.Spec{Slug: slug, OwnerID: owner.ID})
		if err != nil {
			return "", err
		}
		return tenant.ID, nil
	})
	var tenant *hostdb.TenantCatalog
	if err == nil {
		tenant, err = k.Host.Tenants.Get(ctx, id)
	}
	if err != nil {
		k.t.Fatalf("tenantdbtest: Tenant(%q): %v", slug, err)
	}
	return tenant
}

// Owner returns the user who became the owner of a tenant of [Kit.Tenant].
func (k *Kit) Owner(tenant *hostdb.TenantCatalog) *hostdb.GlobalUser {
	k.t.Helper()
	user, err := k.Host.Users.ByOAuthID(k.t.Context(), "owner-of-"+tenant.Slug)
	if err != nil {
		k.t.Fatalf("tenantdbtest: Owner: %s is not a tenant of Kit.Tenant, or was renamed: %v", tenant.Slug,
			err)
	}
	return user
}

// Member makes a user an active member of a tenant, or gives a member another role. The role "" is "member".
// The next request notices it.
func (k *Kit) Member(user *hostdb.GlobalUser, tenant *hostdb.TenantCatalog,
	role string) *hostdb.Membership {
	k.t.Helper()
	ctx := k.t.Context()
	member := hostdb.NewMembership(user.ID, tenant.ID, role)
	err := k.Host.InTx(ctx, func(tx *hostdb.Tx) error {
		had, err := tx.Memberships.Find(ctx, user.ID, tenant.ID)
		if errors.Is(err, hostdb.ErrNotFound) {
			return tx.Memberships.Insert(ctx, member)
		}
		if err != nil {
			return err
		}
		had.Role, had.IsActive = member.Role, true
		member = had
		return tx.Memberships.Update(ctx, member)
	})
	if err != nil {
		k.t.Fatalf("tenantdbtest: Member(%s, %s, %q): %v", user.OAuthID, tenant.Slug, role, err)
	}
	k.Changed(user, tenant)
	return member
}

// Subscribe gives a tenant an active subscription to a plan for a month, and moves the tenant to that plan. A
// plan that isn't in the price list is added, with the given features and the tier level 1. The next request
// notices it.
//
// For another state change the subscription, such as its Status, and store it with
// k.Host.Subscriptions.Update.
func (k *Kit) Subscribe(tenant *hostdb.TenantCatalog, plan string,
	features ...string) *hostdb.Subscription {
	k.t.Helper()
	ctx, end := k.t.Context(), k.Clock.Now().AddDate(0, 1, 0)
	subscription := hostdb.NewSubscription(tenant.ID, plan)
	subscription.Status, subscription.CurrentPeriodEnd = hostdb.SubscriptionActive, &end
	err := k.Host.InTx(ctx, func(tx *hostdb.Tx) error {
		if err := addPlan(ctx, tx, plan, features); err != nil {
			return err
		}
		if _, err := tx.Tenants.Change(ctx, tenant.ID, func(row *hostdb.TenantCatalog) error {
			row.PlanTier = plan
			return nil
		}); err != nil {
			return err
		}
		return tx.Subscriptions.Insert(ctx, subscription)
	})
	if err != nil {
		k.t.Fatalf("tenantdbtest: Subscribe(%s, %q): %v", tenant.Slug, plan, err)
	}
	k.Changed(nil, tenant)
	return subscription
}

// addPlan adds a plan to the price list, unless it is there.
func addPlan(ctx context.Context, tx *hostdb.Tx, id string, features []string) error {
	_, err := tx.Plans.Get(ctx, id)
	if !errors.Is(err, hostdb.ErrNotFound) {
		return err
	}
	plan := hostdb.NewPlan(id, id)
	plan.Features = features
	return tx.Plans.Insert(ctx, plan)
}

// Changed has the next request look a user and a tenant up anew. Call it after a write to [Kit.Host] that a
// request has to notice at once. Without it the middleware notices a write within
// [tenantdb.CacheConfig.MaxStaleness]. Either may be nil.
func (k *Kit) Changed(user *hostdb.GlobalUser, tenant *hostdb.TenantCatalog) {
	var userID, tenantID string
	if user != nil {
		userID = user.ID
	}
	if tenant != nil {
		tenantID = tenant.ID
	}
	k.Middleware.Invalidate(userID, tenantID)
}
