package main

import (
	"fmt"
	"slices"
)

var poolScenario = Scenario{
	Name:  "pool",
	Title: "Many tenants under one budget of connections",
	About: `A database for each tenant, 32 clients in a closed loop, one point query for each request, a
budget of 80 connections. The trace of tenants is made from a fixed seed (bench/trace.go). The variants:

- an LRU of pgxpools with 4 connections each, pgxpool's own default;
- an LRU of as many pgxpools as the budget or the tenants allow, with the budget split evenly: the best
  split tried where tenants are many;
- PgBouncer in transaction mode with the same split, its best too (bench/pgbouncer.ini). The server process
  keeps a pgxpool to it for each tenant;
- tenantdb.

Each connects as a role of its own, which the server refuses beyond 97 connections, as one with
max_connections=100 does. PgBouncer has its own limit of 80. Every variant has been asked for every tenant
once, and has then warmed up on the trace. "Hits" are the requests that needed no new connection, by the
server's own count of sessions (PostgreSQL 14 or later). The static optimum is the share of requests for the
80 tenants that the trace names most. Classes: hot are the fewest tenants that make half of the requests,
middle the next three tenths, cold the rest. Errors are refusals and answers of a wrong tenant, in the worst
round. Targets, with 1,000 databases and Zipf 1.1: ≥ 1.5 × PgBouncer and ≥ 1.5 × an LRU of pgxpools, no
errors, hits ≥ 0.92 of the static optimum.`,
	Open: openGrid,
}

// poolers are the ways to serve many databases.
var poolers = []string{poolLRU4, poolLRU, viaPgBouncer, poolAlone, wholePath, openEach}

func openGrid(b *Bench) (*Comparison, error) {
	most := b.scale.databases[len(b.scale.databases)-1]
	e, err := b.databases(most)
	if err != nil {
		return nil, err
	}
	c := &Comparison{Bases: []string{poolLRU4, poolLRU, viaPgBouncer}, Columns: []Column{
		{Name: "requests/s", Format: integer, Ratio: true},
		{Name: "hits", Format: percent}, {Name: "of optimum", Format: percent},
		{Name: "errors", Format: integer, Worst: true},
		{Name: "p50", Format: nanoseconds}, {Name: "p99 hot", Format: nanoseconds},
		{Name: "p99 middle", Format: nanoseconds}, {Name: "p99 cold", Format: nanoseconds}}}
	for _, n := range b.scale.databases {
		targets := map[string]*target{}
		for _, shape := range []struct {
			name  string
			trace []int
		}{{"uniform", uniformTrace(n)}, {"Zipf 1.1", zipfTrace(n)}} {
			for _, kind := range poolers {
				cell := &gridCell{b: b, e: e, kind: kind, n: n, trace: shape.trace, targets: targets}
				c.Rows = append(c.Rows, Row{fmt.Sprintf("%d databases, %s", n, shape.name), kind,
					cell.measure})
			}
		}
	}
	return c, nil
}

// gridCell measures one way of pooling, with one number of databases, under one trace.
type gridCell struct {
	b       *Bench
	e       *estate
	kind    string
	n       int
	trace   []int
	targets map[string]*target // for this number of databases; started when first used
	at      int                // index into the trace
}

// measure is a round.
func (g *gridCell) measure() ([]float64, error) {
	t, err := g.warmed()
	if err != nil {
		return nil, err
	}
	before, err := g.e.sessions(g.b.ctx)
	if err != nil {
		return nil, err
	}
	shots, took, err := t.closedLoop(clients, g.trace, g.at, g.b.scale.load)
	if err != nil {
		return nil, err
	}
	g.at += len(shots)
	after, err := g.e.sessions(g.b.ctx)
	total := float64(len(shots)) - wrongs(shots)
	hits := max(0, 1-(after-before)/total)
	hot, middle, cold := classes(g.trace)
	return []float64{total / took.Seconds(), hits, hits / staticOptimum(g.trace, tenantBudget), wrongs(shots),
		latency(shots, 0.5, everyone),
		latency(shots, 0.99, hot), latency(shots, 0.99, middle), latency(shots, 0.99, cold)}, err
}

// warmed returns the server. Before the first round it requests every tenant once, so that PgBouncer's
// clients are connected, and then the beginning of the trace.
func (g *gridCell) warmed() (*target, error) {
	t, err := g.target()
	if err != nil || g.at > 0 {
		return t, err
	}
	g.at = 1
	if g.kind == openEach { // which nothing warms
		return t, nil
	}
	everyone := make([]int, g.n)
	for i := range everyone {
		everyone[i] = i
	}
	g.at = g.b.scale.warm
	_, _, err = t.closedLoop(clients, slices.Concat(everyone, g.trace[:g.at]), 0, 0)
	return t, err
}

// target starts the server when it is first used. The first one with a new number of databases ends those of
// the last number, whose idle connections would count against the roles' limit.
func (g *gridCell) target() (*target, error) {
	if g.targets[g.kind] == nil {
		if len(g.targets) == 0 {
			g.b.close()
		}
		t, err := g.e.service(g.b, g.kind, g.n, tenantBudget)
		if err != nil {
			return nil, err
		}
		g.targets[g.kind] = t
	}
	return g.targets[g.kind], nil
}

var openLoopScenario = Scenario{
	Name:  "openloop",
	Title: "Many tenants, requests at a steady rate",
	About: `The largest number of databases and Zipf 1.1 again, with 400 requests a second. They are sent
whether the last ones are answered or not, and a latency runs from the time at which the request was due.
Targets: p50 ≤ 1.6 ms and p99 ≤ half of PgBouncer's.`,
	Open: func(b *Bench) (*Comparison, error) {
		n := b.scale.databases[len(b.scale.databases)-1]
		e, err := b.databases(n)
		if err != nil {
			return nil, err
		}
		c := &Comparison{Bases: []string{viaPgBouncer}, Columns: []Column{
			{Name: "p50", Format: nanoseconds, Ratio: true},
			{Name: "p99", Format: nanoseconds, Ratio: true}, {Name: "errors", Format: integer, Worst: true}}}
		trace, targets := zipfTrace(n), map[string]*target{}
		for _, kind := range []string{poolLRU, viaPgBouncer, poolAlone, wholePath} {
			cell := &gridCell{b: b, e: e, kind: kind, n: n, trace: trace, targets: targets}
			c.Rows = append(c.Rows, Row{fmt.Sprintf("%d databases, Zipf 1.1, 400/s", n), kind, cell.steady})
		}
		return c, nil
	},
}

// steady is a round at 400 requests a second.
func (g *gridCell) steady() ([]float64, error) {
	const rate = 400
	t, err := g.warmed()
	if err != nil {
		return nil, err
	}
	shots, err := t.openLoop(4*clients, g.trace, g.at, rate, 2*g.b.scale.load)
	if err != nil {
		return nil, err
	}
	g.at += len(shots)
	return []float64{latency(shots, 0.5, everyone), latency(shots, 0.99, everyone), wrongs(shots)}, nil
}
