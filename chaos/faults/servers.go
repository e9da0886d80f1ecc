package faults

import (
	"time"

	"github.com/tenantdb/tenantdb/chaos/rig"
)

// servers are faults of servers with tenants' databases. The first server has a standby, the last has none.
var servers = []rig.Fault{
	{Name: "backends terminated", Quick: true, Settle: 3 * time.Second, Do: backendsTerminated},
	{Name: "tenants' server hangs, second host promoted", Quick: true, Settle: 6 * time.Second,
		Do: serverHangs},
	{Name: "outsider exhausts max_connections", Quick: true, Settle: 7 * time.Second, Do: exhausted},
	{Name: "tenants' server killed, second host promoted", Settle: 6 * time.Second, Do: serverKilled},
	{Name: "server down for 8 s (immediate)", Settle: 8 * time.Second, Do: down(8 * time.Second)},
	{Name: "server down for 60 s", Settle: 8 * time.Second, Do: down(60 * time.Second)},
	{Name: "server crashes (kill -9 of all) and recovers", Settle: 8 * time.Second, Do: crashes},
	{Name: "server hangs for 10 s", Settle: 8 * time.Second, Do: hangs},
	{Name: "old primary of tenants' server goes on, unfenced", Settle: 6 * time.Second, Do: serverUnfenced},
	{Name: "idle_session_timeout of 300 ms", Settle: 4 * time.Second, Do: idleSessions},
}

func last(w *rig.World) *rig.Pair { return w.Pairs[len(w.Pairs)-1] }

const terminateProduct = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '" +
	rig.ProductRole + "'"

func backendsTerminated(w *rig.World, t *rig.Trial) error {
	t.Spares = elsewhere(last(w))
	n := 0
	for range 50 {
		ended, err := last(w).Primary().Count("SELECT count(pg_terminate_backend(pid)) FROM (" +
			"SELECT pid FROM pg_stat_activity WHERE usename = '" + rig.ProductRole +
			"' ORDER BY random() LIMIT 1) AS one")
		if err != nil {
			return err
		}
		n += ended
		pause(60 * time.Millisecond)
	}
	t.Note("%d backends", n)
	return nil
}

// serverHangs pauses the first host of the tenants' db_urls. The second is promoted meanwhile, and the first
// is killed only later.
func serverHangs(w *rig.World, t *rig.Trial) error {
	p := w.Pairs[0]
	t.Spares = elsewhere(p)
	if err := p.Primary().Hang(); err != nil {
		return err
	}
	pause(2 * time.Second)
	old, err := p.FailOver()
	if err != nil {
		return err
	}
	t.Mended()
	pause(10 * time.Second)
	old.Crash()
	return p.Rejoin()
}

func serverKilled(w *rig.World, t *rig.Trial) error {
	p := w.Pairs[0]
	t.Spares = elsewhere(p)
	p.Primary().Crash()
	pause(2 * time.Second)
	if _, err := p.FailOver(); err != nil {
		return err
	}
	t.Mended()
	pause(3 * time.Second)
	return p.Rejoin()
}

// exhausted makes another program take every connection that the server has, and those that the product
// loses.
func exhausted(w *rig.World, t *rig.Trial) error {
	s := last(w).Primary()
	t.Spares = elsewhere(last(w))
	taken := 0
	var free []func()
	for range 8 { // the product loses its connections, and both programs want those that become free
		if err := s.Exec("postgres", terminateProduct); err != nil {
			return err
		}
		n, f := rig.Occupy(s, 100)
		taken, free = taken+n, append(free, f)
	}
	pause(6 * time.Second) // longer than AcquireTimeout, so that waiting requests are refused
	for _, f := range free {
		f()
	}
	t.Mended()
	t.Note("%d taken", taken)
	return nil
}

// down stops a server for a while, as pg_ctl stop -m immediate does.
func down(d time.Duration) func(*rig.World, *rig.Trial) error {
	return func(w *rig.World, t *rig.Trial) error {
		t.Spares = elsewhere(last(w))
		last(w).Primary().Kill()
		pause(d)
		err := last(w).Primary().Start()
		t.Mended()
		return err
	}
}

func crashes(w *rig.World, t *rig.Trial) error {
	t.Spares = elsewhere(last(w))
	last(w).Primary().Crash()
	pause(2 * time.Second)
	err := last(w).Primary().Start()
	t.Mended()
	return err
}

func hangs(w *rig.World, t *rig.Trial) error {
	t.Spares = elsewhere(last(w))
	if err := last(w).Primary().Hang(); err != nil {
		return err
	}
	pause(10 * time.Second)
	last(w).Primary().Resume()
	t.Mended()
	return nil
}

func idleSessions(w *rig.World, t *rig.Trial) error {
	t.Spares = elsewhere(last(w))
	s := last(w).Primary()
	if err := s.Exec("postgres", "ALTER SYSTEM SET idle_session_timeout = '300ms'",
		"SELECT pg_reload_conf()"); err != nil {
		return err
	}
	pause(10 * time.Second)
	err := s.Exec("postgres", "ALTER SYSTEM RESET idle_session_timeout", "SELECT pg_reload_conf()")
	t.Mended()
	return err
}

// serverUnfenced lets the first host go on after the second was promoted. Then the product's connections to
// the second are cut, so that it has to choose again. A write to the first host would be lost.
func serverUnfenced(w *rig.World, t *rig.Trial) error {
	p := w.Pairs[0]
	t.Spares = elsewhere(p)
	if err := p.Primary().Hang(); err != nil {
		return err
	}
	pause(2 * time.Second)
	old, err := p.FailOver()
	if err != nil {
		return err
	}
	pause(5 * time.Second)
	old.Resume()
	pause(time.Second)
	if err := p.Primary().Exec("postgres", terminateProduct); err != nil {
		return err
	}
	t.Mended()
	pause(8 * time.Second)
	old.Crash()
	return p.Rejoin()
}
