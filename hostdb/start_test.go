package hostdb_test

import (
	"errors"
	"log/slog"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
)

// withQuery adds a parameter to a URL. A space becomes %20, because the driver doesn't decode a +.
func withQuery(t *testing.T, given, name, value string) string {
	t.Helper()
	u, err := url.Parse(given)
	must(t, err)
	query := u.Query()
	query.Set(name, value)
	u.RawQuery = strings.ReplaceAll(query.Encode(), "+", "%20")
	return u.String()
}

func TestOpen_usesASchemaOfAnyName(t *testing.T) {
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
	// The schema exists.
	other := open(t, hostdb.Config{URL: hostdb.Secret(withQuery(t, given, "search_path", `"My App"`))})
	must(t, other.Ping(t.Context()))
}

// role creates a role that may connect and has the rights of the statements. It returns a database's URL for
// the role.
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

func TestOpen_namesAMissingPrivilege(t *testing.T) {
	given := pgtest.Database(t)
	wantField(t, openErr(t, withQuery(t, given, "search_path", "nowhere")), hostdb.ErrUnavailable,
		"url.search_path")
	noRight := role(t, given, "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
	wantField(t, openErr(t, noRight), hostdb.ErrUnavailable, "url.user")
	must(t, open(t, hostdb.Config{URL: hostdb.Secret(given)}).Close())
	enough := role(t, given, "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO app")
	newUser(t, open(t, hostdb.Config{URL: hostdb.Secret(enough)})) // which has nothing to create
}

func TestOpen_waitsForAServerThatStarts(t *testing.T) {
	server := pgtest.Start(t)
	given := server.Database(t)
	server.Stop()
	wantField(t, openErr(t, given), hostdb.ErrUnavailable, "url.host")
	_, err := hostdb.OpenConfig(t.Context(),
		hostdb.Config{URL: hostdb.Secret(given), StartTimeout: 600 * time.Millisecond})
	wantField(t, err, hostdb.ErrUnavailable, "url.host")
	opened := make(chan error)
	go func() {
		db, err := hostdb.OpenConfig(t.Context(),
			hostdb.Config{URL: hostdb.Secret(given), StartTimeout: time.Minute})
		if err == nil {
			err = db.Close()
		}
		opened <- err
	}()
	must(t, server.Start())
	must(t, <-opened)
}

func TestOpen_explainsWhatAPoolerRefuses(t *testing.T) {
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

// Callers are told to try again, not that they made a mistake.
func TestDB_schemaTroubleIsUnavailable(t *testing.T) {
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

// book is a log that tests read.
type book struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *book) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *book) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// later opens a database whose server isn't running.
func later(t *testing.T, config hostdb.Config) (*hostdb.DB, *book) {
	t.Helper()
	log := new(book)
	config.StartLater, config.Logger = true, slog.New(slog.NewTextHandler(log, nil))
	db, err := hostdb.OpenConfig(t.Context(), config)
	must(t, err)
	t.Cleanup(func() { _ = db.Close() })
	return db, log
}

// wantWaiting checks that every call fails at once and gives the reason.
func wantWaiting(t *testing.T, db *hostdb.DB) {
	t.Helper()
	_, accessErr := db.Access(t.Context(), hostdb.UserKey{OAuthID: "a"}, hostdb.TenantKey{Slug: "acme"})
	_, allErr := db.AccessAll(t.Context(), []hostdb.AccessKey{{User: hostdb.UserKey{OAuthID: "a"}}})
	_, getErr := db.Tenants.Get(t.Context(), hostdb.NewID())
	_, txErr := db.Begin(t.Context())
	_, verifyErr := db.Verify(t.Context())
	_, versionErr := db.SchemaVersion(t.Context())
	var changesErr error
	for _, changesErr = range db.Changes(t.Context()) {
		break
	}
	for i, err := range []error{accessErr, allErr, getErr, txErr, verifyErr, versionErr, changesErr,
		db.Ping(t.Context()), db.Users.Insert(t.Context(), &hostdb.GlobalUser{Email: "a@example.com"})} {
		if !errors.Is(err, hostdb.ErrUnavailable) || !strings.Contains(err.Error(), "not been reached") {
			t.Errorf("call %d: %v", i, err)
		}
	}
}

func TestDB_Started_waitsInTheBackground(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	given := server.Database(t)
	server.Stop()
	db, log := later(t, often(given))
	wantWaiting(t, db)
	if text := log.String(); strings.Count(text, "waiting for the host database") != 1 ||
		!strings.Contains(text, "no PostgreSQL server answers") || !strings.Contains(text, db.String()) &&
		!strings.Contains(text, "xxxxx") || strings.Contains(text, ":pgtest@") {
		t.Errorf("the log: %s", text)
	}
	events := make(chan event)
	go func() {
		for d, err := range db.Changes(t.Context()) {
			if d.Reset {
				events <- event{d, err}
				return
			}
		}
	}()
	must(t, server.Start())
	select {
	case <-db.Started():
	case <-time.After(20 * time.Second):
		t.Fatal("not open 20 s after the server's return")
	}
	newUser(t, db) // the schema exists
	next(t, events)
	if !strings.Contains(log.String(), "the host database is open") {
		t.Errorf("the log: %s", log)
	}
}

func TestOpenConfig_StartLaterLogsAndRetries(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	given := server.URL("later")
	// A server that is running refuses at once.
	wantField(t, laterErr(t, given), hostdb.ErrUnavailable, "url.database")
	server.Stop()
	db, log := later(t, hostdb.Config{URL: hostdb.Secret(given)})
	must(t, server.Start())
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(log.String(),
		"no such database"); <-time.After(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the log: %s", log)
		}
	}
	wantWaiting(t, db)
	if err := db.Ping(t.Context()); !strings.Contains(err.Error(), "no such database") {
		t.Errorf("a call says %v", err)
	}
	admin := rawURL(t, server.URL("postgres"))
	_, err := admin.Exec("CREATE DATABASE later")
	must(t, err)
	<-db.Started()
	must(t, db.Ping(t.Context()))
}

func laterErr(t *testing.T, given string) error {
	t.Helper()
	db, err := hostdb.OpenConfig(t.Context(), hostdb.Config{URL: hostdb.Secret(given), StartLater: true})
	if err == nil {
		_ = db.Close()
	}
	return err
}

func TestDB_Close_whileItWaitsForItsServer(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	db, _ := later(t, hostdb.Config{URL: "postgres://u:p@127.0.0.1:1/x"})
	must(t, db.Close())
	if err := db.Ping(t.Context()); !errors.Is(err, hostdb.ErrUnavailable) ||
		!strings.Contains(err.Error(), "closed") {
		t.Errorf("Ping: %v", err)
	}
	goleak.VerifyNone(t, ignore)
	setEnv(t, map[string]string{"DB_HOST": "127.0.0.1", "DB_PORT": "1", "DB_PASS": "p"})
	first, err := hostdb.FromEnvConfig(t.Context(), hostdb.Config{StartLater: true})
	must(t, err)
	if again, err := hostdb.FromEnv(t.Context()); again != first || err != nil {
		t.Errorf("another DB, or %v", err)
	}
	must(t, hostdb.ResetInstance())
	// SQLite has no server to wait for. In a directory that isn't mounted yet Open would create a new
	// database.
	wantField(t, laterErr(t, "sqlite:"+filepath.Join(t.TempDir(), "no", "host.db")), hostdb.ErrUnavailable,
		"url.path")
}
