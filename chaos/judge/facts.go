package judge

import "time"

// change is a fact about a subject that was committed at some time from before to after. A zero after: it may
// be yet to come.
type change struct {
	before, after time.Time
	given         bool
	known         bool
}

// outage is a time in which nobody could be told of a change. A zero end: it lasts.
type outage struct{ from, to time.Time }

// Changing records that a right is about to be given or taken away, by a commit that happens after before.
// Until Changed is called nobody knows whether it was committed: no verdict rests on it.
func (j *Judge) Changing(s Subject, given bool, before time.Time) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.facts[s] = append(j.facts[s], change{before: before, given: given})
}

// Changed records that the change which was announced last is committed, and was so at after. Every right is
// given at first.
func (j *Judge) Changed(s Subject, after time.Time) {
	j.mu.Lock()
	defer j.mu.Unlock()
	list := j.facts[s]
	last := len(list) - 1
	list[last].after, list[last].known = after, true
	for i := range list[:last] {
		if list[i].after.IsZero() { // whatever became of it, it is settled now
			list[i].after = after
		}
	}
}

// Outage records that no host database could be reached that takes writes, from a time until End is called. A
// change that was committed less than the bound before it is to be felt within the bound of its end.
func (j *Judge) Outage(from time.Time) (end func(time.Time)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	i := len(j.outages)
	j.outages = append(j.outages, outage{from: from})
	return func(to time.Time) {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.outages[i].to = to
	}
}

// certain tells whether a subject's right was surely given, or surely not, all the time from a to b, and
// since when.
func (j *Judge) certain(s Subject, given bool, a, b time.Time) (surely bool, since time.Time) {
	state, known := true, true
	for _, c := range j.facts[s] {
		if !c.after.IsZero() && !c.after.After(a) { // surely before
			if state != c.given || !known {
				since = c.after
			}
			state, known = c.given, c.known
			continue
		}
		if c.before.After(b) { // surely after
			break
		}
		if c.given != given || !c.known {
			return false, since
		}
	}
	return known && state == given, since
}

// feltFrom is when the bound began to run for a commit, as a request at a time must see it.
func (j *Judge) feltFrom(commit, sent time.Time) time.Time {
	from := commit
	for _, o := range j.outages {
		if o.from.After(from.Add(j.bound)) || !o.to.IsZero() && o.to.Before(from) {
			continue
		}
		if o.to.IsZero() || o.to.After(sent) {
			return sent
		}
		from = o.to
	}
	return from
}
