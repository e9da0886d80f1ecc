package rough

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/tenantdb/tenantdb/chaos/rig"
)

// clocks is a world whose clocks are stepped. Linux has no namespace for the time of day, and stepping the
// machine's clock would affect every program on it. So the servers read their clock through libfaketime, and
// a process steps the clocks that the library is given: Config.Now, hostdb.Config.Now and jwtauth.Config.Now.
// The Go runtime's timers use the monotonic clock, which is never stepped.
var clocks = World{Name: "clocks", needs: []need{ip, libfaketime}, size: stepped, faults: []rig.Fault{
	{Name: "servers' clocks an hour ahead for 12 s, then back", Settle: 8 * time.Second,
		Do: serversAhead("+3600")},
	{Name: "servers' clocks an hour behind for 12 s, then back", Settle: 8 * time.Second,
		Do: serversAhead("-3600")},
	{Name: "a process's clock an hour ahead for 12 s, then back", Settle: 8 * time.Second, Do: processAhead},
}}

// stepFile has the number of seconds by which the servers' clocks of this process's world are ahead.
var stepFile string

// stepped makes all servers that are started from now on read their clocks through libfaketime.
func stepped(dir string) (rig.Size, error) {
	stepFile = filepath.Join(dir, "step")
	if err := step("+0"); err != nil {
		return rig.Size{}, err
	}
	size, err := small(dir)
	size.NoStandbys, size.Args = true, []string{"-clock"}
	for name, value := range map[string]string{
		"LD_PRELOAD": libfaketime.find(), "FAKETIME_TIMESTAMP_FILE": stepFile, "FAKETIME_NO_CACHE": "1",
		"FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_RESET": "1"} {
		if err := os.Setenv(name, value); err != nil {
			return size, err
		}
	}
	return size, err
}

// step steps the servers' clocks.
func step(ahead string) error { return os.WriteFile(stepFile, []byte(ahead+"\n"), 0o644) }

// serversAhead steps all servers' clocks. No request may fail.
func serversAhead(seconds string) func(*rig.World, *rig.Trial) error {
	return func(w *rig.World, t *rig.Trial) error {
		t.Spares = func(*rig.Tenant) bool { return true }
		if err := step(seconds); err != nil {
			return err
		}
		pause(6 * time.Second)
		n, err := w.Host.Primary().Count("SELECT round(extract(epoch FROM clock_timestamp()))::int - " +
			fmt.Sprint(time.Now().Unix()))
		if err != nil {
			return err
		}
		t.Note("the host's clock was %d s ahead", n)
		if n > -3590 && n < 3590 {
			t.Problem("the servers' clocks were not stepped")
		}
		pause(6 * time.Second)
		err = step("+0")
		t.Mended()
		return err
	}
}

// processAhead steps one process's clock. Credentials and subscriptions are valid for longer than an hour.
func processAhead(w *rig.World, t *rig.Trial) error {
	t.Spares = func(*rig.Tenant) bool { return true }
	p := w.Processes[0]
	if err := p.StepClock(time.Hour); err != nil {
		return err
	}
	pause(12 * time.Second)
	err := p.StepClock(0)
	t.Mended()
	return err
}
