package hostdb_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// One batch has every pair of users and tenants, by every kind of key.
func TestDB_AccessAll_answersEachKeyAsAccess(t *testing.T) {
	onBoth(t, func(t *testing.T, db *hostdb.DB) {
		ctx := t.Context()
		must(t, db.Plans.Insert(ctx, &hostdb.PricingPlan{ID: "pro", Name: "Pro", Features: []string{"x"}}))
		var users []hostdb.UserKey
		var tenants []hostdb.TenantKey
		for i := range 4 {
			u := &hostdb.GlobalUser{Email: fmt.Sprint(i, "@b"), OAuthID: fmt.Sprintf(`auth|%d "\'ü`, i)}
			must(t, db.Users.Insert(ctx, u))
			tn := &hostdb.TenantCatalog{Name: "T", Slug: fmt.Sprint("s-", i), PlanTier: "pro", IsActive: true}
			must(t, db.Tenants.Insert(ctx, tn))
			newMember(t, db, u, tn, hostdb.RoleOwner)
			for j := range 6 * i { // up to 18
				at := time.Now().Add(time.Duration(j) * time.Hour)
				must(t, db.Subscriptions.Insert(ctx,
					&hostdb.Subscription{TenantID: tn.ID, PlanTier: "pro", CurrentPeriodEnd: &at,
						Status: []string{"active", "canceled", "trialing"}[j%3]}))
			}
			users = append(users, hostdb.UserKey{ID: u.ID}, hostdb.UserKey{OAuthID: u.OAuthID})
			tenants = append(tenants, hostdb.TenantKey{ID: tn.ID}, hostdb.TenantKey{Slug: tn.Slug})
		}
		users = append(users, hostdb.UserKey{OAuthID: "nobody"}, hostdb.UserKey{ID: hostdb.NewID()},
			hostdb.UserKey{}, hostdb.UserKey{OAuthID: "a\x00b"}, hostdb.UserKey{OAuthID: "\xff"},
			hostdb.UserKey{ID: "x"}, hostdb.UserKey{OAuthID: strings.Repeat("x", 513)})
		tenants = append(tenants, hostdb.TenantKey{Slug: "nothing"}, hostdb.TenantKey{Slug: "No"},
			hostdb.TenantKey{Slug: "a\x00"}, hostdb.TenantKey{ID: "\xff"})
		var keys []hostdb.AccessKey
		for _, u := range users {
			for _, tn := range tenants {
				keys = append(keys, hostdb.AccessKey{User: u, Tenant: tn})
			}
		}
		answers, err := db.AccessAll(ctx, keys)
		must(t, err)
		granted, refused := 0, 0
		for i, k := range keys {
			want, err := db.Access(ctx, k.User, k.Tenant)
			if err != nil {
				refused++
				if !errors.Is(answers[i].Err, hostdb.ErrInvalid) || answers[i].Err.Error() != err.Error() {
					t.Errorf("%+v: %v; Access says %v", k, answers[i].Err, err)
				}
				continue
			}
			if want.Membership != nil {
				granted++
			}
			if got := answers[i].Access; answers[i].Err != nil || !reflect.DeepEqual(&got, want) {
				t.Errorf("%+v: %v\n%s\nAccess says\n%s", k, answers[i].Err, asJSON(got), asJSON(want))
			}
		}
		if granted != 16 || refused == 0 {
			t.Errorf("%d granted, %d refused", granted, refused)
		}
	})
}

func asJSON(v any) string {
	text, _ := json.Marshal(v)
	return string(text)
}

// The answer also names the tenants whose status decided it.
func TestDB_AccessAll_returnsAUsersSoleTenant(t *testing.T) {
	onBoth(t, func(t *testing.T, db *hostdb.DB) {
		ctx, owner := t.Context(), newUser(t, db)
		for name, want := range map[string]struct {
			statuses []string
			inactive int // memberships
			sole     bool
			basis    int
			open     bool
		}{
			"none":                    {},
			"one":                     {[]string{"active"}, 0, true, 1, false},
			"one suspended":           {[]string{"suspended"}, 0, true, 1, false},
			"an inactive membership":  {[]string{"active", "active"}, 1, true, 1, false},
			"two":                     {[]string{"active", "maintenance"}, 0, false, 2, false},
			"three":                   {[]string{"active", "active", "active"}, 0, false, 2, false},
			"one dropped":             {[]string{"dropped"}, 0, false, 1, false},
			"one, and others to come": {[]string{"provisioning", "active", "dropped"}, 0, true, 3, false},
			"two, and one to come":    {[]string{"provisioning", "active", "active"}, 0, false, 2, false},
			"one, and more than Basis holds": {
				append(slices.Repeat([]string{"dropped"}, 8), "active"), 0, true, 8, true},
		} {
			u := newUser(t, db)
			ids := map[string]bool{}
			for i, status := range want.statuses {
				tn := newTenant(t, db)
				newMember(t, db, owner, tn, hostdb.RoleOwner)
				m := newMember(t, db, u, tn, hostdb.RoleMember)
				if i < want.inactive {
					m.IsActive = false
					must(t, db.Memberships.Update(ctx, m))
				}
				tn.Status = status
				must(t, db.Tenants.Update(ctx, tn))
				ids[tn.ID] = status != "dropped" && status != "provisioning" && i >= want.inactive
			}
			answers, err := db.AccessAll(ctx,
				[]hostdb.AccessKey{{User: hostdb.UserKey{OAuthID: "nobody"}},
					{User: hostdb.UserKey{ID: u.ID}}, {User: hostdb.UserKey{OAuthID: u.OAuthID}},
					{User: hostdb.UserKey{ID: "x"}}})
			must(t, err)
			if answers[0].User != nil || answers[0].Err != nil ||
				!errors.Is(answers[3].Err, hostdb.ErrInvalid) {
				t.Errorf("%s: nobody: %+v; a malformed key: %+v", name, answers[0], answers[3])
			}
			for _, a := range answers[1:3] {
				if u.OAuthID == "" && a.User == nil {
					continue
				}
				if a.User == nil || a.User.ID != u.ID || a.User.PasswordHash != "" {
					t.Errorf("%s: user %+v", name, a.User)
				}
				if (a.Sole != "") != want.sole || a.Sole != "" && !ids[a.Sole] ||
					len(a.Basis) != want.basis || a.BasisOpen != want.open {
					t.Errorf("%s: sole %q, found by %d tenants, more %v", name, a.Sole, len(a.Basis),
						a.BasisOpen)
				}
			}
		}
	})
}

// The test holds every connection that a product's queries may have.
func TestDB_Access_isNotDelayedBySlowQueries(t *testing.T) {
	for name, place := range map[string]func(testing.TB) string{"postgres": postgresURL, "file": fileURL} {
		t.Run(name, func(t *testing.T) {
			db := open(t, hostdb.Config{URL: hostdb.Secret(place(t)), MaxConns: 2})
			u := newUser(t, db)
			tx, err := db.Begin(t.Context()) // on PostgreSQL it takes one of the connections
			must(t, err)
			defer func() { _ = tx.Rollback() }()
			must(t, tx.Users.Insert(t.Context(), &hostdb.GlobalUser{Email: "long@transaction"}))
			for range 3 {
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				defer cancel()
				if conn, err := db.Bare().Conn(ctx); err == nil {
					defer conn.Close()
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			if a, err := db.Access(ctx, hostdb.UserKey{ID: u.ID},
				hostdb.TenantKey{Slug: "acme"}); err != nil || a.User == nil {
				t.Errorf("Access: %+v, %v", a, err)
			}
			if a, err := db.AccessAll(ctx,
				[]hostdb.AccessKey{{User: hostdb.UserKey{ID: u.ID}}}); err != nil || a[0].User == nil {
				t.Errorf("AccessAll: %+v, %v", a, err)
			}
		})
	}
}
