// Package soak runs a product with many tenants for long, with migrations, revocations and restarts, and
// looks for anything that grows.
package soak

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/tenantdb/tenantdb/chaos/judge"
	"github.com/tenantdb/tenantdb/chaos/rig"
)

// The size of the soak.
const (
	servers          = 2
	tenantsPerServer = 250
	files            = 500
)

// round is how long the product runs between two measurements.
const round = 2 * time.Minute

// Run soaks for a while. It returns an error if something was lost, mixed up, or has grown.
func Run(out io.Writer, seed uint64, dir string, rate float64, duration time.Duration) error {
	began := time.Now()
	w, err := rig.NewWorld(seed, rig.Size{Servers: servers, Tenants: tenantsPerServer, Files: files,
		Processes: 3, Budget: 48, Rate: rate,
		Dir: dir, NoStandbys: true})
	if err != nil {
		return err
	}
	defer w.Close()
	defer w.CloseOnSignal()()
	w.ChangeRights(100 * time.Millisecond)
	fmt.Fprintf(out, "seed %d, %d tenants, set up in %.0f s\n", seed, len(w.Tenants),
		time.Since(began).Seconds())
	fmt.Fprintln(out,
		"| minute | requests | served | denied | failed | late allows | lost writes | heap, KB | goroutines "+
			"| handles |\n|---|---|---|---|---|---|---|---|---|---|")
	var broken []error
	for i, end := 0, time.Now().Add(duration); time.Now().Before(end); i++ {
		r := w.Try(rig.Fault{Name: fmt.Sprintf("round %d", i), Do: func(w *rig.World, t *rig.Trial) error {
			return live(w, t, i)
		}})
		heap, goroutines, handles := w.Held()
		fmt.Fprintf(out, "| %.0f | %d | %d | %d | %d | %d | %d | %s | %s | %s |\n",
			time.Since(began).Minutes(), r.Summary.Sent, r.Summary.Served,
			r.Summary.Denied, r.Summary.Failed, r.Report.Count(judge.LateAllow), r.Lost,
			strings.Join(heap, " "), strings.Join(goroutines, " "),
			strings.Join(handles, " "))
		for _, problem := range r.Problems {
			broken = append(broken, fmt.Errorf("%s: %s", r.Fault, problem))
		}
	}
	changed := w.Rights.Changed
	written := 0
	for _, ids := range w.Judge.Written() {
		written += len(ids)
	}
	fmt.Fprintf(out, "%d rights changed, %d writes acknowledged and found\n", changed, written)
	return errors.Join(broken...)
}

// live runs a round: a migration of every tenant, and in every second round a restart of a process. No
// request may fail.
func live(w *rig.World, t *rig.Trial, i int) error {
	until := time.After(round)
	t.Spares = func(*rig.Tenant) bool { return true }
	if i%2 == 1 {
		p := w.Processes[i/2%2] // the last process is never restarted, so that slow growth shows
		w.Load.Send(slices.DeleteFunc(slices.Clone(w.Processes), func(q *rig.Process) bool {
			return q == p
		})...)
		if err := p.End(20 * time.Second); err != nil {
			return err
		}
		if err := p.Start(); err != nil {
			return err
		}
		w.Load.Send(w.Processes...)
	}
	t.Mended()
	for _, tenant := range w.Tenants {
		if err := tenant.Migrate(fmt.Sprintf("ALTER TABLE wide ADD COLUMN round_%d int", i)); err != nil {
			return err
		}
	}
	<-until
	return nil
}
