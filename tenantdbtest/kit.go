// Package tenantdbtest helps to test programs that use tenantdb. It is not for production.
//
// [New] makes a whole product in one call: a host database, a pool, a fleet and a middleware, which are
// closed and removed when the test ends. [Kit.Tenant], [Kit.User], [Kit.Member] and [Kit.Subscribe] fill it,
// [Kit.Request] makes signed-in requests, and [Kit.Context] is for code without HTTP.
//
//	k := tenantdbtest.New(t, tenantdbtest.Options{Migrations: migrations})
//	acme, ann := k.Tenant("acme"), k.User("ann")
//	k.Member(ann, acme, "admin")
//	answer := k.Do(newRouter(k.Middleware), k.Request(ann, acme, "GET", "/notes", nil))
package tenantdbtest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/fleet"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/sqliteimage"
	"github.com/tenantdb/tenantdb/jwtauth"
)

// TenantHeader is the request header that names the tenant, unless [Options.Config] sets another
// [tenantdb.Config.Tenant].
const TenantHeader = "X-Tenant"

// Options say what [New] makes. The zero value is a product on SQLite whose tenants' databases are empty.
type Options struct {
	// Migrations are the tenants' schema, as for [fleet.Config]. The default is none: the databases are
	// empty.
	Migrations fs.FS
	// Postgres is the URL of a PostgreSQL server, with a role that may create databases and roles. The host
	// database and the tenants' databases are made there, as copies of templates, and dropped when the test
	// ends. [StartPostgres] starts a server. The default is SQLite.
	Postgres hostdb.Secret
	// Config changes the middleware's configuration before it is made. The default configuration takes the
	// tenant from [TenantHeader], the caller from a token of [Kit.Issuer] and the time from [Kit.Clock]. It
	// asks for no subscription of a tenant on the plan "free", and logs refused requests to the test.
	Config func(*tenantdb.Config)
	// Pool changes the pool's configuration. The default is [tenantdb.PoolConfig]'s own, with SQLite files in
	// a temporary directory, and with a Forgotten that fails the test.
	Pool func(*tenantdb.PoolConfig)
	// Fleet changes the fleet's configuration, such as Seed.
	Fleet func(*fleet.Config)
	// Issuer signs the tokens of requests. The default is that of [NewIssuer]. Its time becomes the kit's.
	Issuer *Issuer
	// Address puts a tenant's name into a request, where the configured [tenantdb.Source] looks for it. The
	// default sets [TenantHeader]. For [tenantdb.FromSubdomain] it sets r.Host. For names in the path give a
	// function that does nothing: [Kit.Request] replaces {tenant} in the path.
	Address func(r *http.Request, tenant *hostdb.TenantCatalog)
	// Claims returns claims for the token of a request, which are added or replace the default ones. The
	// default is none. The user and the tenant are never nil here: a request without a user has no token, and
	// for one without a tenant Claims isn't called.
	Claims func(user *hostdb.GlobalUser, tenant *hostdb.TenantCatalog) map[string]any
	// AllowGoroutine reports whether a goroutine may go on after the test, by its stack as a goroutine
	// profile shows it. The default is none. Goroutines of net/http and of the databases' drivers may always.
	AllowGoroutine func(stack string) bool
}

// Kit is a product for a test. Its exported fields are the parts, for what the kit's methods don't do. It is
// safe for concurrent use, so parallel subtests may share one; give each its own view with [Kit.For].
type Kit struct {
	// Host is the host database.
	Host *hostdb.DB
	// Pool is the pool of the tenants' databases.
	Pool *tenantdb.Pool
	// Fleet creates and migrates the tenants' databases.
	Fleet *fleet.Fleet
	// Middleware guards handlers. Wrap the router under test with it, as the program does.
	Middleware *tenantdb.Middleware
	// Clock is the time of all parts. It stands at the second in which the test began.
	Clock *Clock
	// Issuer signs the tokens of requests.
	Issuer *Issuer

	t       testing.TB
	options *Options
	auth    tenantdb.Authenticator
	id      string          // of the label of the test's goroutines
	labels  context.Context // with that label
	users   *found          // by name
	tenants *found          // by slug
}

// New makes a product, and has it closed and removed when the test ends. It fails the test if it can't.
//
// The test also fails if a connection of a tenant's database was not given back, with the line that took it,
// and if a goroutine is left that the test or a handler started after New, with the line that started it. So
// that parallel tests don't see each other's goroutines, New puts a profiler label on the calling goroutine,
// which those that it starts inherit ([runtime/pprof.SetGoroutineLabels]). A goroutine with other labels
// isn't seen.
func New(t testing.TB, options Options) *Kit {
	t.Helper()
	k := &Kit{Clock: NewClock(time.Now().UTC().Truncate(time.Second)), Issuer: options.Issuer, t: t,
		options: &options, users: new(found), tenants: new(found)}
	if k.Issuer == nil {
		k.Issuer = NewIssuer()
	}
	k.Issuer.now = k.Clock.Now
	k.label()
	t.Cleanup(k.failOnGoroutines)
	if err := k.open(); err != nil {
		t.Fatalf("tenantdbtest: New: %v", err)
	}
	return k
}

// For returns the same product for another test, such as a parallel subtest: what fails then fails that test.
func (k *Kit) For(t testing.TB) *Kit {
	same := *k
	same.t = t
	return &same
}

// Format implements [fmt.Formatter]. It prints no secret.
func (k *Kit) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "tenantdbtest.Kit") }

// open makes the parts. What it made is closed at the test's end, the last first, also after an error.
func (k *Kit) open() error {
	dir := k.t.TempDir()
	url, server, err := k.database(dir)
	if err != nil {
		return err
	}
	var tenantsAt hostdb.Secret // the default: SQLite
	if server != nil {
		tenantsAt = server.at(server.product)
	}
	k.Host, err = hostdb.OpenConfig(k.t.Context(), hostdb.Config{URL: url, Now: k.Clock.Now})
	if err != nil {
		return err
	}
	k.closeLater("the host database", func(context.Context) error { return k.Host.Close() })
	left := new(forgotten)
	k.t.Cleanup(func() { k.failOnForgotten(left) })
	pool := tenantdb.PoolConfig{SQLiteDir: filepath.Join(dir, "tenants"), Forgotten: left.add}
	if change := k.options.Pool; change != nil {
		change(&pool)
	}
	if k.Pool, err = tenantdb.NewPool(pool); err != nil {
		return err
	}
	if server != nil {
		k.closeLater("the tenants' databases", k.dropTenants)
	}
	k.closeLater("the pool", k.Pool.Close)
	tenants := fleet.Config{Host: k.Host, Pool: k.Pool, Server: tenantsAt}
	if k.options.Migrations != nil {
		tenants.Migrations = sqliteimage.Migrations{FS: k.options.Migrations, Images: &images}
	}
	if change := k.options.Fleet; change != nil {
		change(&tenants)
	}
	if k.Fleet, err = fleet.New(tenants); err != nil {
		return err
	}
	if server != nil && tenants.Migrations != nil && !tenants.NoTemplate {
		server.remember(k.Fleet, tenants.SharedRole)
	}
	return k.openMiddleware()
}

// openMiddleware makes the middleware.
func (k *Kit) openMiddleware() error {
	tokens := k.Issuer.Config()
	tokens.Now = k.Clock.Now
	auth, err := jwtauth.New(tokens)
	if err != nil {
		return err
	}
	log := &testLog{t: k.t}
	k.t.Cleanup(log.end)
	cfg := tenantdb.Config{Host: k.Host, Pool: k.Pool, Authenticator: auth,
		Tenant: tenantdb.FromHeader(TenantHeader), Now: k.Clock.Now,
		Subscription: tenantdb.SubscriptionPolicy{FreePlans: []string{hostdb.TierFree}},
		Logger:       slog.New(slog.NewTextHandler(log, nil))}
	if change := k.options.Config; change != nil {
		change(&cfg)
	}
	k.auth = cfg.Authenticator
	if k.Middleware, err = tenantdb.New(cfg); err != nil {
		return err
	}
	k.closeLater("the middleware", k.Middleware.Close)
	return nil
}

// closeTimeout is how long a part may take to close.
const closeTimeout = 10 * time.Second

// closeLater closes a part when the test ends, and fails the test if it can't be closed.
func (k *Kit) closeLater(what string, closer func(context.Context) error) {
	t := k.t
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		if err := closer(ctx); err != nil {
			t.Errorf("tenantdbtest: %s didn't close: %v", what, err)
		}
	})
}

// images are the contents of migrated SQLite files, which the tests of the process copy.
var images sqliteimage.Images

// database makes an empty host database. It returns its URL, and the PostgreSQL server, nil for SQLite.
func (k *Kit) database(dir string) (url hostdb.Secret, on *server, err error) {
	if k.options.Postgres != "" {
		return k.postgresDatabase()
	}
	image, err := images.Get("host", migratedHost)
	if err != nil {
		return "", nil, fmt.Errorf("migrate a host database: %w", err)
	}
	path := filepath.Join(dir, "host.db")
	if err := os.WriteFile(path, image, 0o600); err != nil {
		return "", nil, fmt.Errorf("copy the migrated host database: %w", err)
	}
	return hostdb.Secret("sqlite:" + path), nil, nil
}

// migratedHost returns the content of a host database without rows.
func migratedHost() (image []byte, err error) {
	dir, err := os.MkdirTemp("", "tenantdbtest-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "host.db")
	db, err := hostdb.Open(context.Background(), "sqlite:"+path)
	if err != nil {
		return nil, err
	}
	if err := db.Close(); err != nil { // this merges the write-ahead log into the file
		return nil, err
	}
	return os.ReadFile(path)
}

// testLog writes lines to a test's log until the test ends. Writing later would be a panic.
type testLog struct {
	mu sync.Mutex // guards t
	t  testing.TB // nil once the test has ended
}

// Write implements [io.Writer].
func (l *testLog) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.t != nil {
		l.t.Logf("%s", bytes.TrimSuffix(line, []byte("\n")))
	}
	return len(line), nil
}

// end stops the log.
func (l *testLog) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.t = nil
}
