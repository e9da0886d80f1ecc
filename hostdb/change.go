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

// Change says that a row which bears on access was written, by whatever program. A row whose keys changed
// gives two: one with the old keys and one with the new.
type Change struct {
	Kind     string // ChangeUser, ChangeTenant, …
	UserID   string
	TenantID string
	PlanID   string
}

// Delivery is what one poll, or several if the receiver was slow, found.
type Delivery struct {
	// PolledAt is when the last of these polls started, with a monotonic reading: every transaction committed
	// before it has been delivered. It is zero while Verify finds something wrong, when nothing can be
	// promised.
	PolledAt time.Time
	// Changes are the changes found, in no particular order. After an uneventful poll there are none.
	Changes []Change
	// Reset says that any row may have changed: what was read before is to be forgotten.
	Reset bool
}

// maxChanges is how many changes a Delivery holds; more become a Reset.
const maxChanges = 10_000

// Changes iterates over the changes to users, tenants, memberships, subscriptions and plans, by this and by
// every other program. It delivers after every successful poll, even if it found nothing. The first delivery
// is a Reset: what was read before it may be stale. Further Resets follow a TRUNCATE, a pause longer than
// Config.Retention, a failover and a restored backup.
//
// Every Config.VerifyInterval, and after a Reset of its own, the feed verifies what it rests on (Verify).
// Where something is wrong, it delivers a Reset, and until that is mended the changes that it finds, without
// PolledAt, and an error (ErrUnavailable) that says what to do. A Reset follows when all is well again.
//
// A failed poll yields its error (ErrUnavailable) and the feed goes on: nothing is lost. It ends with ctx,
// with the loop, and with DB.Close. All loops of a DB share one poller, which runs while there is one. In
// SQLite this process's own commits are delivered at once; otherwise polls are Config.PollInterval apart,
// unless a NOTIFY or Wake comes first. Changes of LastLogin and PasswordHash are none.
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

// Wake has Changes poll now.
func (db *DB) Wake() {
	db.feed.wake()
}
