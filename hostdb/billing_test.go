package hostdb_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

func TestWebhookEvents_Claim_onceAndAgainAfterAFailure(t *testing.T) {
	onBoth(t, func(t *testing.T, db *hostdb.DB) {
		claims := func() int64 {
			var (
				wg sync.WaitGroup
				n  atomic.Int64
			)
			for range 8 {
				wg.Go(func() {
					err := db.InTx(context.Background(), func(tx *hostdb.Tx) error {
						claimed, err := tx.WebhookEvents.Claim(context.Background(),
							&hostdb.StripeWebhookEvent{EventID: "evt_1", EventType: "x",
								PayloadJSON: `{"a":1}`})
						if claimed {
							n.Add(1)
						}
						return err
					})
					if err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			return n.Load()
		}
		if n := claims(); n != 1 {
			t.Errorf("a new event was claimed %d times", n)
		}
		first, err := db.WebhookEvents.ByEventID(t.Context(), "evt_1")
		must(t, err)
		for _, status := range []string{hostdb.WebhookFailed, hostdb.WebhookParked} {
			waiting := *first
			waiting.Status, waiting.Reason, waiting.PayloadJSON = status, "because", "{}"
			must(t, db.WebhookEvents.Update(t.Context(), &waiting))
			if n := claims(); n != 1 {
				t.Errorf("a %s event was claimed %d times", status, n)
			}
			if now, err := db.WebhookEvents.ByEventID(t.Context(), "evt_1"); err != nil || *now != *first {
				t.Errorf("the row is %+v, %v; want %+v", now, err, first)
			}
		}
		first.Status = hostdb.WebhookSkipped
		must(t, db.WebhookEvents.Update(t.Context(), first))
		if n := claims(); n != 0 {
			t.Errorf("a skipped event was claimed %d times", n)
		}
		_, err = db.WebhookEvents.Claim(t.Context(), nil)
		wantField(t, err, hostdb.ErrInvalid, "event")
	})
}

func TestWebhookEvents_ListReady_returnsEventsWhoseSubjectExists(t *testing.T) {
	onBoth(t, func(t *testing.T, db *hostdb.DB) {
		ctx, later := t.Context(), hostdb.NewID()
		for id, e := range map[string]hostdb.StripeWebhookEvent{
			"sub": {StripeSubID: "sub_1"}, "tenant": {TenantID: later},
			"both": {StripeSubID: "sub_1", TenantID: later}, "none": {},
			"other": {StripeSubID: "sub_2", TenantID: hostdb.NewID()},
			"done":  {StripeSubID: "sub_1", TenantID: later, Status: hostdb.WebhookFailed},
		} {
			e.EventID, e.EventType = id, "x"
			if e.Status == "" {
				e.Status = hostdb.WebhookParked
			}
			must(t, db.WebhookEvents.Insert(ctx, &e))
		}
		ready := func(sub, tenant string) []string {
			t.Helper()
			rows, err := db.WebhookEvents.ListReady(ctx, sub, tenant, "")
			must(t, err)
			ids := []string{}
			for _, row := range rows {
				ids = append(ids, row.EventID)
			}
			slices.Sort(ids)
			return ids
		}
		want := func(got []string, want ...string) {
			t.Helper()
			if !slices.Equal(got, want) {
				t.Errorf("ready: %v, want %v", got, want)
			}
		}
		want(ready("", ""))
		want(ready("sub_1", later))
		must(t, db.Subscriptions.Insert(ctx,
			&hostdb.Subscription{TenantID: newTenant(t, db).ID, StripeSubID: "sub_1"}))
		want(ready("", ""), "both", "sub")
		want(ready("sub_1", ""), "both", "sub")
		want(ready("", later), "both")
		want(ready("sub_2", ""))
		must(t, db.Tenants.Insert(ctx, &hostdb.TenantCatalog{ID: later, Name: "Later"}))
		want(ready("", later), "both", "tenant")
		want(ready("", ""), "both", "sub", "tenant")
		_, err := db.WebhookEvents.ListReady(ctx, "a\x00", "", "")
		wantField(t, err, hostdb.ErrInvalid, "stripe_sub_id")
		_, err = db.WebhookEvents.ListReady(ctx, "", "x", "")
		wantField(t, err, hostdb.ErrInvalid, "tenant_id")
		_, err = db.WebhookEvents.ListReady(ctx, "", "", "x")
		wantField(t, err, hostdb.ErrInvalid, "id")
		all, err := db.WebhookEvents.ListReady(ctx, "", "", "")
		must(t, err)
		for i, row := range all {
			if rest, err := db.WebhookEvents.ListReady(ctx, "", "", row.ID); err != nil ||
				len(rest) != len(all)-1-i {
				t.Errorf("%d behind the first %d of %d, %v", len(rest), i+1, len(all), err)
			}
			if rest, err := db.WebhookEvents.ListReady(ctx, "", later, all[len(all)-1].ID); err != nil ||
				len(rest) != 0 {
				t.Errorf("%d behind the last, %v", len(rest), err)
			}
		}
	})
}

func TestSubscriptions_LockOrInsert_returnsOneRowToBoth(t *testing.T) {
	onBoth(t, func(t *testing.T, db *hostdb.DB) {
		tenant := newTenant(t, db)
		var (
			wg   sync.WaitGroup
			rows [8]string
		)
		for i := range rows {
			wg.Go(func() {
				err := db.InTx(context.Background(), func(tx *hostdb.Tx) error {
					row, err := tx.Subscriptions.LockOrInsert(context.Background(),
						&hostdb.Subscription{TenantID: tenant.ID, StripeSubID: "sub_1"})
					if err != nil {
						return err
					}
					rows[i] = row.ID
					row.AmountCents++
					return tx.Subscriptions.Update(context.Background(), row)
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		row, err := db.Subscriptions.ByStripeSubID(t.Context(), "sub_1")
		must(t, err)
		if row.AmountCents != int64(len(rows)) ||
			slices.ContainsFunc(rows[:], func(id string) bool { return id != row.ID }) {
			t.Errorf("the row is %+v; the transactions got %v", row, rows)
		}
		logs, err := db.AuditLogs.ListForTarget(t.Context(), row.ID,
			hostdb.Where("event_type", "subscription.created"))
		if err != nil || len(logs) != 1 {
			t.Errorf("audit rows of the insertion: %v, %v", logs, err)
		}
		orphan := &hostdb.Subscription{TenantID: hostdb.NewID(), StripeSubID: "sub_2"}
		_, err = db.Subscriptions.LockOrInsert(t.Context(), orphan)
		wantField(t, err, hostdb.ErrInvalid, "tx")
		wantField(t, db.InTx(t.Context(), func(tx *hostdb.Tx) error {
			_, err := tx.Subscriptions.LockOrInsert(t.Context(), orphan)
			return err
		}), hostdb.ErrConflict, "tenant_id")
	})
}

func TestSubscriptions_StartTrial_onceForATenant(t *testing.T) {
	onBoth(t, func(t *testing.T, db *hostdb.DB) {
		ctx, tenant := t.Context(), newTenant(t, db)
		must(t, db.Plans.Insert(ctx, &hostdb.PricingPlan{ID: "pro", Name: "Pro", TrialDays: 14}))
		must(t, db.Plans.Insert(ctx, &hostdb.PricingPlan{ID: "none", Name: "None"}))
		_, _, err := db.Subscriptions.StartTrial(ctx, tenant.ID, "none")
		wantField(t, err, hostdb.ErrInvalid, "trial_days")
		for _, id := range [][2]string{{hostdb.NewID(), "pro"}, {tenant.ID, "gold"}} {
			if _, _, err := db.Subscriptions.StartTrial(ctx, id[0], id[1]); err != hostdb.ErrNotFound {
				t.Errorf("StartTrial(%v) = %v", id, err)
			}
		}
		must(t, db.Subscriptions.Insert(ctx,
			&hostdb.Subscription{TenantID: tenant.ID, PaymentType: hostdb.PaymentOneTime}))
		var (
			wg      sync.WaitGroup
			started atomic.Int64
		)
		for range 8 {
			wg.Go(func() {
				_, now, err := db.Subscriptions.StartTrial(context.Background(), tenant.ID, "pro")
				if err != nil {
					t.Error(err)
				}
				if now {
					started.Add(1)
				}
			})
		}
		wg.Wait()
		trial, now, err := db.Subscriptions.StartTrial(ctx, tenant.ID, "pro")
		must(t, err)
		if started.Load() != 1 || now {
			t.Errorf("the trial began %d times, and again = %v", started.Load(), now)
		}
		begun := trial.CreatedAt
		for days, admits := range map[int]bool{0: true, 13: true, 14: false} {
			if at := begun.Add(time.Duration(days)*24*time.Hour + time.Second); trial.ActiveAt(at,
				0) != admits {
				t.Errorf("after %d days: admits = %v", days, !admits)
			}
		}
		trial.Status = hostdb.SubscriptionCanceled
		must(t, db.Subscriptions.Update(ctx, trial))
		if over, now, err := db.Subscriptions.StartTrial(ctx, tenant.ID, "pro"); err != nil || now ||
			over.ID != trial.ID {
			t.Errorf("a second trial: %v, %v, %v", over, now, err)
		}
	})
}

func TestSubscription_StatusAt(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	in := func(d time.Duration) *time.Time { at := now.Add(d); return &at }
	const day = 24 * time.Hour
	paid := func(s hostdb.Subscription) *hostdb.Subscription {
		s.PaymentType = hostdb.PaymentSubscription
		return &s
	}
	for name, c := range map[string]struct {
		sub  *hostdb.Subscription
		want hostdb.SubscriptionStatus
	}{
		"none": {nil, hostdb.SubscriptionStatus{}},
		"renews": {paid(hostdb.Subscription{Status: "active", CurrentPeriodEnd: in(3*day + 1)}),
			hostdb.SubscriptionStatus{Admits: true, RenewsAt: in(3*day + 1), DaysLeft: 4}},
		"renewal is late": {paid(hostdb.Subscription{Status: "active", CurrentPeriodEnd: in(-day)}),
			hostdb.SubscriptionStatus{Admits: true, RenewsAt: in(-day)}},
		"no date": {paid(hostdb.Subscription{Status: "active"}),
			hostdb.SubscriptionStatus{Admits: true}},
		"cancelled": {paid(
			hostdb.Subscription{Status: "active", CancelAtPeriodEnd: true, CurrentPeriodEnd: in(day)}),
			hostdb.SubscriptionStatus{Admits: true, CancelsAtPeriodEnd: true, EndsAt: in(day), DaysLeft: 1}},
		"trial": {paid(hostdb.Subscription{Status: "trialing", TrialEnd: in(14 * day)}),
			hostdb.SubscriptionStatus{Admits: true, Trialing: true, EndsAt: in(14 * day), DaysLeft: 14}},
		"trial's last hour": {paid(hostdb.Subscription{Status: "trialing", TrialEnd: in(time.Hour)}),
			hostdb.SubscriptionStatus{Admits: true, Trialing: true, EndsAt: in(time.Hour), DaysLeft: 1}},
		"trial over": {paid(hostdb.Subscription{Status: "trialing", TrialEnd: in(0)}),
			hostdb.SubscriptionStatus{}},
		"grace": {paid(hostdb.Subscription{Status: "past_due", CurrentPeriodEnd: in(-day)}),
			hostdb.SubscriptionStatus{Admits: true, InGrace: true, EndsAt: in(2 * day), DaysLeft: 2}},
		"grace over": {paid(hostdb.Subscription{Status: "past_due", CurrentPeriodEnd: in(-3 * day)}),
			hostdb.SubscriptionStatus{}},
		"canceled": {paid(hostdb.Subscription{Status: "canceled", CancelAtPeriodEnd: true,
			CurrentPeriodEnd: in(day)}), hostdb.SubscriptionStatus{}},
		"unknown word": {paid(hostdb.Subscription{Status: "blessed", CurrentPeriodEnd: in(day)}),
			hostdb.SubscriptionStatus{}},
		"one-time": {&hostdb.Subscription{Status: "active", PaymentType: hostdb.PaymentOneTime,
			CurrentPeriodEnd: in(day)}, hostdb.SubscriptionStatus{}},
	} {
		t.Run(name, func(t *testing.T) {
			if c.sub != nil {
				c.want.Status = c.sub.Status
			}
			got := c.sub.StatusAt(now, hostdb.DefaultGrace)
			for what, dates := range map[string][2]*time.Time{"EndsAt": {got.EndsAt, c.want.EndsAt},
				"RenewsAt": {got.RenewsAt, c.want.RenewsAt}} {
				if (dates[0] == nil) != (dates[1] == nil) || dates[0] != nil && !dates[0].Equal(*dates[1]) {
					t.Errorf("%s = %v, want %v", what, dates[0], dates[1])
				}
			}
			got.EndsAt, got.RenewsAt, c.want.EndsAt, c.want.RenewsAt = nil, nil, nil, nil
			if got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestWebhookEvents_Prune_deletesOldProcessedEvents(t *testing.T) {
	onBoth(t, func(t *testing.T, db *hostdb.DB) {
		ctx, n := t.Context(), 0
		must(t, db.InTx(ctx, func(tx *hostdb.Tx) error {
			add := func(status string, age time.Duration) error {
				n++
				return tx.WebhookEvents.Insert(ctx,
					&hostdb.StripeWebhookEvent{ID: fmt.Sprintf("%012x%020d", time.Now().Add(-age).UnixMilli(),
						n), EventID: fmt.Sprintf("%s after %v, %d", status, age, n), EventType: "x",
						PayloadJSON: "{}", Status: status})
			}
			var err error
			for range 1001 { // more than one step
				err = errors.Join(err, add(hostdb.WebhookProcessed, 31*24*time.Hour))
			}
			for _, status := range []string{hostdb.WebhookProcessed, hostdb.WebhookSkipped,
				hostdb.WebhookFailed, hostdb.WebhookParked} {
				err = errors.Join(err, add(status, 40*24*time.Hour), add(status, 29*24*time.Hour))
			}
			return err
		}))
		for _, age := range []time.Duration{0, -time.Hour, hostdb.WebhookRetention - 1} {
			_, err := db.WebhookEvents.Prune(ctx, age)
			wantField(t, err, hostdb.ErrInvalid, "age")
		}
		for _, c := range []struct {
			age  time.Duration
			want int64
		}{{1 << 62, 0}, {41 * 24 * time.Hour, 0}, {35 * 24 * time.Hour, 2}, {hostdb.WebhookRetention, 1001},
			{hostdb.WebhookRetention, 0}} {
			if got, err := db.WebhookEvents.Prune(ctx, c.age); err != nil || got != c.want {
				t.Errorf("older than %v: %d deleted, %v; want %d", c.age, got, err, c.want)
			}
		}
		left := map[string]int{}
		for e, err := range db.WebhookEvents.All(ctx) {
			must(t, err)
			left[e.Status]++
		}
		if want := map[string]int{hostdb.WebhookProcessed: 1, hostdb.WebhookSkipped: 1,
			hostdb.WebhookFailed: 2, hostdb.WebhookParked: 2}; !maps.Equal(left, want) {
			t.Errorf("left: %v, want %v", left, want)
		}
	})
}
