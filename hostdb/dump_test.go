package hostdb_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"modernc.org/sqlite"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
)

// dump returns what pg_dump writes of a database on a server of its own, whose transaction ids are far
// beyond a new server's.
func dump(t *testing.T, fill func(db *hostdb.DB)) (content []byte) {
	t.Helper()
	t.Setenv(pgtest.VersionEnv, "") // only the system's servers come with pg_dump
	server := pgtest.Start(t)
	given := server.Database(t)
	_, err := rawURL(t, given).Exec("DO $$ BEGIN FOR i IN 1..20000 LOOP PERFORM pg_current_xact_id(); " +
		"COMMIT; END LOOP; END $$")
	must(t, err)
	db := open(t, hostdb.Config{URL: hostdb.Secret(given), Retention: time.Millisecond})
	fill(db)
	for range 3 { // each prune raises the floor
		must(t, db.Prune(t.Context()))
		newUser(t, db)
	}
	must(t, db.Close())
	var out, complaint bytes.Buffer
	cmd := exec.Command(server.Program("pg_dump"), "--format=custom", "--dbname="+given)
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		t.Fatalf("pg_dump: %v: %s", err, &complaint)
	}
	return out.Bytes()
}

// restore restores a dump into an empty database.
func restore(t *testing.T, server *pgtest.Server, content []byte, into string) {
	t.Helper()
	cmd := exec.Command(server.Program("pg_restore"), "--exit-on-error", "--dbname="+into)
	cmd.Stdin = bytes.NewReader(content)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("pg_restore: %v: %s", err, out)
	}
}

// wantSteady checks that polls are no Resets and that a change is delivered once, and nothing else.
func wantSteady(t *testing.T, db *hostdb.DB, events chan event) {
	t.Helper()
	for range 3 {
		db.Wake()
		if e := next(t, events); e.err != nil || e.delivery.Reset || len(e.delivery.Changes) > 0 ||
			e.delivery.PolledAt.IsZero() {
			t.Fatalf("delivered %+v, %v; want an uneventful poll", e.delivery, e.err)
		}
	}
	for db.Ping(t.Context()) != nil { // the server may have ended the pool's idle connections
	}
	user := newUser(t, db)
	db.Wake()
	wantChanges(t, events, hostdb.Change{Kind: hostdb.ChangeUser, UserID: user.ID})
	for range 3 {
		db.Wake()
		if e := next(t, events); e.err != nil || e.delivery.Reset || len(e.delivery.Changes) > 0 {
			t.Fatalf("after the change %+v, %v were delivered", e.delivery, e.err)
		}
	}
}

func TestChanges_followADumpRestoredIntoAnotherCluster(t *testing.T) {
	var kept *hostdb.GlobalUser
	content := dump(t, func(db *hostdb.DB) { kept = newUser(t, db) })
	server := pgtest.Start(t)
	given := server.Database(t)
	restore(t, server, content, given)
	var ahead bool
	must(t, rawURL(t, given).QueryRow(`SELECT (SELECT floor
		FROM host_feed_floor) > pg_snapshot_xmax(pg_current_snapshot())
		AND EXISTS (SELECT FROM host_changes WHERE xid > pg_snapshot_xmax(pg_current_snapshot()))`).Scan(
		&ahead))
	if !ahead {
		t.Fatal("the dump's transaction ids are not ahead of the server's: the test shows nothing")
	}
	db := open(t, hostdb.Config{URL: hostdb.Secret(given), PollInterval: time.Hour, NoNotify: true})
	if _, err := db.Users.Get(t.Context(), kept.ID); err != nil {
		t.Fatal(err)
	}
	wantSteady(t, db, listen(t, db))
	if faults, err := db.Verify(t.Context()); err != nil || len(faults) > 0 {
		t.Errorf("faults: %v, %v", faults, err)
	}
}

// The database that the feed listens to is dropped and created again.
func TestChanges_followADumpRestoredUnderAProcess(t *testing.T) {
	content := dump(t, func(db *hostdb.DB) { newUser(t, db) })
	server := pgtest.Start(t)
	given := server.Database(t)
	db := open(t, hostdb.Config{URL: hostdb.Secret(given), PollInterval: time.Hour, NoNotify: true})
	events := listen(t, db)
	u, err := url.Parse(given)
	must(t, err)
	name := strings.TrimPrefix(u.Path, "/")
	admin := rawURL(t, server.URL("postgres"))
	for _, statement := range []string{"DROP DATABASE " + name + " WITH (FORCE)", "CREATE DATABASE " + name} {
		_, err := admin.Exec(statement)
		must(t, err)
	}
	restore(t, server, content, given)
	wantReset(t, db, events, time.Now())
	wantSteady(t, db, events)
}

// Some providers, such as Aurora, refuse the functions that tell the cluster and its timeline.
func TestChanges_needNoFunctionThatProvidersRefuse(t *testing.T) {
	server := pgtest.Start(t)
	given := server.Database(t)
	pool := rawURL(t, given)
	for _, statement := range []string{"CREATE ROLE app LOGIN PASSWORD 'pgtest'",
		"GRANT ALL ON SCHEMA public TO app",
		"REVOKE EXECUTE ON FUNCTION pg_current_wal_insert_lsn(), pg_walfile_name(pg_lsn), " +
			"pg_control_system() FROM PUBLIC"} {
		_, err := pool.Exec(statement)
		must(t, err)
	}
	u, err := url.Parse(given)
	must(t, err)
	u.User = url.UserPassword("app", "pgtest")
	db := open(t, hostdb.Config{URL: hostdb.Secret(u.String()), PollInterval: time.Hour, NoNotify: true})
	events := listen(t, db)
	wantSteady(t, db, events)
	stopped := time.Now()
	server.Stop()
	must(t, server.Start())
	wantReset(t, db, events, stopped)
	wantSteady(t, db, events)
}

// Other clients of the pooler would receive what one client listens to.
func TestChanges_dontListenBehindAPooler(t *testing.T) {
	given := pgtest.Database(t)
	pooled := fewConnections(t).Through(t, given)
	db := open(t, hostdb.Config{URL: hostdb.Secret(pooled), PollInterval: time.Millisecond})
	events := listen(t, db)
	config, err := pgx.ParseConfig(pooled)
	must(t, err)
	config.DefaultQueryExecMode = pgx.QueryExecModeExec
	conn, err := pgx.ConnectConfig(t.Context(), config)
	must(t, err)
	defer conn.Close(context.Background())
	for range 50 {
		next(t, events)
		var channels int
		must(t, conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_listening_channels()").Scan(&channels))
		if channels != 0 {
			t.Fatal("a connection that clients share listens")
		}
	}
}

// The processes have ended, and the file is an older copy.
func TestChanges_followACopyOfAFile(t *testing.T) {
	given := fileURL(t)
	path := strings.TrimPrefix(given, "sqlite:")
	db := open(t, hostdb.Config{URL: hostdb.Secret(given)})
	newUser(t, db)
	must(t, db.Close())
	shell(t, "cp", path, path+".yesterday")
	db = open(t, hostdb.Config{URL: hostdb.Secret(given), Retention: time.Millisecond})
	for range 5 {
		newUser(t, db)
	}
	must(t, db.Close())
	shell(t, "cp", path+".yesterday", path)
	db = open(t, hostdb.Config{URL: hostdb.Secret(given), PollInterval: time.Hour})
	events := listen(t, db)
	wantSteady(t, db, events)
}

// The restore uses SQLite's backup API, as the sqlite3 program's .restore does. The restored log has more
// changes than the feed has seen.
func TestChanges_resetAfterARestoreIntoAnOpenFile(t *testing.T) {
	db := open(t, hostdb.Config{URL: hostdb.Secret(fileURL(t)), PollInterval: time.Hour})
	newUser(t, db)
	path := strings.TrimPrefix(db.URI(), "sqlite:")
	copied := filepath.Join(t.TempDir(), "copy.db")
	pool := raw(t, db)
	_, err := pool.Exec("VACUUM INTO '" + copied + "'")
	must(t, err)
	other := rawURL(t, "sqlite:"+copied)
	for range 4 {
		_, err := other.Exec("INSERT INTO core_users (email) VALUES ('" + hostdb.NewID() + "')")
		must(t, err)
	}
	_, err = other.Exec("PRAGMA wal_checkpoint(TRUNCATE)")
	must(t, err)
	newUser(t, db)
	events := listen(t, db)
	restoreFile(t, other, path)
	restored := time.Now()
	for reset := false; !reset; {
		db.Wake()
		e := next(t, events)
		if reset = e.err == nil && e.delivery.Reset; !reset && e.err == nil &&
			!e.delivery.PolledAt.Before(restored) {
			t.Fatalf("delivered %+v, want a Reset", e.delivery)
		}
	}
	wantSteady(t, db, events)
}

// restoreFile overwrites an open database, page by page, in one transaction.
func restoreFile(t *testing.T, from *sql.DB, to string) {
	t.Helper()
	conn, err := from.Conn(t.Context())
	must(t, err)
	defer conn.Close()
	must(t, conn.Raw(func(driver any) error {
		backup, err := driver.(interface {
			NewBackup(string) (*sqlite.Backup, error)
		}).NewBackup("file:" + to)
		if err != nil {
			return err
		}
		_, err = backup.Step(-1)
		return errors.Join(err, backup.Finish())
	}))
}
