package hostdb_test

import (
	"slices"
	"testing"

	"github.com/tenantdb/tenantdb/hostdb"
)

// Another program's REPLACE removes rows without firing their DELETE triggers.
func TestSchema_replacingAMembershipKeepsTheLastOwner(t *testing.T) {
	db := open(t, hostdb.Config{URL: hostdb.Secret(fileURL(t))})
	pool := raw(t, db)
	kept, other := newTenant(t, db), newTenant(t, db)
	boss, member := newUser(t, db), newUser(t, db)
	owner := newMember(t, db, boss, kept, hostdb.RoleOwner)
	newMember(t, db, boss, other, hostdb.RoleOwner)
	elsewhere := newMember(t, db, member, other, hostdb.RoleMember)
	here := newMember(t, db, member, kept, hostdb.RoleMember)
	const into = "(id, user_id, tenant_id, role) VALUES ('"
	for _, statement := range []string{
		"INSERT OR REPLACE INTO core_memberships " + into + hostdb.NewID() + "', '" + boss.ID + "', '" +
			kept.ID + "', 'member')",
		"REPLACE INTO core_memberships " + into + owner.ID + "', '" + newUser(t, db).ID + "', '" + kept.ID +
			"', 'member')",
		"REPLACE INTO core_memberships " + into + owner.ID + "', '" + newUser(t, db).ID + "', '" + other.ID +
			"', 'owner')",
		"UPDATE OR REPLACE core_memberships SET id = '" + owner.ID + "' WHERE id = '" + elsewhere.ID + "'",
		"UPDATE OR REPLACE core_memberships SET user_id = '" + boss.ID + "' WHERE id = '" + here.ID + "'",
		"UPDATE OR REPLACE core_memberships SET user_id = '" + boss.ID + "', tenant_id = '" + kept.ID +
			"' WHERE id = '" + elsewhere.ID + "'",
		"REPLACE INTO core_memberships (rowid, id, user_id, tenant_id) VALUES (1, '" + hostdb.NewID() +
			"', '" + member.ID + "', '" + other.ID + "')",
		// The owner is restored instead.
		"REPLACE INTO core_tenants (id, name, active_owners) VALUES ('" + kept.ID + "', 'n', 7)",
	} {
		_, _ = pool.Exec(statement)
		var owners, counted int
		must(t, pool.QueryRow("SELECT (SELECT count(*) FROM core_memberships WHERE tenant_id = t.id "+
			"AND is_active AND role = 'owner'),"+
			" active_owners FROM core_tenants t WHERE id = $1", kept.ID).Scan(&owners, &counted))
		if owners != 1 || counted != 1 {
			t.Fatalf("after %s: %d owners, %d counted; want 1 and 1", statement, owners, counted)
		}
	}
}

func TestSchema_replacingAnOwnerIsCounted(t *testing.T) {
	db := open(t, hostdb.Config{URL: hostdb.Secret(fileURL(t))})
	tenant, boss, heir := newTenant(t, db), newUser(t, db), newUser(t, db)
	first, second := newMember(t, db, boss, tenant, hostdb.RoleOwner),
		newMember(t, db, heir, tenant, hostdb.RoleOwner)
	_, err := raw(t, db).Exec("UPDATE OR REPLACE core_memberships SET user_id = '" + heir.ID +
		"' WHERE id = '" + first.ID + "'")
	must(t, err)
	if _, err := db.Memberships.Get(t.Context(), second.ID); err == nil {
		t.Fatal("nothing was replaced")
	}
	var counted int
	must(t, raw(t, db).QueryRow("SELECT active_owners FROM core_tenants WHERE id = '"+tenant.ID+
		"'").Scan(&counted))
	if counted != 1 {
		t.Errorf("%d owners are counted, want 1", counted)
	}
	wantField(t, db.Memberships.Delete(t.Context(), first.ID), hostdb.ErrConflict, "last_owner")
}

func TestChanges_deliverReplacedRows(t *testing.T) {
	for name, replace := range map[string]func(t *testing.T, db *hostdb.DB) (statement string,
		old hostdb.Change){
		"a user by oauth_id": func(t *testing.T, db *hostdb.DB) (string, hostdb.Change) {
			u := newUser(t, db)
			return "REPLACE INTO core_users (email, oauth_id) VALUES ('x', '" + u.OAuthID + "')",
				hostdb.Change{Kind: "user", UserID: u.ID}
		},
		"a user by email": func(t *testing.T, db *hostdb.DB) (string, hostdb.Change) {
			u := newUser(t, db)
			return "REPLACE INTO core_users (email) VALUES (upper('" + u.Email + "'))",
				hostdb.Change{Kind: "user", UserID: u.ID}
		},
		"a user by an update": func(t *testing.T, db *hostdb.DB) (string, hostdb.Change) {
			u, other := newUser(t, db), newUser(t, db)
			return "UPDATE OR REPLACE core_users SET oauth_id = '" + u.OAuthID + "' WHERE id = '" + other.ID +
				"'", hostdb.Change{Kind: "user", UserID: u.ID}
		},
		"a user by an update of the email": func(t *testing.T, db *hostdb.DB) (string, hostdb.Change) {
			u, other := newUser(t, db), newUser(t, db)
			return "UPDATE OR REPLACE core_users SET email = upper('" + u.Email + "') WHERE id = '" +
				other.ID + "'", hostdb.Change{Kind: "user", UserID: u.ID}
		},
		"a tenant by slug": func(t *testing.T, db *hostdb.DB) (string, hostdb.Change) {
			tn := newTenant(t, db)
			return "REPLACE INTO core_tenants (name, slug) VALUES ('x', '" + tn.Slug + "')",
				hostdb.Change{Kind: "tenant", TenantID: tn.ID}
		},
		"a tenant by an update": func(t *testing.T, db *hostdb.DB) (string, hostdb.Change) {
			tn, other := newTenant(t, db), newTenant(t, db)
			return "UPDATE OR REPLACE core_tenants SET slug = '" + tn.Slug + "' WHERE id = '" + other.ID +
				"'", hostdb.Change{Kind: "tenant", TenantID: tn.ID}
		},
		"a membership by id": func(t *testing.T, db *hostdb.DB) (string, hostdb.Change) {
			u, tn := newUser(t, db), newTenant(t, db)
			m := newMember(t, db, u, tn, hostdb.RoleMember)
			return "REPLACE INTO core_memberships (id, user_id, tenant_id) VALUES ('" + m.ID + "', '" +
					newUser(t, db).ID + "', '" + tn.ID + "')",
				hostdb.Change{Kind: "membership", UserID: u.ID, TenantID: tn.ID}
		},
		"a subscription by id": func(t *testing.T, db *hostdb.DB) (string, hostdb.Change) {
			tn := newTenant(t, db)
			s := &hostdb.Subscription{TenantID: tn.ID}
			must(t, db.Subscriptions.Insert(t.Context(), s))
			return "REPLACE INTO core_subscriptions (id, tenant_id) VALUES ('" + s.ID + "', '" +
				newTenant(t, db).ID + "')", hostdb.Change{Kind: "subscription", TenantID: tn.ID}
		},
		"a subscription by stripe_sub_id": func(t *testing.T, db *hostdb.DB) (string, hostdb.Change) {
			tn := newTenant(t, db)
			must(t, db.Subscriptions.Insert(t.Context(),
				&hostdb.Subscription{TenantID: tn.ID, StripeSubID: "a"}))
			return "REPLACE INTO core_subscriptions (tenant_id, stripe_sub_id) VALUES ('" +
				newTenant(t, db).ID + "', 'a')", hostdb.Change{Kind: "subscription", TenantID: tn.ID}
		},
		"a subscription by an update of the id": func(t *testing.T, db *hostdb.DB) (string, hostdb.Change) {
			tn := newTenant(t, db)
			s, other := &hostdb.Subscription{TenantID: tn.ID},
				&hostdb.Subscription{TenantID: newTenant(t, db).ID}
			must(t, db.Subscriptions.Insert(t.Context(), s))
			must(t, db.Subscriptions.Insert(t.Context(), other))
			return "UPDATE OR REPLACE core_subscriptions SET id = '" + s.ID + "' WHERE id = '" + other.ID +
				"'", hostdb.Change{Kind: "subscription", TenantID: tn.ID}
		},
		"a subscription by an update": func(t *testing.T, db *hostdb.DB) (string, hostdb.Change) {
			tn := newTenant(t, db)
			s, other := &hostdb.Subscription{TenantID: tn.ID, StripeSubID: "a"},
				&hostdb.Subscription{TenantID: newTenant(t, db).ID}
			must(t, db.Subscriptions.Insert(t.Context(), s))
			must(t, db.Subscriptions.Insert(t.Context(), other))
			return "UPDATE OR REPLACE core_subscriptions SET stripe_sub_id = 'a' WHERE id = '" + other.ID +
				"'", hostdb.Change{Kind: "subscription", TenantID: tn.ID}
		},
		"a plan by an update": func(t *testing.T, db *hostdb.DB) (string, hostdb.Change) {
			must(t, db.Plans.Insert(t.Context(), &hostdb.PricingPlan{ID: "a", Name: "A"}))
			must(t, db.Plans.Insert(t.Context(), &hostdb.PricingPlan{ID: "b", Name: "B"}))
			return "UPDATE OR REPLACE core_pricing_plans SET id = 'a' WHERE id = 'b'",
				hostdb.Change{Kind: "plan", PlanID: "a"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := open(t, often(fileURL(t)))
			statement, old := replace(t, db)
			events := listen(t, db)
			_, err := raw(t, db).Exec(statement)
			must(t, err)
			// Everything committed before has been delivered.
			last := &hostdb.PricingPlan{ID: "last", Name: "Last"}
			must(t, db.Plans.Insert(t.Context(), last))
			until(t, events, func(all []hostdb.Change, _ hostdb.Delivery) bool {
				if !slices.Contains(all, hostdb.Change{Kind: hostdb.ChangePlan, PlanID: last.ID}) {
					return false
				}
				if !slices.Contains(all, old) {
					t.Errorf("delivered %+v without %+v", all, old)
				}
				return true
			})
		})
	}
}

// Statements of other programs that handle a taken key still work.
func TestSchema_letsOtherProgramsInsertOrUpdate(t *testing.T) {
	for name, url := range map[string]string{"postgres": postgresURL(t), "file": fileURL(t)} {
		t.Run(name, func(t *testing.T) {
			db := open(t, hostdb.Config{URL: hostdb.Secret(url)})
			u, tn := newUser(t, db), newTenant(t, db)
			m := newMember(t, db, u, tn, hostdb.RoleOwner)
			for _, statement := range []string{
				"INSERT INTO core_users (email, oauth_id) VALUES ('x', '" + u.OAuthID +
					"') ON CONFLICT (oauth_id) DO UPDATE SET stripe_cust_id = 'c'",
				"INSERT INTO core_tenants (name, slug) VALUES ('x', '" + tn.Slug +
					"') ON CONFLICT DO NOTHING",
				"INSERT INTO core_memberships (user_id, tenant_id, role) VALUES ('" + u.ID + "', '" + tn.ID +
					"', 'member') ON CONFLICT DO NOTHING",
				"INSERT INTO core_memberships (id, user_id, tenant_id) VALUES ('" + m.ID + "', '" + u.ID +
					"', '" + tn.ID + "') ON CONFLICT (id) DO UPDATE SET profile_id = 'p'",
			} {
				_, err := raw(t, db).Exec(statement)
				must(t, err)
			}
			got, err := db.Memberships.Get(t.Context(), m.ID)
			if err != nil || got.ProfileID != "p" || got.Role != hostdb.RoleOwner {
				t.Errorf("membership = %+v, %v", got, err)
			}
		})
	}
}

func TestSchema_countsOwnersItself(t *testing.T) {
	for name, url := range map[string]string{"postgres": postgresURL(t), "file": fileURL(t)} {
		t.Run(name, func(t *testing.T) {
			db := open(t, hostdb.Config{URL: hostdb.Secret(url)})
			pool, tenant := raw(t, db), newTenant(t, db)
			owner := newMember(t, db, newUser(t, db), tenant, hostdb.RoleOwner)
			befores := []string{"SELECT 1"}
			if name == "postgres" {
				befores = append(befores, "SET LOCAL session_replication_role = replica")
			}
			for _, before := range befores {
				for _, n := range []string{"0", "2", "100"} {
					tx, err := pool.Begin()
					must(t, err)
					_, err = tx.Exec(before)
					must(t, err)
					if _, err := tx.Exec("UPDATE core_tenants SET active_owners = " + n); err == nil {
						t.Errorf("%s: active_owners was set to %s", before, n)
					}
					_ = tx.Rollback()
				}
			}
			_, err := pool.Exec("UPDATE core_tenants SET name = 'x', active_owners = 1") // unchanged
			must(t, err)
			_, _ = pool.Exec("INSERT INTO core_tenants (name, slug, active_owners) VALUES ('x', 'x', 5)")
			var wrong int
			must(t, pool.QueryRow("SELECT count(*) FROM core_tenants WHERE active_owners > 1").Scan(&wrong))
			if wrong != 0 {
				t.Error("a new tenant has owners that it hasn't")
			}
			wantField(t, db.Memberships.Delete(t.Context(), owner.ID), hostdb.ErrConflict, "last_owner")
		})
	}
}
