package rough

import (
	"path/filepath"
	"syscall"
	"time"

	"github.com/tenantdb/tenantdb/chaos/rig"
)

// ha is the Patroni cluster of this process's world.
var ha *cluster

// patroni is a world whose host database and first tenants' server are a cluster that Patroni leads. URLs
// name both nodes.
var patroni = World{Name: "patroni", size: clustered,
	needs: []need{ip, {"patroni", "patroni"}, {"etcd", "etcd-server"},
		{"/usr/lib/python3/dist-packages/etcd", "python3-etcd"}},
	faults: []rig.Fault{
		{Name: "Patroni: switchover", Settle: 6 * time.Second, Do: switchedOver},
		{Name: "Patroni: leader killed (kill -9 of all)", Settle: 6 * time.Second, Do: leaderKilled},
		{Name: "Patroni: leader paused, and goes on after the failover", Settle: 6 * time.Second,
			Do: leaderPaused},
	}}

func clustered(dir string) (rig.Size, error) {
	plain, err := rig.NewPair("server 1", false, "max_connections=60", "superuser_reserved_connections=6")
	if err != nil {
		return rig.Size{}, err
	}
	if ha, err = newCluster(dir, filepath.Dir(plain.Primary().Program("postgres"))); err != nil {
		return rig.Size{}, err
	}
	// A paused leader is silent for longer than a statement may wait, while its machine goes on acknowledging
	// packets.
	return rig.Size{GivenHost: ha.pair, Given: []*rig.Pair{ha.pair, plain}, Servers: 2, Tenants: 8,
		Processes: 2, Budget: 16, Rate: 60, Dir: dir,
		Args: []string{"-query", "15s"}}, nil
}

// failover makes a fault at the leader, and waits for another leader.
func failover(w *rig.World, t *rig.Trial, fault func(leader *node) error) error {
	if err := ha.awaitFollower(); err != nil {
		return err
	}
	began := time.Now()
	ended := w.Judge.Outage(began)
	if err := fault(ha.leader()); err != nil {
		return err
	}
	if err := ha.awaitFailover(); err != nil {
		return err
	}
	ended(time.Now())
	t.Mended()
	t.Note("another leader confirmed a commit %.1f s after the fault", time.Since(began).Seconds())
	return nil
}

func switchedOver(w *rig.World, t *rig.Trial) error {
	return failover(w, t, func(leader *node) error {
		return command("patronictl", "-c", leader.configuration(), "switchover", "--force", "chaos")
	})
}

func leaderKilled(w *rig.World, t *rig.Trial) error {
	var killed *node
	err := failover(w, t, func(leader *node) error {
		killed = leader
		leader.signal(syscall.SIGSTOP) // so that nobody learns of the others' end
		leader.signal(syscall.SIGKILL)
		_ = leader.patroni.Wait()
		return nil
	})
	if err != nil {
		return err
	}
	if err := killed.start(); err != nil {
		return err
	}
	return ha.awaitFollower()
}

// leaderPaused continues the old leader 10 s after the other node was promoted. Then Patroni demotes it.
func leaderPaused(w *rig.World, t *rig.Trial) error {
	var old *node
	err := failover(w, t, func(leader *node) error {
		old = leader
		leader.signal(syscall.SIGSTOP)
		return nil
	})
	if err != nil {
		return err
	}
	pause(10 * time.Second)
	old.signal(syscall.SIGCONT)
	return ha.awaitFollower()
}
