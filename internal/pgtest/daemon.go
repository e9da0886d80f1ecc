package pgtest

import (
	"bytes"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

// daemon is a program that runs in a temporary directory, as a user other than root.
type daemon struct {
	dir     string // holds its files and its log
	process *os.Process
	exited  chan struct{}
}

// makeDir makes a directory for a daemon.
func makeDir() (string, error) {
	dir, err := os.MkdirTemp(place(), "pgtest-")
	if err != nil {
		return "", err
	}
	return dir, give(dir)
}

// write writes a file in the daemon's directory.
func (d *daemon) write(name, content string) error {
	path := filepath.Join(d.dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		return err
	}
	return give(path)
}

// command returns a command that runs in the daemon's directory as a user other than root, and ends with this
// process.
func (d *daemon) command(path string, args ...string) *exec.Cmd {
	cmd := exec.Command(path, args...)
	cmd.Dir = d.dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential(), Setpgid: true}
	dieWithParent(cmd.SysProcAttr)
	return cmd
}

// run starts the program and waits until it answers.
func (d *daemon) run(cmd *exec.Cmd, ask func() error) error {
	log, err := os.OpenFile(filepath.Join(d.dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	started := make(chan error, 1)
	d.exited = make(chan struct{})
	go func() {
		// The kernel sends Pdeathsig when the thread that forked ends. So this thread lives until the program
		// has ended.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
		close(d.exited)
	}()
	if err := <-started; err != nil {
		return err
	}
	d.process = cmd.Process
	return d.awaitAnswer(filepath.Base(cmd.Path), ask)
}

// awaitAnswer returns when the program answers. If the program exits instead, the error has its log.
func (d *daemon) awaitAnswer(name string, ask func() error) error {
	deadline := time.After(30 * time.Second)
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for {
		if ask() == nil {
			return nil
		}
		select {
		case <-poll.C:
		case <-d.exited:
			return fmt.Errorf("%s exited: %s", name, d.lastWords())
		case <-deadline:
			d.Kill()
			return fmt.Errorf("%s did not answer within 30 s: %s", name, d.lastWords())
		}
	}
}

// Kill ends the program at once, as a crash would.
func (d *daemon) Kill() {
	d.signal(syscall.SIGQUIT)
}

// signal sends a signal and waits until the program has ended.
func (d *daemon) signal(sig syscall.Signal) {
	if d.process == nil {
		return
	}
	_ = d.process.Signal(sig)
	<-d.exited
	d.process = nil
}

// remove ends the program and removes its files.
func (d *daemon) remove() {
	d.Kill()
	if d.dir != "" {
		_ = os.RemoveAll(d.dir)
	}
}

// Log returns what the program has written to its log.
func (d *daemon) Log() string {
	b, _ := os.ReadFile(filepath.Join(d.dir, "log"))
	return string(b)
}

// lastWords returns the end of the log.
func (d *daemon) lastWords() []byte {
	b := []byte(d.Log())
	return bytes.TrimSpace(b[max(0, len(b)-2000):])
}

// give makes the daemons' user the owner of a file.
func give(path string) error {
	id := credential()
	if id == nil {
		return nil
	}
	return os.Chown(path, int(id.Uid), int(id.Gid))
}

// credential is the user that a daemon runs as. PostgreSQL and PgBouncer refuse root.
func credential() *syscall.Credential {
	if os.Getuid() != 0 {
		return nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		if u, err := user.Lookup(name); err == nil {
			uid, _ := strconv.ParseUint(u.Uid, 10, 32)
			gid, _ := strconv.ParseUint(u.Gid, 10, 32)
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		}
	}
	return nil
}

// freeAddress returns the URL of a free loopback port.
func freeAddress(as *url.Userinfo) (*url.URL, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer l.Close()
	return &url.URL{Scheme: "postgres", User: as, Host: l.Addr().String(), RawQuery: "sslmode=disable"}, nil
}
