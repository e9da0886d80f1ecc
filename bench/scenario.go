package main

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// Scenario compares ways to do one thing.
type Scenario struct {
	Name  string // what -only takes
	Title string
	About string // what is measured and how, and the target
	Open  func(*Bench) (*Comparison, error)
}

// Comparison is a scenario that is ready to run. Rows of one group take turns in every round and are compared
// with each other.
type Comparison struct {
	Columns []Column
	Bases   []string // the rows of each group by which the others are divided
	Rows    []Row
	Notes   func([]*measured) []string // lines below the table; may be nil
}

// Column is one of the figures that a row's measurement yields.
type Column struct {
	Name   string
	Format func(float64) string
	Ratio  bool // shown with its quotients by the bases
	Worst  bool // the largest of the rounds is shown, not the median
}

// Row is one way to do it.
type Row struct {
	Group, Name string
	Measure     func() ([]float64, error) // one round: a figure for each column
}

// measured is the outcome of a row's rounds: a list of figures for each column.
type measured struct {
	Row
	figures [][]float64
	load    float64
}

// run measures every row in every round: group after group, the rows in turn. Each round begins with another
// row.
func (c *Comparison) run(b *Bench) ([]*measured, error) {
	var all []*measured
	for rest := c.Rows; len(rest) > 0; {
		n := 1
		for n < len(rest) && rest[n].Group == rest[0].Group {
			n++
		}
		group := make([]*measured, n)
		for i := range group {
			group[i] = &measured{Row: rest[i], figures: make([][]float64, len(c.Columns))}
		}
		if err := b.ctx.Err(); err != nil {
			return all, fmt.Errorf("not measured from %q on: %w", rest[0].Group, err)
		}
		if err := runGroup(b, group); err != nil {
			return all, err
		}
		all, rest = append(all, group...), rest[n:]
	}
	return all, nil
}

// runGroup measures the rows of one group.
func runGroup(b *Bench, group []*measured) error {
	for round := range b.scale.rounds {
		for i := range group {
			m := group[(i+round)%len(group)]
			figures, err := m.Measure()
			if err != nil {
				return fmt.Errorf("%s, %s: %w", m.Group, m.Name, err)
			}
			for k, f := range figures {
				m.figures[k] = append(m.figures[k], f)
			}
			m.load = max(m.load, loadAverage())
		}
	}
	return nil
}

// noisy is the limit beyond which a row is called noisy: the width of the middle half of its rounds, as a
// share of their median.
const noisy = 0.10

// spread returns the width of the middle half of the rounds as a share of their median.
func spread(figures []float64) float64 {
	sorted := slices.Sorted(slices.Values(figures))
	if middle := median(sorted); middle != 0 {
		return (quantile(sorted, 0.75) - quantile(sorted, 0.25)) / middle
	}
	return 0
}

// median returns the median of unsorted figures.
func median(figures []float64) float64 {
	return quantile(slices.Sorted(slices.Values(figures)), 0.5)
}

// quantile returns a quantile of sorted figures, interpolated between neighbours.
func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	at := q * float64(len(sorted)-1)
	i := int(at)
	if i+1 == len(sorted) {
		return sorted[i]
	}
	return sorted[i] + (at-float64(i))*(sorted[i+1]-sorted[i])
}

// quotients divides the figures of two rows round by round, so that whatever slowed a whole round cancels
// out.
func quotients(figures, base []float64) []float64 {
	var list []float64
	for i := range min(len(figures), len(base)) {
		if base[i] != 0 {
			list = append(list, figures[i]/base[i])
		}
	}
	return list
}

// The formats of figures.
func nanoseconds(f float64) string {
	if math.IsInf(f, 0) || math.IsNaN(f) { // nothing was counted
		return "none"
	}
	return time.Duration(f).Round(roundTo(f)).String()
}
func integer(f float64) string { return fmt.Sprintf("%.0f", f) }
func percent(f float64) string { return fmt.Sprintf("%.1f %%", 100*f) }
func tenths(f float64) string  { return fmt.Sprintf("%.1f", f) }

// roundTo returns the step that leaves three or four digits.
func roundTo(ns float64) time.Duration {
	step := time.Duration(1)
	for ns >= 10_000 {
		ns, step = ns/10, step*10
	}
	return step
}
