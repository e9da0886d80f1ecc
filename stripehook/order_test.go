package stripehook

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/strictjson"
)

// Told is one event of a history, as the tests write it down.
type Told struct {
	ID, Kind string
	Created  int64
	Status   string // of a subscription's event
	Period   int64
	Cancels  bool
	Named    bool // it names the tenant
	Price    string
	Cents    int64
	Was      string // the status before, where the event tells it
}

const tenantID = "0123456789abcdef0123456789abcdef"

// Histories are what happens to a subscription in its life. Events of one second, a session that comes after
// what it began, a payment that fails and is made good.
var Histories = map[string][]Told{
	"paid, failed, paid, canceled": {
		{"evt_b", subscriptionCreated, 1000, "incomplete", 2000, false, false, "price_max", 9900, ""},
		{"evt_a", subscriptionUpdated, 1000, "active", 2000, false, false, "price_gone", 700, ""},
		{"evt_c", invoiceSucceeded, 1000, "", 0, false, false, "", 0, ""},
		{"evt_d", checkoutCompleted, 1002, "", 0, false, true, "", 0, ""},
		{"evt_e", invoiceFailed, 2000, "", 0, false, false, "", 0, ""},
		{"evt_f", subscriptionUpdated, 2000, "past_due", 3000, false, false, "price_pro", 1600, ""},
		{"evt_g", invoiceSucceeded, 2500, "", 0, false, false, "", 0, ""},
		{"evt_h", subscriptionUpdated, 2500, "active", 3000, true, false, "price_pro", 1500, ""},
		{"evt_i", subscriptionDeleted, 3000, "canceled", 3000, false, false, "price_max", 9900, ""},
	},
	"trial, then paid, ends active": {
		{"evt_z", subscriptionCreated, 1000, "trialing", 2000, false, true, "price_gone", 700, ""},
		{"evt_y", checkoutCompleted, 1000, "", 0, false, true, "", 0, ""},
		{"evt_x", invoiceSucceeded, 1000, "", 0, false, false, "", 0, ""},
		{"evt_w", subscriptionUpdated, 2000, "active", 3000, false, true, "price_pro", 1600, ""},
		{"evt_v", invoiceSucceeded, 2001, "", 0, false, false, "", 0, ""},
		{"evt_u", subscriptionUpdated, 2500, "active", 3000, true, true, "price_pro", 1500, ""},
		{"evt_t", subscriptionUpdated, 2500, "active", 3000, false, true, "price_max", 9900, ""},
		{"evt_s", invoiceFailed, 3000, "", 0, false, false, "", 0, ""},
		{"evt_r", subscriptionUpdated, 3000, "active", 4000, false, true, "price_gone", 700, ""},
	},
	"never paid": {
		{"evt_1", subscriptionCreated, 1000, "incomplete", 2000, false, false, "price_pro", 1600, ""},
		{"evt_2", invoiceFailed, 1000, "", 0, false, false, "", 0, ""},
		{"evt_3", checkoutCompleted, 1000, "", 0, false, true, "", 0, ""},
		{"evt_4", subscriptionUpdated, 1000, "incomplete_expired", 2000, false, false, "price_pro", 1500, ""},
	},
	"the clocks disagree about the end": {
		{"evt_1", subscriptionCreated, 1000, "incomplete", 2000, false, true, "price_max", 9900, ""},
		{"evt_2", subscriptionDeleted, 1500, "canceled", 2000, false, false, "price_gone", 700, ""},
		{"evt_3", subscriptionUpdated, 1501, "active", 2000, false, false, "price_pro", 1600, ""},
		{"evt_4", subscriptionUpdated, 1502, "past_due", 2000, false, true, "price_pro", 1500, ""},
	},
	"two updates in a second, which tell what was before": {
		{"evt_9", subscriptionCreated, 1000, "incomplete", 2000, false, true, "price_pro", 1500, ""},
		{"evt_8", subscriptionUpdated, 1000, "active", 2000, false, true, "price_pro", 1500, "incomplete"},
		{"evt_7", invoiceFailed, 2000, "", 0, false, false, "", 0, ""},
		{"evt_6", subscriptionUpdated, 2000, "past_due", 3000, false, true, "price_pro", 1500, "active"},
		{"evt_4", subscriptionUpdated, 2000, "active", 3000, false, true, "price_pro", 1500, "past_due"},
		{"evt_5", subscriptionUpdated, 2000, "active", 3000, true, true, "price_max", 9900, "active"},
	},
	"an invoice fails and no update says so": {
		{"evt_1", subscriptionCreated, 1000, "active", 2000, false, true, "price_pro", 1500, ""},
		{"evt_2", invoiceFailed, 2000, "", 0, false, false, "", 0, ""},
		{"evt_3", invoiceFailed, 1500, "", 0, false, false, "", 0, ""},
	},
	"ties of every kind": {
		{"evt_1", subscriptionCreated, 1000, "incomplete", 1, false, false, "price_max", 9900, ""},
		{"evt_6", checkoutCompleted, 1000, "", 0, false, true, "", 0, ""},
		{"evt_2", subscriptionUpdated, 1000, "past_due", 2, false, false, "price_gone", 700, ""},
		{"evt_3", subscriptionUpdated, 1000, "past_due", 3, false, false, "price_pro", 1600, ""},
		{"evt_4", subscriptionUpdated, 1000, "unheard_of", 4, false, false, "price_pro", 1500, ""},
		{"evt_5", subscriptionUpdated, 1000, "active", 5, true, false, "price_max", 9900, ""},
	},
}

// later says by hand which of two subscription events is the later one: by time, then by what denies more,
// then by id; canceled is for good.
func later(a, b Told) bool {
	ended := func(e Told) bool { return e.Status == "canceled" || e.Status == "incomplete_expired" }
	if ended(a) != ended(b) {
		return ended(a)
	}
	if a.Created != b.Created {
		return a.Created > b.Created
	}
	order := []string{"incomplete", "trialing", "active", "past_due", "unpaid", "paused", "unheard_of",
		"incomplete_expired", "canceled"}
	if a.Status != b.Status {
		return slices.Index(order, a.Status) > slices.Index(order, b.Status)
	}
	return a.ID > b.ID
}

// Last is the subscription event that a history ends with, with the price of the last event whose price is on
// the price list, and the status that a failed renewal leaves. Where events tell what was before, a history
// is written down in the order in which it happened.
func Last(history []Told) Told {
	var end, priced Told
	failed, told := int64(0), false
	for _, e := range history {
		told = told || e.Was != ""
	}
	for _, e := range history {
		if e.Kind == invoiceFailed {
			failed = max(failed, e.Created)
		}
		if e.Status == "" {
			continue
		}
		if end.ID == "" || told || later(e, end) {
			end = e
		}
		if e.Plan() != unknown && (priced.ID == "" || told || later(e, priced)) {
			priced = e
		}
	}
	if priced.ID != "" {
		end.Price = priced.Price
	}
	if end.Status == "active" && end.Created < failed {
		end.Status = "past_due"
	}
	return end
}

// Body is the event as Stripe sends it, about a subscription of a tenant.
func (e Told) Body(sub, tenant string) []byte {
	metadata := map[string]any{}
	if e.Named {
		metadata["tenant_id"] = tenant
	}
	o := map[string]any{"id": sub, "status": e.Status, "current_period_end": e.Period,
		"cancel_at_period_end": e.Cancels, "metadata": metadata, "customer": "cus_" + sub,
		"items": map[string]any{"data": []any{map[string]any{"quantity": 1,
			"price": map[string]any{"id": e.Price, "unit_amount": e.Cents}}}}}
	if e.Status == "" {
		o = map[string]any{"id": "x_1", "subscription": sub, "mode": "subscription", "metadata": metadata,
			"customer": "cus_" + sub}
	}
	data := map[string]any{"object": o}
	if e.Was != "" {
		before := map[string]any{"cancel_at_period_end": !e.Cancels}
		if e.Was != e.Status {
			before = map[string]any{"status": e.Was}
		}
		data["previous_attributes"] = before
	}
	body, err := json.Marshal(map[string]any{"id": e.ID + "_" + sub, "type": e.Kind, "created": e.Created,
		"data": data})
	if err != nil {
		panic(err)
	}
	return body
}

// event is the event as the package reads it.
func (e Told) event(t *testing.T) (*event, *change) {
	t.Helper()
	parsed, err := parseEvent(e.Body("sub_1", tenantID))
	if err != nil {
		t.Fatal(err)
	}
	c, err := parsed.change()
	if err != nil {
		t.Fatal(err)
	}
	return parsed, c
}

// Plan is the plan that an event's price means on the tests' price list.
func (e Told) Plan() string {
	return map[string]string{"price_pro": "pro", "price_max": "max", "price_gone": unknown}[e.Price]
}

// Ends reports whether a row of a subscription is what a history that ends with this event makes of it.
func (e Told) Ends(row *hostdb.Subscription, sub string) bool {
	return row.Status == e.Status && row.LastEventID == e.ID+"_"+sub && row.LastEventAt.Unix() == e.Created &&
		row.CancelAtPeriodEnd == e.Cancels &&
		row.CurrentPeriodEnd.Equal(time.Unix(e.Period, 0)) && row.PlanTier == e.Plan() &&
		row.AmountCents == e.Cents && row.StripeCustID == "cus_"+sub
}

// listed finds a plan on the tests' price list.
func listed(price string) (*hostdb.PricingPlan, error) {
	return map[string]*hostdb.PricingPlan{"price_pro": {ID: "pro", Name: "Pro"},
		"price_max": {ID: "max", Name: "Max"}}[price], nil
}

// sim is the ledger of one subscription without a database. What decides is the ledger's own (decide,
// highest, carryOut); what sim has for itself is what the database does for the ledger: which events are
// recorded and how, and which rows are there.
type sim struct {
	t       *testing.T
	events  []*event
	changes []*change
	want    Told
	leaves  int
	seen    map[simKey]bool
}

// simRow is the state between two deliveries. Its sets of events are bits.
type simRow struct {
	row          hostdb.Subscription
	there        bool
	tenant       bool // it is there
	parked, done uint16
}

// simKey tells states apart.
type simKey struct {
	status, plan, product, customer, event string
	planEvent                              string
	periodEnd, at, cents, failed           int64
	rank                                   int
	cancels, there, tenant                 bool
	parked, done                           uint16
}

func (st *simRow) key() simKey {
	k := simKey{status: st.row.Status, plan: st.row.PlanTier, product: st.row.ProductName,
		customer: st.row.StripeCustID, event: st.row.LastEventID,
		cents: st.row.AmountCents, rank: st.row.LastEventRank, cancels: st.row.CancelAtPeriodEnd,
		there: st.there, tenant: st.tenant,
		parked: st.parked, done: st.done, planEvent: st.row.PlanEvent}
	if st.row.InvoiceFailedAt != nil {
		k.failed = st.row.InvoiceFailedAt.Unix()
	}
	if st.row.LastEventAt != nil {
		k.periodEnd, k.at = st.row.CurrentPeriodEnd.Unix(), st.row.LastEventAt.Unix()
	}
	return k
}

// apply is the transition for one event, which may have been applied before: then it is a replay.
func (s *sim) apply(st simRow, i int) simRow {
	c, bit := s.changes[i], uint16(1)<<i
	if !st.there {
		if c.invoice != nil || c.tenant == "" || !st.tenant {
			st.parked |= bit
			return st
		}
		st.there, st.row = true, *newRow(c)
	}
	var tied func() ([]tie, error)
	if st.done&bit == 0 {
		tied = func() ([]tie, error) { return s.recorded(st.done | bit), nil }
	}
	d, err := decide(s.events[i], c, &st.row, nil, tied)
	if err != nil {
		s.t.Fatal(err)
	}
	st.parked, st.done = st.parked&^bit, st.done|bit
	s.carryOut(d, &st.row)
	return st
}

// recorded returns the events of a set that are about the subscription itself.
func (s *sim) recorded(set uint16) (list []tie) {
	for i, c := range s.changes {
		if set&(1<<i) != 0 && c.state != nil {
			list = append(list, tieOf(s.events[i], c.state))
		}
	}
	return list
}

// carryOut writes a decision into a row.
func (s *sim) carryOut(d decision, row *hostdb.Subscription) {
	var plan *hostdb.PricingPlan
	if d.now != nil {
		plan, _ = highest(d.now.prices, listed)
	}
	d.carryOut(row, plan)
}

// deliver applies an event, and what is parked as long as that makes anything ready.
func (s *sim) deliver(st simRow, i int) simRow {
	return s.unpark(s.apply(st, i))
}

func (s *sim) unpark(st simRow) simRow {
	for before := uint16(0); before != st.parked; {
		before = st.parked
		for j := range s.changes {
			if st.parked&(1<<j) != 0 {
				st = s.apply(st, j)
			}
		}
	}
	return st
}

// ends checks a state in which everything has been delivered.
func (s *sim) ends(st *simRow) {
	if st.parked != 0 || !st.there || !s.want.Ends(&st.row, "sub_1") {
		s.t.Fatalf("ends as %+v, parked %b, want %+v", st.row, st.parked, s.want)
	}
}

// permute delivers what is left in every order, each event once.
func (s *sim) permute(st simRow, left uint16) {
	if left == 0 {
		s.leaves++
		s.ends(&st)
	}
	for i := range s.changes {
		if bit := uint16(1) << i; left&bit != 0 {
			s.permute(s.deliver(st, i), left&^bit)
		}
	}
}

// explore goes from a state to every other that deliveries lead to: of any event, as often as one likes, and
// of the tenant.
func (s *sim) explore(st simRow) {
	if k := st.key(); s.seen[k] {
		return
	} else {
		s.seen[k] = true
	}
	all := uint16(1)<<len(s.changes) - 1
	if st.tenant && st.parked|st.done == all {
		s.leaves++
		s.ends(&st)
	}
	for i := range s.changes {
		s.explore(s.deliver(st, i))
	}
	if !st.tenant {
		st.tenant = true
		s.explore(s.unpark(st))
	}
}

// simulate makes the sim of a history.
func simulate(t *testing.T, history []Told) *sim {
	s := &sim{t: t, want: Last(history), seen: map[simKey]bool{}}
	for _, e := range history {
		parsed, c := e.event(t)
		s.events, s.changes = append(s.events, parsed), append(s.changes, c)
	}
	return s
}

// Exhaustive, in the order in which the row's lock lets deliveries through: every permutation of each
// history, nine events the longest, each delivered once, to a tenant that is there. Compared: status, dates,
// flag, plan, amount, customer, position. Not the database's part, which sim stands for:
// TestHook_deliveriesInAnyOrderByManyWorkersConverge samples that.
func TestOrder_everyOrderOfArrivalEndsInTheSameState(t *testing.T) {
	for name, history := range Histories {
		t.Run(name, func(t *testing.T) {
			s := simulate(t, history)
			s.permute(simRow{tenant: true}, 1<<len(history)-1)
			want := 1
			for i := range history {
				want *= i + 1
			}
			if s.leaves != want {
				t.Errorf("%d orders of %d", s.leaves, want)
			}
		})
	}
}

// Exhaustive too: each event delivered any number of times from one on, in every order, and the tenant coming
// to be at any point. What a delivery does depends on nothing but the state that it meets, so that every
// state that can be reached, and every delivery in it, is all of them. One more delivery of an applied event
// is taken here for a replay; as a duplicate it would change nothing.
func TestOrder_deliveriesOfAnyNumberInEveryOrderEndInTheSameState(t *testing.T) {
	for name, history := range Histories {
		t.Run(name, func(t *testing.T) {
			s := simulate(t, history)
			s.explore(simRow{})
			if s.leaves != 1 || len(s.seen) != 2<<len(history) { // one state for each set of what has come
				t.Errorf("%d states, %d of them ends", len(s.seen), s.leaves)
			}
		})
	}
}

// Exhaustive: every order of four events that can be had fetched, each with every answer of four. After each
// step, no replay of what has been applied changes the row; what was fetched last is shown, unless that would
// revive what is over.
func TestReplay_changesNothingFetchedInAnyOrder(t *testing.T) {
	s := simulate(t, []Told{
		{"evt_2", subscriptionUpdated, 1000, "past_due", 2000, false, true, "price_pro", 1500, ""},
		{"evt_1", subscriptionUpdated, 1000, "active", 2000, false, true, "price_pro", 1500, ""},
		{"evt_3", invoiceFailed, 1001, "", 0, false, false, "", 0, ""},
		{"evt_0", subscriptionUpdated, 1001, "incomplete", 2000, false, true, "price_pro", 1500, ""},
	})
	answers := []*state{}
	for _, status := range []string{"active", "past_due", "unpaid", "canceled"} {
		_, c := Told{"evt_x", subscriptionUpdated, 1, status, 2000, false, true, "price_max", 9900,
			""}.event(t)
		answers = append(answers, c.state)
	}
	var step func(st simRow, left uint16)
	step = func(st simRow, left uint16) {
		s.leaves++
		for i := range s.changes {
			if left&(1<<i) == 0 {
				if after := s.apply(st, i); after.key() != st.key() {
					t.Fatalf("a replay of %s makes of %+v\n%+v", s.events[i].id, st.row, after.row)
				}
			}
		}
		for i := range s.changes {
			for _, answer := range answers {
				if left&(1<<i) == 0 {
					continue
				}
				asked, next := false, st
				next.done |= 1 << i
				d, err := decide(s.events[i], s.changes[i], &next.row,
					func() (*state, error) { asked = true; return answer, nil },
					func() ([]tie, error) { return s.recorded(next.done), nil })
				if err != nil {
					t.Fatal(err)
				}
				s.carryOut(d, &next.row)
				if asked && !final(st.row.Status) &&
					(next.row.Status != answer.status || next.row.PlanTier != "max") ||
					next.at().before(st.at()) {
					t.Fatalf("%s, answered %s, makes of %+v\n%+v", s.events[i].id, answer.status, st.row,
						next.row)
				}
				step(next, left&^(1<<i))
			}
		}
	}
	step(simRow{tenant: true, there: true, row: hostdb.Subscription{Status: hostdb.SubscriptionIncomplete}},
		1<<len(s.changes)-1)
	if want := 1 + 4*4 + 12*16 + 24*64 + 24*256; s.leaves != want {
		t.Errorf("%d steps of %d", s.leaves, want)
	}
}

// at is the position that is reached.
func (st simRow) at() position { return reached(&st.row) }

// A history's end is what really happened last wherever the seconds differ.
func TestOrder_isTheTrueOne(t *testing.T) {
	for name, want := range map[string]string{"paid, failed, paid, canceled": "evt_i",
		"trial, then paid, ends active": "evt_r", "never paid": "evt_4",
		"the clocks disagree about the end": "evt_2", "ties of every kind": "evt_4",
		"two updates in a second, which tell what was before": "evt_5",
		"an invoice fails and no update says so":              "evt_1"} {
		if got := Last(Histories[name]).ID; got != want {
			t.Errorf("%s ends with %s, want %s", name, got, want)
		}
	}
}

// Positions are a strict total order, so that two events have one order and a third can't upset it.
func TestPosition_isAStrictTotalOrder(t *testing.T) {
	var all []position
	for _, status := range []string{"incomplete", "trialing", "active", "past_due", "unpaid", "paused",
		"other", "incomplete_expired", "canceled"} {
		for _, created := range []int64{1, 2} {
			for _, id := range []string{"a", "b"} {
				all = append(all, positionOf(&event{id: id, created: created}, status))
			}
		}
	}
	for _, a := range all {
		for _, b := range all {
			if a.before(b) == b.before(a) && a != b || a == b && a.before(b) {
				t.Errorf("%+v and %+v: %v, %v", a, b, a.before(b), b.before(a))
			}
			for _, c := range all {
				if a.before(b) && b.before(c) && !a.before(c) {
					t.Errorf("%+v, %+v, %+v go round", a, b, c)
				}
			}
		}
		row := &hostdb.Subscription{Status: "active"}
		if a.final {
			row.Status = "canceled"
		}
		if a.mark(row); reached(row) != a {
			t.Errorf("%+v is read back as %+v", a, reached(row))
		}
	}
	if first := (position{created: 0}); first.before(reached(&hostdb.Subscription{Status: "incomplete"})) {
		t.Error("a row without an event comes after one")
	}
}

func TestParseObject_isBounded(t *testing.T) {
	deep := func(n int) string { return `{"a":` + strings.Repeat("[", n-1) + strings.Repeat("]", n-1) + "}" }
	for text, ok := range map[string]bool{
		`{}`: true, ` {"a":1} `: true, `{"a":{"b":[1,"x",null,true]}}`: true, deep(strictjson.MaxDepth): true,
		`{"A":1,"a":2}`: true,
		``:              false, `null`: false, `[]`: false, `{`: false, `{"a":1}{}`: false,
		`{"a":1,"a":2}`:       false,
		`{"a":{"b":1,"b":1}}`: false, `[{}]`: false,
		deep(strictjson.MaxDepth + 1): false, "{\"a\":\"\xff\"}": false, `{"a":1,}`: false, `{"a" 1}`: false,
		`{1:2}`: false, `{"a":01}`: false, `{"a":]}`: false,
		`{"a":"` + strings.Repeat("x", maxBody) + `"}`: false,
	} {
		if _, err := parseObject([]byte(text)); (err == nil) != ok {
			t.Errorf("%.40q: %v", text, err)
		}
	}
}

func TestObject_membersOfAnotherTypeAreAbsent(t *testing.T) {
	o, err := parseObject([]byte(`{"s":7,"n":"x","neg":-1,"frac":1.5,"huge":99999999999999999999,
		"far":253402300800,"nul":"a\u0000b","Id":"x","b":"true","l":{"data":[1,{"id":"a"}]},"m":{"data":7},
		"r":{"id":"r_1"},"q":{"id":7},"zero":0}`))
	if err != nil {
		t.Fatal(err)
	}
	_, neg := o.number("neg")
	_, frac := o.number("frac")
	_, huge := o.number("huge")
	if o.text("s", 9) != "" || o.text("nul", 9) != "" || o.text("id", 9) != "" || o.truth("b") || neg ||
		frac || huge || o.time("far") != nil ||
		o.time("zero") != nil || o.cents("far") == 0 || o.cents("neg") != 0 || len(o.objects("l")) != 1 ||
		o.objects("m") != nil || o.reference("r") != "r_1" ||
		o.reference("q") != "" || o.at("s", "x").text("y", 9) != "" || o.text("r", 9) != "" {
		t.Errorf("%v", o)
	}
}

// Amounts add up to no more than a column takes, and an absurd one is none.
func TestReadState_amountsStayWithinBounds(t *testing.T) {
	item := func(unit, quantity int64) any {
		return map[string]any{"quantity": json.Number(jsonInt(quantity)),
			"price": map[string]any{"unit_amount": json.Number(jsonInt(unit))}}
	}
	for _, c := range []struct {
		items []any
		want  int64
	}{{[]any{item(1500, 2), item(1, 1)}, 3001}, {[]any{item(maxCents, maxCents)}, 0},
		{[]any{item(maxCents, 1), item(maxCents, 1)}, maxCents},
		{[]any{item(-5, 1)}, 0}, {[]any{item(5, 0)}, 0}} {
		if s := readState(object{"items": map[string]any{"data": c.items}}, false); s.cents != c.want {
			t.Errorf("%v: %d cents", c.items, s.cents)
		}
	}
}

func jsonInt(n int64) string {
	b, _ := json.Marshal(n)
	return string(b)
}
