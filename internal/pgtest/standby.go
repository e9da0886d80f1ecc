package pgtest

import (
	"bytes"
	"fmt"
	"net/url"
	"testing"
)

// Standby starts a standby that streams from this server, for this test alone. The server must be one that pgtest started.
func (s *Server) Standby(t testing.TB) *Server {
	t.Helper()
	standby := &Server{bin: s.bin, settings: s.settings}
	t.Cleanup(standby.remove)
	if err := standby.follow(s); err != nil {
		unavailable(t, err)
	}
	return standby
}

// follow copies a server's files and starts on them as its standby.
func (s *Server) follow(primary *Server) (err error) {
	if s.dir, err = makeDir(); err != nil {
		return err
	}
	if err := s.copyFrom(primary); err != nil {
		return err
	}
	for range 5 { // another program may take the free port first
		if s.base, err = freeAddress(url.UserPassword("postgres", password)); err != nil {
			return err
		}
		if err = s.Start(); err == nil {
			return nil
		}
	}
	return err
}

// copyFrom copies a server's files.
func (s *Server) copyFrom(primary *Server) error {
	copying := s.command(s.Program("pg_basebackup"), "--dbname="+primary.URL("postgres"), "--pgdata="+s.data(),
		"--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync")
	if out, err := copying.CombinedOutput(); err != nil {
		return fmt.Errorf("pg_basebackup: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// Promote makes a standby a primary, on the next timeline, and returns once it takes writes.
func (s *Server) Promote(t testing.TB) {
	t.Helper()
	if err := s.exec("DO $$ BEGIN ASSERT pg_promote(true, 60), 'not promoted'; END $$"); err != nil {
		t.Fatalf("pgtest: %v", err)
	}
}
