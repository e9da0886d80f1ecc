package tenantdb_test

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/fleet"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/jwtauth"
	"github.com/tenantdb/tenantdb/tenantdbtest"
)

// shop is the product of the examples: ann owns the tenants acme and globex, joe is a member of acme.
type shop struct {
	host   *hostdb.DB
	pool   *tenantdb.Pool
	issuer *tenantdbtest.Issuer
	config tenantdb.Config
	acme   *hostdb.TenantCatalog
	close  func()
}

func openShop() *shop {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "tenantdb-example-")
	check(err)
	s := &shop{issuer: tenantdbtest.NewIssuer()}
	s.host, err = hostdb.Open(ctx, "sqlite:"+filepath.Join(dir, "host.db"))
	check(err)
	s.pool, err = tenantdb.NewPool(tenantdb.PoolConfig{SQLiteDir: filepath.Join(dir, "tenants")})
	check(err)
	s.close = func() {
		_ = s.pool.Close(ctx)
		_ = s.host.Close()
		_ = os.RemoveAll(dir)
	}
	tenants, err := fleet.New(fleet.Config{Host: s.host, Pool: s.pool})
	check(err)
	ann, joe := hostdb.NewUser("ann@example.com", "ann"), hostdb.NewUser("joe@example.com", "joe")
	check(s.host.Users.Insert(ctx, ann))
	check(s.host.Users.Insert(ctx, joe))
	s.acme, err = tenants.Provision(ctx, fleet.Spec{Slug: "acme", OwnerID: ann.ID})
	check(err)
	_, err = tenants.Provision(ctx, fleet.Spec{Slug: "globex", OwnerID: ann.ID})
	check(err)
	check(s.host.Memberships.Insert(ctx, hostdb.NewMembership(joe.ID, s.acme.ID, hostdb.RoleMember)))
	auth, err := jwtauth.New(s.issuer.Config())
	check(err)
	s.config = tenantdb.Config{
		Host: s.host, Pool: s.pool, Authenticator: auth, Tenant: tenantdb.FromHeader("X-Tenant"),
		Subscription: tenantdb.SubscriptionPolicy{FreePlans: []string{"free"}},
	}
	return s
}

// get sends a request as that user to that tenant and prints the answer.
func (s *shop) get(h http.Handler, user, tenant string) {
	r := httptest.NewRequest(http.MethodGet, "http://app.example.com/notes", nil)
	r.Header.Set("Authorization", "Bearer "+s.issuer.Token(user, time.Hour, nil))
	if tenant != "" {
		r.Header.Set("X-Tenant", tenant)
	}
	answer(h, r)
}

// answer serves a request and prints the answer, with the code and the detail of a refusal.
func answer(h http.Handler, r *http.Request) {
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	var problem struct{ Code, Detail string }
	if json.Unmarshal(rec.Body.Bytes(), &problem) == nil {
		fmt.Printf("%d %s: %s\n", rec.Code, problem.Code, problem.Detail)
		return
	}
	fmt.Println(rec.Code, strings.TrimSpace(rec.Body.String()))
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

// Wrap a router. Handlers find the tenant's own database in the context of the request.
func Example() {
	s := openShop()
	defer s.close()
	mw, err := tenantdb.New(s.config)
	check(err)
	defer mw.Close(context.Background())

	mux := http.NewServeMux()
	mux.HandleFunc("GET /notes", func(w http.ResponseWriter, r *http.Request) {
		var one int
		if err := tenantdb.DB(r.Context()).QueryRowContext(r.Context(), "SELECT 1").Scan(&one); err != nil {
			tenantdb.WriteError(w, r, err)
			return
		}
		scope, _ := tenantdb.FromContext(r.Context())
		fmt.Fprintf(w, "%s, %s of %s", scope.User.Email, scope.Role, scope.Tenant.Slug)
	})
	h := mw.Handler(mux)
	s.get(h, "ann", "acme")
	s.get(h, "joe", "acme")
	s.get(h, "joe", "globex")
	// Output:
	// 200 ann@example.com, owner of acme
	// 200 joe@example.com, member of acme
	// 403 not_member: not a member of this tenant
}

// The tenant may be named in several places, which must agree.
func ExampleSources() {
	s := openShop()
	defer s.close()
	s.config.Tenant = tenantdb.Sources(tenantdb.FromHeader("X-Tenant"), tenantdb.FromSubdomain("example.com"))
	mw, err := tenantdb.New(s.config)
	check(err)
	defer mw.Close(context.Background())
	h := mw.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "in") }))
	for _, host := range []string{"acme.example.com", "globex.example.com"} {
		r := httptest.NewRequest(http.MethodGet, "http://"+host+"/", nil)
		r.Header.Set("Authorization", "Bearer "+s.issuer.Token("ann", time.Hour, nil))
		r.Header.Set("X-Tenant", "acme")
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		fmt.Println(host, rec.Code)
	}
	// Output:
	// acme.example.com 200
	// globex.example.com 403
}

// A user with a single workspace need not name it.
func ExampleFromSoleMembership() {
	s := openShop()
	defer s.close()
	s.config.Tenant = tenantdb.Sources(tenantdb.FromHeader("X-Tenant"), tenantdb.FromSoleMembership())
	mw, err := tenantdb.New(s.config)
	check(err)
	defer mw.Close(context.Background())
	h := mw.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scope, _ := tenantdb.FromContext(r.Context())
		fmt.Fprint(w, scope.Tenant.Slug)
	}))
	s.get(h, "joe", "")
	s.get(h, "ann", "globex")
	// Output:
	// 200 acme
	// 200 globex
}

func ExampleRequireRole() {
	s := openShop()
	defer s.close()
	mw, err := tenantdb.New(s.config)
	check(err)
	defer mw.Close(context.Background())
	settings := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "settings") })
	// owners pass too: the order of Config.Roles is owner, admin, member
	h := mw.Handler(tenantdb.RequireRole("admin")(settings))
	s.get(h, "ann", "acme")
	s.get(h, "joe", "acme")
	// Output:
	// 200 settings
	// 403 forbidden: not allowed
}

// Tenants that don't pay must be able to reach the billing page.
func ExampleMiddleware_HandlerWith() {
	s := openShop()
	defer s.close()
	s.config.Subscription.FreePlans = nil // now every tenant must pay, and none does
	mw, err := tenantdb.New(s.config)
	check(err)
	defer mw.Close(context.Background())
	page := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "welcome") })
	s.get(mw.Handler(page), "ann", "acme")
	s.get(mw.HandlerWith(tenantdb.Rules{AllowInactive: true}, tenantdb.RequireRole("owner")(page)), "ann",
		"acme")
	// Output:
	// 402 subscription_inactive: no active subscription
	// 200 welcome
}

// Sign-up needs a signed-in caller, but no tenant.
func ExampleMiddleware_Authenticated() {
	s := openShop()
	defer s.close()
	mw, err := tenantdb.New(s.config)
	check(err)
	defer mw.Close(context.Background())
	h := mw.Authenticated(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scope, _ := tenantdb.FromContext(r.Context())
		fmt.Fprintf(w, "%s is known: %t", scope.Identity.Subject, scope.User != nil)
	}))
	s.get(h, "ann", "")
	s.get(h, "newcomer", "")
	// Output:
	// 200 ann is known: true
	// 200 newcomer is known: false
}

// A job or a script enters a tenant without a request.
func ExampleMiddleware_Enter() {
	s := openShop()
	defer s.close()
	mw, err := tenantdb.New(s.config)
	check(err)
	defer mw.Close(context.Background())
	ctx, leave, err := mw.Enter(context.Background(), s.acme.ID)
	check(err)
	defer leave()
	var one int
	check(tenantdb.DB(ctx).QueryRowContext(ctx, "SELECT 1").Scan(&one))
	fmt.Println(one)
	// Output: 1
}

// Work that outlives the handler keeps the tenant's database until it calls done.
func ExampleScope_Detach() {
	s := openShop()
	defer s.close()
	mw, err := tenantdb.New(s.config)
	check(err)
	defer mw.Close(context.Background())
	finished := make(chan int)
	s.get(mw.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scope, _ := tenantdb.FromContext(r.Context())
		ctx, done := scope.Detach()
		go func() {
			defer done()
			var one int
			check(tenantdb.DB(ctx).QueryRowContext(ctx, "SELECT 1").Scan(&one))
			finished <- one
		}()
		fmt.Fprint(w, "accepted")
	})), "ann", "acme")
	fmt.Println(<-finished)
	// Output:
	// 200 accepted
	// 1
}

// An expensive value is built once for each tenant.
func ExampleCached() {
	s := openShop()
	defer s.close()
	mw, err := tenantdb.New(s.config)
	check(err)
	defer mw.Close(context.Background())
	type greeterKey struct{}
	h := mw.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		greeter, err := tenantdb.Cached(r.Context(), greeterKey{},
			func(s *tenantdb.Scope) (func() string, func(), error) {
				fmt.Println("built for", s.Tenant.Slug)
				return func() string { return "hello, " + s.Tenant.Slug }, nil, nil
			})
		check(err)
		fmt.Fprint(w, greeter())
	}))
	s.get(h, "ann", "acme")
	s.get(h, "joe", "acme")
	// Output:
	// built for acme
	// 200 hello, acme
	// 200 hello, acme
}

// sessions is an Authenticator that looks session cookies up in the program's own store.
type sessions map[string]string // session id → subject

// Authenticate implements tenantdb.Authenticator.
func (s sessions) Authenticate(r *http.Request) (*tenantdb.Identity, error) {
	cookies := r.CookiesNamed("__Host-session")
	switch {
	case len(cookies) == 0:
		return nil, tenantdb.ErrNoCredential
	case len(cookies) > 1:
		return nil, tenantdb.ErrSeveralCredentials
	// a browser sends cookies along with other sites' requests
	case http.NewCrossOriginProtection().Check(r) != nil:
		return nil, tenantdb.ErrCrossOrigin
	}
	subject, ok := s[cookies[0].Value]
	if !ok {
		return nil, tenantdb.ErrInvalidCredential
	}
	return &tenantdb.Identity{Subject: subject}, nil
}

// Session cookies instead of tokens: an Authenticator is one method.
func ExampleAuthenticator_sessionCookie() {
	s := openShop()
	defer s.close()
	s.config.Authenticator = sessions{"7f3a": "ann"}
	mw, err := tenantdb.New(s.config)
	check(err)
	defer mw.Close(context.Background())
	h := mw.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "in") }))
	for _, session := range []string{"7f3a", "guess"} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("X-Tenant", "acme")
		r.AddCookie(&http.Cookie{Name: "__Host-session", Value: session})
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		fmt.Println(rec.Code)
	}
	// Output:
	// 200
	// 401
}

// apiKeys is an Authenticator that looks API keys up in a table of their hashes.
type apiKeys map[string]struct{ hash, subject string } // by the key's public part

// Authenticate implements tenantdb.Authenticator.
func (k apiKeys) Authenticate(r *http.Request) (*tenantdb.Identity, error) {
	values := r.Header.Values("X-Api-Key")
	switch {
	case len(values) == 0:
		return nil, tenantdb.ErrNoCredential
	case len(values) > 1:
		return nil, tenantdb.ErrSeveralCredentials
	}
	id, secret, _ := strings.Cut(values[0], ".")
	row, ok := k[id]
	sum := sha256.Sum256([]byte(secret))
	if !ok || subtle.ConstantTimeCompare([]byte(hex.EncodeToString(sum[:])), []byte(row.hash)) != 1 {
		return nil, tenantdb.ErrInvalidCredential
	}
	return &tenantdb.Identity{Subject: row.subject}, nil
}

// API keys: the table holds a hash, never the key.
func ExampleAuthenticator_apiKey() {
	s := openShop()
	defer s.close()
	sum := sha256.Sum256([]byte("the-secret-part"))
	s.config.Authenticator = apiKeys{"k1": {hash: hex.EncodeToString(sum[:]), subject: "joe"}}
	mw, err := tenantdb.New(s.config)
	check(err)
	defer mw.Close(context.Background())
	h := mw.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "in") }))
	for _, key := range []string{"k1.the-secret-part", "k1.a-guess", "k2.the-secret-part"} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("X-Tenant", "acme")
		r.Header.Set("X-Api-Key", key)
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		fmt.Println(rec.Code)
	}
	// Output:
	// 200
	// 401
	// 401
}

// The subjects of several issuers may collide, so each issuer gets a prefix.
func ExampleUserByPrefixedSubject() {
	mapping := tenantdb.UserByPrefixedSubject(map[string]string{
		"https://accounts.google.com": "google_",
		"https://github.com":          "github_",
	})
	key, err := mapping(tenantdb.Identity{Issuer: "https://accounts.google.com", Subject: "123"})
	fmt.Println(key.OAuthID, err)
	_, err = mapping(tenantdb.Identity{Issuer: "https://elsewhere.example", Subject: "123"})
	fmt.Println(err)
	// Output:
	// google_123 <nil>
	// no prefix for this issuer
}
