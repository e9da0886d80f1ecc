package faults

import (
	"context"
	"sync"
	"time"

	"github.com/tenantdb/tenantdb/chaos/rig"
)

// processes are faults of the product's own processes.
var processes = []rig.Fault{
	{Name: "nothing", Settle: 8 * time.Second, Do: func(_ *rig.World, t *rig.Trial) error {
		t.Spares = nobody
		return nil
	}},
	{Name: "process killed (kill -9)", Quick: true, Settle: 4 * time.Second, Do: processKilled},
	{Name: "process killed (kill -9) while its queries of 20 s run", Settle: 8 * time.Second,
		Do: orphansLeft},
	{Name: "process with 256 file handles", Settle: time.Second, Do: fewHandles},
	{Name: "process starts while the host database is down", Settle: 4 * time.Second, Do: startsEarly},
	{Name: "deploy rolls through all processes", Quick: true, Settle: 2 * time.Second, Do: deploy},
}

// processKilled kills a process and starts it again.
func processKilled(w *rig.World, t *rig.Trial) error {
	p := w.Processes[w.Random.IntN(len(w.Processes))]
	p.Kill()
	pause(time.Second)
	err := p.Start()
	t.Mended()
	return err
}

// orphansLeft kills a process whose queries go on at the servers until those notice. Its successor has a full
// budget of its own.
func orphansLeft(w *rig.World, t *rig.Trial) error {
	p := w.Processes[w.Random.IntN(len(w.Processes))]
	var asking sync.WaitGroup
	for _, tenant := range w.Of(last(w))[:8] {
		asking.Go(func() { w.Load.Ask(context.Background(), p, "slow", tenant.Clients[0], "ms=20000") })
	}
	pause(2 * time.Second)
	p.Kill()
	err := p.Start()
	t.Mended()
	asking.Wait()
	return err
}

// fewHandles makes a process serve every tenant although it may have only 256 file handles.
func fewHandles(w *rig.World, t *rig.Trial) error {
	t.Spares = nobody
	w.Extra(1)
	p, err := w.PrepareProcess()
	if err != nil {
		return err
	}
	p.Wrap = []string{"prlimit", "--nofile=256:256"}
	if err := p.Start(); err != nil {
		return err
	}
	for range 3 {
		for _, tenant := range w.Tenants {
			w.Load.Add(w.Load.Ask(context.Background(), p, "me", tenant.Clients[0], ""))
			w.Load.Add(w.Load.Ask(context.Background(), p, "write", tenant.Clients[0], ""))
		}
	}
	return p.End(20 * time.Second)
}

// startsEarly starts a process while the host database is down. The host database comes up 5 s later.
func startsEarly(w *rig.World, t *rig.Trial) error {
	ended := w.Judge.Outage(time.Now())
	w.Extra(1)
	w.Host.Primary().Kill()
	p, err := w.PrepareProcess("-start", "30s")
	if err != nil {
		return err
	}
	ready := make(chan error, 1)
	go func() { ready <- p.Start() }()
	pause(5 * time.Second)
	if err := w.Host.Primary().Start(); err != nil {
		return err
	}
	ended(time.Now())
	t.Mended()
	if err := <-ready; err != nil {
		t.Problem("%v", err)
		return nil
	}
	if took := t.SinceMended(); took > 5*time.Second {
		t.Problem("the process was ready %v after the host database", took)
	}
	return p.End(20 * time.Second)
}

// deploy replaces each process: the new one gets ready, the balancer switches, the old one ends. No request
// may fail.
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
