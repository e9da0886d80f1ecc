package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"
)

// preamble says what was run, on which machine, and how to read the tables.
func preamble(b *Bench) string {
	return fmt.Sprintf(`# Benchmarks

Written by %s on %s. %d rounds.

| | |
|---|---|
| machine | %s, %d cores used, %s |
| Go | %s, %s/%s |
| PostgreSQL | %s; server, PgBouncer, client and load on the one machine, over TCP loopback; fsync off |
| PgBouncer | %s |
| wrk | %s |
| load average at the start | %.1f |

How to read: the variants of a group take turns in every round. A figure is the median of the rounds. A
quotient is the median of the rounds' own quotients, since what slows a whole round slows both sides. In
parentheses stand the smallest and the largest; with 6 rounds they hold the true median with 97 %%
confidence. "Spread" is the width of the middle half of the rounds as a share of their median, the widest of
the columns that have quotients. Above %.0f %% the row is called noisy, and proves nothing. "Load" is the
highest one-minute load average during the row's measurements, the benchmark's own work included.
`,
		command(), time.Now().UTC().Format("2006-01-02 15:04 UTC"), b.scale.rounds,
		processor(), runtime.NumCPU(), memory(), runtime.Version(), runtime.GOOS, runtime.GOARCH,
		version("psql", "--version"), version("pgbouncer", "--version"),
		version("wrk", "-v"), loadAverage(), 100*noisy)
}

// command returns the command line of this run.
func command() string {
	return strings.TrimSpace("`go run -C bench . "+strings.Join(os.Args[1:], " ")) + "`"
}

// processor returns the processor's name.
func processor() string { return systemLine("/proc/cpuinfo", "model name") }

// memory returns the size of the machine's memory.
func memory() string { return systemLine("/proc/meminfo", "MemTotal") + " of memory" }

// systemLine returns the value of a "name : value" line.
func systemLine(path, name string) string {
	f, err := os.Open(path)
	if err != nil {
		return "unknown"
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if key, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}
