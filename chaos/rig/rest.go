package rig

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tenantdb/tenantdb/chaos/judge"
)

// rest is what a process holds at rest: all tenants are closed, and no request is under way.
type rest struct {
	pid, goroutines, handles int
	heap                     uint64
	from                     map[string]int // which functions started how many goroutines
}

// slack is how much a heap may grow beyond the tenth that is allowed. The caches of a new process fill up.
const slack = 1 << 20

// leaks compares what each process holds at rest with what it held the first time. Meanwhile it stops the
// load and the changes of rights, and closes all tenants, because how many connections and handles the pool
// keeps for open tenants depends on the requests.
func (w *World) leaks() (leaks []string, err error) {
	w.Load.Stop()
	w.rests++
	defer w.Load.Start(w.Seed + uint64(w.rests))
	if w.Rights != nil {
		if err := w.Rights.Pause(); err != nil {
			return nil, fmt.Errorf("rights can't be given back: %w", err)
		}
		defer w.Rights.Continue()
	}
	if err := w.warmUp(); err != nil {
		return nil, err
	}
	if err := w.setAll(false); err != nil {
		return nil, err
	}
	deadline := time.Now().Add(6 * time.Second) // the last requests' work may take a while to end
	for _, p := range w.Processes {
		for {
			leak := w.compare(p)
			if leak == "" {
				break
			}
			if time.Now().After(deadline) {
				leaks = append(leaks, leak)
				break
			}
			<-time.After(50 * time.Millisecond)
		}
	}
	if err := w.setAll(true); err != nil {
		return nil, err
	}
	return leaks, w.touchAll()
}

// compare returns what a process holds beyond what it held before, or "".
func (w *World) compare(p *Process) string {
	s, err := p.State()
	if err != nil {
		return p.Name + ": " + err.Error()
	}
	if n := s.Sockets() + s.Stats.Pool.SQLite.Open; n > 0 {
		return fmt.Sprintf("%s has %d connections and files of tenants that were closed", p.Name, n)
	}
	now := rest{pid: p.Pid(), goroutines: s.Goroutines, handles: s.Handles - s.HostConns, heap: s.Heap,
		from: p.goroutines()}
	// pgx reads ahead on a connection on which a write took long, until the connection is used again.
	now.goroutines -= now.from["github.com/jackc/pgx/v5/pgconn/internal/bgreader.(*BGReader).Start"]
	w.held[p] = now
	before, known := w.base[p]
	if known && before.pid == now.pid {
		// A goroutine or a handle may have been about to go at the first count.
		before.goroutines = min(before.goroutines, now.goroutines)
		before.handles = min(before.handles, now.handles)
		w.base[p] = before
	}
	switch {
	case !known || before.pid != now.pid:
		w.base[p] = now
	case now.goroutines > before.goroutines:
		return fmt.Sprintf("%s had %d goroutines and has %d: %v and %v", p.Name, before.goroutines,
			now.goroutines, before.from, now.from)
	case now.handles > before.handles:
		return fmt.Sprintf("%s had %d handles and has %d", p.Name, before.handles, now.handles)
	case now.heap > before.heap+max(before.heap/10, slack):
		return fmt.Sprintf("%s had %d KB in use and has %d", p.Name, before.heap>>10, now.heap>>10)
	}
	return ""
}

// setAll opens or closes all tenants.
func (w *World) setAll(open bool) error {
	before := time.Now()
	for _, t := range w.Tenants {
		w.Judge.Changing(judge.Tenant(t.Slug), open, before)
	}
	if err := w.HostExec("UPDATE core_tenants SET status = $1",
		map[bool]string{true: "active", false: "suspended"}[open]); err != nil {
		return err
	}
	after := time.Now()
	for _, t := range w.Tenants {
		w.Judge.Changed(judge.Tenant(t.Slug), after)
	}
	return nil
}

// touchAll makes every process serve every tenant, by a read and a write.
func (w *World) touchAll() error {
	return w.onEach(func(p *Process) error {
		for _, t := range w.Tenants {
			for _, kind := range []string{"me", "conn"} {
				if err := w.touch(p, t.Clients[0], kind); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// warmUp makes every process that wasn't measured yet serve every client, so that its caches are as full as
// they will be.
func (w *World) warmUp() error {
	return w.onEach(func(p *Process) error {
		if before, known := w.base[p]; known && before.pid == p.Pid() {
			return nil
		}
		for _, c := range w.clients {
			if err := w.touch(p, c, "me"); err != nil {
				return err
			}
		}
		return nil
	})
}

// onEach calls a function for all processes concurrently.
func (w *World) onEach(do func(*Process) error) error {
	var doing sync.WaitGroup
	errs := make([]error, len(w.Processes))
	for i, p := range w.Processes {
		doing.Go(func() { errs[i] = do(p) })
	}
	doing.Wait()
	w.Load.client.CloseIdleConnections()
	return errors.Join(errs...)
}

// Held returns what the processes held at the last measurement: heaps in KB, goroutines and handles.
func (w *World) Held() (heap, goroutines, handles []string) {
	for _, p := range w.Processes {
		now := w.held[p]
		heap = append(heap, fmt.Sprint(now.heap>>10))
		goroutines = append(goroutines, fmt.Sprint(now.goroutines))
		handles = append(handles, fmt.Sprint(now.handles))
	}
	return heap, goroutines, handles
}

// touch sends requests until one is served. A right that was just given back takes a while to take effect.
func (w *World) touch(p *Process, c Client, kind string) error {
	deadline := time.Now().Add(recoveryWithin)
	for {
		s := w.Load.Ask(context.Background(), p, kind, c, "")
		if s.OK() {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s doesn't serve %s: %s %s", p.Name, c.Tenant.Slug, s.What(), s.Cause)
		}
		<-time.After(20 * time.Millisecond)
	}
}
