package tenantdbtest_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/fleet"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/tenantdbtest"
)

func TestMain(m *testing.M) { os.Exit(tenantdbtest.Run(m)) }

// notes is the tenants' schema in the tests.
var notes = fstest.MapFS{"00001_notes.sql": {
	Data: []byte("-- +goose Up\nCREATE TABLE notes (body TEXT NOT NULL);\n"),
}}

// newRouter is the product under test: it adds notes and lists them.
func newRouter(mw *tenantdb.Middleware) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /notes", func(w http.ResponseWriter, r *http.Request) {
		for _, body := range must2(list(r.Context())) {
			fmt.Fprintln(w, body)
		}
	})
	mux.HandleFunc("POST /notes", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if err := add(r.Context(), string(body)); err != nil {
			tenantdb.WriteError(w, r, err)
		}
	})
	mux.Handle("GET /export", mw.RequireFeature("export")(mw.RequireRole("admin")(http.HandlerFunc(
		func(http.ResponseWriter, *http.Request) {}))))
	return mw.Handler(mux)
}

// add adds a note.
func add(ctx context.Context, body string) error {
	_, err := tenantdb.DB(ctx).ExecContext(ctx, "INSERT INTO notes (body) VALUES ($1)", body)
	return err
}

// list returns the notes.
func list(ctx context.Context) (all []string, err error) {
	rows, err := tenantdb.ReadDB(ctx).QueryContext(ctx, "SELECT body FROM notes ORDER BY body")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var body string
		if err := rows.Scan(&body); err != nil {
			return nil, err
		}
		all = append(all, body)
	}
	return all, rows.Err()
}

func must2[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// answers checks the status of a response.
func answers(t *testing.T, k *tenantdbtest.Kit, h http.Handler, r *http.Request, status int) string {
	t.Helper()
	response := k.Do(h, r)
	if response.Code != status {
		t.Errorf("%s %s: %d %s; want %d", r.Method, r.URL, response.Code, response.Body, status)
	}
	return response.Body.String()
}

// onBothEngines runs a test on SQLite and on PostgreSQL.
func onBothEngines(t *testing.T, options tenantdbtest.Options,
	test func(t *testing.T, k *tenantdbtest.Kit)) {
	t.Run("sqlite", func(t *testing.T) { test(t, tenantdbtest.New(t, options)) })
	t.Run("postgres", func(t *testing.T) {
		options.Postgres = tenantdbtest.StartPostgres(t)
		test(t, tenantdbtest.New(t, options))
	})
}

func TestKit_requestsReachTheirTenant(t *testing.T) {
	onBothEngines(t, tenantdbtest.Options{Migrations: notes}, func(t *testing.T, k *tenantdbtest.Kit) {
		h, ann := newRouter(k.Middleware), k.User("ann")
		acme, globex := k.Tenant("acme"), k.Tenant("globex")
		get := func(user *hostdb.GlobalUser, tenant *hostdb.TenantCatalog) *http.Request {
			return k.Request(user, tenant, "GET", "/notes", nil)
		}
		answers(t, k, h, get(ann, acme), http.StatusForbidden)
		answers(t, k, h, get(nil, acme), http.StatusUnauthorized)
		answers(t, k, h, get(ann, nil), http.StatusBadRequest)
		k.Member(ann, acme, "") // noticed at once
		answers(t, k, h, k.Request(ann, acme, "POST", "/notes", strings.NewReader("buy milk")), http.StatusOK)
		if body := answers(t, k, h, get(ann, acme), http.StatusOK); body != "buy milk\n" {
			t.Errorf("body = %q", body)
		}
		if body := answers(t, k, h, get(k.Owner(globex), globex), http.StatusOK); body != "" {
			t.Errorf("another tenant has %q", body)
		}
		if same := k.Tenant("acme"); same.ID != acme.ID || k.User("ann").ID != ann.ID {
			t.Error("a second call made another tenant or user")
		}
	})
}

func TestKit_rolesPlansAndTimeDecide(t *testing.T) {
	onBothEngines(t, tenantdbtest.Options{Migrations: notes}, func(t *testing.T, k *tenantdbtest.Kit) {
		h, ann, acme := newRouter(k.Middleware), k.User("ann"), k.Tenant("acme")
		export := func() *http.Request { return k.Request(ann, acme, "GET", "/export", nil) }
		k.Member(ann, acme, "admin")
		answers(t, k, h, export(), http.StatusForbidden)
		k.Subscribe(acme, "pro", "export")
		answers(t, k, h, export(), http.StatusOK)
		k.Member(ann, acme, "member")
		answers(t, k, h, export(), http.StatusForbidden)
		k.Member(ann, acme, "admin")
		r := export()
		k.Clock.Advance(61 * time.Minute) // the token ends
		answers(t, k, h, r, http.StatusUnauthorized)
		answers(t, k, h, export(), http.StatusOK)
		trial := k.Subscribe(acme, "pro")
		for _, s := range must2(k.Host.Subscriptions.ListForTenant(t.Context(), acme.ID)) {
			s.Status, s.TrialEnd = hostdb.SubscriptionTrialing, trial.CurrentPeriodEnd
			must(t, k.Host.Subscriptions.Update(t.Context(), s))
		}
		k.Changed(nil, acme)
		answers(t, k, h, export(), http.StatusOK)
		k.Clock.Set(*trial.CurrentPeriodEnd)
		answers(t, k, h, export(), http.StatusPaymentRequired)
	})
}

func TestKit_contextServesCodeWithoutHTTP(t *testing.T) {
	onBothEngines(t, tenantdbtest.Options{Migrations: notes}, func(t *testing.T, k *tenantdbtest.Kit) {
		acme, globex := k.Tenant("acme"), k.Tenant("globex")
		ctx := k.Context(k.Owner(acme), acme)
		must(t, add(ctx, "buy milk"))
		if scope, _ := tenantdb.FromContext(ctx); scope.Role != "owner" || scope.Check(ctx) != nil {
			t.Errorf("role = %q, Check = %v", scope.Role, scope.Check(ctx))
		}
		if all := must2(list(k.Context(nil, acme))); len(all) != 1 {
			t.Errorf("acme has %q", all)
		}
		if all := must2(list(k.Context(nil, globex))); len(all) != 0 {
			t.Errorf("globex has %q", all)
		}
		failed := record(t, func(t testing.TB) { k.For(t).Context(k.User("ann"), acme) })
		failed.says("not a member")
	})
}

func TestWithScope_isFoundAndGrantsNothing(t *testing.T) {
	ctx := tenantdbtest.WithScope(t.Context(), &tenantdb.Scope{Role: "owner", Features: []string{"export"}})
	scope, found := tenantdb.FromContext(ctx)
	if !found || scope.Role != "owner" || !scope.HasFeature("export") {
		t.Fatalf("scope = %+v, %v", scope, found)
	}
	if scope.Check(ctx) == nil {
		t.Error("Check admits")
	}
	k := tenantdbtest.New(t, tenantdbtest.Options{Migrations: notes})
	guarded := tenantdb.RequireRole("member")(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("a guard admitted a made scope")
	}))
	answers(t, k, guarded, k.Request(nil, nil, "GET", "/", nil).WithContext(ctx), http.StatusForbidden)
	func() {
		defer func() {
			if recover() == nil {
				t.Error("DB gave a handle")
			}
		}()
		tenantdb.DB(ctx)
	}()
	acme := k.Tenant("acme")
	real := k.Context(k.Owner(acme), acme)
	real = tenantdbtest.WithScope(real, &tenantdb.Scope{Role: "admin"})
	if scope, _ := tenantdb.FromContext(real); scope.Role != "owner" {
		t.Errorf("a made scope hides the middleware's: role %q", scope.Role)
	}
}

func TestKit_takesTheProductsConfiguration(t *testing.T) {
	seeded := 0
	k := tenantdbtest.New(t, tenantdbtest.Options{
		Migrations: notes,
		Config: func(c *tenantdb.Config) {
			c.Tenant = tenantdb.Sources(tenantdb.FromSubdomain("example.com"), tenantdb.FromPathPrefix(),
				tenantdb.FromClaim("org"))
			c.Roles = []string{"owner", "clerk"}
		},
		Fleet: func(c *fleet.Config) { c.ReservedSlugs = []string{"acme"} },
		Pool:  func(*tenantdb.PoolConfig) { seeded++ },
		Address: func(r *http.Request, tenant *hostdb.TenantCatalog) {
			r.Host = tenant.Slug + ".example.com"
		},
		Claims: func(_ *hostdb.GlobalUser, tenant *hostdb.TenantCatalog) map[string]any {
			return map[string]any{"org": tenant.Slug}
		},
	})
	globex := k.Tenant("globex")
	h := k.Middleware.Handler(k.Middleware.RequireRole("clerk")(http.HandlerFunc(
		func(http.ResponseWriter, *http.Request) {})))
	answers(t, k, h, k.Request(k.Owner(globex), globex, "GET", "/{tenant}/notes", nil), http.StatusOK)
	answers(t, k, h, k.Request(k.Owner(globex), globex, "GET", "/acme/notes", nil), http.StatusForbidden)
	record(t, func(t testing.TB) { k.For(t).Tenant("acme") }).says("reserved")
	if seeded != 1 {
		t.Errorf("Pool was called %d times", seeded)
	}
}

func TestNew_saysWhatIsWrong(t *testing.T) {
	malformed := fstest.MapFS{"00001_malformed.sql": {Data: []byte("SELECT 1;")}}
	for want, options := range map[string]tenantdbtest.Options{
		"Tenant: give a source": {Config: func(c *tenantdb.Config) { c.Tenant = tenantdb.Source{} }},
		"MaxConns: can't be":    {Pool: func(c *tenantdb.PoolConfig) { c.MaxConns = -1 }},
		"00001_malformed.sql":   {Migrations: malformed},
	} {
		record(t, func(t testing.TB) { tenantdbtest.New(t, options) }).says(want)
	}
	broken := fstest.MapFS{"00001_broken.sql": {Data: []byte("-- +goose Up\nCREATE TABEL x (y TEXT);")}}
	onBothEngines(t, tenantdbtest.Options{Migrations: broken}, func(t *testing.T, k *tenantdbtest.Kit) {
		record(t, func(t testing.TB) { k.For(t).Tenant("acme") }).says("00001_broken.sql")
	})
}

func TestNew_leavesNothingBehind(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	t.Run("test", func(t *testing.T) {
		k := tenantdbtest.New(t, tenantdbtest.Options{Migrations: notes})
		acme := k.Tenant("acme")
		answers(t, k, newRouter(k.Middleware), k.Request(k.Owner(acme), acme, "GET", "/notes", nil), 200)
	})
	if left := must2(filepath.Glob(filepath.Join(dir, "*"))); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestKit_servesParallelTests(t *testing.T) {
	onBothEngines(t, tenantdbtest.Options{Migrations: notes}, func(t *testing.T, k *tenantdbtest.Kit) {
		h := newRouter(k.Middleware)
		for i := range 8 {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				k := k.For(t)
				shared, own := k.Tenant("shared"), k.Tenant(fmt.Sprint("own-", i))
				k.Member(k.User("ann"), shared, "")
				answers(t, k, h, k.Request(k.User("ann"), shared, "GET", "/notes", nil), http.StatusOK)
				must(t, add(k.Context(nil, own), fmt.Sprint(i)))
				all := must2(list(k.Context(k.Owner(own), own)))
				if len(all) != 1 || all[0] != fmt.Sprint(i) {
					t.Errorf("notes = %q", all)
				}
			})
		}
	})
}

// BenchmarkNew_withAFreshTenant runs tests that have a product and a tenant of their own, and send one
// request. With -cpu 2 -benchtime 500x the last column is the time for 500 tests.
func BenchmarkNew_withAFreshTenant(b *testing.B) {
	begin := time.Now()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			one := &recorder{TB: b}
			k := tenantdbtest.New(one, tenantdbtest.Options{Migrations: notes})
			acme := k.Tenant("acme")
			r := k.Request(k.Owner(acme), acme, "GET", "/notes", nil)
			if response := k.Do(newRouter(k.Middleware), r); response.Code != http.StatusOK {
				b.Errorf("%d %s", response.Code, response.Body)
			}
			one.end()
		}
	})
	b.ReportMetric(time.Since(begin).Seconds(), "s/all")
}

// recorder is a test that fails without failing the one that runs it.
type recorder struct {
	testing.TB
	t *testing.T

	mu       sync.Mutex // guards what follows
	failures []string
	cleanups []func()
}

// record runs a function as a test, with its cleanups.
func record(t *testing.T, test func(testing.TB)) *recorder {
	t.Helper()
	r := &recorder{TB: t, t: t}
	for _, run := range []func(){func() { test(r) }, r.end} {
		done := make(chan struct{})
		go func() {
			defer close(done)
			run()
		}()
		<-done
	}
	return r
}

// says checks that the test failed, and that the failure has a text.
func (r *recorder) says(text string) {
	r.t.Helper()
	if all := strings.Join(r.failures, "\n"); !strings.Contains(all, text) {
		r.t.Errorf("the test failed with %q; want a failure that says %q", all, text)
	}
}

func (r *recorder) end() {
	for len(r.cleanups) > 0 {
		last := r.cleanups[len(r.cleanups)-1]
		r.cleanups = r.cleanups[:len(r.cleanups)-1]
		last()
	}
}

func (r *recorder) Helper() {}

func (r *recorder) Cleanup(f func()) { r.cleanups = append(r.cleanups, f) }

func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, fmt.Sprintf(format, args...))
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}
