package main

import (
	"bufio"
	"fmt"
	"strings"
	"text/tabwriter"
)

// execPrinter prints results as they come, and failures at the end.
type execPrinter struct {
	s         *session
	out       *bufio.Writer
	alone     bool // for one tenant, without a heading
	separator string
	ended     int
	failures  []tenantFailure
}

func newExecPrinter(s *session, alone bool) *execPrinter {
	return &execPrinter{s: s, out: bufio.NewWriter(s.env.stdout), alone: alone, separator: "["}
}

// print prints one tenant's result.
func (p *execPrinter) print(r *execResult) error {
	p.ended++
	if r.err != nil {
		p.failures = append(p.failures, tenantFailure{r.tenant.ID, nameOf(r.tenant), r.err.Error()})
	}
	switch {
	case p.s.flags.Output == "json":
		if err := p.json(r); err != nil {
			return err
		}
	case r.err == nil:
		p.table(r)
	}
	return p.out.Flush()
}

// execColumns are the columns of a result in JSON.
var execColumns = []column[execResult]{
	{"tenant_id", func(r *execResult) any { return r.tenant.ID }, true},
	{"slug", func(r *execResult) any { return r.tenant.Slug }, true},
	{"columns", func(r *execResult) any { return append([]string{}, r.columns...) }, true},
	{"rows", func(r *execResult) any { return append([][]any{}, r.rows...) }, true},
	{"truncated", func(r *execResult) any { return r.truncated }, true},
	{"affected", func(r *execResult) any { return r.affected }, true},
	{"duration_ms", func(r *execResult) any { return r.took.Milliseconds() }, true},
	{"error", func(r *execResult) any {
		if r.err == nil {
			return nil
		}
		return r.err.Error()
	}, true},
}

func (p *execPrinter) json(r *execResult) error {
	text, err := object(execColumns, r)
	if err == nil {
		_, err = fmt.Fprintf(p.out, "%s\n  %s", p.separator, text)
		p.separator = ","
	}
	return err
}

func (p *execPrinter) table(r *execResult) {
	if !p.alone {
		fmt.Fprintf(p.out, "-- %s\n", nameOf(r.tenant))
	}
	if len(r.columns) == 0 {
		fmt.Fprintf(p.out, "%s written\n", count(r.affected, "row"))
		return
	}
	table := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
	cells := make([]string, len(r.columns))
	for i, name := range r.columns {
		cells[i] = clean(name)
	}
	fmt.Fprintln(table, strings.Join(cells, "\t"))
	for _, row := range r.rows {
		for i, value := range row {
			cells[i] = cell(value)
		}
		fmt.Fprintln(table, strings.Join(cells, "\t"))
	}
	_ = table.Flush()
	if r.truncated {
		fmt.Fprintf(p.out, "(there are more than %s)\n", count(int64(len(r.rows)), "row"))
	}
}

// close ends the output and returns an error if a tenant failed.
func (p *execPrinter) close() error {
	if p.s.flags.Output == "json" {
		if p.separator == "[" {
			fmt.Fprint(p.out, "[")
		}
		fmt.Fprint(p.out, "\n]\n")
	}
	if err := p.out.Flush(); err != nil {
		return err
	}
	return p.s.failed(p.failures, p.ended)
}

// tenantFailure is why a command failed for a tenant.
type tenantFailure struct{ id, slug, reason string }

var failureColumns = []column[tenantFailure]{
	{"slug", func(f *tenantFailure) any { return f.slug }, true},
	{"id", func(f *tenantFailure) any { return f.id }, true},
	{"error", func(f *tenantFailure) any { return f.reason }, true},
}

// failed prints failures as a table on standard error, and returns the command's error.
func (s *session) failed(failures []tenantFailure, all int) error {
	if len(failures) == 0 {
		return nil
	}
	if err := printTable(s.env.stderr, failureColumns, each(failures)); err != nil {
		return err
	}
	return &exitError{exitTenants, fmt.Sprintf("it failed in %d of %s", len(failures), tenants(all))}
}
