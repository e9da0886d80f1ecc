package stripehook

import (
	"cmp"
	"slices"

	"github.com/tenantdb/tenantdb/hostdb"
)

// The times of events of one subscription and one second don't tell which is the last. An update says what
// its attributes were before (docs.stripe.com/api/events/object, previous_attributes).

// tie is a recorded event of a subscription.
type tie struct {
	at    position
	state *state
	first bool   // it is the subscription's creation
	was   string // the status before it; that of state where it changed none
	tells bool   // it says what was before
}

// tieOf returns the tie of an event about a subscription.
func tieOf(e *event, s *state) tie {
	t := tie{at: positionOf(e, s.status), state: s, first: e.kind == subscriptionCreated, was: s.status,
		tells: e.before != nil}
	if e.before["status"] != nil {
		t.was = word(e.before, "status")
	}
	return t
}

// mayMove reports whether an event can change which event is the last of the second that the row has reached.
// It can if it is not later than that second, and neither event ends the subscription.
func (p position) mayMove(reached position) bool {
	return p.created <= reached.created && p.event != reached.event && !p.final && !reached.final
}

// untie decides about an event that is not later than the second that a row has reached. The row shows the
// last of that second's events. If it shows a fetched state, or an event that is no longer recorded, the
// positions decide.
func untie(old decision, shown position, tied func() ([]tie, error)) (decision, error) {
	recorded, err := tied()
	if err != nil {
		return decision{}, err
	}
	same, start := secondOf(recorded, shown.created)
	known := slices.ContainsFunc(same, func(t tie) bool { return t.at == shown })
	end := old.at
	if known {
		last := lastOf(same, start)
		if end = last.at; end != old.at && end != shown { // this event tells that another one is the last
			return decision{status: hostdb.WebhookSkipped, now: last.state, at: end}, nil
		}
	}
	if end == shown || !known && end.before(shown) {
		if known && old.at.created == shown.created && shown.before(old.at) {
			// so that its plan comes before that of the event that is shown
			old.at = position{created: shown.created}
		}
		return old, nil
	}
	return decision{status: hostdb.WebhookProcessed, now: old.now, at: old.at}, nil
}

// secondOf returns the events of one second, and the status before that second, or "" if none is recorded.
// Events that end the subscription are left out.
func secondOf(recorded []tie, second int64) (same []tie, start string) {
	slices.SortStableFunc(recorded, func(a, b tie) int { return cmp.Compare(a.at.created, b.at.created) })
	for _, t := range recorded {
		switch {
		case t.at.final || t.at.created > second:
			continue
		case len(same) > 0 && same[0].at.created != t.at.created:
			start, same = lastOf(same, start).state.status, nil
		}
		same = append(same, t)
	}
	return same, start
}

// lastOf returns the last of the events of one second. It depends only on the set of events and on the status
// before that second, "" if unknown. If each event says what was before, the statuses form a path, which ends
// at the one status that was entered more often than left. Otherwise, or among several events with that
// status, positions decide.
func lastOf(same []tie, start string) tie {
	end := pathEnd(same, start)
	if end == "" && start != "" {
		end = pathEnd(same, "")
	}
	var last *tie
	for i := range same {
		t := &same[i]
		if (end == "" || t.state.status == end) && (last == nil || last.at.before(t.at)) {
			last = t
		}
	}
	return *last
}

// pathEnd returns the status at which the path ends, or "" if that is not certain.
func pathEnd(same []tie, start string) string {
	entered := map[string]int{}
	if start != "" && !slices.ContainsFunc(same, func(t tie) bool { return t.first }) {
		entered[start]++
	}
	for _, t := range same {
		entered[t.state.status]++
		switch {
		case t.first:
		case t.tells:
			entered[t.was]--
		default:
			return ""
		}
	}
	end := ""
	for status, n := range entered {
		if n > 1 || n == 1 && end != "" {
			return ""
		}
		if n == 1 {
			end = status
		}
	}
	if !slices.ContainsFunc(same, func(t tie) bool { return t.state.status == end }) {
		return "" // nothing in this second shows it
	}
	return end
}
