package hostdb_test

import (
	"context"
	"errors"
	"net/url"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
)

// bothHosts returns a database's URL with the hosts of two URLs.
func bothHosts(t *testing.T, first, second string) string {
	t.Helper()
	u, err := url.Parse(first)
	must(t, err)
	other, err := url.Parse(second)
	must(t, err)
	u.Host += "," + other.Host
	return u.String()
}

// failoverPair starts a primary and a standby with a host database. It returns them, a URL that names both,
// and the URL of each.
func failoverPair(t *testing.T) (primary, standby *pgtest.Server, both string,
	database func(*pgtest.Server) string) {
	t.Helper()
	primary = pgtest.Start(t)
	u, err := url.Parse(primary.Database(t))
	must(t, err)
	database = func(s *pgtest.Server) string { return s.URL(u.Path[1:]) }
	standby = primary.Standby(t)
	return primary, standby, bothHosts(t, database(primary), database(standby)), database
}

// lookUp looks up a user as a request would, within a second.
func lookUp(t *testing.T, db *hostdb.DB, user, tenant string) (*hostdb.Access, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	return db.Access(ctx, hostdb.UserKey{ID: user}, hostdb.TenantKey{ID: tenant})
}

// soon repeats a call until it succeeds.
func soon(t *testing.T, what string, call func() error) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := call()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s fails for 20 s: %v", what, err)
		}
	}
}

func TestOpen_passesASilentFirstHost(t *testing.T) {
	given := postgresURL(t)
	u, err := url.Parse(given)
	must(t, err)
	u.Host = pgtest.Mute(t) + "," + u.Host
	db := open(t, hostdb.Config{URL: hostdb.Secret(u.String())})
	listen(t, db)
	soon(t, "a lookup", func() error {
		_, err := lookUp(t, db, hostdb.NewID(), hostdb.NewID())
		return err
	})
}

// The primary hangs, the standby is promoted, the old primary goes on without knowing, and finally the new
// one dies.
func TestDB_failsOverFromAHostThatHangs(t *testing.T) {
	primary, standby, both, database := failoverPair(t)
	db := open(t, hostdb.Config{URL: hostdb.Secret(both)})
	user, tenant := newUser(t, db), newTenant(t, db)
	newMember(t, db, user, tenant, hostdb.RoleOwner)
	removed := newMember(t, db, newUser(t, db), tenant, hostdb.RoleMember)
	member := func() bool {
		access, err := lookUp(t, db, removed.UserID, tenant.ID)
		return err == nil && access.Membership != nil
	}
	events := listen(t, db)
	// All kinds of idle connections to the first primary.
	for range 4 {
		if !member() {
			t.Fatal("the member is unknown")
		}
	}
	waitForReplay(t, rawURL(t, database(primary)), rawURL(t, database(standby)))

	resume := primary.Hang(t)
	standby.Promote(t)
	promoted := time.Now()
	_, err := rawURL(t, database(standby)).Exec("DELETE FROM core_memberships WHERE id = $1", removed.ID)
	must(t, err)
	wantReset(t, db, events, promoted)
	for range 20 {
		if member() {
			t.Fatal("after the feed's Reset a lookup still finds the member who was removed")
		}
	}
	soon(t, "a write", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		return db.Users.Insert(ctx, &hostdb.GlobalUser{Email: hostdb.NewID() + "@example.com"})
	})

	resume()
	for range 50 {
		if access, err := lookUp(t, db, removed.UserID, tenant.ID); err != nil || access.Membership != nil {
			t.Fatalf("beside an old primary that goes on: %+v, %v", access, err)
		}
	}
	standby.Kill()
	for range 20 {
		if access, err := lookUp(t, db, removed.UserID, tenant.ID); !errors.Is(err, hostdb.ErrUnavailable) {
			t.Fatalf("with the old primary alone: %+v, error = %v, want ErrUnavailable", access, err)
		}
	}
	must(t, standby.Start())
	started := time.Now()
	for e := next(t, events); e.err != nil || e.delivery.PolledAt.Before(started); e = next(t, events) {
		if e.err == nil && e.delivery.PolledAt.After(promoted) && time.Since(started) > 30*time.Second {
			t.Fatal("the feed doesn't find back to the new primary")
		}
	}
	soon(t, "a lookup", func() error {
		_, err := lookUp(t, db, user.ID, tenant.ID)
		return err
	})
}

// A new cluster that took over the data, as after pg_upgrade, is accepted whatever its timeline is.
func TestChanges_resetForAnotherCluster(t *testing.T) {
	blue := pgtest.Start(t)
	first := blue.Database(t)
	must(t, open(t, hostdb.Config{URL: hostdb.Secret(first)}).Close())
	u, err := url.Parse(first)
	must(t, err)
	promoted := blue.Standby(t)
	promoted.Promote(t) // its timeline is 2
	green := pgtest.Start(t)
	admin := rawURL(t, green.URL("postgres"))
	_, err = admin.Exec("CREATE DATABASE " + u.Path[1:])
	must(t, err)
	must(t, open(t, hostdb.Config{URL: hostdb.Secret(green.URL(u.Path[1:]))}).Close())

	db := open(t, hostdb.Config{URL: hostdb.Secret(
		bothHosts(t, promoted.URL(u.Path[1:]), green.URL(u.Path[1:])))})
	events := listen(t, db)
	stopped := time.Now()
	promoted.Kill()
	wantReset(t, db, events, stopped)
}

// Each request has less time than connecting takes. The connection is opened nevertheless.
func TestDB_dialOutlivesItsRequest(t *testing.T) {
	given := postgresURL(t)
	u, err := url.Parse(given)
	must(t, err)
	slow := newSlowNetwork(t, u.Host)
	u.Host = slow.address()
	db := open(t, hostdb.Config{URL: hostdb.Secret(u.String()), ConnectTimeout: 30 * time.Second})
	slow.hold()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		slow.awaitHeld()
		cancel()
	}()
	// The pool of lookups has no connection yet.
	if _, err := db.Access(ctx, hostdb.UserKey{ID: hostdb.NewID()},
		hostdb.TenantKey{ID: hostdb.NewID()}); !errors.Is(err, context.Canceled) {
		t.Fatalf("error = %v, want the caller's own end", err)
	}
	opened := slow.release()
	_, err = db.Access(t.Context(), hostdb.UserKey{ID: hostdb.NewID()}, hostdb.TenantKey{ID: hostdb.NewID()})
	must(t, err)
	if n := slow.count(); n != opened {
		t.Errorf("the second request had %d further connections opened, want the first one's", n-opened)
	}
}
