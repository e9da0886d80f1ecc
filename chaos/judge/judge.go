// Package judge judges responses and writes without knowing the library that is tried. It is told of each
// committed change of a right, with the times between which the commit happened, and of each response, with
// the times between which it was made.
package judge

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// A Subject is what a right hangs on. A response needs its membership, its tenant and its subscription.
type Subject string

// Membership is a user's membership of a tenant.
func Membership(user, tenant string) Subject { return Subject("membership " + user + " " + tenant) }

// Tenant is whether a tenant is open.
func Tenant(tenant string) Subject { return Subject("tenant " + tenant) }

// Subscription is whether a tenant pays.
func Subscription(tenant string) Subject { return Subject("subscription " + tenant) }

// Judge judges. Its methods may be called at once.
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

// A Response is what somebody was answered.
type Response struct {
	User, Tenant string
	Sent, Got    time.Time
	// Allowed says that the caller was let in, Denied that a right was found missing. Neither: the request
	// failed.
	Allowed, Denied bool
	// Data is the tenant whose data the response shows, "" where it shows none.
	Data string
	// Detail goes into a verdict.
	Detail string
}

// The kinds of wrong verdicts.
const (
	OtherData    = "another tenant's data"
	LateAllow    = "allowed too late"
	LateDenial   = "rightful member denied"
	MissingWrite = "acknowledged write lost"
)

// A Verdict is a response that must not have been.
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

// A Report is what was found since the last one.
type Report struct {
	Wrong []Verdict
	// LatestAllow is the longest time after a committed revocation at which a request was sent that was let
	// in, LatestDenial the same of grants and refusals. They count also what an outage excuses.
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

// judgeAllowed looks for a right that was surely missing all the while.
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

// judgeDenied asks whether every right was surely there all the while.
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

// Take returns the report and begins a new one. The facts stay known.
func (j *Judge) Take() Report {
	j.mu.Lock()
	defer j.mu.Unlock()
	report := j.report
	j.report = Report{}
	slices.SortFunc(report.Wrong, func(a, b Verdict) int { return a.Sent.Compare(b.Sent) })
	return report
}
