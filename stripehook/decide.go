package stripehook

import (
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// decision is what becomes of a subscription's row on an event.
type decision struct {
	status string   // the event's: processed, or skipped
	now    *state   // what the row is to show; nil: it stays as it is
	at     position // with it: what the row has reached then
	plan   bool     // of it, the plan alone: the rest is there
}

// decide is all that decides about a row that is there and locked. Ask, nil without a Fetcher, fetches the subscription; its error is
// the only one. The row isn't changed.
//
// A row never goes back behind an event that it has shown, or for which it was fetched: an event at its word changes only what hasn't
// reached it. What is fetched is newer than all before, so that every event asks which isn't older than the second that was reached.
func decide(e *event, c *change, row *hostdb.Subscription, ask func() (*state, error)) (decision, error) {
	shown, at, old := reached(row), position{}, decision{status: hostdb.WebhookProcessed}
	switch {
	case c.state != nil:
		at, old.status = positionOf(e, c.state.status), hostdb.WebhookSkipped
		if at.before(shown) && (ask == nil || shown.final || at.created < shown.created) {
			return old, nil
		}
		if at == shown && ask == nil { // it has been applied
			return decision{hostdb.WebhookProcessed, c.state, at, true}, nil
		}
	case ask == nil:
		return old, nil // an invoice or a session only says that something has happened
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
	return decision{hostdb.WebhookProcessed, now, latest(shown, at, positionOf(e, now.status)), false}, nil
}

// carryOut writes a decision that has a state into its row, and reports whether that changes it. Plan is what the state's prices mean.
func (d decision) carryOut(row *hostdb.Subscription, plan *hostdb.PricingPlan) bool {
	if !d.plan {
		d.at.mark(row)
		d.now.write(row, plan)
		return true
	}
	before := *row
	if d.now.shownBy(row) { // else what was fetched for the event differs from it, and so may the prices
		d.now.writePlan(row, plan)
	}
	return *row != before
}

// shownBy reports whether a row shows a state, but for the plan, which depends on the price list too.
func (s *state) shownBy(row *hostdb.Subscription) bool {
	return row.Status == s.status && sameTime(row.CurrentPeriodEnd, s.periodEnd) && sameTime(row.TrialEnd, s.trialEnd) &&
		row.CancelAtPeriodEnd == s.cancels && row.AmountCents == s.cents
}

func sameTime(a, b *time.Time) bool {
	return a == nil && b == nil || a != nil && b != nil && a.Equal(*b)
}

// highest returns the highest of the plans that the prices are of; nil where the price list has none of them. Find returns nil for
// a price that it doesn't have.
func highest(prices []string, find func(price string) (*hostdb.PricingPlan, error)) (best *hostdb.PricingPlan, err error) {
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
