package rig

import (
	"fmt"
	"time"
)

// rest is what a process holds while nobody asks anything. Connections that the pool keeps are left out: how many it keeps depends on
// what was asked last.
type rest struct {
	life, goroutines, handles int
	heap                      uint64
}

// leaks stops the load, and compares what each process holds with what it held when it was looked at first. Rests are awaited for a
// while: what the last requests began may take until then.
func (w *World) leaks() (leaks []string) {
	w.Load.Stop()
	w.started++
	defer w.Load.Start(w.Seed + uint64(w.started))
	deadline := time.Now().Add(8 * time.Second)
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
			<-time.After(100 * time.Millisecond)
		}
	}
	return leaks
}

// compare returns what a process holds beyond what it held before, "" where all is well.
func (w *World) compare(p *Process) string {
	s, err := p.State()
	if err != nil {
		return p.Name + ": " + err.Error()
	}
	if n := s.Busy(); n > 0 {
		return fmt.Sprintf("%s has %d connections handed out, or waited for, at rest", p.Name, n)
	}
	now := rest{life: p.Pid(), goroutines: s.Goroutines, handles: s.Handles - s.Sockets(), heap: s.Heap}
	before, known := w.base[p]
	switch {
	case !known || before.life != now.life:
		w.base[p] = now
	case now.goroutines != before.goroutines:
		return fmt.Sprintf("%s had %d goroutines and has %d", p.Name, before.goroutines, now.goroutines)
	case now.handles != before.handles:
		return fmt.Sprintf("%s had %d handles and has %d", p.Name, before.handles, now.handles)
	case now.heap > before.heap+before.heap/10:
		return fmt.Sprintf("%s had %d KB in use and has %d", p.Name, before.heap>>10, now.heap>>10)
	}
	return ""
}
