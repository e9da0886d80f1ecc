// Command tier3 tests a product that uses tenantdb in worlds that only root can make: networks that lose
// packets, full disks, names that change, a Patroni cluster, processes that are paused, and clocks that are
// stepped. From the repository's root, as root:
//
//	go run -C chaos ./tier3                     every world, about 15 minutes
//	go run -C chaos ./tier3 -only "packets,disk"  those whose names contain one of the words
//
// Each world has Linux namespaces of its own and ends with them. If a machine lacks a program, the output
// names the Debian package that has it, and the exit code is 1 unless -allow-missing is given. See
// docs/chaos.md.
package main

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/tenantdb/tenantdb/chaos/app"
	"github.com/tenantdb/tenantdb/chaos/rig"
	"github.com/tenantdb/tenantdb/chaos/rough"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == app.Argument {
		os.Exit(app.Main(os.Args[2:]))
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "tier3:", err)
		os.Exit(1)
	}
}

func run() error {
	seed := flag.Uint64("seed", 1, "of the load")
	only := flag.String("only", "", "words of the worlds' names, with commas")
	allowMissing := flag.Bool("allow-missing", false,
		"succeed although this machine lacks what some worlds need")
	inside := flag.String("inside", "", "for the command itself: the world whose namespaces it is in")
	flag.Parse()
	if *inside != "" {
		return rough.Live(*inside, *seed)
	}
	worlds := slices.DeleteFunc(rough.All(), func(w rough.World) bool {
		return !slices.ContainsFunc(strings.Split(*only, ","), func(word string) bool {
			return strings.Contains(w.Name, word)
		})
	})
	if len(worlds) == 0 {
		return fmt.Errorf("-only %s: no world has such a name", *only)
	}
	var rows, failed, missing []string
	for _, w := range worlds {
		if lack := w.Missing(); lack != "" {
			fmt.Printf("%s: not tried: %s\n", w.Name, lack)
			missing = append(missing, w.Name)
			continue
		}
		printed, err := rough.Sandbox(w.Name, *seed)
		if err != nil {
			failed = append(failed, fmt.Sprintf("%s (%v)", w.Name, err))
		}
		rows = append(rows, printed...)
	}
	if len(rows) > 0 {
		fmt.Printf("\n%s\n%s\n", rig.TableHead, strings.Join(rows, "\n"))
	}
	switch {
	case len(failed) > 0:
		return fmt.Errorf("a promise was broken, or a world couldn't be made: %s", strings.Join(failed, ", "))
	case len(missing) > 0 && !*allowMissing:
		return fmt.Errorf("not tried: %s", strings.Join(missing, ", "))
	}
	return nil
}
