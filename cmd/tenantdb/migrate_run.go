package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/tenantdb/tenantdb/fleet"
	"github.com/tenantdb/tenantdb/hostdb"
)

// shownFailures is how many failures a summary shows. migrate results shows all.
const shownFailures = 100

// summary is the result of a run.
type summary struct {
	fleet.Report
	failures []fleet.Result
	retry    string // the command that resumes the run; "" if nothing is left
}

var summaryColumns = []column[summary]{
	{"run", func(r *summary) any { return r.RunID }, true},
	{"status", func(r *summary) any { return r.Status }, true},
	{"target", func(r *summary) any { return r.Target }, true},
	{"down", func(r *summary) any { return r.Down }, true},
	{"at_target", func(r *summary) any { return r.AtTarget }, true},
	{"done", func(r *summary) any { return r.Done }, true},
	{"failed", func(r *summary) any { return r.Failed }, true},
	{"skipped", func(r *summary) any { return r.Skipped }, true},
	{"pending", func(r *summary) any { return r.Pending }, true},
	{"duration_ms", func(r *summary) any { return r.Duration.Milliseconds() }, true},
	{"failures", func(r *summary) any { return r.failuresJSON() }, false},
	{"retry", func(r *summary) any { return r.retry }, false},
}

// failuresJSON returns the failures as JSON objects.
func (r *summary) failuresJSON() []json.RawMessage {
	list := []json.RawMessage{}
	for i := range r.failures {
		if text, err := object(resultColumns, &r.failures[i]); err == nil { // strings and numbers don't fail
			list = append(list, text)
		}
	}
	return list
}

// migrate runs a migration and prints its summary.
func (s *session) migrate(ctx context.Context, f *fleet.Fleet, opts fleet.MigrateOptions) error {
	line := &progress{out: s.env.stderr, terminal: s.env.terminal}
	opts.Progress = line.show
	report, err := f.Migrate(ctx, opts)
	line.erase()
	if err != nil && !errors.Is(err, fleet.ErrIncomplete) {
		return err
	}
	sum := &summary{Report: report}
	after := context.WithoutCancel(ctx) // the summary is printed even after Ctrl-C
	if report.Failed > 0 && report.RunID != "" {
		for result, err := range f.Results(after, report.RunID, hostdb.MigrationFailed) {
			if err != nil {
				return err
			}
			if sum.failures = append(sum.failures, result); len(sum.failures) == shownFailures {
				break
			}
		}
	}
	if report.Failed+report.Pending > 0 && report.RunID != "" {
		sum.retry = s.command(paceFlags, "migrate", "retry", report.RunID)
	}
	if printed := s.printSummary(sum); printed != nil {
		return printed
	}
	return sum.verdict(ctx, opts.DryRun)
}

// printSummary prints the counts, the failures and the command that resumes the run.
func (s *session) printSummary(sum *summary) error {
	if s.flags.Output == "json" {
		return printOne(s, summaryColumns, sum)
	}
	columns := summaryColumns[:len(summaryColumns)-2] // the last two are printed below
	if err := printOne(s, columns, sum); err != nil {
		return err
	}
	out := s.env.stdout
	if len(sum.failures) > 0 {
		fmt.Fprintln(out, "\nFailures:")
		if err := printTable(out, resultColumns, each(sum.failures)); err != nil {
			return err
		}
	}
	if more := sum.Failed - len(sum.failures); more > 0 && sum.RunID != "" {
		fmt.Fprintf(out, "and %d more:\n  %s\n", more,
			s.command(nil, "migrate", "results", sum.RunID, "--status=failed"))
	}
	if sum.retry != "" {
		fmt.Fprintf(out, "\nTo resume with the failed and pending tenants:\n  %s\n", sum.retry)
	}
	return nil
}

// verdict returns the error for a run.
func (r *summary) verdict(ctx context.Context, dry bool) error {
	switch {
	case r.Failed > 0:
		return &exitError{exitTenants, fmt.Sprintf("%s failed, %d pending", tenants(r.Failed), r.Pending)}
	case ctx.Err() != nil:
		return fmt.Errorf("interrupted: %s pending", tenants(r.Pending))
	case r.Pending > 0 && !dry:
		return fmt.Errorf("the run is %s: %s pending", r.Status, tenants(r.Pending))
	}
	return nil
}

// progress shows tenants as they end.
type progress struct {
	out      io.Writer
	terminal bool // show one line, and rewrite it
	failed   int
	open     bool // the line is shown
}

// show shows a tenant that has ended.
func (p *progress) show(r fleet.Result) {
	outcome := r.Status
	switch r.Status {
	case hostdb.MigrationDone:
		outcome = "ok"
	case hostdb.MigrationFailed:
		p.failed++
	}
	text := fmt.Sprintf("%s  %d→%d  %s  %s", clean(r.Slug), r.From, r.To, outcome, brief(r.Duration))
	if r.Total > 0 { // a dry run doesn't count
		text = fmt.Sprintf("[%d/%d] %s", r.Ended, r.Total, text)
	}
	if r.Error != "" {
		text += "  " + clean(r.Error)
	}
	if !p.terminal {
		fmt.Fprintln(p.out, text)
		return
	}
	p.erase()
	if r.Status == hostdb.MigrationFailed { // failures aren't overwritten
		fmt.Fprintln(p.out, text)
		return
	}
	fmt.Fprintf(p.out, "%s  (%d failed)", text, p.failed)
	p.open = true
}

// erase erases the line.
func (p *progress) erase() {
	if p.open {
		fmt.Fprint(p.out, "\r\x1b[K") // ECMA-48: to the line's start, erase to its end
		p.open = false
	}
}

// tenants writes a number of tenants.
func tenants(n int) string { return count(int64(n), "tenant") }

// brief formats a duration with few digits.
func brief(d time.Duration) string {
	if d < time.Second {
		return d.Round(time.Millisecond).String()
	}
	return d.Round(100 * time.Millisecond).String()
}
