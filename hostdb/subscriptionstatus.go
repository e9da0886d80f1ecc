package hostdb

import (
	"cmp"
	"time"
)

// SubscriptionStatus is what a page shows about a subscription: a banner, a date, a number of days.
type SubscriptionStatus struct {
	// Admits says whether the subscription grants access now ([Subscription.ActiveAt]).
	Admits bool
	// Status is Stripe's word, unchanged. It is "" if there is no subscription.
	Status string
	// Trialing says that it grants access as a trial, until EndsAt.
	Trialing bool
	// InGrace says that it grants access although a payment is overdue, until EndsAt.
	InGrace bool
	// CancelsAtPeriodEnd says that it grants access, but was cancelled and ends at EndsAt.
	CancelsAtPeriodEnd bool
	// EndsAt is when it ceases to grant access if nothing happens. It is nil if it grants none, or renews.
	EndsAt *time.Time
	// RenewsAt is when the next payment is due. It is nil if the subscription ends instead.
	RenewsAt *time.Time
	// DaysLeft is the number of days until EndsAt or RenewsAt, rounded up. It is 0 if both are nil.
	DaysLeft int
}

// StatusAt returns what a page shows about the subscription at this time. grace is as in
// [Subscription.ActiveAt]. For a nil subscription it returns the zero status.
func (s *Subscription) StatusAt(now time.Time, grace time.Duration) SubscriptionStatus {
	if s == nil {
		return SubscriptionStatus{}
	}
	st := SubscriptionStatus{Status: s.Status, Admits: s.ActiveAt(now, grace)}
	if !st.Admits {
		return st
	}
	st.CancelsAtPeriodEnd = s.CancelAtPeriodEnd
	switch {
	case s.Status == SubscriptionTrialing:
		st.Trialing, st.EndsAt = true, s.TrialEnd
	case s.Status == SubscriptionPastDue:
		over := s.CurrentPeriodEnd.Add(grace)
		st.InGrace, st.EndsAt = true, &over
	case s.CancelAtPeriodEnd:
		st.EndsAt = s.CurrentPeriodEnd
	default:
		st.RenewsAt = s.CurrentPeriodEnd
	}
	if next := cmp.Or(st.EndsAt, st.RenewsAt); next != nil {
		st.DaysLeft = daysUntil(*next, now)
	}
	return st
}

// daysUntil counts days of 24 hours, rounded up.
func daysUntil(then, now time.Time) int {
	const day = 24 * time.Hour
	return int((max(0, then.Sub(now)) + day - 1) / day)
}
