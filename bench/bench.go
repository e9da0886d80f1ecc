package main

import (
	"context"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// scale says how much is measured.
type scale struct {
	rounds int
	slice  time.Duration // one measurement in process
	load   time.Duration // one measurement over HTTP
	tokens int           // distinct tokens of the larger case

	algorithms []string // signature algorithms of the requests over HTTP
	databases  []int    // numbers of databases in the comparisons of pools
	warm       int      // requests that warm a pool up
	crowd      int      // goroutines of the noisy neighbour

	// tenants of the host database; it has three times as many users, five times as many memberships
	hostTenants int
	keys        []int // numbers of cached keys in the comparison with a bare map
	tenants     []int // numbers of known tenants there
	removals    int   // members removed in a round
	created     int   // databases created in a round
	migrated    int   // databases migrated in a round
}

var (
	full = scale{rounds: 6, slice: 100 * time.Millisecond, load: time.Second, tokens: 10_000,
		algorithms: []string{"HS256", "RS256"}, databases: []int{10, 100, 1000}, warm: 3000, crowd: 200,
		hostTenants: 100_000, keys: []int{1, 1000, 10_000, 100_000, 1_000_000},
		tenants: []int{10, 100, 1000, 10_000}, removals: 100, created: 10, migrated: 300}
	quick = scale{rounds: 2, slice: 20 * time.Millisecond, load: 300 * time.Millisecond, tokens: 10_000,
		algorithms: []string{"HS256"}, databases: []int{10, 200}, warm: 500, crowd: 200,
		hostTenants: 10_000, keys: []int{1, 10_000, 1_000_000}, tenants: []int{10, 1000}, removals: 20,
		created: 3, migrated: 40}
	tiny = scale{rounds: 1, slice: time.Millisecond, load: 20 * time.Millisecond, tokens: 20,
		algorithms: []string{"HS256"}, databases: []int{2, 3}, warm: 10, crowd: 20,
		hostTenants: 100, keys: []int{1, 100}, tenants: []int{2}, removals: 3, created: 1, migrated: 2}
)

// Bench is one run of the program: its scale, and what it has opened.
type Bench struct {
	ctx    context.Context
	scale  scale
	closes []func() // at the scenario's end
	ends   []func() // at the run's end
	estate *estate
}

// onClose calls fn when the scenario ends. The last one is called first.
func (b *Bench) onClose(fn func()) { b.closes = append(b.closes, fn) }

// atEnd calls fn when the run ends. The last one is called first.
func (b *Bench) atEnd(fn func()) { b.ends = append(b.ends, fn) }

// end closes what the run opened.
func (b *Bench) end() {
	for _, fn := range slices.Backward(b.ends) {
		fn()
	}
}

// close closes what the scenario opened.
func (b *Bench) close() {
	for _, fn := range slices.Backward(b.closes) {
		fn()
	}
	b.closes = nil
}

// folder makes a folder that is removed when the scenario ends.
func (b *Bench) folder() (string, error) {
	dir, err := os.MkdirTemp("", "tenantdb-bench-")
	if err == nil {
		b.onClose(func() { _ = os.RemoveAll(dir) })
	}
	return dir, err
}

// loadAverage returns the machine's load average over the last minute, or 0 if the system doesn't tell.
func loadAverage() float64 {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(text), " ")
	f, _ := strconv.ParseFloat(first, 64)
	return f
}

// cpuTime returns the processor time of this process, in user mode and in the kernel.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// version returns the first line that a program prints about its version.
func version(program string, args ...string) string {
	out, err := exec.Command(program, args...).CombinedOutput()
	if line, _, _ := strings.Cut(string(out), "\n"); line != "" {
		return strings.TrimSpace(line)
	}
	if err != nil {
		return program + " is missing"
	}
	return program
}
