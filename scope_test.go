package tenantdb_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/fleet"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/jwtauth"
)

func TestScopeShowsWhoAsksAndByWhichRight(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ann := w.user("ann")
		acme := w.tenant("acme", ann)
		onPlan(3, "export", "sso")(w, acme)
		h := w.middleware(w.config()).Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			s, ok := tenantdb.FromContext(r.Context())
			if !ok || s.User.ID != ann.ID || s.Membership.UserID != ann.ID || s.Identity.Subject != "ann" || s.Tenant.Slug != "acme" {
				t.Errorf("who asks, and where: %+v", s)
			}
			if s.Role != "owner" || s.Plan.TierLevel != 3 || s.Subscription != nil || !s.HasFeature("sso") || s.HasFeature("other") {
				t.Errorf("by which right: %+v", s)
			}
			if s.User.PasswordHash != "" {
				t.Error("the password hash was loaded")
			}
		}))
		letIn(t, h, request("ann", "acme"))
		letIn(t, h, request("ann", acme.ID))
	})
}

func TestCheckFollowsWhatHappensMeanwhile(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ann, joe := w.user("ann"), w.user("joe")
		acme := w.tenant("acme", ann)
		membership := w.member(joe, acme, hostdb.RoleMember)
		cfg := w.config()
		cfg.Cache.MaxStaleness = 100 * time.Millisecond
		h := w.middleware(cfg).Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			s, _ := tenantdb.FromContext(r.Context())
			must(t, s.Check(r.Context()))
			must(t, w.host.Memberships.Delete(t.Context(), membership.ID))
			eventually(t, func() bool { return errors.Is(s.Check(r.Context()), tenantdb.ErrNotMember) })
		}))
		letIn(t, h, request("joe", "acme"))
		expiring := token("ann", func(c jwt.MapClaims) { c["exp"] = noon.Add(time.Minute).Unix() })
		r := request("", "acme")
		r.Header.Set("Authorization", "Bearer "+expiring)
		letIn(t, w.middleware(cfg).Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			s, _ := tenantdb.FromContext(r.Context())
			must(t, s.Check(r.Context()))
			w.clock.Set(noon.Add(2 * time.Minute))
			if err := s.Check(r.Context()); !errors.Is(err, tenantdb.ErrInvalidCredential) {
				t.Errorf("Check after the token's end = %v", err)
			}
		})), r)
	})
}

func TestDetachKeepsTheDatabaseAndTheContextAlive(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		acme := w.tenant("acme", w.user("ann"))
		mw := w.middleware(w.config())
		var detached context.Context
		var done func()
		ctx, cancel := context.WithCancel(t.Context())
		letIn(t, mw.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			s, _ := tenantdb.FromContext(r.Context())
			detached, done = s.Detach()
		})), request("ann", "acme").WithContext(ctx))
		cancel()
		w.pool.Retire(acme.ID)
		var name string
		must(t, tenantdb.DB(detached).QueryRowContext(detached, "SELECT name FROM me").Scan(&name))
		if s, ok := tenantdb.FromContext(detached); !ok || name != "acme" || s.Tenant.ID != acme.ID {
			t.Errorf("detached into %q", name)
		}
		drain, stop := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer stop()
		if err := w.pool.Drain(drain, acme.ID); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("drained although a detached scope holds the database: %v", err)
		}
		done()
		done() // twice is harmless
		must(t, w.pool.Drain(t.Context(), acme.ID))
	})
}

func TestCheckKnowsWhenANameMeansAnother(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ann := w.user("ann")
		acme, other := w.tenant("acme", ann), w.tenant("other", ann)
		letIn(t, w.middleware(w.config()).Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			s, _ := tenantdb.FromContext(r.Context())
			must(t, s.Check(r.Context()))
			w.update(acme, func(t *hostdb.TenantCatalog) { t.Slug = "old" })
			w.update(other, func(t *hostdb.TenantCatalog) { t.Slug = "acme" })
			eventually(t, func() bool { return errors.Is(s.Check(r.Context()), tenantdb.ErrNotMember) })
		})), request("ann", "acme"))
	})
}

func TestCheckBehindAuthenticatedFollowsTheUserAndTheToken(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		joe := w.user("joe")
		letIn(t, w.middleware(w.config()).Authenticated(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			s, _ := tenantdb.FromContext(r.Context())
			must(t, s.Check(r.Context()))
			must(t, w.host.Users.Delete(t.Context(), joe.ID))
			eventually(t, func() bool { return errors.Is(s.Check(r.Context()), tenantdb.ErrForbidden) })
			w.clock.Set(noon.AddDate(2, 0, 0))
			if err := s.Check(r.Context()); !errors.Is(err, tenantdb.ErrInvalidCredential) {
				t.Errorf("Check after the token's end = %v", err)
			}
		})), request("joe", ""))
	})
}

// TestCheckJudgesTheTokenAsARequestIsJudged: with the leeway of its authenticator, and only while the key
// that signed it is trusted.
func TestCheckJudgesTheTokenAsARequestIsJudged(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	w.tenant("acme", w.user("ann"))
	var keys atomic.Value
	public := func(kid string) string {
		n := base64.RawURLEncoding.EncodeToString(rsaKey().N.Bytes())
		return `{"keys":[{"kty":"RSA","kid":"` + kid + `","n":"` + n + `","e":"AQAB"}]}`
	}
	keys.Store(public("k1"))
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, keys.Load().(string)) }))
	defer server.Close()
	cfg := w.config()
	var err error
	cfg.Authenticator, err = jwtauth.New(jwtauth.Config{Issuer: issuer, Audience: audience, Algorithms: []string{"RS256"}, JWKSURL: server.URL,
		Leeway: time.Minute, Now: w.clock.Now})
	must(t, err)
	var scope *tenantdb.Scope
	h := w.middleware(cfg).Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { scope, _ = tenantdb.FromContext(r.Context()) }))
	r := request("", "acme")
	r.Header.Set("Authorization", "Bearer "+rsaToken("ann"))
	agree := func(what string, want int) {
		t.Helper()
		rec := do(h, r)
		if rec.Code != want || tenantdb.StatusCode(scope.Check(t.Context())) != want && want != 200 || (scope.Check(t.Context()) == nil) != (want == 200) {
			t.Errorf("%s: a request is answered %d, Check returns %v, want %d", what, rec.Code, scope.Check(t.Context()), want)
		}
	}
	agree("a good token", 200)
	w.clock.Set(noon.AddDate(1, 0, 0).Add(30 * time.Second))
	agree("an end within the leeway", 200)
	w.clock.Set(noon.AddDate(1, 0, 0).Add(time.Minute))
	agree("an end past the leeway", 401)
	w.clock.Set(noon)
	agree("a good token again", 200)
	keys.Store(public("k2"))
	w.clock.Set(noon.Add(20 * time.Minute)) // a refresh is due, which the next look begins
	eventually(t, func() bool { return do(h, r).Code == 401 })
	agree("a removed key", 401)
}

// TestDetachAfterTheHandlerAlwaysFails: whether the tenant's database has closed since or not.
func TestDetachAfterTheHandlerAlwaysFails(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		acme := w.tenant("acme", w.user("ann"))
		mw := w.middleware(w.config())
		for _, test := range []struct {
			name  string
			wrap  func(http.Handler) http.Handler
			drain bool
		}{{"open", mw.Handler, false}, {"closed", mw.Handler, true}, {"no tenant", mw.Authenticated, false}} {
			var scope *tenantdb.Scope
			var over context.Context
			letIn(t, test.wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				scope, _ = tenantdb.FromContext(r.Context())
				over = r.Context()
			})), request("ann", "acme"))
			if test.drain {
				must(t, w.pool.Drain(t.Context(), acme.ID))
			}
			ctx, done := scope.Detach()
			child, cancel := context.WithTimeout(ctx, time.Hour)
			for _, ctx := range []context.Context{ctx, child} {
				select {
				case <-ctx.Done():
				default:
					t.Errorf("%s: the context lives", test.name)
				}
			}
			if err := ctx.Err(); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "Detach was called after the handler") {
				t.Errorf("%s: the context's error is %v", test.name, err)
			}
			if scope.Tenant != nil {
				if err := tenantdb.DB(ctx).PingContext(ctx); err == nil {
					t.Errorf("%s: the detached context serves", test.name)
				}
				if err := tenantdb.DB(over).PingContext(over); err == nil {
					t.Errorf("%s: the scope that is over serves", test.name)
				}
			}
			cancel()
			done()
			must(t, w.pool.Drain(t.Context(), acme.ID))
		}
	})
}

// TestDetachBesideTheHandlersEnd: it keeps the database or fails, whichever comes first, and forgets no
// lease.
func TestDetachBesideTheHandlersEnd(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	acme := w.tenant("acme", w.user("ann"))
	mw := w.middleware(w.config())
	for range 300 {
		detached := make(chan error)
		letIn(t, mw.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			scope, _ := tenantdb.FromContext(r.Context())
			started := make(chan struct{})
			go func() {
				close(started)
				ctx, done := scope.Detach()
				defer done()
				err := tenantdb.DB(ctx).PingContext(ctx)
				if (err == nil) != (ctx.Err() == nil) {
					detached <- fmt.Errorf("the context's error is %v, Ping's is %v", ctx.Err(), err)
				}
				close(detached)
			}()
			<-started
		})), request("ann", "acme"))
		must(t, <-detached)
	}
	must(t, w.pool.Drain(t.Context(), acme.ID))
}

func TestEnterChecksTheTenantAlone(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		acme := w.tenant("acme", w.user("ann"))
		setTier("pro")(w, acme) // unpaid
		cfg := w.config()
		cfg.MinSchemaVersion = 1
		mw := w.middleware(cfg)
		ctx, leave, err := mw.Enter(t.Context(), acme.ID)
		must(t, err)
		var name string
		must(t, tenantdb.DB(ctx).QueryRowContext(ctx, "SELECT name FROM me").Scan(&name))
		s, _ := tenantdb.FromContext(ctx)
		if name != "acme" || s.User != nil || s.Role != "" {
			t.Errorf("entered %q as %+v", name, s)
		}
		must(t, s.Check(ctx))
		again, err := s.Refresh(ctx)
		must(t, err)
		bySlug, leaveToo, err := mw.Enter(t.Context(), "acme")
		must(t, err)
		defer leaveToo()
		if also, _ := tenantdb.FromContext(bySlug); again.Tenant.ID != acme.ID || also.Tenant.ID != acme.ID {
			t.Errorf("refreshed: %+v, entered by slug: %+v", again, also)
		}
		rec := do(tenantdb.RequireRole("member")(http.NotFoundHandler()), httptest.NewRequest("GET", "/", nil).WithContext(ctx))
		if rec.Code != 403 {
			t.Errorf("RequireRole without a user = %d", rec.Code)
		}
		setStatus(hostdb.TenantSuspended)(w, acme)
		if err := s.Check(ctx); !errors.Is(err, tenantdb.ErrTenantSuspended) {
			t.Errorf("Check of a suspended tenant = %v", err)
		}
		leave()
		for name, want := range map[string]error{acme.ID: tenantdb.ErrTenantSuspended, "acme": tenantdb.ErrTenantSuspended, "ACME": tenantdb.ErrInvalidTenant,
			"": tenantdb.ErrInvalidTenant, hostdb.NewID(): tenantdb.ErrNotMember, "nosuch": tenantdb.ErrNotMember} {
			if _, _, err := mw.Enter(t.Context(), name); !errors.Is(err, want) {
				t.Errorf("Enter(%s) = %v; want %v", name, err, want)
			}
		}
		setStatus(hostdb.TenantActive)(w, acme)
		w.update(acme, func(t *hostdb.TenantCatalog) { t.SchemaVersion = 0 })
		if _, _, err := mw.Enter(t.Context(), acme.ID); !errors.Is(err, tenantdb.ErrTenantUnavailable) {
			t.Errorf("Enter below the minimal schema = %v", err)
		}
	})
}

func TestAuthenticatedNeedsNoTenant(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ann := w.user("ann")
		mw := w.middleware(w.config())
		var user *hostdb.GlobalUser
		h := mw.Authenticated(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			s, _ := tenantdb.FromContext(r.Context())
			user = s.User
			mustPanic(t, "no tenant", func() { tenantdb.DB(r.Context()) })
		}))
		if rec := do(h, request("ann", "")); rec.Code != 200 || user == nil || user.ID != ann.ID {
			t.Errorf("ann: %d, %v", rec.Code, user)
		}
		if rec := do(h, request("newcomer", "")); rec.Code != 200 || user != nil {
			t.Errorf("a newcomer: %d, %v", rec.Code, user)
		}
		if rec := do(h, request("", "")); rec.Code != 401 {
			t.Errorf("nobody: %d", rec.Code)
		}
		guarded := mw.Authenticated(tenantdb.RequireRole("member")(http.NotFoundHandler()))
		if rec := do(guarded, request("ann", "")); rec.Code != 403 {
			t.Errorf("RequireRole without a tenant = %d", rec.Code)
		}
	})
}

func TestAnonymousVisitorsGetAnEmptyScope(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	w.tenant("acme", w.user("ann"))
	var scope *tenantdb.Scope
	h := w.middleware(w.config()).HandlerWith(tenantdb.Rules{AllowAnonymous: true}, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		scope, _ = tenantdb.FromContext(r.Context())
	}))
	if rec := do(h, request("", "acme")); rec.Code != 200 || scope.User != nil || scope.Tenant != nil {
		t.Errorf("anonymous: %d, %+v", rec.Code, scope)
	}
	if rec := do(h, request("ann", "acme")); rec.Code != 200 || scope.Tenant == nil {
		t.Errorf("ann: %d, %+v", rec.Code, scope)
	}
	bad := request("ann", "acme")
	bad.Header.Set("Authorization", "Bearer nonsense")
	if rec := do(h, bad); rec.Code != 401 {
		t.Errorf("a bad credential: %d", rec.Code)
	}
}

func TestACredentialThatIsRefusedIsNotAnonymous(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	w.tenant("acme", w.user("ann"))
	cfg := w.config()
	cfg.UserKey = func(tenantdb.Identity) (tenantdb.UserKey, error) {
		return tenantdb.UserKey{}, fmt.Errorf("account disabled: %w", tenantdb.ErrNoCredential)
	}
	h := w.middleware(cfg).HandlerWith(tenantdb.Rules{AllowAnonymous: true}, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	if rec := do(h, request("ann", "acme")); rec.Code != 401 {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
}

// withKeys is a JWT authenticator that takes API keys besides, as programs wrap one.
type withKeys struct{ *jwtauth.Authenticator }

func (a withKeys) Authenticate(r *http.Request) (*tenantdb.Identity, error) {
	if r.Header.Get("X-Api-Key") != "" {
		return &tenantdb.Identity{Issuer: "api-keys", Subject: "ann"}, nil
	}
	return a.Authenticator.Authenticate(r)
}

func TestAnotherIssuersSubjectIsNotTheUser(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	w.tenant("acme", w.user("ann"))
	cfg := w.config()
	cfg.Authenticator = withKeys{cfg.Authenticator.(*jwtauth.Authenticator)}
	h := w.middleware(cfg).Handler(http.HandlerFunc(whoami))
	if rec := do(h, request("ann", "acme")); rec.Code != 200 {
		t.Errorf("ann's token: %d", rec.Code)
	}
	r := request("", "acme")
	r.Header.Set("X-Api-Key", "x")
	if rec := do(h, r); rec.Code != 401 {
		t.Errorf("a key whose subject is also ann: %d; want 401", rec.Code)
	}
	cfg.UserKey = tenantdb.UserBySubject // who says that both issuers' subjects are one
	h = w.middleware(cfg).Handler(http.HandlerFunc(whoami))
	for range 2 {
		if rec := do(h, r); rec.Code != 200 {
			t.Errorf("a key, with a mapping that takes it: %d %s", rec.Code, rec.Body)
		}
	}
}

// stricter is an authenticator that asks for more than the token that it embeds another for.
type stricter struct{ *jwtauth.Authenticator }

func (a stricter) Authenticate(r *http.Request) (*tenantdb.Identity, error) {
	if r.Header.Get("X-Device") == "" {
		return nil, tenantdb.ErrInvalidCredential
	}
	return a.Authenticator.Authenticate(r)
}

func TestAnAuthenticatorThatEmbedsAnotherIsAskedItself(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	w.tenant("acme", w.user("ann"))
	cfg := w.config()
	own, err := jwtauth.New(jwtauth.Config{Issuer: issuer, Audience: audience, Algorithms: []string{"HS256"}, Secret: secret})
	must(t, err)
	asAnn := func() *http.Request {
		r := request("", "acme")
		r.Header.Set("Authorization", "Bearer "+token("ann", func(c jwt.MapClaims) { c["exp"] = time.Now().Add(time.Hour).Unix() }))
		return r
	}
	for _, embedded := range []*jwtauth.Authenticator{cfg.Authenticator.(*jwtauth.Authenticator), own} {
		cfg.Authenticator = stricter{embedded}
		h := w.middleware(cfg).Handler(http.HandlerFunc(whoami))
		for range 2 {
			if rec := do(h, asAnn()); rec.Code != 401 {
				t.Errorf("what the outer authenticator refuses: %d %s", rec.Code, rec.Body)
			}
			r := asAnn()
			r.Header.Set("X-Device", "known")
			if rec := do(h, r); rec.Code != 200 {
				t.Errorf("what it lets in: %d %s", rec.Code, rec.Body)
			}
		}
	}
}

func TestAccessorsNameTheFixWhereNoMiddlewareRan(t *testing.T) {
	ctx := t.Context()
	mustPanic(t, "Middleware.Handler", func() { tenantdb.DB(ctx) })
	mustPanic(t, "Middleware.Handler", func() { tenantdb.ReadDB(ctx) })
	mustPanic(t, "in gin, pass c.Request.Context()", func() { tenantdb.PG(ctx) })
	mustPanic(t, "Middleware.Handler", func() {
		_, _ = tenantdb.Cached(ctx, "x", func(*tenantdb.Scope) (int, func(), error) { return 0, nil, nil })
	})
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	acme := w.tenant("acme", w.user("ann"))
	entered, leave, err := w.middleware(w.config()).Enter(ctx, acme.ID)
	must(t, err)
	defer leave()
	mustPanic(t, "use DB(ctx)", func() { tenantdb.PG(entered) })
}

func TestFromContextAllocatesNothing(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	acme := w.tenant("acme", w.user("ann"))
	ctx, leave, err := w.middleware(w.config()).Enter(t.Context(), acme.ID)
	must(t, err)
	defer leave()
	if n := testing.AllocsPerRun(100, func() { _ = tenantdb.DB(ctx) }); n != 0 {
		t.Errorf("DB(ctx) allocates %v times", n)
	}
}

func TestSoleMembershipIsAskedOnlyWhereNothingElseNamesATenant(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ann, joe := w.user("ann"), w.user("joe")
		acme, globex := w.tenant("acme", ann), w.tenant("globex", ann)
		w.member(joe, acme, hostdb.RoleMember)
		w.user("eve")
		cfg := w.config()
		cfg.Tenant = tenantdb.Sources(tenantdb.FromHeader(header), tenantdb.FromSoleMembership())
		h := w.middleware(cfg).Handler(http.HandlerFunc(whoami))
		for _, test := range []struct {
			user, tenant, want string
			status             int
		}{{"joe", "", "acme", 200}, {"joe", "globex", "", 403}, {"ann", "", "", 400}, {"ann", "globex", "globex", 200}, {"eve", "", "", 400}} {
			rec := do(h, request(test.user, test.tenant))
			if rec.Code != test.status || test.status == 200 && rec.Body.String() != test.want {
				t.Errorf("%s in %q: %d %s; want %d %s", test.user, test.tenant, rec.Code, rec.Body, test.status, test.want)
			}
		}
		must(t, w.fleet.Drop(t.Context(), globex.ID))
		eventually(t, func() bool { return do(h, request("ann", "")).Body.String() == "acme" })
	})
}

func TestFirstLoginCreatesTheUserOnce(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		cfg := w.config()
		calls := make(chan struct{}, 100)
		cfg.FirstLogin = func(ctx context.Context, id *tenantdb.Identity) error {
			calls <- struct{}{}
			return w.host.Users.Insert(ctx, &hostdb.GlobalUser{OAuthID: id.Subject, Email: id.Subject + "@example.com"})
		}
		h := w.middleware(cfg).Authenticated(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if s, _ := tenantdb.FromContext(r.Context()); s.User == nil || s.User.OAuthID != "newcomer" {
				t.Errorf("user = %v", s.User)
			}
		}))
		together(100, func(i int) {
			for range i * 200 {
				runtime.Gosched() // not all at one instant: some come when the first call ends
			}
			if rec := do(h, request("newcomer", "")); rec.Code != 200 {
				t.Errorf("status = %d %s", rec.Code, rec.Body)
			}
		})
		for range 200 { // and one after the other, as they come
			do(h, request("newcomer", ""))
		}
		if len(calls) != 1 {
			t.Errorf("the hook was called %d times", len(calls))
		}
		users, err := w.host.Users.List(t.Context())
		must(t, err)
		if len(users) != 1 {
			t.Errorf("%d users", len(users))
		}
	})
}

func TestAFirstLoginThatConflictsWithAnotherUserIsForbidden(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		w.user("ann")
		cfg := w.config()
		cfg.FirstLogin = func(ctx context.Context, id *tenantdb.Identity) error { // with an address that is somebody else's
			return w.host.Users.Insert(ctx, &hostdb.GlobalUser{OAuthID: id.Subject, Email: "ann@example.com"})
		}
		h := w.middleware(cfg).Authenticated(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		if rec := do(h, request("newcomer", "")); rec.Code != 403 || code(t, rec) != "forbidden" || rec.Header().Get("Retry-After") != "" {
			t.Errorf("%d %s", rec.Code, rec.Body) // the next attempt would meet the same conflict
		}
	})
}

func TestFirstLoginMayRefuse(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	cfg := w.config()
	cfg.FirstLogin = func(context.Context, *tenantdb.Identity) error { return tenantdb.ErrForbidden }
	h := w.middleware(cfg).Authenticated(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	if rec := do(h, request("newcomer", "")); rec.Code != 403 || code(t, rec) != "forbidden" {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
}

func TestABadMappingOrSourceOfTheProgramsOwnRefuses(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	w.tenant("acme", w.user("ann"))
	for name, key := range map[string]tenantdb.UserKey{"nothing": {}, "both": {ID: hostdb.NewID(), OAuthID: "ann"}, "not an id": {ID: "ann"}} {
		cfg := w.config()
		cfg.UserKey = func(tenantdb.Identity) (tenantdb.UserKey, error) { return key, nil }
		if rec := do(w.middleware(cfg).Handler(http.HandlerFunc(whoami)), request("ann", "acme")); rec.Code != 401 {
			t.Errorf("%s: %d", name, rec.Code)
		}
	}
	cfg := w.config()
	cfg.Tenant = tenantdb.FromFunc("", func(*http.Request, *tenantdb.Identity) (string, error) { return "", errors.New("no idea") })
	if rec := do(w.middleware(cfg).Handler(http.HandlerFunc(whoami)), request("ann", "acme")); rec.Code != 400 || code(t, rec) != "invalid_tenant" {
		t.Errorf("FromFunc: %d %s", rec.Code, rec.Body)
	}
}

func TestAPathValueThatIsNotMatchedYetIsNoSoleMembership(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	ann, joe := w.user("ann"), w.user("joe")
	w.member(joe, w.tenant("acme", ann), hostdb.RoleMember)
	w.tenant("globex", ann)
	cfg := w.config()
	cfg.Tenant = tenantdb.Sources(tenantdb.FromPathValue("tenant"), tenantdb.FromSoleMembership())
	mw := w.middleware(cfg)
	inside := http.NewServeMux()
	inside.Handle("GET /t/{tenant}/me", mw.Handler(http.HandlerFunc(whoami)))
	inside.Handle("GET /me", mw.Handler(http.HandlerFunc(whoami)))
	outside := http.NewServeMux()
	outside.HandleFunc("GET /t/{tenant}/me", whoami)
	halfway := http.NewServeMux()
	halfway.Handle("GET /t/", mw.Handler(outside))
	rest := http.NewServeMux()
	rest.Handle("GET /{rest...}", mw.Handler(outside))
	for _, test := range []struct {
		name   string
		h      http.Handler
		path   string
		status int
	}{{"inside, named", inside, "/t/globex/me", 403}, {"inside, own", inside, "/t/acme/me", 200}, {"inside, not named", inside, "/me", 200},
		{"outside", mw.Handler(outside), "/t/globex/me", 400}, {"a subtree's", halfway, "/t/globex/me", 400}, {"the rest's", rest, "/t/globex/me", 400}} {
		r := request("joe", "")
		r.URL.Path = test.path
		if rec := do(test.h, r); rec.Code != test.status {
			t.Errorf("%s: %d %s; want %d", test.name, rec.Code, rec.Body, test.status)
		}
	}
}

func TestAFailingFirstLoginRefuses(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	w.tenant("acme", w.user("ann"))
	for name, hook := range map[string]func(context.Context, *tenantdb.Identity) error{
		"error": func(context.Context, *tenantdb.Identity) error { return errors.New("no") },
		"panic": func(context.Context, *tenantdb.Identity) error { panic("no") },
	} {
		cfg := w.config()
		cfg.FirstLogin = hook
		h := w.middleware(cfg).Handler(http.HandlerFunc(whoami))
		if rec := do(h, request("newcomer", "acme")); rec.Code != 503 {
			t.Errorf("%s: %d", name, rec.Code)
		}
		if rec := do(h, request("ann", "acme")); rec.Code != 200 {
			t.Errorf("%s: ann: %d", name, rec.Code)
		}
	}
}

func TestUserKeys(t *testing.T) {
	google := tenantdb.UserByPrefixedSubject(map[string]string{"https://accounts.google.com": "google_", "https://github.com": "github_"})
	id := hostdb.NewID()
	for _, test := range []struct {
		name  string
		mapIt func(tenantdb.Identity) (tenantdb.UserKey, error)
		id    tenantdb.Identity
		want  tenantdb.UserKey
	}{
		{"subject", tenantdb.UserBySubject, tenantdb.Identity{Subject: "ann"}, tenantdb.UserKey{OAuthID: "ann"}},
		{"no subject", tenantdb.UserBySubject, tenantdb.Identity{}, tenantdb.UserKey{}},
		{"a long subject", tenantdb.UserBySubject, tenantdb.Identity{Subject: strings.Repeat("x", 256)}, tenantdb.UserKey{}},
		{"id", tenantdb.UserByID, tenantdb.Identity{Subject: id}, tenantdb.UserKey{ID: id}},
		{"not an id", tenantdb.UserByID, tenantdb.Identity{Subject: "ann"}, tenantdb.UserKey{}},
		{"prefix", google, tenantdb.Identity{Issuer: "https://accounts.google.com", Subject: "123"}, tenantdb.UserKey{OAuthID: "google_123"}},
		{"an issuer without a prefix", google, tenantdb.Identity{Issuer: "https://evil.example", Subject: "123"}, tenantdb.UserKey{}},
		{"a prefix without a subject", google, tenantdb.Identity{Issuer: "https://github.com"}, tenantdb.UserKey{}},
	} {
		got, err := test.mapIt(test.id)
		if got != test.want || (err == nil) != (test.want != tenantdb.UserKey{}) {
			t.Errorf("%s: %v, %v; want %v", test.name, got, err, test.want)
		}
	}
	mustPanic(t, "prefix", func() { tenantdb.UserByPrefixedSubject(map[string]string{"a": "g", "b": "github_"}) })
}

func TestASubjectThatNobodyCanHaveIsNobody(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		w.tenant("acme", w.user("ann"))
		subject := ""
		cfg := w.config()
		cfg.Authenticator = authFunc(func(*http.Request) (*tenantdb.Identity, error) { return &tenantdb.Identity{Subject: subject}, nil })
		mw := w.middleware(cfg)
		for _, test := range []struct {
			subject string
			status  int
		}{{"ann", 200}, {"ann\x00", 403}, {"\xff", 403}, {"", 401}, {strings.Repeat("x", 300), 401}} {
			subject = test.subject
			if rec := do(mw.Handler(http.HandlerFunc(whoami)), request("", "acme")); rec.Code != test.status {
				t.Errorf("%.10q: %d %s; want %d", subject, rec.Code, rec.Body, test.status)
			}
		}
		subject = "ann\x00"
		if rec := do(mw.Authenticated(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})), request("", "")); rec.Code != 200 {
			t.Errorf("Authenticated: %d", rec.Code)
		}
	})
}

func TestASecondIssuerNeedsAMapping(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	w.tenant("acme", w.user("ann"))
	cfg := w.config()
	from := "https://one.example"
	cfg.Authenticator = authFunc(func(*http.Request) (*tenantdb.Identity, error) {
		return &tenantdb.Identity{Issuer: from, Subject: "ann"}, nil
	})
	h := w.middleware(cfg).Handler(http.HandlerFunc(whoami))
	if rec := do(h, request("", "acme")); rec.Code != 200 {
		t.Fatalf("the first issuer: %d", rec.Code)
	}
	from = "https://two.example"
	if rec := do(h, request("", "acme")); rec.Code != 401 {
		t.Errorf("another issuer's ann: %d; want 401", rec.Code)
	}
}

func TestADroppedSlugIsFreeAgainAndLeadsToTheNewTenantOnly(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ann := w.user("ann")
		first := w.tenant("acme", ann)
		h := w.middleware(w.config()).Handler(http.HandlerFunc(whoami))
		do(h, request("ann", "acme"))
		must(t, w.fleet.Drop(t.Context(), first.ID))
		must(t, w.fleet.Drop(t.Context(), first.ID)) // twice is harmless
		second, err := w.fleet.Provision(t.Context(), fleet.Spec{Slug: "acme", OwnerID: ann.ID})
		must(t, err)
		t.Cleanup(func() { must(t, w.fleet.Drop(context.Background(), second.ID)) })
		eventually(t, func() bool {
			rec := do(h, request("ann", "acme"))
			return rec.Code == 500 // the new database's table is empty: sql.ErrNoRows
		})
	})
}

// eventually waits until what a change leads to is seen; the library promises a bound far below this test's.
func eventually(t *testing.T, seen func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !seen() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("it did not happen within 10 s")
		}
	}
}

// together runs n calls at once.
func together(n int, call func(i int)) {
	start, done := make(chan struct{}), make(chan struct{})
	for i := range n {
		go func() {
			defer func() { done <- struct{}{} }()
			<-start
			call(i)
		}()
	}
	close(start)
	for range n {
		<-done
	}
}

// letIn serves a request that must be let in: what a handler asserts is worth nothing where it did not run.
func letIn(t *testing.T, h http.Handler, r *http.Request) {
	t.Helper()
	if rec := do(h, r); rec.Code != http.StatusOK {
		t.Fatalf("the request was answered %d %s", rec.Code, rec.Body)
	}
}

func mustPanic(t *testing.T, text string, call func()) {
	t.Helper()
	defer func() {
		if p, _ := recover().(string); !strings.Contains(p, text) {
			t.Errorf("panic = %q; want one that says %q", p, text)
		}
	}()
	call()
}

// TestAScopeIsOneWhoeverAsksFirst asks in several goroutines of one request.
func TestAScopeIsOneWhoeverAsksFirst(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	w.tenant("acme", w.user("ann"))
	h := w.middleware(w.config()).Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var ready, all sync.WaitGroup
		got := make([]*tenantdb.Scope, 8)
		ready.Add(len(got))
		for i := range got {
			all.Go(func() {
				ready.Done()
				ready.Wait()
				got[i], _ = tenantdb.FromContext(r.Context())
			})
		}
		all.Wait()
		for _, s := range got {
			if s == nil || s != got[0] || s.Role == "" {
				t.Errorf("%p beside %p", s, got[0])
			}
		}
	}))
	for range 2000 {
		if rec := do(h, request("ann", "acme")); rec.Code != http.StatusOK {
			t.Fatal(rec.Code, rec.Body)
		}
	}
}

func TestAScopeThatNoMiddlewareMadeGrantsNothing(t *testing.T) {
	mustPanic(t, "not from FromContext", func() { new(tenantdb.Scope).Detach() })
	for _, s := range []tenantdb.Scope{{}, {Identity: &tenantdb.Identity{Subject: "ann"}}, {Tenant: &hostdb.TenantCatalog{ID: hostdb.NewID()}, Role: "owner"}} {
		if err := s.Check(t.Context()); !errors.Is(err, tenantdb.ErrForbidden) {
			t.Errorf("Check = %v", err)
		}
		if again, err := s.Refresh(t.Context()); again != nil || !errors.Is(err, tenantdb.ErrForbidden) {
			t.Errorf("Refresh = %v, %v", again, err)
		}
	}
}
