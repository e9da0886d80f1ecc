package hostdb

import (
	"context"
	"iter"
	"time"
)

// The kinds of a change.
const (
	ChangeUser         = "user"         // UserID
	ChangeTenant       = "tenant"       // TenantID
	ChangeMembership   = "membership"   // UserID and TenantID
	ChangeSubscription = "subscription" // TenantID
	ChangePlan         = "plan"         // PlanID
)

// Change says that a row that affects access was written, by any program. A row whose keys changed produces
// two: one with the old keys and one with the new.
type Change struct {
	Kind     string // ChangeUser, ChangeTenant, …
	UserID   string
	TenantID string
	PlanID   string
}

// Delivery is what a poll found, or several polls if the receiver was slow.
type Delivery struct {
	// PolledAt is when the last of these polls started, with a monotonic reading. Every transaction
	// committed before it has been delivered. It is zero while [DB.Verify] reports faults, because changes
	// may be missed.
	PolledAt time.Time
	// Changes are the changes found, in no particular order. An uneventful poll has none.
	Changes []Change
	// Reset says that any row may have changed. Forget what was read before.
	Reset bool
}

// maxChanges is how many changes a Delivery holds. More become a Reset.
const maxChanges = 10_000

// Changes iterates over the changes of users, tenants, memberships, subscriptions and plans, by this and
// every other program. It delivers after every successful poll, even if that found nothing. The first
// delivery is a Reset, because what was read before it may be stale. Further Resets follow a TRUNCATE, a
// pause longer than Config.Retention, a failover and a restored backup.
//
// Every Config.VerifyInterval, and after a Reset, the feed runs [DB.Verify]. If that reports faults, it
// delivers a Reset. Until they are repaired, deliveries have no PolledAt and come with an error
// (ErrUnavailable) that says what to do. Another Reset follows when all faults are repaired.
//
// A failed poll yields its error (ErrUnavailable). The feed continues and misses nothing. It ends with ctx,
// with the loop, and with [DB.Close]. All loops of a DB share one poller, which runs while there is a loop.
// In SQLite this process's own commits are delivered at once. Otherwise polls are Config.PollInterval apart,
// or earlier after a NOTIFY or [DB.Wake]. Changes of LastLogin and PasswordHash aren't delivered.
func (db *DB) Changes(ctx context.Context) iter.Seq2[Delivery, error] {
	return func(yield func(Delivery, error) bool) {
		sub, err := db.feed.subscribe()
		if err != nil {
			yield(Delivery{}, err)
			return
		}
		defer db.feed.unsubscribe(sub)
		for {
			select {
			case <-sub.ready:
			case <-ctx.Done():
				return
			case <-db.closed:
				return
			}
			delivery, err := sub.take()
			if delivery != nil && !yield(*delivery, nil) {
				return
			}
			if err != nil && !yield(Delivery{}, err) {
				return
			}
		}
	}
}

// Wake makes Changes poll now.
func (db *DB) Wake() {
	db.feed.wake()
}
