// Command bench measures tenantdb beside its peers and beside what it is built on, and prints tables. From
// the repository's root:
//
//	go run -C bench .                        everything, about 20 minutes, and writes docs/benchmarks.md
//	go run -C bench . -quick                 everything, about 3 minutes, to look at
//	go run -C bench . -only request,pool     some of it
//	go run -C bench . -profile               docs/profile-hotpath.txt
//
// It needs PostgreSQL's binaries, PgBouncer and wrk (Debian: apt-get install postgresql pgbouncer wrk).
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"
)

// scenarios are in the document's order.
var scenarios = []Scenario{requestScenario, tokenScenario, httpScenario, queryScenario, sqliteScenario,
	poolScenario, openLoopScenario, acquireScenario, neighbourScenario, serversScenario, hostScenario,
	lookupsScenario, growthScenario, coherenceScenario, fleetScenario}

func main() {
	if len(os.Args) > 1 && os.Args[1] == serveArgument {
		if err := serveAsChild(); err != nil {
			fmt.Fprintln(os.Stderr, "bench: server:", err)
			os.Exit(1)
		}
		return
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	quickly := flag.Bool("quick", false, "less of everything, to look at")
	only := flag.String("only", "", "scenarios to run, by name, with commas: "+names())
	out := flag.String("out", "", "file for the document (default for a full run: ../docs/benchmarks.md)")
	profiled := flag.Bool("profile", false, "write ../docs/profile-hotpath.txt and nothing else")
	flag.Parse()
	chosen, err := choose(*only)
	if err != nil {
		return err
	}
	s := full
	if *quickly {
		s = quick
	}
	if *out == "" && !*quickly && *only == "" {
		*out = "../docs/benchmarks.md"
	}
	// pgtest prefers a file system in memory, which thousands of databases would fill
	if os.Getenv("TMPDIR") == "" {
		if err := os.Setenv("TMPDIR", os.TempDir()); err != nil {
			return err
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if *profiled {
		return writeProfile(&Bench{ctx: ctx, scale: full}, "../docs/profile-hotpath.txt")
	}
	text, failed := runAll(&Bench{ctx: ctx, scale: s}, chosen, os.Stdout)
	if *out != "" {
		if err := os.WriteFile(*out, []byte(text), 0o644); err != nil {
			return err
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d scenarios failed", failed, len(chosen))
	}
	return nil
}

// names lists the scenarios.
func names() string {
	var list []string
	for _, s := range scenarios {
		list = append(list, s.Name)
	}
	return strings.Join(list, ", ")
}

// choose finds scenarios by name.
func choose(only string) ([]Scenario, error) {
	if only == "" {
		return scenarios, nil
	}
	var list []Scenario
	for name := range strings.SplitSeq(only, ",") {
		i := slices.IndexFunc(scenarios, func(s Scenario) bool { return s.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("-only: no scenario is called %q; there are %s", name, names())
		}
		list = append(list, scenarios[i])
	}
	return list, nil
}

// runAll runs scenarios one after the other and returns the document, which it prints as it grows, and how
// many failed.
func runAll(b *Bench, chosen []Scenario, to io.Writer) (document string, failed int) {
	defer b.end()
	var text strings.Builder
	w := io.MultiWriter(&text, to)
	fmt.Fprint(w, preamble(b))
	for _, s := range chosen {
		began := time.Now()
		fmt.Fprintf(w, "\n## %s\n\n%s\n\n", s.Title, s.About)
		if err := runOne(b, s, w); err != nil {
			failed++
			fmt.Fprintf(w, "\n**This scenario failed: %v**\n", err)
		}
		fmt.Fprintf(w, "\n`-only %s`, %s.\n", s.Name, time.Since(began).Round(time.Second))
	}
	return text.String(), failed
}

// runOne runs a scenario. It also prints what was measured before an error.
func runOne(b *Bench, s Scenario, w io.Writer) error {
	defer b.close()
	c, err := s.Open(b)
	if err != nil {
		return err
	}
	rows, err := c.run(b)
	fmt.Fprint(w, c.render(rows))
	if err == nil && c.Notes != nil {
		fmt.Fprintf(w, "\n%s\n", strings.Join(c.Notes(rows), "\n"))
	}
	return err
}
