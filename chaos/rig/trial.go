package rig

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tenantdb/tenantdb/chaos/judge"
)

// Fault is something that goes wrong.
type Fault struct {
	Name string
	// Quick means that every test run tries the fault.
	Quick bool
	// Settle is how long the world is watched after the fault is mended.
	Settle time.Duration
	// Do makes the fault, mends it, and calls Trial.Mended. An error means that the fault could not be made.
	Do func(*World, *Trial) error
}

// Trial is one try of a fault, and which consequences it may have.
type Trial struct {
	// Spares reports which tenants must not notice: none of their requests may fail. Nil means that any may.
	Spares func(*Tenant) bool
	// Lasting reports which tenants go on failing after the fault is mended. Nil means none.
	Lasting func(*Tenant) bool
	// Codes are further codes that failures may have.
	Codes []string
	// Leavers are processes that ended on purpose while they had requests. A missing response is allowed.
	Leavers []*Process
	// Notes are for the table.
	Notes []string

	w      *World
	mended time.Time
}

// Mended records that all is well again: servers take writes, files are in place.
func (t *Trial) Mended() { t.mended = time.Now() }

// SinceMended returns how long ago that was.
func (t *Trial) SinceMended() time.Duration { return time.Since(t.mended) }

// Note adds a note.
func (t *Trial) Note(format string, args ...any) {
	t.Notes = append(t.Notes, fmt.Sprintf(format, args...))
}

// Problem adds a broken promise that only the fault itself can see.
func (t *Trial) Problem(format string, args ...any) {
	t.w.problems = append(t.w.problems, fmt.Sprintf(format, args...))
}

// Result is the outcome of a fault.
type Result struct {
	Fault    string
	Summary  Summary
	Report   judge.Report
	Lost     int
	Recovery time.Duration
	Sockets  int // the most that a server had
	Notes    []string
	// Problems are the broken promises.
	Problems []string
}

// The promises.
const (
	// recoveryWithin bounds how long after the mending a request may still fail.
	recoveryWithin = 5 * time.Second
	// acquireWithin is AcquireTimeout, and half a second.
	acquireWithin = 5*time.Second + 500*time.Millisecond
	// statementWithin bounds how long a statement that was sent waits for a server that is silent.
	statementWithin = 20 * time.Second
	// orphansFor is how long after a kill -9 the server may count connections of the process that was killed:
	// the pool has servers check every 2 s whether a client is still there
	// (client_connection_check_interval), and a second.
	orphansFor = 3 * time.Second
)

// known are the codes of failures that a client can act on.
var known = []string{"tenant_unavailable", "busy", "host_unavailable", "try_again", "auth_unavailable"}

// Try makes a fault under load and judges the requests. Before the first fault it measures what the processes
// hold at rest.
func (w *World) Try(f Fault) Result {
	if w.base == nil {
		w.base, w.held = make(map[*Process]rest), make(map[*Process]rest)
		if _, err := w.leaks(); err != nil {
			return Result{Fault: f.Name, Problems: []string{err.Error()}}
		}
	}
	w.Load.Since(time.Now())
	for _, k := range w.sockets {
		k.take()
	}
	w.Judge.Take()
	w.problems, w.extra = nil, 0
	t := &Trial{w: w}
	began := time.Now()
	err := f.Do(w, t)
	if t.mended.IsZero() {
		t.mended = time.Now()
	}
	<-time.After(f.Settle)
	r := Result{Fault: f.Name, Notes: t.Notes, Problems: w.problems}
	if err != nil {
		r.Problems = append(r.Problems, "the fault could not be made: "+err.Error())
	}
	leaks, err := w.leaks()
	if r.Problems = append(r.Problems, leaks...); err != nil {
		r.Problems = append(r.Problems, err.Error())
	}
	samples := w.Load.Since(began)
	r.Summary = Summarize(samples)
	t.judge(&r, samples)
	if _, r.Lost, err = w.CheckWrites(); err != nil {
		r.Problems = append(r.Problems, err.Error())
	}
	r.Report = w.Judge.Take()
	for _, v := range r.Report.Wrong[:min(len(r.Report.Wrong), 5)] {
		r.Problems = append(r.Problems, v.String())
	}
	w.countSockets(&r)
	for _, p := range w.Processes {
		if err := p.Complaints(); err != nil {
			r.Problems = append(r.Problems, err.Error())
		}
	}
	return r
}

// judge compares the samples with the promises.
func (t *Trial) judge(r *Result, samples []Sample) {
	broken := make(map[string]int)
	for i := range samples {
		s := &samples[i]
		if s.Failed() {
			t.judgeFailure(s, r, broken)
		}
		if s.Acquire > acquireWithin {
			broken[fmt.Sprintf("waited more than %v for a connection (%s)", acquireWithin, s.What())]++
		}
		if s.Statement > statementWithin || s.Took > statementWithin+acquireWithin {
			broken[fmt.Sprintf("waited more than %v for a statement (%s)", statementWithin, s.What())]++
		}
	}
	for _, what := range slices.Sorted(maps.Keys(broken)) {
		r.Problems = append(r.Problems, fmt.Sprintf("%d requests: %s", broken[what], what))
	}
	if r.Recovery > recoveryWithin {
		r.Problems = append(r.Problems, fmt.Sprintf("a request failed %v after the fault was mended",
			r.Recovery.Round(10*time.Millisecond)))
	}
}

// judgeFailure judges a request that failed.
func (t *Trial) judgeFailure(s *Sample, r *Result, broken map[string]int) {
	of := s.Client.Tenant
	if s.Status == 0 {
		if !s.Process.WasKilled(s.Sent, s.Sent.Add(s.Took)) && !slices.Contains(t.Leavers, s.Process) {
			broken[s.What()]++
		}
	} else if !slices.Contains(known, s.Code) && !slices.Contains(t.Codes, s.Code) {
		broken["a failure without a code: "+s.What()+" "+s.Kind+" "+of.Place()+" "+Short(s.Cause)]++
	}
	if t.Spares != nil && t.Spares(of) {
		broken["a tenant that the fault isn't of: "+s.What()+" "+s.Kind+" "+of.Place()+" "+Short(s.Cause)]++
	}
	if t.Lasting == nil || !t.Lasting(of) {
		r.Recovery = max(r.Recovery, s.Sent.Sub(t.mended))
	}
}

// countSockets compares the servers' counts with the budget of all processes, except shortly after a kill -9.
func (w *World) countSockets(r *Result) {
	over, worst := 0, 0
	budget := w.PerProcess() * (w.Size.Processes + w.extra)
	for _, k := range w.sockets {
		for _, c := range k.take() {
			r.Sockets = max(r.Sockets, c.n)
			if c.n > budget && !w.orphaned(c.at) {
				over, worst = over+1, max(worst, c.n)
			}
		}
	}
	if over > 0 {
		r.Problems = append(r.Problems,
			fmt.Sprintf("%d counts of a server's sockets are over the budget of %d, the worst is %d", over,
				budget, worst))
	}
}

// orphaned reports whether a process was killed shortly before.
func (w *World) orphaned(at time.Time) bool {
	return slices.ContainsFunc(w.Processes, func(p *Process) bool {
		killed := p.LastKill()
		return !at.Before(killed) && at.Sub(killed) < orphansFor
	})
}

// Row returns the result's line in the table of docs/chaos.md.
func (r Result) Row() string {
	var codes []string
	for _, code := range slices.SortedFunc(maps.Keys(r.Summary.Codes), func(a, b string) int {
		return r.Summary.Codes[b] - r.Summary.Codes[a]
	}) {
		codes = append(codes, fmt.Sprintf("%d %s", r.Summary.Codes[code], strings.TrimPrefix(code, "503 ")))
	}
	if r.Summary.Denied > 0 {
		codes = append([]string{fmt.Sprintf("%d denied", r.Summary.Denied)}, codes...)
	}
	verdict := "held"
	if len(r.Problems) > 0 {
		verdict = "**not held**"
	}
	return fmt.Sprintf("| %s | %d | %d | %s | %d | %d | %.1f s | %d | %s |", r.Fault, r.Summary.Sent,
		r.Summary.Served, strings.Join(codes, ", "),
		r.Report.Count(judge.LateAllow), r.Lost, max(0, r.Recovery.Seconds()), r.Sockets, verdict)
}

// String returns the result in detail.
func (r Result) String() string {
	s := r.Summary
	var b strings.Builder
	fmt.Fprintf(&b,
		"%s: %d sent, %d served, %d denied, %d failed %v; p50 %v, p99 %v, longest %v; recovery %v; latest "+
			"allow %v, latest denial %v after a commit; most sockets %d",
		r.Fault, s.Sent, s.Served, s.Denied, s.Failed, s.Codes, s.P50.Round(time.Millisecond),
		s.P99.Round(time.Millisecond), s.Worst.Round(time.Millisecond),
		max(0, r.Recovery).Round(10*time.Millisecond), r.Report.LatestAllow.Round(time.Millisecond),
		r.Report.LatestDenial.Round(time.Millisecond), r.Sockets)
	for _, note := range r.Notes {
		b.WriteString("\n        note: " + note)
	}
	for _, problem := range r.Problems {
		b.WriteString("\n        NOT HELD: " + problem)
	}
	if len(r.Problems) > 0 {
		for _, cause := range slices.Sorted(maps.Keys(s.Causes)) {
			fmt.Fprintf(&b, "\n        %5d %s", s.Causes[cause], cause)
		}
	}
	return b.String()
}

// TableHead is the head of the table.
const TableHead = "| fault | requests | served | refused, by code | late allows | lost writes | recovery | " +
	"most sockets | |\n" +
	"|---|---|---|---|---|---|---|---|---|"
