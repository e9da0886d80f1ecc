package judge

import "time"

// change is a change of a right that was committed between before and after. If after is zero, it may be yet
// to come.
type change struct {
	before, after time.Time
	given         bool
	known         bool
}

// outage is a time in which nobody could learn of a change. A zero end means that it goes on.
type outage struct{ from, to time.Time }

// Changing records that a right is about to be given or taken away, by a commit that happens after before.
// Until Changed is called nobody knows whether it was committed, so no verdict relies on it.
func (j *Judge) Changing(s Subject, given bool, before time.Time) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.facts[s] = append(j.facts[s], change{before: before, given: given})
}

// Changed records that the change announced last has been committed, at after or before. At first every right
// is given.
func (j *Judge) Changed(s Subject, after time.Time) {
	j.mu.Lock()
	defer j.mu.Unlock()
	list := j.facts[s]
	last := len(list) - 1
	list[last].after, list[last].known = after, true
	for i := range list[:last] {
		if list[i].after.IsZero() { // committed or not, it is over now
			list[i].after = after
		}
	}
}

// Outage records that no host database that takes writes could be reached, from a time until End is called. A
// change that was committed less than the bound before it has to take effect within the bound after its end.
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

// certain reports whether a subject's right was surely given, or surely not, all the time from a to b, and
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

// feltFrom returns when the bound began to run for a commit, for a request that was sent at a time.
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
