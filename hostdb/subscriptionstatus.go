package hostdb

import (
	"cmp"
	"time"
)

// SubscriptionStatus is what a page tells about a subscription: a banner, a date, a number of days.
type SubscriptionStatus struct {
	// Admits says whether the tenant's members are let in by this subscription now (Subscription.ActiveAt).
	Admits bool
	// Status is Stripe's word, as it came; "" where there is no subscription.
	Status string
	// Trialing: it admits as a trial, until EndsAt.
	Trialing bool
	// InGrace: it admits although a payment is overdue, until EndsAt.
	InGrace bool
	// CancelsAtPeriodEnd: it admits, has been cancelled and ends at EndsAt.
	CancelsAtPeriodEnd bool
	// EndsAt is when it ceases to admit if nothing happens; nil where it doesn't admit, or renews.
	EndsAt *time.Time
	// RenewsAt is when the next payment is due; nil where it ends instead.
	RenewsAt *time.Time
	// DaysLeft is how many days there are until EndsAt or RenewsAt, a begun day counted whole; 0 where there
	// is neither.
	DaysLeft int
}

// StatusAt returns what a page tells about the subscription at this time; grace as in ActiveAt. The status of
// nil is the zero one.
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

// daysUntil counts days of 24 hours, a begun one whole.
func daysUntil(then, now time.Time) int {
	const day = 24 * time.Hour
	return int((max(0, then.Sub(now)) + day - 1) / day)
}
