package pgtest

import (
	"context"
	"errors"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// PgBouncer is a connection pooler in front of a Server.
type PgBouncer struct {
	daemon
	base *url.URL
}

// StartPgBouncer starts a local PgBouncer in front of a server, for this test. It pools transactions and
// serves every database of the server to the server's superuser. Settings are entries of pgbouncer.ini
// (pgbouncer.org/config.html), such as "default_pool_size=20" or "max_db_connections=5".
func StartPgBouncer(t testing.TB, s *Server, settings ...string) *PgBouncer {
	t.Helper()
	b := new(PgBouncer)
	t.Cleanup(b.remove)
	if err := b.start(s, settings); err != nil {
		unavailable(t, err)
	}
	return b
}

// Through returns the URL of a database of the server through the pooler.
func (b *PgBouncer) Through(t testing.TB, database string) string {
	t.Helper()
	direct, err := url.Parse(database)
	if err != nil {
		t.Fatal("pgtest: the database's URL is malformed")
	}
	return b.at(direct.Path)
}

func (b *PgBouncer) at(path string) string {
	u := *b.base
	u.Path = path
	return u.String()
}

// start starts the pooler on a free loopback port.
func (b *PgBouncer) start(s *Server, settings []string) error {
	binary, err := pgbouncer()
	if err != nil {
		return err
	}
	if b.dir, err = makeDir(); err != nil {
		return err
	}
	superuser := s.base.User
	secret, _ := superuser.Password()
	if err := b.write("users", quoted(superuser.Username())+" "+quoted(secret)+"\n"); err != nil {
		return err
	}
	for range 5 { // another program may take the free port first
		if b.base, err = freeAddress(superuser); err != nil {
			return err
		}
		lines := []string{"[databases]", "* = host=" + s.base.Hostname() + " port=" + s.base.Port(),
			"[pgbouncer]", "listen_addr = 127.0.0.1", "listen_port = " + b.base.Port(), "unix_socket_dir =",
			"pool_mode = transaction", "max_client_conn = 1000", "auth_type = scram-sha-256",
			"auth_file = users",
			"admin_users = " + superuser.Username()}
		if err := b.write("pgbouncer.ini", strings.Join(append(lines, settings...), "\n")+"\n"); err != nil {
			return err
		}
		if err = b.run(b.command(binary, "pgbouncer.ini"), b.ask); err == nil {
			return nil
		}
	}
	return err
}

// ask connects to the pooler's own console, which takes no connection of the server.
func (b *PgBouncer) ask() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, b.at("/pgbouncer"))
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

// pgbouncer returns the path of the program.
func pgbouncer() (string, error) {
	if path, err := exec.LookPath("pgbouncer"); err == nil {
		return path, nil
	}
	const debian = "/usr/sbin/pgbouncer"
	if _, err := os.Stat(debian); err != nil {
		return "", errors.New("no pgbouncer on PATH or in /usr/sbin; install PgBouncer 1.18 or later")
	}
	return debian, nil
}

// quoted quotes a word for the file of users.
func quoted(word string) string {
	return `"` + strings.ReplaceAll(word, `"`, `""`) + `"`
}
