package hostdb_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
)

// openChildren opens a database in several processes at the same time.
func openChildren(t *testing.T, url string) {
	t.Helper()
	var running []*exec.Cmd
	for range 4 {
		cmd := exec.Command(os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), "HOSTDB_TEST_CHILD="+url)
		cmd.Stderr = new(strings.Builder)
		must(t, cmd.Start())
		running = append(running, cmd)
	}
	for _, cmd := range running {
		if err := cmd.Wait(); err != nil {
			t.Errorf("a process that opened at the same time: %v: %s", err, cmd.Stderr)
		}
	}
}

func TestOpen_byProcessesAtOnceMakesOneSchema(t *testing.T) {
	for name, url := range map[string]string{"postgres": pgtest.Database(t), "file": fileURL(t)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			openChildren(t, url) // a new database
			openChildren(t, url) // an existing database
			db := open(t, hostdb.Config{URL: hostdb.Secret(url)})
			var versions, distinct int
			must(t, raw(t, db).QueryRow(
				"SELECT count(*), count(DISTINCT version_id) FROM host_schema_version").Scan(&versions,
				&distinct))
			files, err := os.ReadDir("migrations/sqlite") // PostgreSQL has the same versions
			must(t, err)
			// One more stands for the empty schema.
			if want := len(files) + 1; versions != distinct || versions != want {
				t.Errorf("%d versions are recorded, %d distinct; want %d of both", versions, distinct, want)
			}
			newTenant(t, db)
		})
	}
}

// The test holds the lock of a process that migrates.
func TestOpen_waitsForAnotherMigration(t *testing.T) {
	url := pgtest.Database(t)
	pool := rawURL(t, url)
	migrating, err := pool.Begin()
	must(t, err)
	defer migrating.Rollback()
	_, err = migrating.Exec("SELECT pg_advisory_xact_lock(7307206461662301)")
	must(t, err)
	opened := make(chan error)
	go func() {
		db, err := hostdb.Open(context.Background(), url)
		if err == nil {
			err = db.Close()
		}
		opened <- err
	}()
	for waiting := 0; waiting == 0; {
		must(t, pool.QueryRow(`SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
			AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`).Scan(&waiting))
		select {
		case err := <-opened:
			t.Fatalf("Open did not wait: %v", err)
		default:
		}
	}
	must(t, migrating.Rollback())
	must(t, <-opened)
}

func TestOpen_byGoroutinesAtOnceMakesOneSchema(t *testing.T) {
	for name, url := range map[string]string{"postgres": pgtest.Database(t), "file": fileURL(t)} {
		t.Run(name, func(t *testing.T) { openAtOnce(t, url) })
	}
}

func TestOpen_atOnceAtEveryIsolationLevel(t *testing.T) {
	for _, level := range []string{"read committed", "repeatable read", "serializable"} {
		t.Run(level, func(t *testing.T) {
			t.Parallel()
			openAtOnce(t, pgtest.Database(t)+"&default_transaction_isolation="+url.PathEscape(level))
		})
	}
}

func openAtOnce(t *testing.T, url string) {
	t.Helper()
	failed := make(chan error, 8)
	for range cap(failed) {
		go func() {
			db, err := hostdb.Open(context.Background(), url)
			if err == nil {
				err = db.Close()
			}
			failed <- err
		}()
	}
	for range cap(failed) {
		must(t, <-failed)
	}
}

func TestOpen_refusesForeignTables(t *testing.T) {
	for name, url := range map[string]string{"postgres": pgtest.Database(t), "file": fileURL(t)} {
		t.Run(name, func(t *testing.T) {
			pool := rawURL(t, url)
			_, err := pool.Exec("CREATE TABLE core_tenants (id text)")
			must(t, err)
			wantField(t, openErr(t, url), hostdb.ErrInvalid, "url")
			var mode string
			if name == "file" {
				if must(t, pool.QueryRow("PRAGMA journal_mode").Scan(&mode)); mode != "delete" {
					t.Errorf("a refused file was changed to journal mode %s", mode)
				}
			}
		})
	}
}

func TestOpen_refusesANewerMajorVersionsSchema(t *testing.T) {
	for name, url := range map[string]string{"postgres": postgresURL(t), "file": fileURL(t)} {
		t.Run(name, func(t *testing.T) {
			db := open(t, hostdb.Config{URL: hostdb.Secret(url)})
			_, err := raw(t, db).Exec("INSERT INTO host_schema_version (version_id, is_applied) " +
				"VALUES (10001, true)")
			must(t, err)
			err = openErr(t, url)
			wantField(t, err, hostdb.ErrInvalid, "url")
			if !strings.Contains(err.Error(), "newer") {
				t.Errorf("error = %v; it doesn't say that the schema is newer", err)
			}
		})
	}
}

// openErr opens a database that can't be opened, and checks that no goroutine is left.
func openErr(t *testing.T, url string) error {
	t.Helper()
	before := goleak.IgnoreCurrent()
	db, err := hostdb.Open(t.Context(), url)
	if err == nil {
		db.Close()
		t.Fatalf("Open(%q) succeeded", url)
	}
	if err := goleak.Find(before); err != nil {
		t.Errorf("after Open(%q): %v", url, err)
	}
	return err
}

func wantField(t *testing.T, err, kind error, field string) {
	t.Helper()
	var about *hostdb.FieldError
	if !errors.Is(err, kind) || !errors.As(err, &about) || about.Field != field {
		t.Errorf("error = %v; want %v on %q", err, kind, field)
	}
}

func TestOpen_NoUpgradeRefusesAnOlderSchema(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.db")
	must(t, os.WriteFile(empty, nil, 0o600))
	for name, url := range map[string]string{"postgres": pgtest.Database(t), "file": "sqlite:" + empty} {
		t.Run(name, func(t *testing.T) {
			config := hostdb.Config{URL: hostdb.Secret(url), NoUpgrade: true}
			_, err := hostdb.OpenConfig(t.Context(), config)
			wantField(t, err, hostdb.ErrInvalid, "url")
			pool := rawURL(t, url)
			if _, err := pool.Exec("SELECT count(*) FROM host_schema_version"); err == nil {
				t.Error("it wrote a version table")
			}
			must(t, open(t, hostdb.Config{URL: hostdb.Secret(url)}).Close())
			version, err := open(t, config).SchemaVersion(t.Context())
			files, _ := os.ReadDir("migrations/sqlite")
			if err != nil || int(version) != len(files) {
				t.Errorf("version %d, %v; want %d", version, err, len(files))
			}
			_, err = pool.Exec("DELETE FROM host_schema_version WHERE version_id = $1", version)
			must(t, err)
			_, err = hostdb.OpenConfig(t.Context(), config)
			wantField(t, err, hostdb.ErrInvalid, "url")
		})
	}
	missing := filepath.Join(t.TempDir(), "missing.db")
	_, err := hostdb.OpenConfig(t.Context(),
		hostdb.Config{URL: hostdb.Secret("sqlite:" + missing), NoUpgrade: true})
	wantField(t, err, hostdb.ErrUnavailable, "url.path")
	if _, err := os.Stat(missing); err == nil {
		t.Error("a file was made")
	}
}

func TestOpen_namesWhatIsWrongAndLeavesNothingBehind(t *testing.T) {
	server, err := url.Parse(pgtest.Database(t))
	must(t, err)
	with := func(change func(u *url.URL)) string {
		u := *server
		change(&u)
		return u.String()
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0") // it accepts connections and never answers
	must(t, err)
	defer silent.Close()
	dir := t.TempDir()
	for _, c := range []struct {
		url   string
		kind  error
		field string
	}{
		{"", hostdb.ErrInvalid, "url"},
		{"host.db", hostdb.ErrInvalid, "url"},
		{"mysql://root:s3cret@localhost/x", hostdb.ErrInvalid, "url"},
		{"sqlite:", hostdb.ErrInvalid, "url"},
		{"sqlite://host.db", hostdb.ErrInvalid, "url"},
		{"sqlite::shared:", hostdb.ErrInvalid, "url"},
		{"sqlite:a\x00b", hostdb.ErrInvalid, "url"},
		{"postgres://u:s3cret@[::1/x", hostdb.ErrInvalid, "url"},
		{"postgres://u:s3%zzcret@localhost/x", hostdb.ErrInvalid, "url"},
		{"postgres://u:s3cret@localhost:port/x", hostdb.ErrInvalid, "url"},
		{"postgres://u:s3cret@localhost/x?sslmode=perhaps", hostdb.ErrInvalid, "url"},
		{"postgres:u:s3cret@localhost", hostdb.ErrInvalid, "url"},
		{"sqlite:" + filepath.Join(dir, "no/such/host.db"), hostdb.ErrUnavailable, "url.path"},
		{"sqlite:" + dir, hostdb.ErrUnavailable, "url.path"},
		{"sqlite:/proc/host.db", hostdb.ErrUnavailable, "url.path"},
		{"postgres://u:s3cret@127.0.0.1:1/x", hostdb.ErrUnavailable, "url.host"},
		{"postgres://u:s3cret@" + silent.Addr().String() + "/x?connect_timeout=1", hostdb.ErrUnavailable,
			"url.host"},
		{"postgres://u:s3cret@no-such-host.invalid/x", hostdb.ErrUnavailable, "url.host"},
		{with(func(u *url.URL) { u.User = url.UserPassword("postgres", "s3cret") }), hostdb.ErrUnavailable,
			"url.password"},
		{with(func(u *url.URL) { u.Path = "/nothing" }), hostdb.ErrUnavailable, "url.database"},
	} {
		err := openErr(t, c.url)
		wantField(t, err, c.kind, c.field)
		if strings.Contains(fmt.Sprintf("%+v %#v", err, err), "cret") {
			t.Errorf("the error of %q holds the password: %+v", c.url, err)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("files left behind: %v", left)
	}
}

func TestOpen_leavesAFileThatIsNoDatabaseAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notes.txt")
	text := strings.Repeat("not a database\n", 100)
	must(t, os.WriteFile(path, []byte(text), 0o600))
	wantField(t, openErr(t, "sqlite:"+path), hostdb.ErrUnavailable, "url.path")
	if got, err := os.ReadFile(path); err != nil || string(got) != text {
		t.Errorf("the file was changed: %v", err)
	}
}

func TestOpen_endsWithTheContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := t.TempDir()
	for _, url := range []string{"sqlite:" + filepath.Join(dir, "host.db"), "sqlite::memory:",
		postgresURL(t)} {
		if _, err := hostdb.Open(ctx, url); !errors.Is(err, context.Canceled) {
			t.Errorf("error = %v, want context.Canceled", err)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("files left behind: %v", left)
	}
}

func TestOpen_takesNoParameterFromAPath(t *testing.T) {
	for _, name := range []string{"a?_pragma=foreign_keys(0)", "a#b", "a%41", "a b", "ä&mode=ro", "a;b",
		`a\b`, "a'b\"", "%", "a?mode=memory"} {
		path := filepath.Join(t.TempDir(), name)
		db := open(t, hostdb.Config{URL: hostdb.Secret("sqlite:" + path)})
		newTenant(t, db)
		wantConflict := db.Memberships.Insert(t.Context(),
			&hostdb.Membership{UserID: hostdb.NewID(), TenantID: hostdb.NewID()})
		wantField(t, wantConflict, hostdb.ErrConflict, "user_id")
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("others may read the file: %v", info.Mode())
		}
	}
}

func TestOpen_separatesDatabasesInMemory(t *testing.T) {
	a, b := open(t, hostdb.Config{URL: "sqlite::memory:"}), open(t, hostdb.Config{URL: "sqlite::memory:"})
	tenant := newTenant(t, a)
	if _, err := b.Tenants.Get(t.Context(), tenant.ID); !errors.Is(err, hostdb.ErrNotFound) {
		t.Errorf("error = %v, want ErrNotFound", err)
	}
}

func TestOpenConfig_refusesValuesOutOfRange(t *testing.T) {
	for field, config := range map[string]hostdb.Config{"MaxConns": {MaxConns: -1},
		"ConnectTimeout": {ConnectTimeout: -1}, "PollInterval": {PollInterval: -1},
		"Retention": {Retention: -time.Hour}} {
		config.URL = "sqlite::memory:"
		_, err := hostdb.OpenConfig(t.Context(), config)
		wantField(t, err, hostdb.ErrInvalid, field)
	}
}

func TestDB_Close_makesEverythingUnavailable(t *testing.T) {
	onBoth(t, func(t *testing.T, db *hostdb.DB) {
		ctx := t.Context()
		must(t, db.Ping(ctx))
		tx, err := db.Begin(ctx)
		must(t, err)
		closed := make(chan error)
		go func() { closed <- db.Close() }()
		_ = tx.Rollback()
		must(t, <-closed)
		must(t, db.Close())
		_, getErr := db.Users.Get(ctx, hostdb.NewID())
		_, accessErr := db.Access(ctx, hostdb.UserKey{ID: hostdb.NewID()}, hostdb.TenantKey{Slug: "a"})
		_, beginErr := db.Begin(ctx)
		var feedErr error
		for _, feedErr = range db.Changes(ctx) {
			break
		}
		for i, err := range []error{db.Ping(ctx), getErr, accessErr, beginErr, feedErr,
			db.Users.Insert(ctx, &hostdb.GlobalUser{Email: "a"}), db.Jobs.Cancel(ctx, hostdb.NewID())} {
			if !errors.Is(err, hostdb.ErrUnavailable) {
				t.Errorf("%d: error = %v, want ErrUnavailable", i, err)
			}
		}
	})
}

func TestDB_isUnavailableWhileItsServerIsDown(t *testing.T) {
	server := pgtest.Start(t)
	db := open(t, hostdb.Config{URL: hostdb.Secret(server.Database(t))})
	ctx := t.Context()
	must(t, db.Ping(ctx))
	server.Kill()
	if _, err := db.Users.Get(ctx, hostdb.NewID()); !errors.Is(err, hostdb.ErrUnavailable) {
		t.Errorf("error = %v, want ErrUnavailable", err)
	}
	if err := db.InTx(ctx, func(*hostdb.Tx) error { return nil }); !errors.Is(err, hostdb.ErrUnavailable) {
		t.Errorf("error = %v, want ErrUnavailable", err)
	}
	must(t, server.Start())
	must(t, db.Ping(ctx))
}

func TestOpen_refusesAStandby(t *testing.T) {
	server := pgtest.Start(t)
	given := server.Database(t)
	must(t, open(t, hostdb.Config{URL: hostdb.Secret(given)}).Close())
	var dir string
	must(t, rawURL(t, given).QueryRow("SHOW data_directory").Scan(&dir))
	server.Stop()
	if err := os.WriteFile(filepath.Join(dir, "standby.signal"), nil, 0o644); err != nil {
		t.Skip("the server's files are another user's")
	}
	must(t, server.Start())
	wantField(t, openErr(t, given), hostdb.ErrUnavailable, "url.host")
}

func TestDB_tellsADeadlineFromACancel(t *testing.T) {
	db := open(t, hostdb.Config{URL: hostdb.Secret(postgresURL(t))})
	blocker, err := raw(t, db).Begin()
	must(t, err)
	defer blocker.Rollback()
	_, err = blocker.Exec("LOCK TABLE core_users")
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = db.Users.Get(ctx, hostdb.NewID())
	if !errors.Is(err, hostdb.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error = %v, want ErrUnavailable and DeadlineExceeded", err)
	}
	gone, leave := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, leave)
	_, err = db.Users.Get(gone, hostdb.NewID())
	if !errors.Is(err, context.Canceled) || errors.Is(err, hostdb.ErrUnavailable) {
		t.Errorf("error = %v, want context.Canceled alone", err)
	}
}

func TestTable_readsRowsWithTheSeedsColumnsOnly(t *testing.T) {
	for name, url := range map[string]string{"postgres": postgresURL(t), "file": fileURL(t)} {
		t.Run(name, func(t *testing.T) {
			db := open(t, hostdb.Config{URL: hostdb.Secret(url)})
			pool, id := raw(t, db), hostdb.NewID()
			for _, statement := range []string{
				"INSERT INTO core_users (id, email, created_at) VALUES ('" + id +
					"', 'a@b', '2024-05-06T07:08:09.000000Z')",
				"INSERT INTO core_tenants (id, name, db_url) VALUES ('" + id + "', 'Acme', 'sqlite:x')",
				"INSERT INTO core_memberships (id, user_id, tenant_id) VALUES ('" + id + "', '" + id +
					"', '" + id + "')",
				"INSERT INTO core_pricing_plans (id, name) VALUES ('pro', 'Pro')",
				"INSERT INTO core_subscriptions (id, tenant_id) VALUES ('" + id + "', '" + id + "')",
				"INSERT INTO sys_audit_logs (id, event_type) VALUES ('" + id + "', 'x')",
				"INSERT INTO sys_jobs (id, job_type) VALUES ('" + id + "', 'x')",
				"INSERT INTO core_stripe_webhook_events (id, event_id, event_type) VALUES ('" + id +
					"', 'e', 'x')",
			} {
				if _, err := pool.Exec(statement); err != nil {
					t.Errorf("%s: %v", statement, err)
				}
			}
			a, err := db.Access(t.Context(), hostdb.UserKey{ID: id}, hostdb.TenantKey{ID: id})
			must(t, err)
			if !a.Tenant.Open() || !a.Membership.IsActive || a.Membership.Role != hostdb.RoleMember ||
				a.Tenant.CreatedAt.IsZero() {
				t.Errorf("access = %+v", a)
			}
			if !a.User.CreatedAt.Equal(time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC)) {
				t.Errorf("CreatedAt = %v", a.User.CreatedAt)
			}
			plan, err := db.Plans.Get(t.Context(), "pro")
			if err != nil || plan.TrialDays != 30 || plan.Currency != "usd" || !plan.IsActive {
				t.Errorf("plan = %+v, %v", plan, err)
			}
			if _, err := db.Jobs.Claim(t.Context(), "w", nil, time.Minute); err != nil {
				t.Errorf("claiming a job of another program: %v", err)
			}
		})
	}
}

// rawURL opens a database without the library.
func rawURL(t testing.TB, url string) *sql.DB {
	t.Helper()
	pool, err := openRaw(url)
	must(t, err)
	t.Cleanup(func() { pool.Close() })
	return pool
}
