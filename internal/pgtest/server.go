package pgtest

import (
	"bytes"
	"fmt"
	"net/url"
	"path/filepath"
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

// start creates a cluster in a temporary directory and starts it on a free loopback port.
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
	initdb := s.command(s.Program("initdb"), "--pgdata="+s.data(), "--username=postgres",
		"--auth=scram-sha-256",
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
	args := []string{"-D", s.data(), "-p", s.base.Port(), "-c", "listen_addresses=127.0.0.1", "-c",
		"unix_socket_directories=",
		"-c", "fsync=off", "-c", "full_page_writes=off", "-c", "max_connections=200", "-c",
		"shared_buffers=64MB"}
	for _, setting := range s.settings {
		args = append(args, "-c", setting)
	}
	return s.run(s.command(s.Program("postgres"), args...), func() error { return s.exec("SELECT 1") })
}

// Stop shuts the server down properly and ends its sessions.
func (s *Server) Stop() {
	s.signal(syscall.SIGINT)
}

func (s *Server) data() string {
	return filepath.Join(s.dir, "data")
}

// Program returns the path of one of the programs that came with a server that pgtest started.
func (s *Server) Program(name string) string {
	return filepath.Join(s.bin, name)
}
