package hostdb_test

import (
	"context"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
)

// setEnv sets the given variables and unsets the others.
func setEnv(t *testing.T, given map[string]string) {
	t.Helper()
	for _, name := range []string{"DB_TYPE", "DB_USER", "DB_PASS", "DB_HOST", "DB_PORT", "DB_NAME",
		"DB_SSLMODE"} {
		t.Setenv(name, given[name])
	}
	t.Cleanup(func() { must(t, hostdb.ResetInstance()) })
}

func TestFromEnv_opensOneInstance(t *testing.T) {
	setEnv(t, map[string]string{"DB_TYPE": "SQLITE", "DB_NAME": filepath.Join(t.TempDir(), "host.db")})
	instances := make([]*hostdb.DB, 50)
	var wg sync.WaitGroup
	for i := range instances {
		wg.Go(func() {
			var err error
			if instances[i], err = hostdb.FromEnv(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, db := range instances {
		if db != instances[0] {
			t.Fatal("two instances")
		}
	}
	must(t, hostdb.ResetInstance())
	if err := instances[0].Ping(t.Context()); !errors.Is(err, hostdb.ErrUnavailable) {
		t.Errorf("after a reset: %v", err)
	}
	again, err := hostdb.FromEnv(t.Context())
	must(t, err)
	if again == instances[0] {
		t.Error("the same instance after a reset")
	}
	must(t, again.Close())
	t.Setenv("DB_NAME", filepath.Join(t.TempDir(), "other.db"))
	if _, err := hostdb.FromEnv(t.Context()); !errors.Is(err, hostdb.ErrUnavailable) ||
		!strings.Contains(err.Error(), "ResetInstance") {
		t.Errorf("after Close: error = %v, want ErrUnavailable that names ResetInstance", err)
	}
}

func TestFromEnv_retriesAfterAnError(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "none")
	setEnv(t, map[string]string{"DB_TYPE": "SQLITE", "DB_NAME": filepath.Join(dir, "host.db")})
	_, err := hostdb.FromEnv(t.Context())
	wantField(t, err, hostdb.ErrUnavailable, "DB_NAME")
	must(t, os.Mkdir(dir, 0o700))
	_, err = hostdb.FromEnv(t.Context())
	must(t, err)
}

func TestFromEnv_refusesAnotherDatabaseAfterAnError(t *testing.T) {
	setEnv(t, map[string]string{"DB_TYPE": "SQLITE",
		"DB_NAME": filepath.Join(t.TempDir(), "none", "host.db")})
	_, err := hostdb.FromEnv(t.Context())
	wantField(t, err, hostdb.ErrUnavailable, "DB_NAME")
	other := filepath.Join(t.TempDir(), "host.db")
	t.Setenv("DB_NAME", other)
	_, err = hostdb.FromEnv(t.Context())
	wantField(t, err, hostdb.ErrInvalid, "DB_NAME")
	if _, err := os.Stat(other); err == nil {
		t.Error("the other database was made")
	}
	must(t, hostdb.ResetInstance())
	_, err = hostdb.FromEnv(t.Context())
	must(t, err)
}

func TestFromEnvConfig_usesTheConfig(t *testing.T) {
	setEnv(t, map[string]string{"DB_TYPE": "sqlite", "DB_NAME": filepath.Join(t.TempDir(), "host.db")})
	_, err := hostdb.FromEnvConfig(t.Context(), hostdb.Config{URL: "sqlite:elsewhere.db"})
	wantField(t, err, hostdb.ErrInvalid, "URL")
	then := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	db, err := hostdb.FromEnvConfig(t.Context(), hostdb.Config{Now: func() time.Time { return then }})
	must(t, err)
	if user := newUser(t, db); !user.CreatedAt.Equal(then) {
		t.Errorf("created at %v by the Config's clock, want %v", user.CreatedAt, then)
	}
	again, err := hostdb.FromEnv(t.Context())
	if err != nil || again != db {
		t.Errorf("FromEnv returned another instance, %v", err)
	}
}

func TestFromEnv_findsTheSQLiteFile(t *testing.T) {
	for what, c := range map[string]struct {
		there      []string // files that exist already
		name, want string   // "": FromEnv refuses
	}{
		"the default":                      {nil, "", "app_host.db"},
		"a name":                           {nil, "myapp", "myapp.db"},
		"a name with an existing database": {[]string{"myapp.db"}, "myapp", "myapp.db"},
		"a name with .db":                  {nil, "myapp.db", "myapp.db"},
		"another suffix":                   {nil, "myapp.sqlite", "myapp.sqlite.db"},
		"an existing file":                 {[]string{"myapp.sqlite"}, "myapp.sqlite", "myapp.sqlite"},
		"the default as an existing file":  {[]string{"app_host"}, "", "app_host"},
		"two candidates":                   {[]string{"myapp", "myapp.db"}, "myapp", ""},
		"two files and the .db":            {[]string{"myapp", "myapp.db"}, "myapp.db", "myapp.db"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Chdir(t.TempDir())
			for _, file := range c.there {
				must(t, open(t, hostdb.Config{URL: hostdb.Secret("sqlite:" + file)}).Close())
			}
			setEnv(t, map[string]string{"DB_TYPE": "SQLITE", "DB_NAME": c.name})
			db, err := hostdb.FromEnv(t.Context())
			if c.want == "" {
				wantField(t, err, hostdb.ErrInvalid, "DB_NAME")
				return
			}
			must(t, err)
			if db.URI() != "sqlite:"+c.want {
				t.Errorf("opened %s, want %s", db.URI(), c.want)
			}
			files, err := filepath.Glob("*")
			must(t, err)
			for _, file := range files {
				if file = strings.TrimSuffix(strings.TrimSuffix(file, "-wal"), "-shm"); file != c.want &&
					!slices.Contains(c.there, file) {
					t.Errorf("it made %s", file)
				}
			}
		})
	}
}

func TestFromEnv_namesTheVariable(t *testing.T) {
	server, err := url.Parse(pgtest.Database(t))
	must(t, err)
	password, _ := server.User.Password()
	good := map[string]string{"DB_HOST": server.Hostname(), "DB_PORT": server.Port(),
		"DB_USER": server.User.Username(), "DB_PASS": password}
	for _, c := range []struct {
		name, value string
		kind        error
	}{
		{"DB_TYPE", "MYSQL", hostdb.ErrInvalid}, {"DB_PASS", "", hostdb.ErrInvalid},
		{"DB_PORT", "x", hostdb.ErrInvalid},
		{"DB_PORT", "70000", hostdb.ErrInvalid}, {"DB_PORT", "0", hostdb.ErrInvalid},
		{"DB_PASS", "wr0ng-secret", hostdb.ErrUnavailable},
		{"DB_NAME", "nothing", hostdb.ErrUnavailable},
		{"DB_HOST", "no-such-host.invalid", hostdb.ErrUnavailable},
		{"DB_HOST", "bad host", hostdb.ErrInvalid}, {"DB_HOST", "a/b", hostdb.ErrInvalid},
		{"DB_HOST", "u@h", hostdb.ErrInvalid}, {"DB_HOST", "a,", hostdb.ErrInvalid},
		{"DB_SSLMODE", "on", hostdb.ErrInvalid}, {"DB_HOST", "[::1]", hostdb.ErrInvalid},
		{"DB_HOST", "/no/such/directory", hostdb.ErrUnavailable},
	} {
		given := map[string]string{c.name: c.value}
		for name, value := range good {
			if name != c.name {
				given[name] = value
			}
		}
		must(t, hostdb.ResetInstance())
		setEnv(t, given)
		_, err := hostdb.FromEnv(t.Context())
		wantField(t, err, c.kind, c.name)
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("the error holds the password: %v", err)
		}
	}
}

func TestFromEnv_acceptsAnyCharacterInAPassword(t *testing.T) {
	s := pgtest.Start(t)
	database, err := url.Parse(s.Database(t))
	must(t, err)
	_, err = rawURL(t, database.String()).Exec("CREATE ROLE app SUPERUSER LOGIN")
	must(t, err)
	for _, secret := range []string{`@:/?#%& '"`, `%41%zz`, `\`, "ä ö=;", " x ", `$1`, "+"} {
		conn, err := pgx.Connect(t.Context(), database.String())
		must(t, err)
		_, err = conn.Exec(t.Context(), "ALTER ROLE app PASSWORD '"+strings.ReplaceAll(secret, "'", "''")+"'")
		must(t, err)
		must(t, conn.Close(t.Context()))
		setEnv(t, map[string]string{"DB_USER": "app", "DB_PASS": secret, "DB_HOST": database.Hostname(),
			"DB_PORT": database.Port(), "DB_NAME": strings.TrimPrefix(database.Path, "/")})
		db, err := hostdb.FromEnv(t.Context())
		if err != nil {
			t.Errorf("with the password %q: %v", secret, err)
			continue
		}
		must(t, db.Ping(t.Context()))
		if strings.Contains(db.String(), url.QueryEscape(secret)) || strings.Contains(db.String(), secret) {
			t.Errorf("String shows the password: %s", db)
		}
		must(t, hostdb.ResetInstance())
	}
}

func TestFromEnv_defaults(t *testing.T) {
	for want, given := range map[string]map[string]string{
		"postgres://postgres:p@localhost:5432/app_host": {"DB_PASS": "p"},
		"postgres://a:p@[::1]:1/b%3Fc": {"DB_PASS": "p",
			"DB_USER": "a", "DB_HOST": "::1", "DB_PORT": "1", "DB_NAME": "b?c", "DB_TYPE": "POSTGRESQL"},
		"postgres://postgres:p@/app_host?host=%2Fvar%2Frun%2Fpostgresql&port=5433": {"DB_PASS": "p",
			"DB_HOST": "/var/run/postgresql", "DB_PORT": "5433"},
		"sqlite:app_host.db": {"DB_TYPE": "SQLITE"},
		"postgres://postgres:p@/app_host?host=%2Fa%20b&port=5432": {"DB_PASS": "p", "DB_HOST": "/a b"},
		"postgres://postgres:p@a:5433,[::1]:5433,10.0.0.1:5433/app_host": {"DB_PASS": "p",
			"DB_HOST": "a,::1,10.0.0.1", "DB_PORT": "5433"},
		"postgres://postgres:p@/app_host?host=%2Fs%2Ca&port=5433": {"DB_PASS": "p", "DB_HOST": "/s,a",
			"DB_PORT": "5433"},
		"sqlite:b.db": {"DB_TYPE": "sqlite", "DB_NAME": "b"},
		"postgres://postgres:p@h:5432/app_host?sslmode=verify-full": {"DB_TYPE": "PostgreSQL",
			"DB_PASS": "p", "DB_HOST": "h", "DB_SSLMODE": "verify-full"},
		"postgres://postgres:p@/app_host?host=%2Fs&port=5432&sslmode=disable": {"DB_PASS": "p",
			"DB_HOST": "/s", "DB_SSLMODE": "disable"},
	} {
		if got, err := hostdb.URLFromEnv(func(name string) string { return given[name] }); err != nil ||
			got.Reveal() != want {
			t.Errorf("URL = %q, %v; want %q", got, err, want)
		}
	}
}

func TestFromEnv_acceptsASocketsDirectory(t *testing.T) {
	dir, err := os.MkdirTemp("", "socket") // t.TempDir's path may be too long for a socket
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o777)) // the server may run as another user
	server, err := url.Parse(pgtest.Start(t, "unix_socket_directories="+dir).Database(t))
	must(t, err)
	setEnv(t, map[string]string{"DB_HOST": dir, "DB_PORT": server.Port(), "DB_PASS": "pgtest",
		"DB_NAME": strings.TrimPrefix(server.Path, "/")})
	db, err := hostdb.FromEnv(t.Context())
	must(t, err)
	must(t, db.Ping(t.Context()))
}

func TestFromEnv_endsWithTheContext(t *testing.T) {
	setEnv(t, map[string]string{"DB_TYPE": "SQLITE", "DB_NAME": filepath.Join(t.TempDir(), "host.db")})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := hostdb.FromEnv(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v, want context.Canceled", err)
	}
}
