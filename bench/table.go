package main

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// render prints a comparison as a Markdown table.
func (c *Comparison) render(rows []*measured) string {
	head := []string{"", ""}
	for _, column := range c.Columns {
		head = append(head, column.Name)
		if column.Ratio {
			for _, base := range c.Bases {
				head = append(head, "÷ "+base)
			}
		}
	}
	lines := [][]string{append(head, "spread", "load")}
	last := ""
	for _, m := range rows {
		group := m.Group
		if group == last {
			group = ""
		}
		last = m.Group
		lines = append(lines, append([]string{group, m.Name}, c.cells(m, rows)...))
	}
	return align(lines)
}

// cells returns a row's figures as text: medians (or the worst), quotients with their range, spread, load.
func (c *Comparison) cells(m *measured, rows []*measured) []string {
	var cells []string
	widest := 0.0
	for k, column := range c.Columns {
		figure := median(m.figures[k])
		if column.Worst {
			figure = slices.Max(m.figures[k])
		}
		cells = append(cells, column.Format(figure))
		if !column.Ratio {
			continue
		}
		widest = max(widest, spread(m.figures[k]))
		for _, base := range c.Bases {
			cells = append(cells, quotientOf(m, find(rows, m.Group, base), k))
		}
	}
	mark := fmt.Sprintf("%.0f %%", 100*widest)
	if widest > noisy {
		mark += " **noisy**"
	}
	return append(cells, mark, fmt.Sprintf("%.1f", m.load))
}

// quotientOf returns the median of the rounds' quotients, with the smallest and the largest.
func quotientOf(m, base *measured, column int) string {
	if base == nil || base == m {
		return ""
	}
	list := quotients(m.figures[column], base.figures[column])
	if len(list) == 0 {
		return ""
	}
	return fmt.Sprintf("%s (%s–%s)", short(median(list)), short(slices.Min(list)), short(slices.Max(list)))
}

// short formats a number with about three digits.
func short(f float64) string {
	switch {
	case f >= 100:
		return fmt.Sprintf("%.0f", f)
	case f >= 10:
		return fmt.Sprintf("%.1f", f)
	case f >= 0.1:
		return fmt.Sprintf("%.2f", f)
	}
	return fmt.Sprintf("%.4f", f)
}

// find returns a group's row by name, or nil if there is none.
func find(rows []*measured, group, name string) *measured {
	for _, m := range rows {
		if m.Group == group && m.Name == name {
			return m
		}
	}
	return nil
}

// align joins cells into a Markdown table whose columns line up.
func align(lines [][]string) string {
	width := make([]int, len(lines[0]))
	for _, line := range lines {
		for i, cell := range line {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	var out strings.Builder
	for n, line := range lines {
		for i, cell := range line {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell))
			if i < 2 {
				fmt.Fprintf(&out, "| %s%s ", cell, pad)
			} else {
				fmt.Fprintf(&out, "| %s%s ", pad, cell)
			}
		}
		out.WriteString("|\n")
		if n == 0 {
			for i, w := range width {
				rule := strings.Repeat("-", w)
				if i < 2 {
					fmt.Fprintf(&out, "|-%s-", rule)
				} else {
					fmt.Fprintf(&out, "|-%s:", rule)
				}
			}
			out.WriteString("|\n")
		}
	}
	return out.String()
}
