package stripehook

import (
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// decision is what an event does to a subscription's row.
type decision struct {
	status string   // the event's: processed, or skipped
	now    *state   // what the event, or the answer for it, says; nil: nothing for the row
	at     position // with it: what the row has reached then
	part   part     // with it: how much of the row it changes
	late   int64    // when a renewal's payment failed; 0: it didn't
}

// part is how much of a row a state changes.
type part int

const (
	whole       part = iota // all of it
	planOnly                // the plan: the rest is there
	earlierPlan             // the plan, unless the row has one of a later event
)

// decide decides what an event does to a row, which is locked. It does not change the row. ask fetches the
// subscription, and is nil without a Fetcher. tied returns the recorded events of the subscription, this one
// included, and is nil for an event that was applied before. decide returns only their errors.
//
// A row never goes back behind an event that it has shown, or for which it was fetched. Without a fetch, an
// event changes only a row that has not reached it. A fetched state is newer than all events before, so every
// event that is not older than the second the row has reached asks for it.
func decide(e *event, c *change, row *hostdb.Subscription, ask func() (*state, error),
	tied func() ([]tie, error)) (decision, error) {
	shown, at, old := reached(row), position{}, decision{status: hostdb.WebhookProcessed}
	switch {
	case c.state != nil:
		at = positionOf(e, c.state.status)
		old = decision{status: hostdb.WebhookSkipped, now: c.state, at: at, part: earlierPlan}
		if at == shown && ask == nil { // it has been applied
			return decision{status: hostdb.WebhookProcessed, now: c.state, at: at, part: planOnly}, nil
		}
		switch {
		case ask == nil && tied == nil:
			old.at = position{} // its plan counts only where the row has none
			return old, nil
		case ask == nil && at.mayMove(shown):
			return untie(old, shown, tied)
		}
		if at.before(shown) && (ask == nil || shown.final || at.created < shown.created) {
			return old, nil
		}
	case ask == nil: // an invoice or a session only says that something has happened
		if c.invoice != nil && c.invoice.late && tied != nil {
			old.late = e.created
		}
		return old, nil
	}
	now := c.state
	if ask != nil {
		var err error
		if now, err = ask(); err != nil {
			return decision{}, err
		}
		if c.state != nil && final(c.state.status) && !final(now.status) {
			now = c.state // the answer is the older of the two
		}
	}
	if shown.final && !final(now.status) { // nothing revives one that is over
		return old, nil
	}
	return decision{status: hostdb.WebhookProcessed, now: now,
		at: latest(shown, at, positionOf(e, now.status))}, nil
}

// carryOut applies a decision to its row and reports whether the row changed. plan is the plan of the state's
// prices.
func (d decision) carryOut(row *hostdb.Subscription, plan *hostdb.PricingPlan) bool {
	before := *row
	switch {
	case d.late > 0:
		d.fallDue(row)
	case d.now == nil:
	case d.part == whole:
		d.at.mark(row)
		d.now.write(row, plan, d.at)
	case d.part == earlierPlan:
		d.now.writeEarlierPlan(row, plan, d.at)
	// else what was fetched for the event differs from it, and so may the prices
	case d.now.shownBy(row, d.at.created):
		d.now.writePlan(row, plan, d.at)
	}
	return *row != before
}

// fallDue records that a renewal's payment failed: an active subscription is past due, unless a later event
// says otherwise.
func (d decision) fallDue(row *hostdb.Subscription) {
	failed := time.Unix(d.late, 0).UTC()
	if row.InvoiceFailedAt == nil || row.InvoiceFailedAt.Before(failed) {
		row.InvoiceFailedAt = &failed
	}
	if row.Status == hostdb.SubscriptionActive && reached(row).created < row.InvoiceFailedAt.Unix() {
		row.Status = hostdb.SubscriptionPastDue
	}
}

// shownBy reports whether a row shows a state of this second. The plan is left out, since it depends on the
// price list too.
func (s *state) shownBy(row *hostdb.Subscription, created int64) bool {
	return row.Status == s.statusIn(row, created) && sameTime(row.CurrentPeriodEnd, s.periodEnd) &&
		sameTime(row.TrialEnd, s.trialEnd) && row.CancelAtPeriodEnd == s.cancels && row.AmountCents == s.cents
}

func sameTime(a, b *time.Time) bool {
	return a == nil && b == nil || a != nil && b != nil && a.Equal(*b)
}

// highest returns the highest of the prices' plans, or nil if the price list has none of them. find returns
// nil for a price that it does not know.
func highest(prices []string, find func(price string) (*hostdb.PricingPlan, error)) (best *hostdb.PricingPlan,
	err error) {
	for _, price := range prices {
		plan, err := find(price)
		if err != nil {
			return nil, err
		}
		if plan != nil && (best == nil || plan.TierLevel > best.TierLevel) {
			best = plan
		}
	}
	return best, nil
}
