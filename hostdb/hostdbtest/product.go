package hostdbtest

import (
	"errors"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

func jobs(t *testing.T, db *hostdb.DB) {
	ctx := t.Context()
	_, err := db.Jobs.Claim(ctx, "w", nil, time.Minute)
	refused(t, err, hostdb.ErrNotFound, "")
	first := &hostdb.SystemJob{JobType: "mail", DedupeKey: "k", MaxAttempts: 1}
	fresh, err := db.Jobs.Enqueue(ctx, first)
	must(t, err)
	same(t, "new", fresh, true)
	again := &hostdb.SystemJob{JobType: "mail", DedupeKey: "k"}
	fresh, err = db.Jobs.Enqueue(ctx, again)
	must(t, err)
	same(t, "new", fresh, false)
	same(t, "the same job", again.ID, first.ID)
	_, err = db.Jobs.Claim(ctx, "w", []string{"other"}, time.Minute)
	refused(t, err, hostdb.ErrNotFound, "")
	job, err := db.Jobs.Claim(ctx, "w", []string{"other", "mail"}, time.Minute)
	must(t, err)
	same(t, "job", job.ID, first.ID)
	same(t, "attempts", job.Attempts, 1)
	must(t, db.Jobs.Heartbeat(ctx, job, time.Hour))
	thief := *job
	thief.Worker = "thief"
	refused(t, db.Jobs.Complete(ctx, &thief), hostdb.ErrConflict, "lease")
	must(t, db.Jobs.Fail(ctx, job, "broken\x00\xff"))
	same(t, "status", job.Status, hostdb.JobFailed)
	dead, err := db.Jobs.DeadLetters(ctx)
	must(t, err)
	same(t, "dead letters", len(dead), 1)
	same(t, "reason", dead[0].ErrorLog, "broken\uFFFD\uFFFD")
	must(t, db.Jobs.Retry(ctx, job.ID))
	refused(t, db.Jobs.Retry(ctx, job.ID), hostdb.ErrConflict, "status")
	job, err = db.Jobs.Claim(ctx, "w", nil, time.Minute)
	must(t, err)
	must(t, db.Jobs.Complete(ctx, job))
	refused(t, db.Jobs.Complete(ctx, job), hostdb.ErrConflict, "lease")
	refused(t, db.Jobs.Cancel(ctx, job.ID), hostdb.ErrConflict, "status")
	refused(t, db.Jobs.Cancel(ctx, hostdb.NewID()), hostdb.ErrNotFound, "")
	_, err = db.Jobs.Claim(ctx, "", nil, time.Minute)
	refused(t, err, hostdb.ErrInvalid, "worker")
	_, err = db.Jobs.ClaimJob(ctx, job.ID, "w", time.Minute)
	refused(t, err, hostdb.ErrNotFound, "")
	later := time.Now().Add(time.Hour)
	named := &hostdb.SystemJob{JobType: "mail", RunAfter: &later}
	_, err = db.Jobs.Enqueue(ctx, named)
	must(t, err)
	_, err = db.Jobs.ClaimJob(ctx, named.ID, "", time.Minute)
	refused(t, err, hostdb.ErrInvalid, "worker")
	job, err = db.Jobs.ClaimJob(ctx, named.ID, "w", time.Minute)
	must(t, err)
	_, err = db.Jobs.ClaimJob(ctx, named.ID, "thief", time.Minute)
	refused(t, err, hostdb.ErrConflict, "lease")
	must(t, db.Jobs.Heartbeat(ctx, job, time.Millisecond))
	for err = hostdb.ErrConflict; errors.Is(err, hostdb.ErrConflict); { // until the lease has ended
		_, err = db.Jobs.ClaimJob(ctx, named.ID, "heir", time.Minute)
	}
	must(t, err)
	refused(t, db.Jobs.Complete(ctx, job), hostdb.ErrConflict, "lease")
	strictClaims(t, db)
}

// strictClaims checks what Claim and ClaimJob refuse, and that neither exceeds MaxAttempts.
func strictClaims(t *testing.T, db *hostdb.DB) {
	ctx := t.Context()
	once := &hostdb.SystemJob{JobType: "once", MaxAttempts: 1}
	_, err := db.Jobs.Enqueue(ctx, once)
	must(t, err)
	for _, lease := range []time.Duration{-time.Hour, 0, 30*24*time.Hour + 1, math.MaxInt64} {
		_, err := db.Jobs.Claim(ctx, "w", nil, lease)
		refused(t, err, hostdb.ErrInvalid, "lease")
		_, err = db.Jobs.ClaimJob(ctx, once.ID, "w", lease)
		refused(t, err, hostdb.ErrInvalid, "lease")
	}
	for _, n := range []int{101, 70_000} {
		_, err = db.Jobs.Claim(ctx, "w", slices.Repeat([]string{"x"}, n), time.Minute)
		refused(t, err, hostdb.ErrInvalid, "job_type")
	}
	_, err = db.Jobs.Claim(ctx, "w", slices.Repeat([]string{"x"}, 100), time.Minute)
	refused(t, err, hostdb.ErrNotFound, "")
	job, err := db.Jobs.ClaimJob(ctx, once.ID, "w", time.Hour)
	must(t, err)
	must(t, db.Jobs.Heartbeat(ctx, job, time.Millisecond))
	for err = hostdb.ErrConflict; errors.Is(err, hostdb.ErrConflict); { // until the lease has ended
		_, err = db.Jobs.ClaimJob(ctx, once.ID, "heir", time.Minute)
	}
	refused(t, err, hostdb.ErrNotFound, "")
	dead, err := db.Jobs.Get(ctx, once.ID)
	must(t, err)
	same(t, "attempts", dead.Attempts, 1)
	same(t, "status", dead.Status, hostdb.JobFailed)
}

func webhooks(t *testing.T, db *hostdb.DB) {
	ctx := t.Context()
	for i := range 2 {
		fresh, err := db.WebhookEvents.Record(ctx,
			&hostdb.StripeWebhookEvent{EventID: "evt_1", EventType: "invoice.paid"})
		must(t, err)
		same(t, "new", fresh, i == 0)
	}
	must(t, db.InTx(ctx, func(tx *hostdb.Tx) error { // a duplicate doesn't fail the transaction
		fresh, err := tx.WebhookEvents.Record(ctx,
			&hostdb.StripeWebhookEvent{EventID: "evt_1", EventType: "invoice.paid"})
		same(t, "new", fresh, false)
		must(t, err)
		_, err = tx.WebhookEvents.Record(ctx,
			&hostdb.StripeWebhookEvent{EventID: "evt_2", EventType: "x", Status: hostdb.WebhookParked})
		return err
	}))
	parked, err := db.WebhookEvents.ListByStatus(ctx, hostdb.WebhookParked)
	must(t, err)
	same(t, "parked", len(parked), 1)
}

func newestEvent(t *testing.T, db *hostdb.DB) {
	ctx := t.Context()
	_, err := db.WebhookEvents.Newest(ctx)
	refused(t, err, hostdb.ErrNotFound, "")
	for _, e := range []struct{ id, status string }{ // ids are in the order of arrival
		{"2", hostdb.WebhookProcessed}, {"3", hostdb.WebhookFailed}, {"1", hostdb.WebhookParked},
	} {
		_, err := db.WebhookEvents.Record(ctx,
			&hostdb.StripeWebhookEvent{ID: e.id + hostdb.NewID()[1:], EventID: "evt_" + e.id,
				EventType: "invoice.paid", Status: e.status})
		must(t, err)
	}
	newest, err := db.WebhookEvents.Newest(ctx)
	must(t, err)
	same(t, "newest", newest.EventID, "evt_3")
}

// overdue checks that only subscriptions are counted that are active by their status although their period
// ended before.
func overdue(t *testing.T, db *hostdb.DB) {
	ctx, f := t.Context(), newFixture(t, db)
	count := func(age time.Duration) int64 {
		t.Helper()
		n, err := db.Subscriptions.CountOverdue(ctx, age)
		must(t, err)
		return n
	}
	same(t, "of none", count(0), 0)
	ago := func(d time.Duration) *time.Time {
		end := time.Now().Add(-d)
		return &end
	}
	for _, s := range []hostdb.Subscription{
		{Status: "active", CurrentPeriodEnd: ago(10 * time.Hour)},
		{Status: "active", CurrentPeriodEnd: ago(20 * time.Hour)},
		{Status: "active", CurrentPeriodEnd: ago(-time.Hour)}, {Status: "active"},
		{Status: "active", CurrentPeriodEnd: ago(20 * time.Hour), PaymentType: hostdb.PaymentOneTime},
		{Status: "past_due", CurrentPeriodEnd: ago(20 * time.Hour)},
		{Status: "trialing", CurrentPeriodEnd: ago(20 * time.Hour)},
		{Status: "canceled", CurrentPeriodEnd: ago(20 * time.Hour)},
	} {
		s.TenantID = f.tenant.ID
		must(t, db.Subscriptions.Insert(ctx, &s))
	}
	same(t, "over", count(0), 2)
	same(t, "over for 15 h", count(15*time.Hour), 1)
	same(t, "over for 30 h", count(30*time.Hour), 0)
	_, err := db.Subscriptions.CountOverdue(ctx, -1)
	refused(t, err, hostdb.ErrInvalid, "age")
}

func access(t *testing.T, db *hostdb.DB) {
	ctx, f := t.Context(), newFixture(t, db)
	stranger := newFixture(t, db)
	must(t, db.Plans.Insert(ctx, &hostdb.PricingPlan{ID: "free", Name: "Free"}))
	must(t, db.Plans.Insert(ctx, &hostdb.PricingPlan{ID: "pro", Name: "Pro", Features: []string{"x"}}))
	soon, later := time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)
	for _, s := range []hostdb.Subscription{
		{Status: "active", PaymentType: hostdb.PaymentOneTime, ProductName: "7"},
		{Status: "canceled", ProductName: "6"}, {Status: "past_due", ProductName: "5"},
		{Status: "trialing", ProductName: "4"}, {Status: "active", ProductName: "3"},
		{Status: "active", CurrentPeriodEnd: &soon, ProductName: "2"},
		{Status: "active", CurrentPeriodEnd: &later, PlanTier: "pro", ProductName: "1"},
	} {
		s.TenantID = f.tenant.ID
		must(t, db.Subscriptions.Insert(ctx, &s))
	}
	for _, user := range []hostdb.UserKey{{ID: f.user.ID}, {OAuthID: f.user.OAuthID}} {
		for _, tenant := range []hostdb.TenantKey{{ID: f.tenant.ID}, {Slug: f.tenant.Slug}} {
			a, err := db.Access(ctx, user, tenant)
			must(t, err)
			same(t, "user", a.User.ID+a.User.Email+a.User.OAuthID+a.User.CreatedAt.String(), f.user.ID+
				f.user.Email+f.user.OAuthID+f.user.CreatedAt.String())
			same(t, "tenant", *a.Tenant, *f.tenant)
			same(t, "membership", *a.Membership, *f.owner)
			same(t, "tenant's plan", a.TenantPlan.Name, "Free")
			order := ""
			for _, s := range a.Subscriptions {
				order += s.ProductName
			}
			// 3 grants access longer than 2, which has the same status and plan.
			same(t, "order", order, "134567")
			same(t, "plan", a.Subscriptions[0].Plan.Name, "Pro")
		}
	}
	a, err := db.Access(ctx, hostdb.UserKey{ID: stranger.user.ID}, hostdb.TenantKey{Slug: f.tenant.Slug})
	must(t, err)
	same(t, "stranger", a.User != nil && a.Tenant != nil && a.Membership == nil && len(a.Subscriptions) == 0,
		true)
	a, err = db.Access(ctx, hostdb.UserKey{OAuthID: "nobody"}, hostdb.TenantKey{ID: hostdb.NewID()})
	must(t, err)
	same(t, "nobody", a.User == nil && a.Tenant == nil && a.Membership == nil && a.TenantPlan == nil, true)
	ids, err := db.SoleTenants(ctx, hostdb.UserKey{OAuthID: f.user.OAuthID})
	must(t, err)
	same(t, "sole tenants", len(ids), 1)
	for field, key := range map[string]hostdb.UserKey{"user": {}, "user_id": {ID: "x"},
		"oauth_id": {OAuthID: "\xff"}} {
		_, err = db.Access(ctx, key, hostdb.TenantKey{ID: f.tenant.ID})
		refused(t, err, hostdb.ErrInvalid, field)
		_, err = db.SoleTenants(ctx, key)
		refused(t, err, hostdb.ErrInvalid, field)
	}
	for field, key := range map[string]hostdb.TenantKey{"tenant": {ID: f.tenant.ID, Slug: "x"},
		"tenant_id": {ID: "x"}, "slug": {Slug: "_"}} {
		_, err = db.Access(ctx, hostdb.UserKey{ID: f.user.ID}, key)
		refused(t, err, hostdb.ErrInvalid, field)
	}
}
