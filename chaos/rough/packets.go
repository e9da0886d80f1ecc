package rough

import (
	"fmt"
	"net"
	"os/exec"
	"strings"
	"time"

	"github.com/tenantdb/tenantdb/chaos/rig"
)

// packets is a network that silently loses packets to and from a server: no connection is refused or reset.
var packets = World{Name: "packets", needs: []need{ip, nft}, size: small, prepare: noticeSilence,
	faults: []rig.Fault{
		{Name: "packets of a tenants' server vanish for 40 s", Settle: 8 * time.Second, Do: serverVanishes},
		{Name: "packets of a tenants' first host vanish, second promoted", Settle: 6 * time.Second,
			Do: firstHostVanishes},
		{Name: "3 of 10 packets of a tenants' server are lost for 20 s", Settle: 8 * time.Second,
			Do: packetsLost},
		{Name: "packets of the host vanish for 40 s", Settle: 8 * time.Second, Do: hostVanishes},
		{Name: "packets of the host vanish, standby promoted", Settle: 6 * time.Second,
			Do: hostVanishesForGood},
	}}

// keepalives let the host's servers notice that a machine is silent, also each other's. The pool asks the
// tenants' servers for the same with each connection.
var keepalives = []string{"tcp_keepalives_idle=5", "tcp_keepalives_interval=2", "tcp_keepalives_count=2",
	"tcp_user_timeout=9s"}

// noticeSilence makes the host's servers use keepalives, and its standby reconnect soon, since commits wait
// for it.
func noticeSilence(w *rig.World) error {
	for _, s := range []*rig.Server{w.Host.Primary(), w.Host.Standby()} {
		for _, setting := range append([]string{"wal_receiver_timeout=3s", "wal_sender_timeout=3s"},
			keepalives...) {
			name, value, _ := strings.Cut(setting, "=")
			if err := s.Exec("postgres", "ALTER SYSTEM SET "+name+" = '"+value+"'"); err != nil {
				return err
			}
		}
		if err := s.Exec("postgres", "SELECT pg_reload_conf()"); err != nil {
			return err
		}
	}
	return nil
}

// drop drops packets from and to a server, all of them or those that an nft expression selects, until restore
// is called.
func drop(s *rig.Server, which string) (restore func() error, err error) {
	_, port, err := net.SplitHostPort(s.Address())
	if err != nil {
		return nil, err
	}
	rules := fmt.Sprintf(`table inet chaos {
		chain in {
			type filter hook input priority 0
			tcp dport %[1]s %[2]s drop
			tcp sport %[1]s %[2]s drop
		}
	}`, port, which)
	return func() error { return command("nft", "delete", "table", "inet", "chaos") }, nftables(rules)
}

// nftables adds rules to nftables.
func nftables(rules string) error {
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %w: %s", err, out)
	}
	return nil
}

func serverVanishes(w *rig.World, t *rig.Trial) error {
	t.Spares = elsewhere(last(w))
	restore, err := drop(last(w).Primary(), "")
	if err != nil {
		return err
	}
	pause(40 * time.Second)
	err = restore()
	t.Mended()
	return err
}

func firstHostVanishes(w *rig.World, t *rig.Trial) error {
	p := w.Pairs[0]
	t.Spares = elsewhere(p)
	restore, err := drop(p.Primary(), "")
	if err != nil {
		return err
	}
	pause(2 * time.Second)
	old, err := p.FailOver()
	if err != nil {
		return err
	}
	t.Mended()
	pause(25 * time.Second) // longer than a statement that was sent may wait
	old.Crash()
	if err := restore(); err != nil {
		return err
	}
	return p.Rejoin()
}

// packetsLost slows everything down. Connections are not expected to survive it, and nothing has to fail.
func packetsLost(w *rig.World, t *rig.Trial) error {
	t.Spares = elsewhere(last(w))
	restore, err := drop(last(w).Primary(), "numgen random mod 10 < 3")
	if err != nil {
		return err
	}
	pause(20 * time.Second)
	err = restore()
	t.Mended()
	return err
}

func hostVanishes(w *rig.World, t *rig.Trial) error {
	ended := w.Judge.Outage(time.Now())
	restore, err := drop(w.Host.Primary(), "")
	if err != nil {
		return err
	}
	pause(40 * time.Second)
	if err := restore(); err != nil {
		return err
	}
	restored := time.Now()
	// its standby has to connect first
	err = await(time.Minute, "the host to commit", func() bool { return commits(w.Host.Primary()) })
	t.Note("the host confirmed a commit %.1f s after its packets came back", time.Since(restored).Seconds())
	ended(time.Now())
	t.Mended()
	return err
}

func hostVanishesForGood(w *rig.World, t *rig.Trial) error {
	ended := w.Judge.Outage(time.Now())
	restore, err := drop(w.Host.Primary(), "")
	if err != nil {
		return err
	}
	pause(3 * time.Second)
	old, err := w.Host.FailOver()
	if err != nil {
		return err
	}
	ended(time.Now())
	t.Mended()
	pause(25 * time.Second)
	old.Crash()
	if err := restore(); err != nil {
		return err
	}
	return w.Host.Rejoin()
}
