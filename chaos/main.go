// Command chaos tries a product that uses tenantdb while servers, processes and tenants' databases fail, and
// prints a table. From the repository's root:
//
//	go run -C chaos . -seed 3                  every fault, about 20 minutes
//	go run -C chaos . -only "deploy,hangs"     those whose names contain one of the words
//	go run -C chaos . -soak -duration 1h       no fault but restarts, and many tenants
//
// The seed decides the order of the faults, which of the processes they hit, who asks for what, and which
// rights change. It needs Linux and PostgreSQL's binaries (Debian: apt-get install postgresql). See
// docs/chaos.md.
package main

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/tenantdb/tenantdb/chaos/app"
	"github.com/tenantdb/tenantdb/chaos/faults"
	"github.com/tenantdb/tenantdb/chaos/rig"
	"github.com/tenantdb/tenantdb/chaos/soak"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == app.Argument {
		os.Exit(app.Main(os.Args[2:]))
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
}

func run() error {
	seed := flag.Uint64("seed", 1, "of the order of the faults and of the load")
	only := flag.String("only", "", "words of the faults' names, with commas")
	tenants := flag.Int("tenants", 150, "tenants of each of the two PostgreSQL servers")
	files := flag.Int("files", 50, "tenants with SQLite files")
	rate := flag.Float64("rate", 100, "requests a second")
	soaking := flag.Bool("soak", false, "soak instead of faults")
	duration := flag.Duration("duration", time.Hour, "of a soak")
	flag.Parse()
	dir, err := os.MkdirTemp("", "chaos-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	// pgtest prefers a file system in memory, which hundreds of databases would fill
	if os.Getenv("TMPDIR") == "" {
		if err := os.Setenv("TMPDIR", os.TempDir()); err != nil {
			return err
		}
	}
	if *soaking {
		return soak.Run(os.Stdout, *seed, dir, *rate, *duration)
	}
	size := rig.Size{Servers: 2, Tenants: *tenants, Files: *files, Processes: 3, Budget: 24, Rate: *rate,
		Dir: dir}
	return try(*seed, size, choose(*only))
}

// choose picks faults by words of their names.
func choose(only string) []rig.Fault {
	return slices.DeleteFunc(faults.All(), func(f rig.Fault) bool {
		return !slices.ContainsFunc(strings.Split(only, ","), func(word string) bool {
			return strings.Contains(f.Name, word)
		})
	})
}

// try tries faults in a world, in an order that the seed decides, and prints the table.
func try(seed uint64, size rig.Size, list []rig.Fault) error {
	began := time.Now()
	w, err := rig.NewWorld(seed, size)
	if err != nil {
		return err
	}
	defer w.Close()
	defer w.CloseOnSignal()()
	w.ChangeRights(100 * time.Millisecond)
	fmt.Printf("seed %d, %d tenants, set up in %.0f s\n\n", seed, len(w.Tenants), time.Since(began).Seconds())
	rand.New(rand.NewPCG(seed, 3)).Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	broken, rows := 0, []string{rig.TableHead}
	for _, f := range list {
		r := w.Try(f)
		rows = append(rows, r.Row())
		fmt.Printf("%5.0f s %s\n", time.Since(began).Seconds(), r)
		if len(r.Problems) > 0 {
			broken++
		}
	}
	if err := w.Rights.Pause(); err != nil {
		return err
	}
	written := 0
	for _, ids := range w.Judge.Written() {
		written += len(ids)
	}
	fmt.Printf(
		"\n%s\n\nseed %d, %.0f minutes, %d changes of rights (%d more failed), %d acknowledged writes\n",
		strings.Join(rows, "\n"), seed,
		time.Since(began).Minutes(), w.Rights.Changed, w.Rights.Failed, written)
	if broken > 0 {
		return fmt.Errorf("%d of %d faults broke a promise", broken, len(list))
	}
	return nil
}
