package hostdb_test

import (
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
)

// withQuery adds a parameter to a URL. A space is %20: the driver leaves a + as it is.
func withQuery(t *testing.T, given, name, value string) string {
	t.Helper()
	u, err := url.Parse(given)
	must(t, err)
	query := u.Query()
	query.Set(name, value)
	u.RawQuery = strings.ReplaceAll(query.Encode(), "+", "%20")
	return u.String()
}

func TestASchemaOfAnyNameIsUsed(t *testing.T) {
	given := pgtest.Database(t)
	pool := rawURL(t, given)
	for _, statement := range []string{`CREATE SCHEMA "My App"`, "CREATE TABLE public.core_users (id text)"} {
		_, err := pool.Exec(statement)
		must(t, err)
	}
	db := open(t, often(withQuery(t, given, "search_path", `"My App"`)))
	events := listen(t, db)
	user := newUser(t, db)
	wantChanges(t, events, hostdb.Change{Kind: hostdb.ChangeUser, UserID: user.ID})
	if faults, err := db.Verify(t.Context()); err != nil || len(faults) > 0 {
		t.Errorf("faults: %v, %v", faults, err)
	}
	var users int
	must(t, pool.QueryRow(`SELECT count(*) FROM "My App".core_users`).Scan(&users))
	if users != 1 {
		t.Errorf("%d users in the schema, want 1", users)
	}
	other := open(t, hostdb.Config{URL: hostdb.Secret(withQuery(t, given, "search_path", `"My App"`))}) // once it is there
	must(t, other.Ping(t.Context()))
}

// role makes a role that may connect and has the rights of the statements, and returns a database's URL for it.
func role(t *testing.T, given string, statements ...string) string {
	t.Helper()
	u, err := url.Parse(given)
	must(t, err)
	name := "role_" + hostdb.NewID()
	pool := rawURL(t, given)
	for _, statement := range append([]string{"CREATE ROLE app LOGIN PASSWORD 'pgtest'"}, statements...) {
		_, err := pool.Exec(strings.ReplaceAll(statement, "app", name))
		must(t, err)
	}
	t.Cleanup(func() {
		_, _ = pool.Exec("DROP OWNED BY " + name)
		_, _ = pool.Exec("DROP ROLE " + name)
	})
	u.User = url.UserPassword(name, "pgtest")
	return u.String()
}

func TestOpenNamesARightThatIsMissing(t *testing.T) {
	given := pgtest.Database(t)
	wantField(t, openErr(t, withQuery(t, given, "search_path", "nowhere")), hostdb.ErrUnavailable, "url.search_path")
	noRight := role(t, given, "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
	wantField(t, openErr(t, noRight), hostdb.ErrUnavailable, "url.user")
	must(t, open(t, hostdb.Config{URL: hostdb.Secret(given)}).Close())
	enough := role(t, given, "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO app")
	newUser(t, open(t, hostdb.Config{URL: hostdb.Secret(enough)})) // who needs not make anything
}

func TestOpenWaitsForAServerThatStarts(t *testing.T) {
	server := pgtest.Start(t)
	given := server.Database(t)
	server.Stop()
	wantField(t, openErr(t, given), hostdb.ErrUnavailable, "url.host")
	_, err := hostdb.OpenConfig(t.Context(), hostdb.Config{URL: hostdb.Secret(given), StartTimeout: 600 * time.Millisecond})
	wantField(t, err, hostdb.ErrUnavailable, "url.host")
	opened := make(chan error)
	go func() {
		db, err := hostdb.OpenConfig(t.Context(), hostdb.Config{URL: hostdb.Secret(given), StartTimeout: time.Minute})
		if err == nil {
			err = db.Close()
		}
		opened <- err
	}()
	must(t, server.Start())
	must(t, <-opened)
}

func TestOpenSaysWhatAPoolerRefuses(t *testing.T) {
	given := pgtest.Database(t)
	statements := pgtest.StartPgBouncer(t, pgtest.Shared(t), "pool_mode=statement")
	err := openErr(t, statements.Through(t, given))
	wantField(t, err, hostdb.ErrInvalid, "url.host")
	if !strings.Contains(err.Error(), "pool_mode") {
		t.Errorf("error = %v; it doesn't name pool_mode", err)
	}
	err = openErr(t, withQuery(t, fewConnections(t).Through(t, given), "search_path", "public"))
	wantField(t, err, hostdb.ErrInvalid, "url.search_path")
	if !strings.Contains(err.Error(), "ALTER ROLE") {
		t.Errorf("error = %v; it doesn't say what to do instead", err)
	}
}

// TestTroubleOfTheDatabaseIsUnavailable: whatever is wrong with it, callers are told to come again, not that they made a mistake.
func TestTroubleOfTheDatabaseIsUnavailable(t *testing.T) {
	onBoth(t, func(t *testing.T, db *hostdb.DB) {
		_, err := db.BareWriter().Exec("DROP TABLE core_stripe_webhook_events")
		must(t, err)
		_, err = db.WebhookEvents.Get(t.Context(), hostdb.NewID())
		if !errors.Is(err, hostdb.ErrUnavailable) {
			t.Errorf("a read: %v, want ErrUnavailable", err)
		}
		err = db.WebhookEvents.Insert(t.Context(), &hostdb.StripeWebhookEvent{EventID: "e", EventType: "x"})
		if !errors.Is(err, hostdb.ErrUnavailable) {
			t.Errorf("a write: %v, want ErrUnavailable", err)
		}
	})
}
