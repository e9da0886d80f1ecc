package hostdbtest

import (
	"context"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// table has the methods that the suite needs of a table.
type table[M any] interface {
	Insert(context.Context, *M) error
	Get(context.Context, string) (*M, error)
	Update(context.Context, *M) error
	Delete(context.Context, string) error
}

// roundTrip stores a model, changes it, and deletes it.
func roundTrip[M any](t *testing.T, in table[M], id *string, m *M, change func()) {
	t.Helper()
	check := func() {
		t.Helper()
		got, err := in.Get(t.Context(), *id)
		must(t, err)
		if !reflect.DeepEqual(got, m) {
			t.Errorf("read %+v, wrote %+v", got, m)
		}
	}
	must(t, in.Insert(t.Context(), m))
	check()
	change()
	must(t, in.Update(t.Context(), m))
	check()
	must(t, in.Delete(t.Context(), *id))
	_, err := in.Get(t.Context(), *id)
	refused(t, err, hostdb.ErrNotFound, "")
}

func roundTrips(t *testing.T, db *hostdb.DB) {
	f := newFixture(t, db)
	at := time.Date(2026, 2, 28, 23, 59, 59, 999999000, time.UTC)
	u := &hostdb.GlobalUser{Email: "a@example.com", OAuthID: "o", PasswordHash: "h", StripeCustID: "c",
		IsSysAdmin: true, LastLogin: &at}
	roundTrip(t, db.Users, &u.ID, u, func() { u.OAuthID, u.LastLogin, u.PasswordHash = "", nil, "" })
	tn := &hostdb.TenantCatalog{Name: "Ünï", DBURL: "postgres://u:p@h/d", IsActive: true, Slug: "uni",
		SchemaVersion: 7, SchemaSet: hostdb.NewID()}
	roundTrip(t, db.Tenants, &tn.ID, tn,
		func() { tn.Slug, tn.SchemaVersion, tn.SchemaSet, tn.IsActive = "", 0, "", false })
	other := newFixture(t, db)
	m := &hostdb.Membership{UserID: other.user.ID, TenantID: f.tenant.ID, ProfileID: "p",
		MetaAttributes: `{"a":1}`, IsActive: true}
	roundTrip(t, db.Memberships, &m.ID, m, func() { m.Role, m.IsActive = "editor", false })
	s := &hostdb.Subscription{TenantID: f.tenant.ID, StripeSubID: "sub", StripeCustID: "cus", PlanTier: "pro",
		Status: "active", CurrentPeriodEnd: &at, CancelAtPeriodEnd: true, AmountCents: 1 << 40,
		ProductName: "Pro", TrialEnd: &at, LastEventAt: &at, LastEventRank: 2, LastEventID: "evt_1"}
	roundTrip(t, db.Subscriptions, &s.ID, s,
		func() { s.CurrentPeriodEnd, s.StripeSubID, s.Status = nil, "", "some_new_word" })
	p := &hostdb.PricingPlan{ID: "pro", Name: "Pro", Description: "d", StripePriceMonthly: "m",
		StripePriceYearly: "y", AmountMonthly: 1, AmountYearly: 2, Currency: "eur", TrialDays: 14,
		Features: []string{"a", "ö\"\\"}, TierLevel: 3, IsActive: true, SortOrder: -1}
	roundTrip(t, db.Plans, &p.ID, p, func() { p.Features, p.Description = nil, "" })
	j := &hostdb.SystemJob{JobType: "mail", Payload: "x", TenantID: f.tenant.ID, RunAfter: &at,
		DedupeKey: "k"}
	roundTrip(t, db.Jobs, &j.ID, j,
		func() { j.Status, j.CompletedAt, j.RunAfter = hostdb.JobCompleted, &at, nil })
	e := &hostdb.StripeWebhookEvent{EventID: "evt", EventType: "x.y", PayloadJSON: "{}", StripeSubID: "sub",
		TenantID: f.tenant.ID, Reason: "r"}
	roundTrip(t, db.WebhookEvents, &e.ID, e, func() { e.Status = hostdb.WebhookParked })
}

func defaults(t *testing.T, db *hostdb.DB) {
	f := newFixture(t, db)
	same(t, "valid id", hostdb.ValidID(f.user.ID), true)
	same(t, "fresh CreatedAt", time.Since(f.user.CreatedAt) < time.Minute, true)
	same(t, "PlanTier", f.tenant.PlanTier, hostdb.TierFree)
	same(t, "Status", f.tenant.Status, hostdb.TenantActive)
	m := &hostdb.Membership{UserID: f.user.ID, TenantID: f.tenant.ID}
	refused(t, db.Memberships.Insert(t.Context(), m), hostdb.ErrConflict, "user_id,tenant_id")
	same(t, "Role", m.Role, hostdb.RoleMember)
	s := &hostdb.Subscription{TenantID: f.tenant.ID}
	must(t, db.Subscriptions.Insert(t.Context(), s))
	same(t, "Status", s.Status, hostdb.SubscriptionIncomplete)
	same(t, "PaymentType", s.PaymentType, hostdb.PaymentSubscription)
	p := &hostdb.PricingPlan{Name: "P"}
	must(t, db.Plans.Insert(t.Context(), p))
	same(t, "Currency", p.Currency, "usd")
	same(t, "TrialDays", p.TrialDays, 0)
	j := &hostdb.SystemJob{JobType: "x"}
	must(t, db.Jobs.Insert(t.Context(), j))
	same(t, "Status", j.Status, hostdb.JobPending)
	same(t, "MaxAttempts", j.MaxAttempts, hostdb.DefaultMaxAttempts)
}

func refusals(t *testing.T, db *hostdb.DB) {
	ctx, f := t.Context(), newFixture(t, db)
	early, late := time.Time{}, time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)
	for field, u := range map[string]*hostdb.GlobalUser{
		"id": {ID: "x", Email: "e"}, "email": {}, "oauth_id": {Email: "e", OAuthID: "a\x00b"},
		"stripe_cust_id": {Email: "e", StripeCustID: "\xff"},
		"password_hash":  {Email: "e", PasswordHash: hostdb.Secret(strings.Repeat("x", 513))},
		"last_login":     {Email: "e", LastLogin: &late},
	} {
		refused(t, db.Users.Insert(ctx, u), hostdb.ErrInvalid, field)
	}
	for field, tn := range map[string]*hostdb.TenantCatalog{
		"name": {}, "slug": {Name: "n", Slug: "-a"}, "status": {Name: "n", Status: "open"},
		"schema_version": {Name: "n", SchemaVersion: -1}, "schema_set": {Name: "n", SchemaSet: "x"},
		"plan_tier":  {Name: "n", PlanTier: strings.Repeat("x", 65)},
		"created_at": {Name: "n", CreatedAt: late},
	} {
		refused(t, db.Tenants.Insert(ctx, tn), hostdb.ErrInvalid, field)
	}
	for field, m := range map[string]*hostdb.Membership{
		"user_id": {UserID: "x", TenantID: f.tenant.ID}, "tenant_id": {UserID: f.user.ID},
		"role":            {UserID: f.user.ID, TenantID: f.tenant.ID, Role: "Owner"},
		"meta_attributes": {UserID: f.user.ID, TenantID: f.tenant.ID, MetaAttributes: "{"},
	} {
		refused(t, db.Memberships.Insert(ctx, m), hostdb.ErrInvalid, field)
	}
	for field, s := range map[string]*hostdb.Subscription{
		"status":       {TenantID: f.tenant.ID, Status: "A"},
		"payment_type": {TenantID: f.tenant.ID, PaymentType: "cash"},
		"amount_cents": {TenantID: f.tenant.ID, AmountCents: -1},
		"trial_end":    {TenantID: f.tenant.ID, TrialEnd: &early},
	} {
		refused(t, db.Subscriptions.Insert(ctx, s), hostdb.ErrInvalid, field)
	}
	for field, p := range map[string]*hostdb.PricingPlan{
		"name": {}, "currency": {Name: "n", Currency: "USD"}, "trial_days": {Name: "n", TrialDays: -1},
		"amount_monthly": {Name: "n", AmountMonthly: -1},
		"features":       {Name: "n", Features: []string{""}}, "tier_level": {Name: "n", TierLevel: -1},
	} {
		refused(t, db.Plans.Insert(ctx, p), hostdb.ErrInvalid, field)
	}
	refused(t, db.Jobs.Insert(ctx, &hostdb.SystemJob{JobType: "x", Status: "done"}), hostdb.ErrInvalid,
		"status")
	refused(t, db.Jobs.Insert(ctx, &hostdb.SystemJob{JobType: "x", Payload: strings.Repeat("x", 256<<10+1)}),
		hostdb.ErrInvalid, "payload")
	refused(t, db.AuditLogs.Insert(ctx, &hostdb.HostAuditLog{EventType: "x", Details: "no JSON"}),
		hostdb.ErrInvalid, "details")
	refused(t, db.WebhookEvents.Insert(ctx,
		&hostdb.StripeWebhookEvent{EventID: "e", EventType: "x", Status: "new"}), hostdb.ErrInvalid, "status")
	refused(t, db.Users.Insert(ctx, nil), hostdb.ErrInvalid, "core_users")
	refused(t, db.Users.Update(ctx, nil), hostdb.ErrInvalid, "core_users")
	f.user.CreatedAt = early
	refused(t, db.Users.Update(ctx, f.user), hostdb.ErrInvalid, "created_at")
}

func uniqueness(t *testing.T, db *hostdb.DB) {
	ctx, f := t.Context(), newFixture(t, db)
	refused(t, db.Users.Insert(ctx, &hostdb.GlobalUser{ID: f.user.ID, Email: "x"}), hostdb.ErrConflict, "id")
	refused(t, db.Users.Insert(ctx, &hostdb.GlobalUser{Email: strings.ToUpper(f.user.Email)}),
		hostdb.ErrConflict, "email")
	refused(t, db.Users.Insert(ctx, &hostdb.GlobalUser{Email: "x", OAuthID: f.user.OAuthID}),
		hostdb.ErrConflict, "oauth_id")
	refused(t, db.Tenants.Insert(ctx, &hostdb.TenantCatalog{Name: "n", Slug: f.tenant.Slug}),
		hostdb.ErrConflict, "slug")
	must(t, db.Subscriptions.Insert(ctx, &hostdb.Subscription{TenantID: f.tenant.ID, StripeSubID: "s"}))
	refused(t, db.Subscriptions.Insert(ctx, &hostdb.Subscription{TenantID: f.tenant.ID, StripeSubID: "s"}),
		hostdb.ErrConflict, "stripe_sub_id")
	must(t, db.WebhookEvents.Insert(ctx, &hostdb.StripeWebhookEvent{EventID: "e", EventType: "x"}))
	refused(t, db.WebhookEvents.Insert(ctx, &hostdb.StripeWebhookEvent{EventID: "e", EventType: "x"}),
		hostdb.ErrConflict, "event_id")
	g := newFixture(t, db)
	g.tenant.Slug = f.tenant.Slug
	refused(t, db.Tenants.Update(ctx, g.tenant), hostdb.ErrConflict, "slug")
	severalTaken(t, db, f)
	for range 2 { // NULL is not unique
		must(t, db.Tenants.Insert(ctx, &hostdb.TenantCatalog{Name: "n"}))
		must(t, db.Subscriptions.Insert(ctx, &hostdb.Subscription{TenantID: f.tenant.ID}))
	}
}

// severalTaken checks which field is named if several are taken: the id, then the columns in a fixed order.
func severalTaken(t *testing.T, db *hostdb.DB, f fixture) {
	ctx, g := t.Context(), newFixture(t, db)
	twice := &hostdb.GlobalUser{Email: strings.ToUpper(f.user.Email), OAuthID: f.user.OAuthID}
	refused(t, db.Users.Insert(ctx, twice), hostdb.ErrConflict, "oauth_id")
	refused(t, db.Users.Insert(ctx, &hostdb.GlobalUser{Email: f.user.Email, OAuthID: g.user.OAuthID}),
		hostdb.ErrConflict, "oauth_id")
	refused(t, db.Users.Insert(ctx, &hostdb.GlobalUser{ID: g.user.ID, Email: f.user.Email}),
		hostdb.ErrConflict, "id")
	refused(t, db.InTx(ctx, func(tx *hostdb.Tx) error { // rows of the same transaction count
		third := &hostdb.GlobalUser{Email: "third", OAuthID: "third"}
		must(t, tx.Users.Insert(ctx, third))
		return tx.Users.Insert(ctx, &hostdb.GlobalUser{Email: third.Email, OAuthID: third.OAuthID})
	}), hostdb.ErrConflict, "oauth_id")
	both := *g.user
	both.Email, both.OAuthID = f.user.Email, f.user.OAuthID
	refused(t, db.Users.Update(ctx, &both), hostdb.ErrConflict, "oauth_id")
	both.OAuthID = g.user.OAuthID // its own
	refused(t, db.Users.Update(ctx, &both), hostdb.ErrConflict, "email")
	refused(t, db.Tenants.Insert(ctx, &hostdb.TenantCatalog{ID: g.tenant.ID, Name: "n", Slug: f.tenant.Slug}),
		hostdb.ErrConflict, "id")
	member := hostdb.Membership{UserID: f.user.ID, TenantID: f.tenant.ID}
	refused(t, db.Memberships.Insert(ctx, &member), hostdb.ErrConflict, "user_id,tenant_id")
	for _, taken := range []string{f.owner.ID, g.owner.ID} {
		member.ID = taken
		refused(t, db.Memberships.Insert(ctx, &member), hostdb.ErrConflict, "id")
	}
	first := &hostdb.Subscription{TenantID: f.tenant.ID, StripeSubID: "first"}
	must(t, db.Subscriptions.Insert(ctx, first))
	refused(t, db.Subscriptions.Insert(ctx,
		&hostdb.Subscription{ID: first.ID, TenantID: f.tenant.ID, StripeSubID: "s"}), hostdb.ErrConflict,
		"id")
	refused(t, db.InTx(ctx, func(tx *hostdb.Tx) error {
		_, err := tx.Subscriptions.LockOrInsert(ctx,
			&hostdb.Subscription{ID: first.ID, TenantID: f.tenant.ID, StripeSubID: "second"})
		return err
	}), hostdb.ErrConflict, "id")
	event := hostdb.StripeWebhookEvent{EventID: "twice", EventType: "x"}
	must(t, db.WebhookEvents.Insert(ctx, &event))
	refused(t, db.WebhookEvents.Insert(ctx, &event), hostdb.ErrConflict, "id")
	job := hostdb.SystemJob{JobType: "x", DedupeKey: "once"}
	must(t, db.Jobs.Insert(ctx, &job))
	refused(t, db.Jobs.Insert(ctx, &job), hostdb.ErrConflict, "id")
	job.ID = ""
	refused(t, db.Jobs.Insert(ctx, &job), hostdb.ErrConflict, "dedupe_key")
}

func references(t *testing.T, db *hostdb.DB) {
	ctx, f := t.Context(), newFixture(t, db)
	nobody := hostdb.NewID()
	refused(t, db.Memberships.Insert(ctx, &hostdb.Membership{UserID: nobody, TenantID: f.tenant.ID}),
		hostdb.ErrConflict, "user_id")
	refused(t, db.Memberships.Insert(ctx, &hostdb.Membership{UserID: f.user.ID, TenantID: nobody}),
		hostdb.ErrConflict, "tenant_id")
	refused(t, db.Subscriptions.Insert(ctx, &hostdb.Subscription{TenantID: nobody}), hostdb.ErrConflict,
		"tenant_id")
	says(t, db.Subscriptions.Insert(ctx, &hostdb.Subscription{TenantID: nobody}), "refers to no row")
	says(t, db.Users.Delete(ctx, f.user.ID), "is still referred to by core_memberships")
	refused(t, db.Users.Delete(ctx, f.user.ID), hostdb.ErrConflict, "user_id")
	refused(t, db.Tenants.Delete(ctx, f.tenant.ID), hostdb.ErrConflict, "tenant_id")
	for range 4 {
		must(t, db.Subscriptions.Insert(ctx, &hostdb.Subscription{TenantID: f.tenant.ID}))
	}
	bills, err := db.Subscriptions.ListForTenant(ctx, f.tenant.ID)
	must(t, err)
	says(t, db.Tenants.Delete(ctx, f.tenant.ID), "core_memberships ("+f.owner.ID+")")
	says(t, db.Tenants.Delete(ctx, f.tenant.ID), "core_subscriptions ("+bills[0].ID+", "+bills[1].ID+", "+
		bills[2].ID+", …)")
	// The refusal leaves the transaction usable, on both engines.
	must(t, db.InTx(ctx, func(tx *hostdb.Tx) error {
		refused(t, tx.Tenants.Delete(ctx, f.tenant.ID), hostdb.ErrConflict, "tenant_id")
		_, err := tx.Tenants.Get(ctx, f.tenant.ID)
		return err
	}))
	must(t, db.Subscriptions.Insert(ctx,
		&hostdb.Subscription{TenantID: f.tenant.ID, PlanTier: "no-such-plan"}))
}

func absences(t *testing.T, db *hostdb.DB) {
	ctx, id := t.Context(), hostdb.NewID()
	_, err := db.Users.Get(ctx, id)
	refused(t, err, hostdb.ErrNotFound, "")
	_, err = db.Users.Get(ctx, "'; DROP TABLE core_users; --")
	refused(t, err, hostdb.ErrInvalid, "id")
	refused(t, db.Users.Delete(ctx, id), hostdb.ErrNotFound, "")
	refused(t, db.Users.RecordLogin(ctx, id), hostdb.ErrNotFound, "")
	absent := hostdb.NewTenant("n", "")
	absent.ID, absent.CreatedAt = id, time.Now()
	refused(t, db.Tenants.Update(ctx, absent), hostdb.ErrNotFound, "")
	_, err = db.Users.ByEmail(ctx, "nobody")
	refused(t, err, hostdb.ErrNotFound, "")
	_, err = db.Users.ByOAuthID(ctx, "")
	refused(t, err, hostdb.ErrInvalid, "oauth_id")
	_, err = db.Tenants.BySlug(ctx, "nobody")
	refused(t, err, hostdb.ErrNotFound, "")
	_, err = db.Tenants.BySlug(ctx, "No Slug")
	refused(t, err, hostdb.ErrInvalid, "slug")
	_, err = db.Memberships.Find(ctx, id, id)
	refused(t, err, hostdb.ErrNotFound, "")
	_, err = db.Subscriptions.ByStripeSubID(ctx, "none")
	refused(t, err, hostdb.ErrNotFound, "")
	_, err = db.Plans.ByStripePrice(ctx, "none")
	refused(t, err, hostdb.ErrNotFound, "")
	_, err = db.WebhookEvents.ByEventID(ctx, "none")
	refused(t, err, hostdb.ErrNotFound, "")
	_, err = db.Users.Lock(ctx, id)
	refused(t, err, hostdb.ErrInvalid, "tx")
}
