// Package rough has the worlds that only root can make. Each has servers, processes and faults of its own,
// and uses the same judge.
package rough

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/tenantdb/tenantdb/chaos/rig"
)

// World is a world that needs root.
type World struct {
	Name string
	// needs are the programs without which it can't be made.
	needs []need
	// size makes what the world needs before it starts, and returns its size.
	size func(dir string) (rig.Size, error)
	// prepare changes the world before its first fault. It may be nil.
	prepare func(*rig.World) error
	faults  []rig.Fault
}

// need is a program, or a pattern of paths, and the Debian package that has it.
type need struct{ what, pkg string }

// find returns its path, or "" if it isn't installed.
func (n need) find() string {
	if path, err := exec.LookPath(n.what); err == nil {
		return path
	}
	if paths, _ := filepath.Glob(n.what); len(paths) > 0 && filepath.IsAbs(n.what) {
		return paths[0]
	}
	return ""
}

var (
	ip          = need{"ip", "iproute2"}
	nft         = need{"nft", "nftables"}
	libfaketime = need{"/usr/lib/*/faketime/libfaketime.so.1", "libfaketime"}
)

// All returns the worlds.
func All() []World {
	return []World{packets, patroni, pauses, disks, names, clocks}
}

// Missing returns what this machine lacks, or "".
func (w World) Missing() string {
	if os.Getuid() != 0 {
		return "namespaces are made by root only"
	}
	for _, n := range w.needs {
		if n.find() == "" {
			return fmt.Sprintf("there is no %s (apt-get install %s)", n.what, n.pkg)
		}
	}
	return ""
}

// small returns the size of most worlds: a server with a standby and one without.
func small(dir string) (rig.Size, error) {
	return rig.Size{Servers: 2, Tenants: 8, Processes: 2, Budget: 16, Rate: 60, Dir: dir}, nil
}

// pause waits while the world goes on.
func pause(d time.Duration) { <-time.After(d) }

// elsewhere spares the tenants that are not on a pair of servers.
func elsewhere(p *rig.Pair) func(*rig.Tenant) bool {
	return func(t *rig.Tenant) bool { return t.Pair != p }
}

// last returns the server that has no standby.
func last(w *rig.World) *rig.Pair { return w.Pairs[len(w.Pairs)-1] }

// terminate ends the product's connections to a server, so that new ones are needed.
func terminate(s *rig.Server) error {
	return s.Exec("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '"+
		rig.ProductRole+"'")
}

// commits reports whether a server confirms a commit. It waits for a minute.
func commits(s *rig.Server) bool {
	return s.Exec("postgres", "CREATE TABLE IF NOT EXISTS probe ()", "DROP TABLE probe") == nil
}

// command runs a program. Its output is the error's text.
func command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %v: %w: %s", name, args, err, out)
	}
	return nil
}
