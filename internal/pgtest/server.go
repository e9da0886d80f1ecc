package pgtest

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// Server is a PostgreSQL server. One that pgtest didn't start can't be stopped.
type Server struct {
	base     *url.URL
	bin      string
	dir      string // holds data/ and the server's log
	settings []string
	process  *os.Process
	exited   chan struct{}
}

const password = "pgtest"

// start makes a cluster in a temporary directory and starts it on a free loopback port.
func start(settings ...string) (s *Server, err error) {
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(place(), "pgtest-")
	if err != nil {
		return nil, err
	}
	s = &Server{bin: bin, dir: dir, settings: settings}
	defer func() {
		if err != nil {
			s.remove()
		}
	}()
	pwfile := filepath.Join(dir, "password")
	if err := os.WriteFile(pwfile, []byte(password), 0o600); err != nil {
		return nil, err
	}
	if id := credential(); id != nil {
		for _, path := range []string{dir, pwfile} {
			if err := os.Chown(path, int(id.Uid), int(id.Gid)); err != nil {
				return nil, err
			}
		}
	}
	initdb := s.command("initdb", "--pgdata="+s.data(), "--username=postgres", "--auth=scram-sha-256", "--pwfile="+pwfile,
		"--encoding=UTF8", "--locale=C", "--no-sync")
	if out, err := initdb.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w: %s", err, bytes.TrimSpace(out))
	}
	for range 5 { // another program may take the free port first
		if s.base, err = freeAddress(); err != nil {
			return nil, err
		}
		if err = s.Start(); err == nil {
			return s, nil
		}
	}
	return nil, err
}

// Start starts a stopped server at its old address and waits until it answers.
func (s *Server) Start() error {
	args := []string{"-D", s.data(), "-p", s.base.Port(), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=",
		"-c", "fsync=off", "-c", "full_page_writes=off", "-c", "max_connections=200", "-c", "shared_buffers=64MB"}
	for _, setting := range s.settings {
		args = append(args, "-c", setting)
	}
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := s.command("postgres", args...)
	cmd.Stdout, cmd.Stderr = log, log
	started := make(chan error, 1)
	s.exited = make(chan struct{})
	go func() {
		// The kernel sends Pdeathsig when the thread that forked ends, so that thread is kept until the server is gone.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
		close(s.exited)
	}()
	if err := <-started; err != nil {
		return err
	}
	s.process = cmd.Process
	return s.awaitAnswer()
}

// awaitAnswer returns when the server answers a query, or with its log when it exits instead.
func (s *Server) awaitAnswer() error {
	deadline := time.After(30 * time.Second)
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for {
		if s.exec("SELECT 1") == nil {
			return nil
		}
		select {
		case <-poll.C:
		case <-s.exited:
			return fmt.Errorf("postgres exited: %s", s.log())
		case <-deadline:
			s.signal(syscall.SIGQUIT)
			return fmt.Errorf("postgres did not answer within 30 s: %s", s.log())
		}
	}
}

// Stop shuts the server down in order, ending its sessions.
func (s *Server) Stop() {
	s.signal(syscall.SIGINT)
}

// Kill ends the server at once, as a crash would.
func (s *Server) Kill() {
	s.signal(syscall.SIGQUIT)
}

// signal sends a signal and waits until the server has gone.
func (s *Server) signal(sig syscall.Signal) {
	if s.process == nil {
		return
	}
	_ = s.process.Signal(sig)
	<-s.exited
	s.process = nil
}

// remove stops the server and removes its files.
func (s *Server) remove() {
	s.Kill()
	if s.dir != "" {
		_ = os.RemoveAll(s.dir)
	}
}

func (s *Server) data() string {
	return filepath.Join(s.dir, "data")
}

// log returns the end of the server's log.
func (s *Server) log() []byte {
	b, _ := os.ReadFile(filepath.Join(s.dir, "log"))
	return bytes.TrimSpace(b[max(0, len(b)-2000):])
}

// command runs one of the server's programs as a user who may, and ends it when this process ends.
func (s *Server) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.bin, name), args...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential(), Setpgid: true}
	dieWithParent(cmd.SysProcAttr)
	return cmd
}

// binaries finds the directory of initdb and postgres.
func binaries() (string, error) {
	places, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	slices.SortFunc(places, func(a, b string) int { return version(b) - version(a) })
	if path, err := exec.LookPath("initdb"); err == nil {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			places = append([]string{filepath.Dir(real)}, places...)
		}
	}
	for _, dir := range places {
		if _, err := exec.LookPath(filepath.Join(dir, "postgres")); err == nil {
			return dir, nil
		}
	}
	return "", errors.New("no initdb and postgres on PATH or in /usr/lib/postgresql/*/bin; install PostgreSQL 13 or later " +
		"(TENANTDB_TEST_POSTGRES_URL replaces the shared server only)")
}

// version reads the major version out of /usr/lib/postgresql/15/bin.
func version(dir string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(dir)))
	return n
}

// credential is whom the server runs as: PostgreSQL refuses root.
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

// freeAddress returns the URL of a loopback port that is free now.
func freeAddress() (*url.URL, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer l.Close()
	return &url.URL{Scheme: "postgres", User: url.UserPassword("postgres", password), Host: l.Addr().String(), RawQuery: "sslmode=disable"}, nil
}
