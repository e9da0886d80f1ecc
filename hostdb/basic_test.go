package hostdb_test

import (
	"errors"
	"testing"

	"github.com/tenantdb/tenantdb/hostdb"
)

func TestTable_insertGetUpdateDelete(t *testing.T) {
	onBoth(t, func(t *testing.T, db *hostdb.DB) {
		ctx := t.Context()
		u, tn := newUser(t, db), newTenant(t, db)
		m := newMember(t, db, u, tn, hostdb.RoleOwner)
		got, err := db.Users.Get(ctx, u.ID)
		must(t, err)
		if *got != *u {
			t.Fatalf("got %+v, want %+v", got, u)
		}
		m.Role = hostdb.RoleMember
		var field *hostdb.FieldError
		if err := db.Memberships.Update(ctx, m); !errors.As(err, &field) || field.Field != "last_owner" ||
			!errors.Is(err, hostdb.ErrConflict) {
			t.Fatalf("demoting the last owner: %v", err)
		}
		if err := db.Memberships.Delete(ctx, m.ID); !errors.Is(err, hostdb.ErrConflict) {
			t.Fatalf("removing the last owner: %v", err)
		}
		if err := db.Users.Insert(ctx, &hostdb.GlobalUser{Email: u.Email}); !errors.As(err, &field) ||
			field.Field != "email" {
			t.Fatalf("second user with the address: %v", err)
		}
		if err := db.Users.Delete(ctx, u.ID); !errors.As(err, &field) || field.Field != "user_id" {
			t.Fatalf("deleting a member: %v", err)
		}
		plan := &hostdb.PricingPlan{ID: "free", Name: "Free", Features: []string{"a"}}
		must(t, db.Plans.Insert(ctx, plan))
		must(t, db.Subscriptions.Insert(ctx,
			&hostdb.Subscription{TenantID: tn.ID, Status: "active", PlanTier: "free"}))
		a, err := db.Access(ctx, hostdb.UserKey{OAuthID: u.OAuthID}, hostdb.TenantKey{Slug: tn.Slug})
		must(t, err)
		if a.User == nil || a.Tenant == nil || a.Membership == nil || len(a.Subscriptions) != 1 ||
			a.Subscriptions[0].Plan == nil {
			t.Fatalf("access = %+v", a)
		}
		a, err = db.Access(ctx, hostdb.UserKey{OAuthID: "nobody"}, hostdb.TenantKey{Slug: "nothing"})
		must(t, err)
		if a == nil || a.User != nil || a.Tenant != nil {
			t.Fatalf("access of nobody = %+v", a)
		}
		ids, err := db.SoleTenants(ctx, hostdb.UserKey{ID: u.ID})
		if err != nil || len(ids) != 1 || ids[0] != tn.ID {
			t.Fatalf("sole tenants = %v, %v", ids, err)
		}
		logs, err := db.AuditLogs.ListForTarget(ctx, tn.ID)
		if err != nil || len(logs) != 1 || logs[0].EventType != "tenant.created" {
			t.Fatalf("audit = %v, %v", logs, err)
		}
	})
}
