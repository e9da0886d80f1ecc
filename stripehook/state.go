package stripehook

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// state is a subscription as an event shows it (docs.stripe.com/api/subscriptions/object).
type state struct {
	status    string
	periodEnd *time.Time
	trialEnd  *time.Time
	cancels   bool
	customer  string
	prices    []string
	tier      string // what its metadata says, for prices that the price list doesn't have
	listed    bool   // the price list has that tier
	product   string // the same
	cents     int64
	paused    bool // payments aren't collected for the time being; the status goes on
}

// readState reads a subscription object. A deleted subscription is canceled, whatever the object says.
func readState(o object, deleted bool) *state {
	s := &state{status: word(o, "status"), periodEnd: o.time("current_period_end"),
		trialEnd: o.time("trial_end"),
		customer: o.reference("customer"), product: o.at("metadata").text("product_name", maxText),
		tier: cmp.Or(o.at("metadata").text("plan_tier", maxWord),
			o.at("metadata").text("plan_type", maxWord)),
		paused: o.at("pause_collection") != nil}
	if deleted && !final(s.status) {
		s.status = hostdb.SubscriptionCanceled
	}
	for _, item := range o.objects("items") {
		s.addItem(item)
	}
	s.cents = min(s.cents, maxCents)
	// With flexible billing a date stands for the flag (docs.stripe.com/billing/subscriptions/billing-mode).
	cancelAt := o.time("cancel_at")
	s.cancels = o.truth("cancel_at_period_end") || cancelAt != nil && s.periodEnd != nil &&
		!cancelAt.After(*s.periodEnd)
	return s
}

// word returns one of Stripe's words, known or not. Any other text becomes unknown, which admits nobody.
func word(o object, name string) string {
	s := o.text(name, 32)
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (i == 0 || (c < '0' || c > '9') && c != '_') {
			return unknown
		}
	}
	return cmp.Or(s, unknown)
}

// unknown is the status or the plan tier if neither Stripe, the price list nor the metadata tells it.
const unknown = "unknown"

// addItem adds one item of a subscription. Since API version 2025-03-31 each item has its own period, and the
// last end counts
// (docs.stripe.com/changelog/basil/2025-03-31/deprecate-subscription-current-period-start-and-end).
func (s *state) addItem(item object) {
	if end := item.time("current_period_end"); end != nil && (s.periodEnd == nil || end.After(*s.periodEnd)) {
		s.periodEnd = end
	}
	price := item.at("price")
	if price == nil {
		price = item.at("plan") // which prices were called before
	}
	if id := price.text("id", maxText); id != "" {
		s.prices = append(s.prices, id)
	}
	if s.product == "" {
		s.product = price.text("nickname", maxText)
	}
	quantity, ok := item.number("quantity")
	if !ok {
		quantity = 1
	}
	unit := max(price.cents("unit_amount"), price.cents("amount"))
	if unit > 0 && quantity <= maxCents/unit {
		s.cents += unit * quantity
	}
}

// final reports whether a subscription never leaves a status.
func final(status string) bool {
	return status == hostdb.SubscriptionCanceled || status == hostdb.SubscriptionIncompleteExpired
}

// ranks order the statuses of events of the same second. A subscription leaves incomplete and never returns
// to it. If the order is unknown, the status that denies more wins. Unknown words come after all known ones
// that are not final.
var ranks = map[string]int{
	hostdb.SubscriptionIncomplete:        0,
	hostdb.SubscriptionTrialing:          1,
	hostdb.SubscriptionActive:            2,
	hostdb.SubscriptionPastDue:           3,
	hostdb.SubscriptionUnpaid:            4,
	hostdb.SubscriptionPaused:            5,
	hostdb.SubscriptionIncompleteExpired: 7,
	hostdb.SubscriptionCanceled:          8,
}

func rank(status string) int {
	if r, ok := ranks[status]; ok {
		return r
	}
	return 6
}

// position is an event's place in the total order of the events of a subscription. Events arrive in any
// order, and times have a resolution of one second.
type position struct {
	final   bool // a final status is the last one, whatever the clocks say
	created int64
	rank    int
	event   string
}

// positionOf returns the position of an event that shows this status.
func positionOf(e *event, status string) position {
	return position{final(status), e.created, rank(status), e.id}
}

// reached returns the position of the last event that a row shows, or was fetched for. It is before all
// others if there is none.
func reached(row *hostdb.Subscription) position {
	p := position{final: final(row.Status), created: -1, rank: row.LastEventRank, event: row.LastEventID}
	if row.LastEventAt != nil {
		p.created = row.LastEventAt.Unix()
	}
	return p
}

// before reports whether p comes before q.
func (p position) before(q position) bool {
	if p.final != q.final {
		return q.final
	}
	return cmp.Or(cmp.Compare(p.created, q.created), cmp.Compare(p.rank, q.rank),
		cmp.Compare(p.event, q.event)) < 0
}

// latest returns the last position.
func latest(first position, others ...position) position {
	for _, p := range others {
		if first.before(p) {
			first = p
		}
	}
	return first
}

// mark records in a row which event it has reached.
func (p position) mark(row *hostdb.Subscription) {
	at := time.Unix(p.created, 0).UTC()
	row.LastEventAt, row.LastEventRank, row.LastEventID = &at, p.rank, p.event
}

// key returns the position as a text. Texts and positions have the same order.
func (p position) key() string {
	last := 0
	if p.final {
		last = 1
	}
	return fmt.Sprintf("%d %012d %02d %s", last, max(0, p.created), p.rank, p.event)
}

// planFrom returns the key of the event that set a row's plan, or "" if the plan is unknown.
func planFrom(row *hostdb.Subscription) string {
	switch {
	case row.PlanEvent != "":
		return row.PlanEvent
	case row.PlanTier == unknown || row.LastEventAt == nil:
		return ""
	}
	return reached(row).key() // a row that an earlier version wrote
}

// newRow returns the row of a new subscription.
func newRow(c *change) *hostdb.Subscription {
	return &hostdb.Subscription{TenantID: c.tenant, StripeSubID: c.stripeSub, StripeCustID: c.customer,
		Status: hostdb.SubscriptionIncomplete, PlanTier: unknown, PaymentType: hostdb.PaymentSubscription}
}

// statusIn returns the status that a row shows for a state of this second. It is past_due for an active
// subscription if a renewal's payment failed later.
func (s *state) statusIn(row *hostdb.Subscription, created int64) string {
	if s.status == hostdb.SubscriptionActive && row.InvoiceFailedAt != nil &&
		created < row.InvoiceFailedAt.Unix() {
		return hostdb.SubscriptionPastDue
	}
	return s.status
}

// write writes the state of an event into a row. plan is the plan of the prices, or nil if the price list has
// none. The tenant stays: a subscription never moves.
func (s *state) write(row *hostdb.Subscription, plan *hostdb.PricingPlan, at position) {
	row.Status = s.statusIn(row, at.created)
	row.CurrentPeriodEnd, row.TrialEnd, row.CancelAtPeriodEnd = s.periodEnd, s.trialEnd, s.cancels
	row.PaymentType, row.AmountCents = hostdb.PaymentSubscription, s.cents
	if s.customer != "" {
		row.StripeCustID = s.customer
	}
	s.writePlan(row, plan, at)
}

// writePlan writes the plan of an event into a row. If neither the price list nor the metadata knows the
// plan, the row keeps its plan: a price that is new to this program must not take anything from a payer. A
// tier in the metadata that is no plan only replaces another that is none.
func (s *state) writePlan(row *hostdb.Subscription, plan *hostdb.PricingPlan, at position) {
	switch {
	case plan != nil:
		row.PlanTier, row.ProductName, row.PlanEvent = plan.ID, plan.Name, at.key()
	case s.tier != "" && (s.listed || !hasListed(row)):
		row.PlanTier, row.ProductName, row.PlanEvent = s.tier, s.product, s.planKey(plan, at)
	case row.PlanTier == unknown:
		row.ProductName = s.product
	}
}

// writeEarlierPlan writes the plan of an event that is older than the row, unless the row has the plan of a
// later event.
func (s *state) writeEarlierPlan(row *hostdb.Subscription, plan *hostdb.PricingPlan, at position) {
	if (plan != nil || s.tier != "") && s.planKey(plan, at) > planFrom(row) {
		s.writePlan(row, plan, at)
	}
}

// noPlan begins the key of an event whose metadata names no existing plan. Such keys come before all others.
const noPlan = "-"

// planKey returns the key of the event that a plan is from.
func (s *state) planKey(plan *hostdb.PricingPlan, at position) string {
	if plan == nil && !s.listed {
		return noPlan + at.key()
	}
	return at.key()
}

// hasListed reports whether a row's plan is known to be on the price list.
func hasListed(row *hostdb.Subscription) bool {
	from := planFrom(row)
	return from != "" && !strings.HasPrefix(from, noPlan)
}
