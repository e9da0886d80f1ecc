package faults

import (
	"time"

	"github.com/tenantdb/tenantdb/chaos/rig"
)

// processes are faults of the product's own processes.
var processes = []rig.Fault{
	{Name: "nothing", Settle: 8 * time.Second, Do: func(_ *rig.World, t *rig.Trial) error { t.Spares = nobody; return nil }},
	{Name: "process killed (kill -9)", Quick: true, Settle: 4 * time.Second, Do: processKilled},
	{Name: "deploy rolls through all processes", Quick: true, Settle: 2 * time.Second, Do: deploy},
}

// processKilled kills a process, which somebody starts again.
func processKilled(w *rig.World, t *rig.Trial) error {
	p := w.Processes[w.Random.IntN(len(w.Processes))]
	p.Kill()
	pause(time.Second)
	err := p.Start()
	t.Mended()
	return err
}

// deploy replaces each process by a new one: the new one is ready, the balancer is told, the old one ends. No request may fail.
func deploy(w *rig.World, t *rig.Trial) error {
	t.Spares = nobody
	w.Extra(1)
	for i, old := range w.Processes {
		fresh, err := w.StartProcess()
		if err != nil {
			return err
		}
		w.Processes[i] = fresh
		w.Load.Send(w.Processes...)
		began := time.Now()
		if err := old.End(30 * time.Second); err != nil {
			t.Problem("%v", err)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Problem("%s took %v to end", old.Name, took)
		}
		if err := old.Complaints(); err != nil {
			t.Problem("%v", err)
		}
	}
	return nil
}
