package stripehook

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// Told is one event of a history, as the tests write it down.
type Told struct {
	ID, Kind string
	Created  int64
	Status   string // of a subscription's event
	Period   int64
	Cancels  bool
	Named    bool // it names the tenant
}

const tenantID = "0123456789abcdef0123456789abcdef"

// Histories are what happens to a subscription in its life. Events of one second, a session that comes after what it began, a
// payment that fails and is made good.
var Histories = map[string][]Told{
	"paid, failed, paid, canceled": {
		{"evt_b", subscriptionCreated, 1000, "incomplete", 2000, false, false},
		{"evt_a", subscriptionUpdated, 1000, "active", 2000, false, false},
		{"evt_c", invoiceSucceeded, 1000, "", 0, false, false},
		{"evt_d", checkoutCompleted, 1002, "", 0, false, true},
		{"evt_e", invoiceFailed, 2000, "", 0, false, false},
		{"evt_f", subscriptionUpdated, 2000, "past_due", 3000, false, false},
		{"evt_g", invoiceSucceeded, 2500, "", 0, false, false},
		{"evt_h", subscriptionUpdated, 2500, "active", 3000, true, false},
		{"evt_i", subscriptionDeleted, 3000, "canceled", 3000, false, false},
	},
	"trial, then paid, ends active": {
		{"evt_z", subscriptionCreated, 1000, "trialing", 2000, false, true},
		{"evt_y", checkoutCompleted, 1000, "", 0, false, true},
		{"evt_x", invoiceSucceeded, 1000, "", 0, false, false},
		{"evt_w", subscriptionUpdated, 2000, "active", 3000, false, true},
		{"evt_v", invoiceSucceeded, 2001, "", 0, false, false},
		{"evt_u", subscriptionUpdated, 2500, "active", 3000, true, true},
		{"evt_t", subscriptionUpdated, 2500, "active", 3000, false, true},
		{"evt_s", invoiceFailed, 3000, "", 0, false, false},
		{"evt_r", subscriptionUpdated, 3000, "active", 4000, false, true},
	},
	"never paid": {
		{"evt_1", subscriptionCreated, 1000, "incomplete", 2000, false, false},
		{"evt_2", invoiceFailed, 1000, "", 0, false, false},
		{"evt_3", checkoutCompleted, 1000, "", 0, false, true},
		{"evt_4", subscriptionUpdated, 1000, "incomplete_expired", 2000, false, false},
	},
	"the clocks disagree about the end": {
		{"evt_1", subscriptionCreated, 1000, "incomplete", 2000, false, true},
		{"evt_2", subscriptionDeleted, 1500, "canceled", 2000, false, false},
		{"evt_3", subscriptionUpdated, 1501, "active", 2000, false, false},
		{"evt_4", subscriptionUpdated, 1502, "past_due", 2000, false, true},
	},
	"ties of every kind": {
		{"evt_1", subscriptionCreated, 1000, "incomplete", 1, false, false},
		{"evt_6", checkoutCompleted, 1000, "", 0, false, true},
		{"evt_2", subscriptionUpdated, 1000, "past_due", 2, false, false},
		{"evt_3", subscriptionUpdated, 1000, "past_due", 3, false, false},
		{"evt_4", subscriptionUpdated, 1000, "unheard_of", 4, false, false},
		{"evt_5", subscriptionUpdated, 1000, "active", 5, true, false},
	},
}

// later says by hand which of two subscription events is the later one: by time, then by what denies more, then by id; canceled is
// for good.
func later(a, b Told) bool {
	ended := func(e Told) bool { return e.Status == "canceled" || e.Status == "incomplete_expired" }
	if ended(a) != ended(b) {
		return ended(a)
	}
	if a.Created != b.Created {
		return a.Created > b.Created
	}
	order := []string{"incomplete", "trialing", "active", "past_due", "unpaid", "paused", "unheard_of", "incomplete_expired", "canceled"}
	if a.Status != b.Status {
		return slices.Index(order, a.Status) > slices.Index(order, b.Status)
	}
	return a.ID > b.ID
}

// Last is the subscription event that a history ends with.
func Last(history []Told) Told {
	var end Told
	for _, e := range history {
		if e.Status != "" && (end.ID == "" || later(e, end)) {
			end = e
		}
	}
	return end
}

// Body is the event as Stripe sends it, about a subscription of a tenant.
func (e Told) Body(sub, tenant string) []byte {
	metadata := map[string]any{}
	if e.Named {
		metadata["tenant_id"] = tenant
	}
	o := map[string]any{"id": sub, "status": e.Status, "current_period_end": e.Period, "cancel_at_period_end": e.Cancels, "metadata": metadata, "customer": "cus_" + sub}
	if e.Status == "" {
		o = map[string]any{"id": "x_1", "subscription": sub, "mode": "subscription", "metadata": metadata, "customer": "cus_" + sub}
	}
	body, err := json.Marshal(map[string]any{"id": e.ID + "_" + sub, "type": e.Kind, "created": e.Created, "data": map[string]any{"object": o}})
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

// sim is what the ledger does with one subscription's events, without a database: the functions that decide are the ledger's own.
type sim struct {
	events  []*event
	changes []*change
	want    Told
	leaves  int
	failed  bool
	t       *testing.T
}

// simRow is the state between two deliveries.
type simRow struct {
	row    hostdb.Subscription
	there  bool
	parked uint16 // bits
}

// deliver is the transition for one event.
func (s *sim) deliver(st simRow, i int) simRow {
	c := s.changes[i]
	if !st.there {
		if c.invoice != nil || c.tenant == "" {
			st.parked |= 1 << i
			return st
		}
		st.there, st.row.Status = true, hostdb.SubscriptionIncomplete
	}
	if c.state != nil {
		if at := positionOf(s.events[i], c.state.status); !at.before(reached(&st.row)) {
			at.mark(&st.row)
			c.state.write(&st.row, nil)
		}
	}
	for j := range s.changes {
		if bit := uint16(1) << j; st.parked&bit != 0 {
			st.parked &^= bit
			st = s.deliver(st, j)
		}
	}
	return st
}

// permute delivers what is left in every order.
func (s *sim) permute(st simRow, left uint16) {
	if left == 0 {
		s.leaves++
		row := &st.row
		if w := s.want; st.parked != 0 || !st.there || row.Status != w.Status || row.LastEventID != w.ID+"_sub_1" || row.CancelAtPeriodEnd != w.Cancels ||
			!row.CurrentPeriodEnd.Equal(time.Unix(w.Period, 0)) || row.LastEventAt.Unix() != w.Created {
			s.failed = true
			s.t.Errorf("ends as %+v, want %+v", row, w)
		}
		return
	}
	for i := range s.changes {
		if bit := uint16(1) << i; left&bit != 0 && !s.failed {
			s.permute(s.deliver(st, i), left&^bit)
		}
	}
}

func TestEveryOrderOfArrivalEndsInTheSameState(t *testing.T) {
	for name, history := range Histories {
		t.Run(name, func(t *testing.T) {
			s := &sim{t: t, want: Last(history)}
			for _, e := range history {
				parsed, c := e.event(t)
				s.events, s.changes = append(s.events, parsed), append(s.changes, c)
			}
			s.permute(simRow{}, 1<<len(history)-1)
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

// A history's end is what really happened last wherever the seconds differ.
func TestTheTotalOrderIsTheTrueOne(t *testing.T) {
	for name, want := range map[string]string{"paid, failed, paid, canceled": "evt_i", "trial, then paid, ends active": "evt_r", "never paid": "evt_4", "the clocks disagree about the end": "evt_2", "ties of every kind": "evt_4"} {
		if got := Last(Histories[name]).ID; got != want {
			t.Errorf("%s ends with %s, want %s", name, got, want)
		}
	}
}

// Positions are a strict total order, so that two events have one order and a third can't upset it.
func TestPositionsAreAStrictTotalOrder(t *testing.T) {
	var all []position
	for _, status := range []string{"incomplete", "trialing", "active", "past_due", "unpaid", "paused", "other", "incomplete_expired", "canceled"} {
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

func TestJSONIsBounded(t *testing.T) {
	deep := func(n int) string { return `{"a":` + strings.Repeat("[", n-1) + strings.Repeat("]", n-1) + "}" }
	for text, ok := range map[string]bool{
		`{}`: true, ` {"a":1} `: true, `{"a":{"b":[1,"x",null,true]}}`: true, deep(maxDepth): true, `{"A":1,"a":2}`: true,
		``: false, `null`: false, `[]`: false, `{`: false, `{"a":1}{}`: false, `{"a":1,"a":2}`: false, `{"a":{"b":1,"b":1}}`: false, `[{}]`: false,
		deep(maxDepth + 1): false, "{\"a\":\"\xff\"}": false, `{"a":1,}`: false, `{"a" 1}`: false, `{1:2}`: false, `{"a":01}`: false, `{"a":]}`: false,
		`{"a":"` + strings.Repeat("x", maxBody) + `"}`: false,
	} {
		if _, err := parseObject([]byte(text)); (err == nil) != ok {
			t.Errorf("%.40q: %v", text, err)
		}
	}
}

func TestMembersOfAnotherTypeAreAbsent(t *testing.T) {
	o, err := parseObject([]byte(`{"s":7,"n":"x","neg":-1,"frac":1.5,"huge":99999999999999999999,"far":253402300800,"nul":"a\u0000b","Id":"x","b":"true",
		"l":{"data":[1,{"id":"a"}]},"m":{"data":7},"r":{"id":"r_1"},"q":{"id":7},"zero":0}`))
	if err != nil {
		t.Fatal(err)
	}
	_, neg := o.number("neg")
	_, frac := o.number("frac")
	_, huge := o.number("huge")
	if o.text("s", 9) != "" || o.text("nul", 9) != "" || o.text("id", 9) != "" || o.truth("b") || neg || frac || huge || o.time("far") != nil ||
		o.time("zero") != nil || o.cents("far") == 0 || o.cents("neg") != 0 || len(o.objects("l")) != 1 || o.objects("m") != nil || o.reference("r") != "r_1" ||
		o.reference("q") != "" || o.at("s", "x").text("y", 9) != "" || o.text("r", 9) != "" {
		t.Errorf("%v", o)
	}
}

// Amounts add up to no more than a column takes, and an absurd one is none.
func TestAmountsStayWithinBounds(t *testing.T) {
	item := func(unit, quantity int64) any {
		return object{"quantity": json.Number(jsonInt(quantity)), "price": object{"unit_amount": json.Number(jsonInt(unit))}}
	}
	for _, c := range []struct {
		items []any
		want  int64
	}{{[]any{item(1500, 2), item(1, 1)}, 3001}, {[]any{item(maxCents, maxCents)}, 0}, {[]any{item(maxCents, 1), item(maxCents, 1)}, maxCents},
		{[]any{item(-5, 1)}, 0}, {[]any{item(5, 0)}, 0}} {
		if s := readState(object{"items": object{"data": c.items}}, false); s.cents != c.want {
			t.Errorf("%v: %d cents", c.items, s.cents)
		}
	}
}

func jsonInt(n int64) string {
	b, _ := json.Marshal(n)
	return string(b)
}
