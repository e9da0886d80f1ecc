package pgtest

import (
	"net/url"
	"os"
)

// Launch is Start for a program that is not a test. The function that it returns ends the server and removes
// its files.
func Launch(settings ...string) (*Server, func(), error) {
	s, err := start(settings...)
	if err != nil {
		return nil, nil, err
	}
	return s, s.remove, nil
}

// LaunchStandby is [Server.Standby] for a program that is not a test.
func LaunchStandby(primary *Server) (*Server, func(), error) {
	s := &Server{bin: primary.bin, settings: primary.settings}
	if err := s.follow(primary); err != nil {
		s.remove()
		return nil, nil, err
	}
	return s, s.remove, nil
}

// Rejoin restarts a stopped server at its old address as the standby of another one.
func (s *Server) Rejoin(primary *Server) error {
	if err := os.RemoveAll(s.data()); err != nil {
		return err
	}
	if err := s.copyFrom(primary); err != nil {
		return err
	}
	return s.Start()
}

// At returns a server that another program runs, by a superuser's URL. It can't be started or stopped.
func At(superuser *url.URL) *Server { return &Server{base: superuser} }

// Address returns the server's host:port.
func (s *Server) Address() string { return s.base.Host }

// LaunchPgBouncer is StartPgBouncer for a program that is not a test.
func LaunchPgBouncer(s *Server, settings ...string) (*PgBouncer, func(), error) {
	b := new(PgBouncer)
	if err := b.start(s, settings); err != nil {
		b.remove()
		return nil, nil, err
	}
	return b, b.remove, nil
}

// URL returns the URL of a database of the server through the pooler.
func (b *PgBouncer) URL(database string) string {
	return b.at("/" + database)
}
