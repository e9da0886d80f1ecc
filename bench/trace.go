package main

import (
	"cmp"
	"maps"
	"math/rand"
	"slices"
)

const traceLength = 100_000

// zipfTrace returns the tenants of a series of requests: Zipf 1.1, shuffled. The same seed gives the same
// trace on every machine.
func zipfTrace(tenants int) []int {
	r := rand.New(rand.NewSource(1))
	if tenants < 2 {
		return make([]int, traceLength)
	}
	zipf := rand.NewZipf(r, 1.1, 1, uint64(tenants-1))
	place := r.Perm(tenants)
	list := make([]int, traceLength)
	for i := range list {
		list[i] = place[zipf.Uint64()]
	}
	return list
}

// uniformTrace names every tenant equally often.
func uniformTrace(tenants int) []int {
	r := rand.New(rand.NewSource(1))
	list := make([]int, traceLength)
	for i := range list {
		list[i] = r.Intn(tenants)
	}
	return list
}

// byFrequency counts a trace's requests by tenant, and orders the tenants by it, the most frequent first.
func byFrequency(trace []int) (count map[int]int, tenants []int) {
	count = map[int]int{}
	for _, t := range trace {
		count[t]++
	}
	return count, slices.SortedFunc(maps.Keys(count), func(a, b int) int {
		return cmp.Or(cmp.Compare(count[b], count[a]), a-b)
	})
}

// staticOptimum returns the share of requests that find a connection if the budget is spent on the most
// frequent tenants, one connection each.
func staticOptimum(trace []int, budget int) float64 {
	count, tenants := byFrequency(trace)
	hits := 0
	for _, t := range tenants[:min(budget, len(tenants))] {
		hits += count[t]
	}
	return float64(hits) / float64(len(trace))
}

// classes divides a trace's tenants. Hot are the fewest tenants that make half of the requests, middle those
// that make the next three tenths, cold the rest.
func classes(trace []int) (hot, middle, cold func(int) bool) {
	count, tenants := byFrequency(trace)
	class, sum := map[int]int{}, 0
	for _, t := range tenants {
		switch share := float64(sum) / float64(len(trace)); {
		case share < 0.5:
			class[t] = 0
		case share < 0.8:
			class[t] = 1
		default:
			class[t] = 2
		}
		sum += count[t]
	}
	of := func(c int) func(int) bool { return func(t int) bool { return class[t] == c } }
	return of(0), of(1), of(2)
}
