package pgtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Standby starts a standby that streams from this server, for this test alone. pgtest must have started the
// server.
func (s *Server) Standby(t testing.TB) *Server {
	t.Helper()
	standby := &Server{bin: s.bin, settings: s.settings}
	t.Cleanup(standby.remove)
	if err := standby.follow(s); err != nil {
		unavailable(t, err)
	}
	return standby
}

// follow copies a server's files and starts as its standby.
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

// copyFrom copies a running server's files. It does not use pg_basebackup, which not every distribution has.
func (s *Server) copyFrom(primary *Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, primary.URL("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(context.Background())
	var version int
	err = conn.QueryRow(ctx, "SELECT current_setting('server_version_num')::int").Scan(&version)
	if err != nil {
		return err
	}
	begin, end := "SELECT pg_backup_start('standby', true)", "SELECT labelfile FROM pg_backup_stop(false)"
	if version < 150000 {
		begin, end = "SELECT pg_start_backup('standby', true, false)",
			"SELECT labelfile FROM pg_stop_backup(false, false)"
	}
	if _, err := conn.Exec(ctx, begin); err != nil {
		return err
	}
	// The standby does not need a file that is removed meanwhile.
	out, _ := s.command("cp", "-a", primary.data(), s.data()).CombinedOutput()
	var label string
	if err := conn.QueryRow(ctx, end).Scan(&label); err != nil {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
	}
	for _, name := range []string{"postmaster.pid", "postmaster.opts"} {
		if err := os.Remove(filepath.Join(s.data(), name)); err != nil {
			return fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
		}
	}
	return errors.Join(
		s.write("data/backup_label", label),
		s.write("data/standby.signal", ""),
		s.write("data/postgresql.auto.conf",
			fmt.Sprintf("primary_conninfo = '%s'\n", primary.URL("postgres"))),
	)
}

// Promote makes a standby a primary, on the next timeline, and returns once it takes writes.
func (s *Server) Promote(t testing.TB) {
	t.Helper()
	if err := s.exec("DO $$ BEGIN ASSERT pg_promote(true, 60), 'not promoted'; END $$"); err != nil {
		t.Fatalf("pgtest: %v", err)
	}
}
