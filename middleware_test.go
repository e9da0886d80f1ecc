package tenantdb_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/jwtauth"
)

// row is one line of the table of answers in docs/guide.md.
type row struct {
	name    string
	pool    tenantdb.PoolConfig
	config  func(*world, *tenantdb.Config)
	rules   tenantdb.Rules
	arrange func(w *world, acme *hostdb.TenantCatalog)
	guard   func(http.Handler) http.Handler
	request func() *http.Request
	status  int
	code    string
	headers map[string]string
}

// In statusTable ann owns acme, and eve is a member of nothing.
var statusTable = []row{
	{name: "a member is served from the tenant's own database", status: 200},
	{name: "no credential", request: func() *http.Request { return request("", "acme") },
		status: 401, code: "unauthenticated", headers: map[string]string{"WWW-Authenticate": "Bearer"}},
	{name: "a forged credential", request: func() *http.Request {
		r := request("ann", "acme")
		r.Header.Set("Authorization", r.Header.Get("Authorization")+"x")
		return r
	}, status: 401, code: "unauthenticated", headers: map[string]string{
		"WWW-Authenticate": `Bearer error="invalid_token"`,
	}},
	{name: "an expired credential", request: func() *http.Request {
		r := request("", "acme")
		r.Header.Set("Authorization", "Bearer "+token("ann", func(c jwt.MapClaims) {
			c["exp"] = noon.Add(-time.Hour).Unix()
		}))
		return r
	}, status: 401, code: "unauthenticated", headers: map[string]string{
		"WWW-Authenticate": `Bearer error="invalid_token"`,
	}},
	{name: "several credentials", request: func() *http.Request {
		r := request("ann", "acme")
		r.AddCookie(&http.Cookie{Name: "session", Value: token("ann")})
		return r
	}, status: 400, code: "several_credentials"},
	{name: "unsafe cross-origin request with a cookie", request: func() *http.Request {
		r := httptest.NewRequest(http.MethodPost, "http://app.example.com/me", nil)
		r.AddCookie(&http.Cookie{Name: "session", Value: token("ann")})
		r.Header.Set(header, "acme")
		r.Header.Set("Sec-Fetch-Site", "cross-site")
		return r
	}, status: 403, code: "cross_origin"},
	{name: "the issuer's keys can't be had", config: func(w *world, cfg *tenantdb.Config) {
		gone := httptest.NewServer(http.NotFoundHandler())
		gone.Close()
		var err error
		cfg.Authenticator, err = jwtauth.New(jwtauth.Config{
			Issuer: issuer, Audience: audience, Algorithms: []string{"RS256"}, JWKSURL: gone.URL,
			Now: w.clock.Now,
		})
		must(w.t, err)
	}, request: func() *http.Request {
		r := request("", "acme")
		r.Header.Set("Authorization", "Bearer "+rsaToken("ann"))
		return r
	}, status: 503, code: "auth_unavailable", headers: map[string]string{"Retry-After": "2"}},
	{name: "an authenticator that fails otherwise", config: func(_ *world, cfg *tenantdb.Config) {
		cfg.Authenticator = authFunc(func(*http.Request) (*tenantdb.Identity, error) {
			return nil, errors.New("session store: connection refused")
		})
	}, status: 503, code: "auth_unavailable"},
	{name: "an authenticator that says nothing", config: func(_ *world, cfg *tenantdb.Config) {
		cfg.Authenticator = authFunc(func(*http.Request) (*tenantdb.Identity, error) { return nil, nil })
	}, status: 503, code: "auth_unavailable"},
	{name: "no tenant", request: func() *http.Request { return request("ann", "") }, status: 400,
		code: "no_tenant"},
	{name: "a name outside the grammar", request: func() *http.Request { return request("ann", "Acme!") },
		status: 400, code: "invalid_tenant"},
	{name: "a slug beside an id", config: twoSources, request: func() *http.Request {
		r := request("ann", "acme")
		r.Host = strings.Repeat("0", 32) + ".example.com"
		return r
	}, status: 400, code: "invalid_tenant"},
	{name: "sources disagree", config: twoSources, request: func() *http.Request {
		r := request("ann", "acme")
		r.Host = "globex.example.com"
		return r
	}, status: 403, code: "tenant_conflict"},
	{name: "an unknown tenant", request: func() *http.Request { return request("ann", "nobody") },
		status: 403, code: "not_member"},
	{name: "a tenant of others", request: func() *http.Request { return request("eve", "acme") }, status: 403,
		code: "not_member"},
	{name: "an unknown user", request: func() *http.Request { return request("mallory", "acme") },
		status: 403, code: "not_member"},
	{name: "an inactive membership", arrange: func(w *world, acme *hostdb.TenantCatalog) {
		m := w.member(w.user("joe"), acme, hostdb.RoleMember)
		m.IsActive = false
		must(w.t, w.host.Memberships.Update(w.t.Context(), m))
	}, request: func() *http.Request { return request("joe", "acme") }, status: 403, code: "not_member"},
	{name: "a dropped tenant", arrange: setStatus(hostdb.TenantDropped), status: 403, code: "not_member"},
	{name: "a suspended tenant", arrange: setStatus(hostdb.TenantSuspended), status: 403,
		code: "tenant_suspended"},
	{name: "a tenant switched off", arrange: func(w *world, acme *hostdb.TenantCatalog) {
		w.update(acme, func(t *hostdb.TenantCatalog) { t.IsActive = false })
	}, status: 403, code: "tenant_suspended"},
	{name: "never subscribed", arrange: setTier("pro"), status: 402, code: "subscription_inactive"},
	{name: "an active subscription", arrange: subscribed(hostdb.Subscription{Status: "active"}), status: 200},
	{name: "in trial",
		arrange: subscribed(hostdb.Subscription{Status: "trialing", TrialEnd: at(time.Second)}), status: 200},
	{name: "trial over", arrange: subscribed(hostdb.Subscription{Status: "trialing", TrialEnd: at(0)}),
		status: 402, code: "subscription_inactive"},
	{name: "in grace",
		arrange: subscribed(hostdb.Subscription{
			Status: "past_due", CurrentPeriodEnd: at(-72*time.Hour + time.Second),
		}), status: 200},
	{name: "grace over",
		arrange: subscribed(hostdb.Subscription{Status: "past_due", CurrentPeriodEnd: at(-72 * time.Hour)}),
		status:  402, code: "subscription_inactive"},
	{name: "trialing without an end", arrange: subscribed(hostdb.Subscription{Status: "trialing"}),
		status: 402, code: "subscription_inactive"},
	{name: "unpaid",
		arrange: subscribed(hostdb.Subscription{Status: "unpaid", CurrentPeriodEnd: at(time.Hour)}),
		status:  402, code: "subscription_inactive"},
	{name: "paid once only",
		arrange: subscribed(hostdb.Subscription{Status: "active", PaymentType: "one_time"}), status: 402,
		code: "subscription_inactive"},
	{name: "an older active subscription behind a canceled one",
		arrange: func(w *world, acme *hostdb.TenantCatalog) {
			subscribed(hostdb.Subscription{
				Status: "active", StripeSubID: "sub_1", CreatedAt: noon.AddDate(-1, 0, 0),
			})(w, acme)
			subscribed(hostdb.Subscription{Status: "canceled", StripeSubID: "sub_2", CreatedAt: noon})(w,
				acme)
		}, status: 200},
	{name: "lapsed, on the way to the billing page", rules: tenantdb.Rules{AllowInactive: true},
		arrange: setTier("pro"), status: 200},
	{name: "role missing", guard: tenantdb.RequireRole("owner"), arrange: joeIsMember,
		request: func() *http.Request { return request("joe", "acme") },
		status:  403, code: "forbidden"},
	{name: "role held", guard: tenantdb.RequireRole("member"), status: 200},
	{name: "an unknown role required", guard: tenantdb.RequireRole("emperor"), status: 403,
		code: "forbidden"},
	{name: "feature missing", guard: tenantdb.RequireFeature("sso"), arrange: onPlan(1, "export"),
		status: 403, code: "forbidden"},
	{name: "feature held", guard: tenantdb.RequireFeature("export"), arrange: onPlan(1, "export"),
		status: 200},
	{name: "tier missing", guard: tenantdb.RequireTier(2), arrange: onPlan(1), status: 403,
		code: "forbidden"},
	{name: "tier held", guard: tenantdb.RequireTier(1), arrange: onPlan(1), status: 200},
	{name: "an unknown plan has no features", guard: tenantdb.RequireFeature("export"), status: 403,
		code: "forbidden"},
	{name: "an unknown plan has no tier", guard: tenantdb.RequireTier(0), status: 403, code: "forbidden"},
	{name: "maintenance", arrange: setStatus(hostdb.TenantMaintenance), status: 503,
		code: "tenant_unavailable", headers: map[string]string{"Retry-After": "2"}},
	{name: "still being set up", arrange: setStatus(hostdb.TenantProvisioning), status: 503,
		code: "tenant_unavailable"},
	{name: "schema below the minimum", config: func(_ *world, cfg *tenantdb.Config) {
		cfg.MinSchemaVersion = 2
	},
		status: 503, code: "tenant_unavailable", headers: map[string]string{"Retry-After": "2"}},
	{name: "never migrated", config: func(_ *world, cfg *tenantdb.Config) { cfg.MinSchemaVersion = 1 },
		arrange: func(w *world, acme *hostdb.TenantCatalog) {
			w.update(acme, func(t *hostdb.TenantCatalog) { t.SchemaVersion = 0 })
		}, status: 503, code: "tenant_unavailable"},
	{name: "a db_url of no known engine", arrange: setURL("mysql://localhost/x"), status: 503,
		code: "tenant_unavailable"},
	{name: "raised by the handler's query: server down", arrange: serverDown, status: 503,
		code: "tenant_unavailable", headers: map[string]string{"Retry-After": "2"}},
	{name: "raised by the handler's query: the tenant's share is used up", pool: tenantdb.PoolConfig{
		MaxConns: 1, AcquireTimeout: time.Second,
	},
		arrange: func(w *world, acme *hostdb.TenantCatalog) {
			lease, err := w.pool.Lease(acme)
			must(w.t, err)
			tx, err := lease.DB().BeginTx(w.t.Context(), nil) // the only connection
			must(w.t, err)
			w.t.Cleanup(func() {
				_ = tx.Rollback()
				lease.Release()
			})
		}, status: 503, code: "busy", headers: map[string]string{"Retry-After": "2"}},
	{name: "host database down, nothing cached", arrange: func(w *world, _ *hostdb.TenantCatalog) {
		must(w.t, w.host.Close())
	},
		status: 503, code: "host_unavailable", headers: map[string]string{"Retry-After": "2"}},
}

func TestMiddleware_statusTable(t *testing.T) {
	for _, row := range statusTable {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			for _, engine := range []string{"sqlite", "postgres"} {
				t.Run(engine, func(t *testing.T) { row.check(t, newWorld(t, engine, row.pool)) })
			}
		})
	}
}

// check runs one row.
func (row row) check(t *testing.T, w *world) {
	acme := w.tenant("acme", w.user("ann"))
	w.user("eve")
	cfg := w.config()
	if row.config != nil {
		row.config(w, &cfg)
	}
	mw := w.middleware(cfg)
	if row.arrange != nil {
		row.arrange(w, acme)
	}
	served := false
	next := http.Handler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		served = true
		whoami(rw, r)
	}))
	if row.guard != nil {
		next = row.guard(next)
	}
	r := request("ann", "acme")
	if row.request != nil {
		r = row.request()
	}
	rec := do(mw.HandlerWith(row.rules, next), r)
	if rec.Code != row.status {
		t.Fatalf("status = %d %s; want %d", rec.Code, rec.Body, row.status)
	}
	if row.status == 200 {
		if rec.Body.String() != "acme" {
			t.Fatalf("body = %q; want the name in acme's database", rec.Body)
		}
		return
	}
	if got := code(t, rec); got != row.code {
		t.Errorf("code = %q; want %q", got, row.code)
	}
	if served && !strings.HasPrefix(row.name, "raised by the handler") {
		t.Error("the handler ran")
	}
	want := map[string]string{"Content-Type": "application/problem+json", "Cache-Control": "no-store"}
	for name, value := range row.headers {
		want[name] = value
	}
	for name, value := range want {
		if got := rec.Header().Get(name); got != value {
			t.Errorf("%s = %q; want %q", name, got, value)
		}
	}
	for _, leak := range []string{
		acme.DBURL.Reveal(), acme.ID, "connection refused", "dial", "postgres", "sqlite", w.host.URI(),
	} {
		if strings.Contains(rec.Body.String(), leak) {
			t.Errorf("the body shows %q", leak)
		}
	}
}

func twoSources(_ *world, cfg *tenantdb.Config) {
	cfg.Tenant = tenantdb.Sources(tenantdb.FromHeader(header), tenantdb.FromSubdomain("example.com"))
}

func joeIsMember(w *world, acme *hostdb.TenantCatalog) {
	w.member(w.user("joe"), acme, hostdb.RoleMember)
}

// serverDown moves a tenant to a database that can't be reached.
func serverDown(w *world, acme *hostdb.TenantCatalog) {
	url := "sqlite:" + hostdb.NewID() + ".db"
	if w.engine == "postgres" {
		url = "postgres://nobody:s3cret@127.0.0.1:1/gone?sslmode=disable"
	}
	setURL(url)(w, acme)
}

func TestMiddleware_answersUnknownAndForeignTenantsAlike(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ann := w.user("ann")
		acme, gone := w.tenant("acme", ann), w.tenant("gone", ann)
		w.user("eve")
		inactive := w.member(w.user("joe"), acme, hostdb.RoleMember)
		inactive.IsActive = false
		must(t, w.host.Memberships.Update(t.Context(), inactive))
		must(t, w.fleet.Drop(t.Context(), gone.ID))
		h := w.middleware(w.config()).Handler(http.HandlerFunc(whoami))
		var answers []string
		for _, who := range [][2]string{
			{"eve", "acme"}, {"eve", "unknown"}, {"joe", "acme"}, {"ann", "gone"}, {"ann", gone.ID},
			{"mallory", "acme"},
		} {
			rec := do(h, request(who[0], who[1]))
			if rec.Code != 403 || code(t, rec) != "not_member" {
				t.Errorf("%s in %s: %d %s", who[0], who[1], rec.Code, rec.Body)
			}
			answers = append(answers, fmt.Sprint(rec.Code, rec.Header(), rec.Body))
		}
		if len(slices.Compact(answers)) != 1 {
			t.Errorf("answers differ:\n%s", strings.Join(answers, "\n"))
		}
	})
}

func TestMiddleware_servesEachTenantFromItsOwnDatabase(t *testing.T) {
	t.Parallel()
	onBothEngines(t, func(t *testing.T, w *world) {
		const tenants, goroutines, rounds = 50, 20, 3
		ann := w.user("ann")
		for i := range tenants {
			w.tenant(fmt.Sprintf("t%d", i), ann)
		}
		h := w.middleware(w.config()).Handler(http.HandlerFunc(whoami))
		var group sync.WaitGroup
		for g := range goroutines {
			group.Go(func() {
				for i := range tenants * rounds {
					slug := fmt.Sprintf("t%d", (i*7+g)%tenants)
					if rec := do(h, request("ann", slug)); rec.Code != 200 || rec.Body.String() != slug {
						t.Errorf("request for %s answered %d %q", slug, rec.Code, rec.Body)
						return
					}
				}
			})
		}
		group.Wait()
	})
}

func TestMiddleware_panicReleasesTheLeaseAndTheConnections(t *testing.T) {
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) {
			w := newWorld(t, engine, tenantdb.PoolConfig{MaxConns: 2, AcquireTimeout: 2 * time.Second})
			acme := w.tenant("acme", w.user("ann"))
			mw := w.middleware(w.config())
			const query = "SELECT name FROM me"
			careless := map[string]func(ctx context.Context) error{
				"unread rows": func(ctx context.Context) error {
					return second(tenantdb.DB(ctx).QueryContext(ctx, query))
				},
				"a transaction": func(ctx context.Context) error {
					return second(tenantdb.DB(ctx).BeginTx(ctx, nil))
				},
				"a connection": func(ctx context.Context) error { return second(tenantdb.DB(ctx).Conn(ctx)) },
			}
			if engine == "postgres" {
				careless["pgx rows"] = func(ctx context.Context) error {
					return second(tenantdb.PG(ctx).Query(ctx, query))
				}
				careless["a pgx transaction"] = func(ctx context.Context) error {
					return second(tenantdb.PG(ctx).Begin(ctx))
				}
				careless["a pgx connection"] = func(ctx context.Context) error {
					return second(tenantdb.PG(ctx).Acquire(ctx))
				}
			}
			for name, leave := range careless {
				if engine == "sqlite" && name == "a connection" {
					continue // database/sql ends no Conn with its context
				}
				for range 3 {
					abandon(t, mw, func(ctx context.Context) {
						if err := leave(ctx); err != nil {
							t.Errorf("%s: %v", name, err)
						}
						panic(http.ErrAbortHandler)
					})
				}
				if rec := do(mw.Handler(http.HandlerFunc(whoami)), request("ann", "acme")); rec.Code != 200 {
					t.Errorf("after handlers that left %s: %d %s", name, rec.Code, rec.Body)
				}
			}
			drain, stop := context.WithTimeout(t.Context(), 10*time.Second)
			defer stop()
			must(t, w.pool.Drain(drain, acme.ID)) // returns once no lease and no connection is left
		})
	}
}

// second returns the error of a call and drops its value.
func second[T any](_ T, err error) error { return err }

// abandon serves a request whose handler panics with [http.ErrAbortHandler]. The request's context ends after
// that, as in net/http.
func abandon(t *testing.T, mw *tenantdb.Middleware, handler func(context.Context)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	defer func() {
		if p := recover(); p != http.ErrAbortHandler {
			t.Errorf("the handler's panic arrived as %v", p)
		}
	}()
	do(mw.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { handler(r.Context()) })),
		request("ann", "acme").WithContext(ctx))
}

func TestMiddleware_nestedQueryIsBusy(t *testing.T) {
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) {
			w := newWorld(t, engine, tenantdb.PoolConfig{MaxConns: 1, AcquireTimeout: time.Second})
			w.tenant("acme", w.user("ann"))
			h := w.middleware(w.config()).Handler(
				http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
					tx, err := tenantdb.DB(r.Context()).BeginTx(r.Context(), nil)
					must(t, err)
					defer func() { _ = tx.Rollback() }()
					if _, err := tenantdb.DB(r.Context()).ExecContext(r.Context(),
						"DELETE FROM me"); err != nil {
						tenantdb.WriteError(rw, r, err)
					}
				}))
			if rec := do(h, request("ann", "acme")); rec.Code != 503 || code(t, rec) != "busy" {
				t.Errorf("%d %s", rec.Code, rec.Body)
			}
		})
	}
}

func TestMiddleware_Close_refusesRequests(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		acme := w.tenant("acme", w.user("ann"))
		mw, err := tenantdb.New(w.config())
		must(t, err)
		h := mw.Handler(http.HandlerFunc(whoami))
		if rec := do(h, request("ann", "acme")); rec.Code != 200 {
			t.Fatalf("before: %d", rec.Code)
		}
		must(t, mw.Close(t.Context()))
		must(t, mw.Close(t.Context())) // a second call does nothing
		if rec := do(h, request("ann", "acme")); rec.Code != 503 || code(t, rec) != "host_unavailable" {
			t.Errorf("after: %d %s", rec.Code, rec.Body)
		}
		if _, _, err := mw.Enter(t.Context(), acme.ID); !errors.Is(err, tenantdb.ErrHostUnavailable) {
			t.Errorf("Enter after Close = %v", err)
		}
	})
}

func TestMiddleware_subscriptionEndsOnTimeWhateverIsCached(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		acme := w.tenant("acme", w.user("ann"))
		subscribed(hostdb.Subscription{Status: "trialing", TrialEnd: at(time.Hour)})(w, acme)
		h := w.middleware(w.config()).Handler(http.HandlerFunc(whoami))
		for _, step := range []struct {
			now    time.Duration
			status int
		}{{0, 200}, {time.Hour - time.Microsecond, 200}, {time.Hour, 402}, {2 * time.Hour, 402}} {
			w.clock.Set(noon.Add(step.now))
			if rec := do(h, request("ann", "acme")); rec.Code != step.status {
				t.Errorf("at noon + %v: %d; want %d", step.now, rec.Code, step.status)
			}
		}
	})
}
