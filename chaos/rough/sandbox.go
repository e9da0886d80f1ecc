package rough

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/tenantdb/tenantdb/chaos/rig"
)

// Sandbox runs a world in namespaces of its own: processes, mounts and network. It returns the lines of the
// table. Nothing outlives it: when it ends, or this process does, the kernel kills whatever runs in there.
func Sandbox(world string, seed uint64) (rows []string, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "tier3-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // PostgreSQL runs as another user
		return nil, err
	}
	// The first process is a shell, because the first process has to reap orphans.
	cmd := exec.Command("/bin/sh", "-c", `"$@"; exit $?`, "sh", self, "-inside", world, "-seed",
		fmt.Sprint(seed))
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	var printed bytes.Buffer
	cmd.Stdout, cmd.Stderr = io.MultiWriter(os.Stdout, &printed), os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET,
		Pdeathsig:  syscall.SIGKILL}
	runtime.LockOSThread() // Pdeathsig is sent when the parent's thread ends
	defer runtime.UnlockOSThread()
	err = cmd.Run()
	for line := range strings.Lines(printed.String()) {
		if strings.HasPrefix(line, "| ") {
			rows = append(rows, strings.TrimSpace(line))
		}
	}
	return rows, err
}

// Live runs a world in its namespaces.
func Live(name string, seed uint64) error {
	if err := settle(); err != nil {
		return err
	}
	for _, w := range All() {
		if w.Name == name {
			return w.live(seed, filepath.Join(os.TempDir(), "world"))
		}
	}
	return fmt.Errorf("no world is called %q", name)
}

// settle makes the namespaces usable: mounts stay inside, /proc shows the processes in here, and the loopback
// interface is up.
func settle() error {
	return errors.Join(syscall.Mount("", "/", "", syscall.MS_PRIVATE|syscall.MS_REC, ""),
		syscall.Mount("proc", "/proc", "proc", 0, ""),
		command("ip", "link", "set", "lo", "up"))
}

func (w World) live(seed uint64, dir string) error {
	began := time.Now()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	size, err := w.size(dir)
	if err != nil {
		return err
	}
	world, err := rig.NewWorld(seed, size)
	if err != nil {
		return err
	}
	defer world.Close()
	if w.prepare != nil {
		if err := w.prepare(world); err != nil {
			return err
		}
	}
	world.ChangeRights(100 * time.Millisecond)
	fmt.Printf("\n%s: seed %d, %d tenants, set up in %.0f s\n", w.Name, seed, len(world.Tenants),
		time.Since(began).Seconds())
	broken := 0
	for _, f := range w.faults {
		r := world.Try(f)
		fmt.Printf("%5.0f s %s\n%s\n", time.Since(began).Seconds(), r, r.Row())
		if len(r.Problems) > 0 {
			broken++
		}
	}
	if err := world.Rights.Pause(); err != nil {
		return err
	}
	fmt.Printf("%s: %.0f s, %d changes of rights (%d more failed)\n", w.Name, time.Since(began).Seconds(),
		world.Rights.Changed, world.Rights.Failed)
	if broken > 0 {
		return fmt.Errorf("%d of %d faults broke a promise", broken, len(w.faults))
	}
	return nil
}
