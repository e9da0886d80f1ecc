package routers

import (
	"context"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"testing/fstest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/fleet"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/jwtauth"
)

var secret = []byte("0123456789abcdef0123456789abcdef")

// product has the tenants acme and globex, owned by ann; joe is a member of acme.
type product struct {
	host *hostdb.DB
	pool *tenantdb.Pool
	auth tenantdb.Authenticator
}

func newProduct(t *testing.T) *product {
	t.Helper()
	ctx, dir := t.Context(), t.TempDir()
	p := &product{}
	var err error
	p.host, err = hostdb.Open(ctx, "sqlite:"+filepath.Join(dir, "host.db"))
	must(t, err)
	t.Cleanup(func() { must(t, p.host.Close()) })
	p.pool, err = tenantdb.NewPool(tenantdb.PoolConfig{SQLiteDir: filepath.Join(dir, "tenants")})
	must(t, err)
	t.Cleanup(func() { must(t, p.pool.Close(context.Background())) })
	p.auth, err = jwtauth.New(jwtauth.Config{Issuer: "https://issuer.example", Audience: "routers",
		Algorithms: []string{"HS256"}, Secret: secret})
	must(t, err)
	ann, joe := &hostdb.GlobalUser{OAuthID: "ann", Email: "ann@example.com"}, &hostdb.GlobalUser{
		OAuthID: "joe", Email: "joe@example.com"}
	must(t, p.host.Users.Insert(ctx, ann))
	must(t, p.host.Users.Insert(ctx, joe))
	schema := fstest.MapFS{"00001_me.sql": {
		Data: []byte("-- +goose Up\nCREATE TABLE me (name TEXT NOT NULL);\n")}}
	f, err := fleet.New(fleet.Config{Host: p.host, Pool: p.pool, Migrations: schema})
	must(t, err)
	for _, slug := range []string{"acme", "globex"} {
		tenant, err := f.Provision(ctx, fleet.Spec{Slug: slug, OwnerID: ann.ID})
		must(t, err)
		lease, err := p.pool.Lease(tenant)
		must(t, err)
		_, err = lease.DB().ExecContext(ctx, "INSERT INTO me (name) VALUES ($1)", slug)
		must(t, err)
		lease.Release()
		if slug == "acme" {
			must(t, p.host.Memberships.Insert(ctx, &hostdb.Membership{
				UserID: joe.ID, TenantID: tenant.ID, Role: hostdb.RoleMember, IsActive: true}))
		}
	}
	return p
}

// middleware makes a middleware that finds the tenant by a source.
func (p *product) middleware(t *testing.T, source tenantdb.Source) *tenantdb.Middleware {
	t.Helper()
	mw, err := tenantdb.New(tenantdb.Config{Host: p.host, Pool: p.pool, Authenticator: p.auth, Tenant: source,
		Subscription: tenantdb.SubscriptionPolicy{FreePlans: []string{"free"}}})
	must(t, err)
	t.Cleanup(func() { must(t, mw.Close(context.Background())) })
	return mw
}

// get sends a user's request. The tenant's name goes into the header, if there is one.
func get(h http.Handler, user, path, tenant string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	if user != "" {
		claims := jwt.MapClaims{"iss": "https://issuer.example", "aud": "routers", "sub": user,
			"exp": time.Now().Add(time.Hour).Unix()}
		token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString(secret)
		if err != nil {
			panic(err)
		}
		r.Header.Set("Authorization", "Bearer "+token)
	}
	if tenant != "" {
		r.Header.Set("X-Tenant", tenant)
	}
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	return rec
}

func TestRouters_guardedFromOutside(t *testing.T) {
	p := newProduct(t)
	mw := p.middleware(t, tenantdb.FromHeader("X-Tenant"))
	for name, h := range map[string]http.Handler{
		"ServeMux": ServeMuxOutside(mw), "chi": ChiOutside(mw), "chi Use": ChiUse(mw), "gin": GinOutside(mw),
	} {
		for _, slug := range []string{"acme", "globex"} {
			if rec := get(h, "ann", "/whoami", slug); rec.Code != 200 || rec.Body.String() != slug {
				t.Errorf("%s: ann in %s: %d %q", name, slug, rec.Code, rec.Body)
			}
		}
		for who, want := range map[[2]string]int{{"joe", "globex"}: 403, {"", "acme"}: 401, {"ann", ""}: 400,
			{"ann", "Acme"}: 400} {
			if rec := get(h, who[0], "/whoami", who[1]); rec.Code != want {
				t.Errorf("%s: %v: %d; want %d", name, who, rec.Code, want)
			}
		}
	}
}

func TestRouters_guardedFromInside(t *testing.T) {
	p := newProduct(t)
	mw := p.middleware(t, tenantdb.FromPathValue("tenant"))
	for name, h := range map[string]http.Handler{
		"ServeMux": ServeMuxInside(mw), "chi With": ChiWith(mw), "chi Route": ChiRoute(mw),
		"gin group": GinGroup(mw),
	} {
		for _, slug := range []string{"acme", "globex"} {
			if rec := get(h, "ann", "/t/"+slug+"/whoami", ""); rec.Code != 200 || rec.Body.String() != slug {
				t.Errorf("%s: ann in %s: %d %q", name, slug, rec.Code, rec.Body)
			}
		}
		if rec := get(h, "joe", "/t/globex/whoami", ""); rec.Code != 403 ||
			rec.Header().Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: joe in globex: %d %q", name, rec.Code, rec.Body)
		}
		if rec := get(h, "", "/public", ""); rec.Code != 200 || rec.Body.String() != "public" {
			t.Errorf("%s: the public route: %d %q", name, rec.Code, rec.Body)
		}
		if name == "ServeMux" {
			continue
		}
		for user, want := range map[string]int{"ann": 200, "joe": 403} {
			if rec := get(h, user, "/t/acme/billing", ""); rec.Code != want {
				t.Errorf("%s: %s on the owners' page: %d; want %d", name, user, rec.Code, want)
			}
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
