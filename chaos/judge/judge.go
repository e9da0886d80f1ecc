// Package judge judges responses and writes without knowing the library under test. It is told each committed
// change of a right, with the times between which the commit happened, and each response, with the times
// between which it was made.
package judge

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// Subject is what a right depends on. A response needs its membership, its tenant and its subscription.
type Subject string

// Membership returns the subject for a user's membership of a tenant.
func Membership(user, tenant string) Subject { return Subject("membership " + user + " " + tenant) }

// Tenant returns the subject for whether a tenant is open.
func Tenant(tenant string) Subject { return Subject("tenant " + tenant) }

// Subscription returns the subject for whether a tenant pays.
func Subscription(tenant string) Subject { return Subject("subscription " + tenant) }

// Judge judges responses and writes. Its methods may be called concurrently.
type Judge struct {
	bound time.Duration

	mu       sync.Mutex // guards what follows
	facts    map[Subject][]change
	outages  []outage
	acked    map[string][]string
	forgiven map[string]time.Time
	report   Report
}

// New returns a judge. The bound is how long after its commit a change may go unnoticed.
func New(bound time.Duration) *Judge {
	return &Judge{bound: bound, facts: make(map[Subject][]change), acked: make(map[string][]string),
		forgiven: make(map[string]time.Time)}
}

// Response is the answer that a user got.
type Response struct {
	User, Tenant string
	Sent, Got    time.Time
	// Allowed means that the caller was let in, Denied that a right was missing. If neither is set, the
	// request failed.
	Allowed, Denied bool
	// Data is the tenant whose data the response shows, or "" if it shows none.
	Data string
	// Detail is for the text of a verdict.
	Detail string
}

// The kinds of wrong verdicts.
const (
	OtherData    = "another tenant's data"
	LateAllow    = "allowed too late"
	LateDenial   = "rightful member denied"
	MissingWrite = "acknowledged write lost"
)

// Verdict is a response that broke a promise.
type Verdict struct {
	What, Detail string
	Sent         time.Time
	Late         time.Duration
}

// String implements fmt.Stringer.
func (v Verdict) String() string {
	return fmt.Sprintf("%s at %s, late by %v: %s", v.What, v.Sent.Format("15:04:05.000"),
		v.Late.Round(time.Millisecond), v.Detail)
}

// Report is what was found since the last report.
type Report struct {
	Wrong []Verdict
	// LatestAllow is the longest time after a committed revocation at which a request was sent that was let
	// in. LatestDenial is the same for grants and refusals. Both include what an outage excuses.
	LatestAllow, LatestDenial time.Duration
	// Judged counts the responses, Refused those that were denied.
	Judged, Refused int
}

// Count returns how many wrong verdicts of a kind there are.
func (r Report) Count(what string) int {
	n := 0
	for _, v := range r.Wrong {
		if v.What == what {
			n++
		}
	}
	return n
}

// Judge judges a response.
func (j *Judge) Judge(r Response) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.report.Judged++
	if r.Allowed && r.Data != "" && r.Data != r.Tenant {
		j.wrong(OtherData, r, 0, r.User+" asked for "+r.Tenant+" and got "+r.Data)
	}
	switch {
	case r.Allowed:
		j.judgeAllowed(r)
	case r.Denied:
		j.report.Refused++
		j.judgeDenied(r)
	}
}

// subjects are what a response needs.
func subjects(r Response) []Subject {
	return []Subject{Membership(r.User, r.Tenant), Tenant(r.Tenant), Subscription(r.Tenant)}
}

// judgeAllowed looks for a right that was surely missing all the time.
func (j *Judge) judgeAllowed(r Response) {
	for _, s := range subjects(r) {
		surely, since := j.certain(s, false, r.Sent, r.Got)
		if !surely {
			continue
		}
		j.report.LatestAllow = max(j.report.LatestAllow, r.Sent.Sub(since))
		if late := r.Sent.Sub(j.feltFrom(since, r.Sent)); late > j.bound {
			j.wrong(LateAllow, r, late, string(s))
		}
	}
}

// judgeDenied checks whether every right was surely there all the time.
func (j *Judge) judgeDenied(r Response) {
	var last time.Time // the latest grant
	for _, s := range subjects(r) {
		surely, since := j.certain(s, true, r.Sent, r.Got)
		if !surely {
			return
		}
		if since.After(last) {
			last = since
		}
	}
	if last.IsZero() { // never revoked
		j.wrong(LateDenial, r, 0, "never revoked")
		return
	}
	j.report.LatestDenial = max(j.report.LatestDenial, r.Sent.Sub(last))
	if late := r.Sent.Sub(j.feltFrom(last, r.Sent)); late > j.bound {
		j.wrong(LateDenial, r, late, "")
	}
}

// wrong adds a verdict.
func (j *Judge) wrong(what string, r Response, late time.Duration, why string) {
	detail := fmt.Sprintf("%s in %s: %s %s", r.User, r.Tenant, why, r.Detail)
	j.report.Wrong = append(j.report.Wrong, Verdict{What: what, Detail: detail, Sent: r.Sent, Late: late})
}

// Take returns the report and begins a new one. The recorded changes stay.
func (j *Judge) Take() Report {
	j.mu.Lock()
	defer j.mu.Unlock()
	report := j.report
	j.report = Report{}
	slices.SortFunc(report.Wrong, func(a, b Verdict) int { return a.Sent.Compare(b.Sent) })
	return report
}
