package hostdb_test

import (
	"database/sql"
	"errors"
	"net/url"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
)

// shell runs a command on a server's files.
func shell(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
}

// wantReset polls until the feed answers. That must be a Reset, before anything polled since a time.
func wantReset(t *testing.T, db *hostdb.DB, events chan event, since time.Time) {
	t.Helper()
	for {
		db.Wake()
		e := next(t, events)
		if e.err == nil && !e.delivery.PolledAt.Before(since) {
			if !e.delivery.Reset {
				t.Fatalf("delivered %+v, want a Reset", e.delivery)
			}
			return
		}
	}
}

// addUsers runs transactions that each make a change.
func addUsers(t *testing.T, pool *sql.DB, n int) {
	t.Helper()
	for range n {
		_, err := pool.Exec("INSERT INTO core_users (email) VALUES ($1)", hostdb.NewID())
		must(t, err)
	}
}

func dataDirectory(t *testing.T, pool *sql.DB) (dir string) {
	t.Helper()
	must(t, pool.QueryRow("SHOW data_directory").Scan(&dir))
	return dir
}

// The backup's ids exceed those that the feed has seen.
func TestChanges_resetAfterARestoredBackup(t *testing.T) {
	server := pgtest.Start(t)
	url := server.Database(t)
	db := open(t, hostdb.Config{URL: hostdb.Secret(url), PollInterval: time.Hour, NoNotify: true})
	dir := dataDirectory(t, raw(t, db))
	server.Stop()
	shell(t, "cp", "-a", dir, dir+".backup")
	must(t, server.Start())
	addUsers(t, rawURL(t, url), 3)
	events := listen(t, db)
	stopped := time.Now()
	server.Stop()
	shell(t, "rm", "-r", dir)
	shell(t, "mv", dir+".backup", dir)
	must(t, server.Start())
	addUsers(t, rawURL(t, url), 30)
	wantReset(t, db, events, stopped)
}

// A promoted standby continues on another timeline.
func TestChanges_resetAfterAFailover(t *testing.T) {
	server := pgtest.Start(t)
	url := server.Database(t)
	db := open(t, hostdb.Config{URL: hostdb.Secret(url), PollInterval: time.Hour, NoNotify: true})
	events := listen(t, db)
	dir := dataDirectory(t, raw(t, db))
	stopped := time.Now()
	server.Stop()
	// The server requires this owner.
	shell(t, "cp", "-a", dir+"/postgresql.auto.conf", dir+"/standby.signal")
	must(t, server.Start())
	pool := rawURL(t, url)
	var promoted bool
	must(t, pool.QueryRow("SELECT pg_promote()").Scan(&promoted))
	addUsers(t, pool, 3)
	wantReset(t, db, events, stopped)
}

// A standby's facts may be of any age, so that an error is better. The feed returns to the primary.
func TestDB_neverReadsFromAStandby(t *testing.T) {
	primary, standby := pgtest.Start(t), pgtest.Start(t)
	given := primary.Database(t)
	must(t, open(t, hostdb.Config{URL: hostdb.Secret(given)}).Close())
	dir, copied := dataDirectory(t, rawURL(t, given)), dataDirectory(t, rawURL(t, standby.URL("postgres")))
	primary.Stop()
	standby.Stop()
	shell(t, "rm", "-r", copied)
	shell(t, "cp", "-a", dir, copied)
	shell(t, "cp", "-a", copied+"/postgresql.auto.conf", copied+"/standby.signal")
	must(t, primary.Start())
	must(t, standby.Start())

	u, err := url.Parse(given)
	must(t, err)
	other, err := url.Parse(standby.URL(strings.TrimPrefix(u.Path, "/")))
	must(t, err)
	wantField(t, openErr(t, other.String()), hostdb.ErrUnavailable, "url.host")
	u.Host += "," + other.Host
	db := open(t, hostdb.Config{URL: hostdb.Secret(u.String()), PollInterval: 20 * time.Millisecond,
		NoNotify: true})
	events := listen(t, db)
	next(t, events)
	primary.Kill()
	for range 10 {
		if _, err := db.Users.Get(t.Context(), hostdb.NewID()); !errors.Is(err, hostdb.ErrUnavailable) {
			t.Errorf("with the primary away: error = %v, want ErrUnavailable", err)
		}
	}
	for next(t, events).err == nil {
	}
	must(t, primary.Start())
	started := time.Now()
	for e := next(t, events); e.err != nil || e.delivery.PolledAt.Before(started); e = next(t, events) {
		if time.Since(started) > 20*time.Second {
			t.Fatalf("the feed doesn't find back to the primary: %v", e.err)
		}
	}
	must(t, db.Ping(t.Context()))
}
