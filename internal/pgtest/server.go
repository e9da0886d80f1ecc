package pgtest

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
)

// Server is a PostgreSQL server. One that pgtest didn't start can't be stopped.
type Server struct {
	daemon
	base     *url.URL
	bin      string
	settings []string
}

const password = "pgtest"

// start makes a cluster in a temporary directory and starts it on a free loopback port.
func start(settings ...string) (s *Server, err error) {
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	s = &Server{bin: bin, settings: settings}
	defer func() {
		if err != nil {
			s.remove()
		}
	}()
	if s.dir, err = makeDir(); err != nil {
		return nil, err
	}
	if err := s.write("password", password); err != nil {
		return nil, err
	}
	initdb := s.command(s.program("initdb"), "--pgdata="+s.data(), "--username=postgres", "--auth=scram-sha-256",
		"--pwfile="+filepath.Join(s.dir, "password"), "--encoding=UTF8", "--locale=C", "--no-sync")
	if out, err := initdb.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w: %s", err, bytes.TrimSpace(out))
	}
	for range 5 { // another program may take the free port first
		if s.base, err = freeAddress(url.UserPassword("postgres", password)); err != nil {
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
	return s.run(s.command(s.program("postgres"), args...), func() error { return s.exec("SELECT 1") })
}

// Stop shuts the server down in order, ending its sessions.
func (s *Server) Stop() {
	s.signal(syscall.SIGINT)
}

func (s *Server) data() string {
	return filepath.Join(s.dir, "data")
}

// program returns the path of one of the server's programs.
func (s *Server) program(name string) string {
	return filepath.Join(s.bin, name)
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
