package rig

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Client is a user who sends requests to a tenant.
type Client struct {
	User   string
	Tenant *Tenant
	Token  string
}

// Sample is a response, or its absence.
type Sample struct {
	Sent    time.Time
	Took    time.Duration
	Process *Process
	Client  Client
	Kind    string // me, write, …
	Status  int    // 0: none
	Code    string // of the problem
	Cause   string
	// Acquire and Statement are how long /conn waited for each.
	Acquire, Statement time.Duration
	Generation         int
}

// OK reports whether the request was served.
func (s *Sample) OK() bool { return s.Status >= 200 && s.Status < 300 }

// Denied reports whether a right was found missing.
func (s *Sample) Denied() bool { return s.Status >= 401 && s.Status <= 403 }

// Failed reports whether the request was neither served nor denied.
func (s *Sample) Failed() bool { return !s.OK() && !s.Denied() }

// What returns a failure's code, or what else happened.
func (s *Sample) What() string {
	if s.Status == 0 {
		return "no response"
	}
	return strings.TrimSpace(fmt.Sprintf("%d %s", s.Status, s.Code))
}

// Summary counts samples.
type Summary struct {
	Sent, Served, Denied, Failed int
	P50, P99, Worst              time.Duration
	Codes, Causes                map[string]int
	LastFailure                  time.Time // when it was sent
}

// Summarize counts samples.
func Summarize(samples []Sample) Summary {
	sum := Summary{Codes: make(map[string]int), Causes: make(map[string]int)}
	var took []time.Duration
	for i := range samples {
		s := &samples[i]
		sum.Sent++
		took = append(took, s.Took)
		switch {
		case s.OK():
			sum.Served++
		case s.Denied():
			sum.Denied++
		default:
			sum.Failed++
			sum.Codes[s.What()]++
			sum.Causes[s.What()+" "+s.Kind+" "+s.Client.Tenant.Place()+": "+Short(s.Cause)]++
			if s.Sent.After(sum.LastFailure) {
				sum.LastFailure = s.Sent
			}
		}
	}
	slices.Sort(took)
	if n := len(took); n > 0 {
		sum.P50, sum.P99, sum.Worst = took[n/2], took[n*99/100], took[n-1]
	}
	return sum
}

var variable = regexp.MustCompile(`[0-9a-f]{32}|\d+`)

// Short removes from a cause what differs each time.
func Short(cause string) string {
	cause = variable.ReplaceAllString(cause, "#")
	if len(cause) > 300 {
		cause = cause[:180] + " … " + cause[len(cause)-110:]
	}
	return cause
}
