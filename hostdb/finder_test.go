package hostdb_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

func TestUsers_finders(t *testing.T) {
	onBoth(t, func(t *testing.T, db *hostdb.DB) {
		ctx := t.Context()
		ada := &hostdb.GlobalUser{Email: "Ada@Example.com", OAuthID: "auth0|ada", StripeCustID: "cus_1"}
		bob := &hostdb.GlobalUser{Email: "bob@example.com", StripeCustID: "cus_1"}
		must(t, errors.Join(db.Users.Insert(ctx, ada), db.Users.Insert(ctx, bob)))
		for _, email := range []string{"ada@example.com", "ADA@EXAMPLE.COM", "Ada@Example.com"} {
			if got, err := db.Users.ByEmail(ctx, email); err != nil || *got != *ada {
				t.Errorf("ByEmail(%q) = %+v, %v", email, got, err)
			}
		}
		if got, err := db.Users.ByOAuthID(ctx, "auth0|ada"); err != nil || got.ID != ada.ID {
			t.Errorf("ByOAuthID = %+v, %v", got, err)
		}
		if _, err := db.Users.ByOAuthID(ctx, "AUTH0|ADA"); !errors.Is(err, hostdb.ErrNotFound) {
			t.Errorf("subjects are compared without case: %v", err)
		}
		if got, err := db.Users.ByStripeCustID(ctx, "cus_1"); err != nil || len(got) != 2 {
			t.Errorf("ByStripeCustID = %v, %v", got, err)
		}
		must(t, db.Users.RecordLogin(ctx, ada.ID))
		got, err := db.Users.Get(ctx, ada.ID)
		if err != nil || got.LastLogin == nil || time.Since(*got.LastLogin) > time.Minute {
			t.Errorf("after RecordLogin: %+v, %v", got, err)
		}
		if logs, err := db.AuditLogs.ListForTarget(ctx, ada.ID); err != nil || len(logs) != 2 ||
			logs[1].EventType != "user.login" {
			t.Errorf("after a login the audit log has %v, %v", logs, err)
		}
		wantField(t, db.Users.RecordLogin(ctx, "ada"), hostdb.ErrInvalid, "id")
		_, err = db.Users.ByEmail(ctx, strings.Repeat("a", 321))
		wantField(t, err, hostdb.ErrInvalid, "email")
	})
}

func TestTenants_finders(t *testing.T) {
	onBoth(t, func(t *testing.T, db *hostdb.DB) {
		ctx, u := t.Context(), newUser(t, db)
		open, dropped, left := newTenant(t, db), newTenant(t, db), newTenant(t, db)
		m := newMember(t, db, u, open, hostdb.RoleMember)
		newMember(t, db, u, dropped, hostdb.RoleMember)
		gone := newMember(t, db, u, left, hostdb.RoleMember)
		dropped.Status, gone.IsActive = hostdb.TenantDropped, false
		must(t, errors.Join(db.Tenants.Update(ctx, dropped), db.Memberships.Update(ctx, gone)))
		if got, err := db.Tenants.ListForUser(ctx, u.ID); err != nil || len(got) != 1 || *got[0] != *open {
			t.Errorf("Tenants.ListForUser = %v, %v", got, err)
		}
		if got, err := db.Tenants.BySlug(ctx, open.Slug); err != nil || got.ID != open.ID {
			t.Errorf("BySlug = %v, %v", got, err)
		}
		if got, err := db.Memberships.ListForUser(ctx, u.ID); err != nil || len(got) != 3 {
			t.Errorf("Memberships.ListForUser = %v, %v", got, err)
		}
		if got, err := db.Memberships.ListForUser(ctx, u.ID, hostdb.Where("is_active", true),
			hostdb.Limit(1)); err != nil || len(got) != 1 {
			t.Errorf("Memberships.ListForUser, one active = %v, %v", got, err)
		}
		if got, err := db.Memberships.ListForTenant(ctx, open.ID); err != nil || len(got) != 1 ||
			*got[0] != *m {
			t.Errorf("ListForTenant = %v, %v", got, err)
		}
		if got, err := db.Memberships.Find(ctx, u.ID, open.ID); err != nil || *got != *m {
			t.Errorf("Find = %v, %v", got, err)
		}
		_, err := db.Tenants.ListForUser(ctx, "u")
		wantField(t, err, hostdb.ErrInvalid, "user_id")
		_, err = db.Memberships.Find(ctx, u.ID, "t")
		wantField(t, err, hostdb.ErrInvalid, "tenant_id")
	})
}

func TestPlans_andSubscriptions_finders(t *testing.T) {
	onBoth(t, func(t *testing.T, db *hostdb.DB) {
		ctx, tn := t.Context(), newTenant(t, db)
		sub := &hostdb.Subscription{TenantID: tn.ID, StripeSubID: "sub_1", StripeCustID: "cus_1"}
		must(t, db.Subscriptions.Insert(ctx, sub))
		must(t, db.Subscriptions.Insert(ctx, &hostdb.Subscription{TenantID: tn.ID}))
		if got, err := db.Subscriptions.ByStripeSubID(ctx, "sub_1"); err != nil || *got != *sub {
			t.Errorf("ByStripeSubID = %+v, %v", got, err)
		}
		if got, err := db.Subscriptions.ListForTenant(ctx, tn.ID); err != nil || len(got) != 2 {
			t.Errorf("ListForTenant = %v, %v", got, err)
		}
		if got, err := db.Subscriptions.ListForCustomer(ctx, "cus_1"); err != nil || len(got) != 1 {
			t.Errorf("ListForCustomer = %v, %v", got, err)
		}
		for i, p := range []*hostdb.PricingPlan{{ID: "c", SortOrder: 1, IsActive: true,
			StripePriceYearly: "price_y"}, {ID: "b", SortOrder: 2, IsActive: true},
			{ID: "a", SortOrder: 2, TierLevel: 1, IsActive: true, StripePriceMonthly: "price_m"},
			{ID: "old"}} {
			p.Name = string(rune('A' + i))
			must(t, db.Plans.Insert(ctx, p))
		}
		plans, err := db.Plans.OnSale(ctx)
		must(t, err)
		order := ""
		for _, p := range plans {
			order += p.ID
		}
		if order != "cba" {
			t.Errorf("on sale in the order %q", order)
		}
		for price, want := range map[string]string{"price_m": "a", "price_y": "c"} {
			if got, err := db.Plans.ByStripePrice(ctx, price); err != nil || got.ID != want {
				t.Errorf("ByStripePrice(%s) = %v, %v", price, got, err)
			}
		}
		_, err = db.Subscriptions.LockByStripeSubID(ctx, "sub_1")
		wantField(t, err, hostdb.ErrInvalid, "tx")
	})
}

// Each transaction reads the amount under the lock and adds one. None is lost.
func TestTable_Lock_excludesOtherTransactions(t *testing.T) {
	onBoth(t, func(t *testing.T, db *hostdb.DB) {
		sub := &hostdb.Subscription{TenantID: newTenant(t, db).ID, StripeSubID: "sub_1"}
		must(t, db.Subscriptions.Insert(t.Context(), sub))
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				ctx := context.Background()
				err := db.InTx(ctx, func(tx *hostdb.Tx) error {
					row, err := tx.Subscriptions.LockByStripeSubID(ctx, "sub_1")
					if err != nil {
						return err
					}
					row.AmountCents++
					return tx.Subscriptions.Update(ctx, row)
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if got, err := db.Subscriptions.Get(t.Context(), sub.ID); err != nil || got.AmountCents != 8 {
			t.Errorf("amount = %d, %v; want 8", got.AmountCents, err)
		}
	})
}

// Stripe delivers an event twice at the same time. One transaction applies it.
func TestWebhookEvents_Record_onceOfTwoTransactions(t *testing.T) {
	onBoth(t, func(t *testing.T, db *hostdb.DB) {
		var (
			wg      sync.WaitGroup
			mu      sync.Mutex
			applied int
		)
		for range 8 {
			wg.Go(func() {
				ctx, fresh := context.Background(), false
				err := db.InTx(ctx, func(tx *hostdb.Tx) (err error) {
					fresh, err = tx.WebhookEvents.Record(ctx,
						&hostdb.StripeWebhookEvent{EventID: "evt_1", EventType: "x"})
					return err
				})
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				if fresh {
					applied++
				}
			})
		}
		wg.Wait()
		if applied != 1 {
			t.Errorf("applied %d times", applied)
		}
		event, err := db.WebhookEvents.ByEventID(t.Context(), "evt_1")
		must(t, err)
		event.Status = hostdb.WebhookFailed
		must(t, db.WebhookEvents.Update(t.Context(), event))
		if failed, err := db.WebhookEvents.ListByStatus(t.Context(), hostdb.WebhookFailed); err != nil ||
			len(failed) != 1 {
			t.Errorf("failed events = %v, %v", failed, err)
		}
	})
}

func TestWithActor_failsTheChangeForAnInvalidActor(t *testing.T) {
	onBoth(t, func(t *testing.T, db *hostdb.DB) {
		ctx := hostdb.WithActor(t.Context(), "a\x00")
		wantField(t, db.Users.Insert(ctx, &hostdb.GlobalUser{Email: "a"}), hostdb.ErrInvalid, "actor_user_id")
		if users, err := db.Users.List(t.Context()); err != nil || len(users) != 0 {
			t.Errorf("the mutation took place: %v, %v", users, err)
		}
		logs, err := db.AuditLogs.ListForActor(t.Context(), "nobody")
		if err != nil || len(logs) != 0 {
			t.Errorf("audit = %v, %v", logs, err)
		}
	})
}

func TestDB_Begin_cancelledLeavesNoTransaction(t *testing.T) {
	onBoth(t, func(t *testing.T, db *hostdb.DB) {
		ctx, cancel := context.WithCancel(t.Context())
		tx, err := db.Begin(ctx)
		must(t, err)
		must(t, tx.Users.Insert(ctx, &hostdb.GlobalUser{Email: "a"}))
		cancel()
		if err := tx.Commit(); !errors.Is(err, context.Canceled) || errors.Is(err, hostdb.ErrUnavailable) {
			t.Errorf("Commit = %v, want context.Canceled alone", err)
		}
		must(t, tx.Rollback())
	})
}

func TestPlans_Update_withManyFeatures(t *testing.T) {
	onBoth(t, func(t *testing.T, db *hostdb.DB) {
		ctx, plan := t.Context(), &hostdb.PricingPlan{ID: "big", Name: "Big"}
		for i := range 1500 { // almost as many bytes as the column allows
			plan.Features = append(plan.Features, fmt.Sprintf("feature-%032d", i))
		}
		must(t, db.Plans.Insert(ctx, plan))
		plan.Features[0], plan.Name = "another", "Bigger"
		must(t, db.Plans.Update(ctx, plan))
		logs, err := db.AuditLogs.ListForTarget(ctx, "big")
		if err != nil || len(logs) != 2 {
			t.Fatalf("audit = %v, %v", logs, err)
		}
		for _, log := range logs {
			if len(log.Details) > 1000 || !strings.Contains(log.Details, `"features"`) ||
				!strings.Contains(log.Details, "Big") {
				t.Errorf("%s: details of %d bytes: %.100s", log.EventType, len(log.Details), log.Details)
			}
		}
		plan.Features = []string{"one"}
		must(t, db.Plans.Update(ctx, plan))
		must(t, db.Plans.Delete(ctx, "big"))
	})
}
