package faults

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb/chaos/rig"
)

// hosts are faults of the host database.
var hosts = []rig.Fault{
	{Name: "host hangs, standby promoted", Quick: true, Settle: 6 * time.Second, Do: hostHangs},
	{Name: "host killed, standby promoted", Quick: true, Settle: 6 * time.Second, Do: hostKilled},
	{Name: "host hangs for 10 s", Settle: 8 * time.Second, Do: hostHangsBriefly},
	{Name: "host locks core_tenants for 10 s", Settle: 6 * time.Second, Do: hostLocks},
	{Name: "host restarts", Settle: 6 * time.Second, Do: hostRestarts},
	{Name: "old primary of the host goes on, unfenced", Settle: 6 * time.Second, Do: hostUnfenced},
}

// hostHangs pauses the primary. The standby is promoted meanwhile, and the old primary is killed only later.
func hostHangs(w *rig.World, t *rig.Trial) error {
	ended := w.Judge.Outage(time.Now())
	if err := w.Host.Primary().Hang(); err != nil {
		return err
	}
	pause(3 * time.Second)
	old, err := w.Host.FailOver()
	if err != nil {
		return err
	}
	ended(time.Now())
	t.Mended()
	pause(10 * time.Second)
	old.Crash()
	return w.Host.Rejoin()
}

func hostKilled(w *rig.World, t *rig.Trial) error {
	ended := w.Judge.Outage(time.Now())
	w.Host.Primary().Crash()
	pause(3 * time.Second)
	if _, err := w.Host.FailOver(); err != nil {
		return err
	}
	ended(time.Now())
	t.Mended()
	pause(2 * time.Second)
	return w.Host.Rejoin()
}

func hostHangsBriefly(w *rig.World, t *rig.Trial) error {
	ended := w.Judge.Outage(time.Now())
	if err := w.Host.Primary().Hang(); err != nil {
		return err
	}
	pause(10 * time.Second)
	w.Host.Primary().Resume()
	ended(time.Now())
	t.Mended()
	return nil
}

func hostRestarts(w *rig.World, t *rig.Trial) error {
	ended := w.Judge.Outage(time.Now())
	w.Host.Primary().Stop()
	if err := w.Host.Primary().Start(); err != nil {
		return err
	}
	ended(time.Now())
	t.Mended()
	return nil
}

// hostLocks takes the lock that a migration of the host database takes.
func hostLocks(w *rig.World, t *rig.Trial) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, w.Host.Primary().URL("host"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	ended := w.Judge.Outage(time.Now())
	if _, err := conn.Exec(ctx, "BEGIN; LOCK TABLE core_tenants IN ACCESS EXCLUSIVE MODE"); err != nil {
		return err
	}
	pause(10 * time.Second)
	_, err = conn.Exec(ctx, "ROLLBACK")
	ended(time.Now())
	t.Mended()
	return err
}

// hostUnfenced lets the old primary go on after the standby was promoted. Then the product's connections to
// the new one are cut, so that it has to choose again.
func hostUnfenced(w *rig.World, t *rig.Trial) error {
	ended := w.Judge.Outage(time.Now())
	if err := w.Host.Primary().Hang(); err != nil {
		return err
	}
	pause(3 * time.Second)
	old, err := w.Host.FailOver()
	if err != nil {
		return err
	}
	ended(time.Now())
	pause(3 * time.Second)
	old.Resume()
	pause(time.Second)
	t.Mended()
	err = w.Host.Primary().Exec("host",
		"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'host' AND pid <> "+
			"pg_backend_pid()")
	if err != nil {
		return err
	}
	pause(8 * time.Second)
	old.Crash()
	return w.Host.Rejoin()
}
