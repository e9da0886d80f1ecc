package rough

import (
	"syscall"
	"time"

	"github.com/tenantdb/tenantdb/chaos/rig"
)

// pauses is a machine that stops its programs for a while, as one that is moved to another host does.
// Connections stay, and so does what a process knows. A request that was sent meanwhile is answered late, by
// what is true then.
var pauses = World{Name: "pauses", needs: []need{ip}, size: small, faults: []rig.Fault{
	{Name: "process paused for 10 s, and again a second later", Settle: 6 * time.Second, Do: pausedTwice},
	// longer than MaxStaleIfDown
	{Name: "process paused for 130 s", Settle: 6 * time.Second, Do: pausedForLong},
}}

func pausedTwice(w *rig.World, t *rig.Trial) error {
	for range 2 {
		pause(time.Second)
		if err := w.Processes[0].Signal(syscall.SIGSTOP); err != nil {
			return err
		}
		pause(10 * time.Second)
		if err := w.Processes[0].Signal(syscall.SIGCONT); err != nil {
			return err
		}
	}
	t.Mended()
	return nil
}

// pausedForLong pauses a process so long that the balancer notices. The balancer sends requests again shortly
// before the process goes on.
func pausedForLong(w *rig.World, t *rig.Trial) error {
	w.Load.Send(w.Processes[1:]...)
	pause(200 * time.Millisecond)
	if err := w.Processes[0].Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	pause(130 * time.Second)
	w.Load.Send(w.Processes...)
	pause(time.Second)
	err := w.Processes[0].Signal(syscall.SIGCONT)
	t.Mended()
	return err
}
