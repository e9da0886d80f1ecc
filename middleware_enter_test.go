package tenantdb_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/fleet"
	"github.com/tenantdb/tenantdb/hostdb"
)

func TestMiddleware_Enter_checksTheTenantAlone(t *testing.T) {
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
		rec := do(tenantdb.RequireRole("member")(http.NotFoundHandler()),
			httptest.NewRequest("GET", "/", nil).WithContext(ctx))
		if rec.Code != 403 {
			t.Errorf("RequireRole without a user = %d", rec.Code)
		}
		setStatus(hostdb.TenantSuspended)(w, acme)
		if err := s.Check(ctx); !errors.Is(err, tenantdb.ErrTenantSuspended) {
			t.Errorf("Check of a suspended tenant = %v", err)
		}
		leave()
		for name, want := range map[string]error{
			acme.ID: tenantdb.ErrTenantSuspended, "acme": tenantdb.ErrTenantSuspended,
			"ACME": tenantdb.ErrInvalidTenant,
			"":     tenantdb.ErrInvalidTenant, hostdb.NewID(): tenantdb.ErrNotMember,
			"nosuch": tenantdb.ErrNotMember,
		} {
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

func TestMiddleware_Authenticated_needsNoTenant(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ann := w.user("ann")
		mw := w.middleware(w.config())
		var user *hostdb.GlobalUser
		ran := 0
		h := mw.Authenticated(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			s, _ := tenantdb.FromContext(r.Context())
			user = s.User
			ran++
			mustPanic(t, "no tenant", func() { tenantdb.DB(r.Context()) })
		}))
		if rec := do(h, request("ann", "")); rec.Code != 200 || user == nil || user.ID != ann.ID {
			t.Errorf("ann: %d, %v", rec.Code, user)
		}
		if rec := do(h, request("newcomer", "")); rec.Code != 200 || user != nil || ran != 2 {
			t.Errorf("a newcomer: %d, %v; the handler ran %d times", rec.Code, user, ran)
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

func TestMiddleware_anonymousVisitorsGetAnEmptyScope(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	w.tenant("acme", w.user("ann"))
	var scope *tenantdb.Scope
	h := w.middleware(w.config()).HandlerWith(tenantdb.Rules{AllowAnonymous: true},
		http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			scope, _ = tenantdb.FromContext(r.Context())
		}))
	if rec := do(h, request("", "acme")); rec.Code != 200 || scope == nil || scope.User != nil ||
		scope.Tenant != nil {
		t.Errorf("anonymous: %d, %+v", rec.Code, scope)
	}
	if rec := do(h, request("ann", "acme")); rec.Code != 200 || scope == nil || scope.Tenant == nil {
		t.Errorf("ann: %d, %+v", rec.Code, scope)
	}
	bad := request("ann", "acme")
	bad.Header.Set("Authorization", "Bearer nonsense")
	if rec := do(h, bad); rec.Code != 401 {
		t.Errorf("a bad credential: %d", rec.Code)
	}
}

func TestMiddleware_refusedCredentialIsNotAnonymous(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	w.tenant("acme", w.user("ann"))
	cfg := w.config()
	cfg.UserKey = func(tenantdb.Identity) (tenantdb.UserKey, error) {
		return tenantdb.UserKey{}, fmt.Errorf("account disabled: %w", tenantdb.ErrNoCredential)
	}
	h := w.middleware(cfg).HandlerWith(tenantdb.Rules{AllowAnonymous: true}, emptyHandler)
	if rec := do(h, request("ann", "acme")); rec.Code != 401 {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
}

func TestMiddleware_reusedSlugLeadsToTheNewTenant(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ann := w.user("ann")
		first := w.tenant("acme", ann)
		h := w.middleware(w.config()).Handler(http.HandlerFunc(whoami))
		mustServe(t, h, request("ann", "acme"))
		must(t, w.fleet.Drop(t.Context(), first.ID))
		must(t, w.fleet.Drop(t.Context(), first.ID)) // a second call does nothing
		second, err := w.fleet.Provision(t.Context(), fleet.Spec{Slug: "acme", OwnerID: ann.ID})
		must(t, err)
		t.Cleanup(func() { must(t, w.fleet.Drop(context.Background(), second.ID)) })
		eventually(t, func() bool {
			rec := do(h, request("ann", "acme"))
			return rec.Code == 500 // the new database's table is empty: sql.ErrNoRows
		})
	})
}

// TestMiddleware_EnterAs_decidesAsForARequest compares the answer to a request with the result of EnterAs.
func TestMiddleware_EnterAs_decidesAsForARequest(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ann := w.user("ann")
		w.user("eve")
		acme, unpaid := w.tenant("acme", ann), w.tenant("unpaid", ann)
		setTier("pro")(w, unpaid)
		setStatus(hostdb.TenantSuspended)(w, w.tenant("closed", ann))
		mw := w.middleware(w.config())
		for _, test := range []struct {
			subject, tenant string
			rules           tenantdb.Rules
		}{
			{"ann", "acme", tenantdb.Rules{}}, {"ann", acme.ID, tenantdb.Rules{}},
			{"eve", "acme", tenantdb.Rules{}}, {"nobody", "acme", tenantdb.Rules{}},
			{"ann", "unpaid", tenantdb.Rules{}}, {"ann", "unpaid", tenantdb.Rules{AllowInactive: true}},
			{"ann", "closed", tenantdb.Rules{}},
			{"ann", "nosuch", tenantdb.Rules{}}, {"ann", "No_Name", tenantdb.Rules{}},
			{"ann", "", tenantdb.Rules{AllowAnonymous: true}},
		} {
			key := hostdb.TenantKey{Slug: test.tenant}
			if hostdb.ValidID(test.tenant) {
				key = hostdb.TenantKey{ID: test.tenant}
			}
			want := do(mw.HandlerWith(test.rules, http.HandlerFunc(whoami)),
				request(test.subject, test.tenant))
			id := &tenantdb.Identity{Issuer: issuer, Subject: test.subject}
			ctx, leave, err := mw.EnterAs(t.Context(), id, key, test.rules)
			if tenantdb.StatusCode(err) != want.Code || err != nil && err.(*tenantdb.Error).Code != code(t,
				want) {
				t.Errorf("%+v: a request is answered %d %s, EnterAs returns %v", test, want.Code, want.Body,
					err)
			}
			if err != nil {
				continue
			}
			var name string
			must(t, tenantdb.DB(ctx).QueryRowContext(ctx, "SELECT name FROM me").Scan(&name))
			if s, _ := tenantdb.FromContext(ctx); s.User.ID != ann.ID || s.Identity == id ||
				name != want.Body.String() {
				t.Errorf("%+v: entered %s as %+v", test, name, s)
			}
			leave()
		}
		must(t, w.pool.Drain(t.Context(), acme.ID))
	})
}

// TestMiddleware_EnterAs_refusesBadCredentialsAndNames tries identities that no authenticator accepts, and
// keys that name no tenant.
func TestMiddleware_EnterAs_refusesBadCredentialsAndNames(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	acme := w.tenant("acme", w.user("ann"))
	cfg := w.config()
	cfg.Authenticator = withRevocation{cfg.Authenticator}
	mw := w.middleware(cfg)
	slug := hostdb.TenantKey{Slug: "acme"}
	for _, test := range []struct {
		name string
		id   *tenantdb.Identity
		key  hostdb.TenantKey
		want error
	}{
		{"nobody", nil, slug, tenantdb.ErrNoCredential},
		{"an ended credential", &tenantdb.Identity{Issuer: issuer, Subject: "ann", ExpiresAt: noon}, slug,
			tenantdb.ErrInvalidCredential},
		{"a revoked credential", &tenantdb.Identity{Issuer: issuer, Subject: "ann",
			Claims: map[string]any{"revoked": true}}, slug, tenantdb.ErrInvalidCredential},
		{"another issuer", &tenantdb.Identity{Issuer: "https://other.example", Subject: "ann"}, slug,
			tenantdb.ErrInvalidCredential},
		{"no subject", &tenantdb.Identity{Issuer: issuer}, slug, tenantdb.ErrInvalidCredential},
		{"no tenant", &tenantdb.Identity{Issuer: issuer, Subject: "ann"}, hostdb.TenantKey{},
			tenantdb.ErrNoTenant},
		{"both names", &tenantdb.Identity{Issuer: issuer, Subject: "ann"},
			hostdb.TenantKey{ID: acme.ID, Slug: "acme"}, tenantdb.ErrInvalidTenant},
		{"a slug as id", &tenantdb.Identity{Issuer: issuer, Subject: "ann"}, hostdb.TenantKey{ID: "acme"},
			tenantdb.ErrInvalidTenant},
		{"an id as slug", &tenantdb.Identity{Issuer: issuer, Subject: "ann"}, hostdb.TenantKey{Slug: acme.ID},
			tenantdb.ErrInvalidTenant},
	} {
		if ctx, leave, err := mw.EnterAs(t.Context(), test.id, test.key,
			tenantdb.Rules{AllowAnonymous: true}); !errors.Is(err, test.want) || ctx != nil || leave != nil {
			t.Errorf("%s: %v; want %v", test.name, err, test.want)
		}
	}
	id := &tenantdb.Identity{
		Issuer: issuer, Subject: "ann", ExpiresAt: noon.Add(time.Minute), Claims: map[string]any{"a": "b"},
	}
	ctx, leave, err := mw.EnterAs(t.Context(), id, slug, tenantdb.Rules{})
	must(t, err)
	defer leave()
	id.Subject, id.Claims["revoked"] = "eve", true // the scope has its own identity
	s, _ := tenantdb.FromContext(ctx)
	must(t, s.Check(t.Context()))
	w.clock.Set(noon.Add(time.Minute))
	if err := s.Check(t.Context()); !errors.Is(err, tenantdb.ErrInvalidCredential) {
		t.Errorf("Check after the credential's end = %v", err)
	}
	closed, err := tenantdb.New(cfg)
	must(t, err)
	must(t, closed.Close(t.Context()))
	if _, _, err := closed.EnterAs(t.Context(), id, slug, tenantdb.Rules{}); !errors.Is(err,
		tenantdb.ErrHostUnavailable) {
		t.Errorf("a closed middleware: %v", err)
	}
}

// withRevocation treats credentials with the claim "revoked" as revoked.
type withRevocation struct{ tenantdb.Authenticator }

func TestMiddleware_Pool_returnsTheGivenOneOrItsOwn(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		cfg := w.config()
		given := w.middleware(cfg).Pool()
		cfg.Pool = nil
		if made := w.middleware(cfg).Pool(); given != w.pool || made == nil || made == given ||
			w.host.Engine() != w.engine {
			t.Errorf("pools %p and %p, engine %q", given, made, w.host.Engine())
		}
	})
}

func (withRevocation) Issuers() []string { return []string{issuer} }

func (withRevocation) Revalidate(_ context.Context, id *tenantdb.Identity) error {
	if id.Claims["revoked"] == true {
		return tenantdb.ErrInvalidCredential
	}
	return nil
}

// TestMiddleware_outerHandlerSeesTheMatchedPattern covers handlers that return and handlers that panic.
func TestMiddleware_outerHandlerSeesTheMatchedPattern(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	w.tenant("acme", w.user("ann"))
	cfg := w.config()
	cfg.Skip = []string{"/public"}
	mw := w.middleware(cfg)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /notes/{id}", whoami)
	mux.Handle("GET /panic", http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		panic(http.ErrAbortHandler)
	}))
	mux.HandleFunc("/public", func(http.ResponseWriter, *http.Request) {})
	outerMux := http.NewServeMux()
	outerMux.Handle("/", mw.Handler(mux))
	for name, test := range map[string]struct {
		h                http.Handler
		user, path, want string
		status           int
	}{
		"Handler":        {mw.Handler(mux), "ann", "/notes/7", "GET /notes/{id}", 200},
		"Authenticated":  {mw.Authenticated(mw.Handler(mux)), "ann", "/notes/7", "GET /notes/{id}", 200},
		"AllowAnonymous": {mw.HandlerWith(tenantdb.Rules{AllowAnonymous: true}, mux), "", "/nosuch", "", 404},
		"a panic":        {mw.Handler(mux), "ann", "/panic", "GET /panic", 200},
		"a public route": {mw.Handler(mux), "", "/public", "/public", 200},
		"a refusal":      {mw.Handler(mux), "", "/notes/7", "", 401},
		"within a mux":   {outerMux, "ann", "/notes/7", "GET /notes/{id}", 200},
		"a mux's own":    {outerMux, "", "/notes/7", "/", 401},
	} {
		r := request(test.user, "acme")
		r.URL.Path = test.path
		status := func() int {
			defer func() { _ = recover() }()
			return do(test.h, r).Code
		}()
		if name != "a panic" && status != test.status || r.Pattern != test.want {
			t.Errorf("%s: %d, the pattern is %q; want %d, %q", name, status, r.Pattern, test.status,
				test.want)
		}
	}
}
