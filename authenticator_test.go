package tenantdb_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/jwtauth"
)

// withKeys is a JWT authenticator that also accepts API keys, as programs wrap one.
type withKeys struct{ *jwtauth.Authenticator }

func (a withKeys) Authenticate(r *http.Request) (*tenantdb.Identity, error) {
	if r.Header.Get("X-Api-Key") != "" {
		return &tenantdb.Identity{Issuer: "api-keys", Subject: "ann"}, nil
	}
	return a.Authenticator.Authenticate(r)
}

func TestUserKey_anotherIssuersSubjectIsNotTheUser(t *testing.T) {
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
	cfg.UserKey = tenantdb.UserBySubject // declares the subjects of both issuers to be the same
	h = w.middleware(cfg).Handler(http.HandlerFunc(whoami))
	for range 2 {
		if rec := do(h, r); rec.Code != 200 {
			t.Errorf("a key, with a mapping that takes it: %d %s", rec.Code, rec.Body)
		}
	}
}

// stricter is an authenticator that requires more than the token, for which it embeds another.
type stricter struct{ *jwtauth.Authenticator }

func (a stricter) Authenticate(r *http.Request) (*tenantdb.Identity, error) {
	if r.Header.Get("X-Device") == "" {
		return nil, tenantdb.ErrInvalidCredential
	}
	return a.Authenticator.Authenticate(r)
}

func TestAuthenticator_thatEmbedsAnotherIsAskedItself(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	w.tenant("acme", w.user("ann"))
	cfg := w.config()
	own, err := jwtauth.New(jwtauth.Config{
		Issuer: issuer, Audience: audience, Algorithms: []string{"HS256"}, Secret: secret,
	})
	must(t, err)
	asAnn := func() *http.Request {
		r := request("", "acme")
		r.Header.Set("Authorization", "Bearer "+token("ann", func(c jwt.MapClaims) {
			c["exp"] = time.Now().Add(time.Hour).Unix()
		}))
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

func TestUserKey_badMappingOrSourceRefuses(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	w.tenant("acme", w.user("ann"))
	for name, key := range map[string]tenantdb.UserKey{
		"nothing": {}, "both": {ID: hostdb.NewID(), OAuthID: "ann"}, "not an id": {ID: "ann"},
	} {
		cfg := w.config()
		cfg.UserKey = func(tenantdb.Identity) (tenantdb.UserKey, error) { return key, nil }
		if rec := do(w.middleware(cfg).Handler(http.HandlerFunc(whoami)),
			request("ann", "acme")); rec.Code != 401 {
			t.Errorf("%s: %d", name, rec.Code)
		}
	}
	cfg := w.config()
	cfg.Tenant = tenantdb.FromFunc("", func(*http.Request, *tenantdb.Identity) (string, error) {
		return "", errors.New("no idea")
	})
	if rec := do(w.middleware(cfg).Handler(http.HandlerFunc(whoami)),
		request("ann", "acme")); rec.Code != 400 || code(t, rec) != "invalid_tenant" {
		t.Errorf("FromFunc: %d %s", rec.Code, rec.Body)
	}
}

func TestUserKey_mappings(t *testing.T) {
	google := tenantdb.UserByPrefixedSubject(map[string]string{
		"https://accounts.google.com": "google_", "https://github.com": "github_",
	})
	id := hostdb.NewID()
	for _, test := range []struct {
		name  string
		mapIt func(tenantdb.Identity) (tenantdb.UserKey, error)
		id    tenantdb.Identity
		want  tenantdb.UserKey
	}{
		{"subject", tenantdb.UserBySubject, tenantdb.Identity{Subject: "ann"},
			tenantdb.UserKey{OAuthID: "ann"}},
		{"no subject", tenantdb.UserBySubject, tenantdb.Identity{}, tenantdb.UserKey{}},
		{"a long subject", tenantdb.UserBySubject, tenantdb.Identity{Subject: strings.Repeat("x", 256)},
			tenantdb.UserKey{}},
		{"id", tenantdb.UserByID, tenantdb.Identity{Subject: id}, tenantdb.UserKey{ID: id}},
		{"not an id", tenantdb.UserByID, tenantdb.Identity{Subject: "ann"}, tenantdb.UserKey{}},
		{"prefix", google, tenantdb.Identity{Issuer: "https://accounts.google.com", Subject: "123"},
			tenantdb.UserKey{OAuthID: "google_123"}},
		{"an issuer without a prefix", google, tenantdb.Identity{Issuer: "https://evil.example",
			Subject: "123"}, tenantdb.UserKey{}},
		{"a prefix without a subject", google, tenantdb.Identity{Issuer: "https://github.com"},
			tenantdb.UserKey{}},
	} {
		got, err := test.mapIt(test.id)
		if got != test.want || (err == nil) != (test.want != tenantdb.UserKey{}) {
			t.Errorf("%s: %v, %v; want %v", test.name, got, err, test.want)
		}
	}
	mustPanic(t, "prefix", func() {
		tenantdb.UserByPrefixedSubject(map[string]string{"a": "g", "b": "github_"})
	})
}

func TestUserKey_impossibleSubjectIsNobody(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		w.tenant("acme", w.user("ann"))
		subject := ""
		cfg := w.config()
		cfg.Authenticator = authFunc(func(*http.Request) (*tenantdb.Identity, error) {
			return &tenantdb.Identity{Subject: subject}, nil
		})
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
		if rec := do(mw.Authenticated(emptyHandler), request("", "")); rec.Code != 200 {
			t.Errorf("Authenticated: %d", rec.Code)
		}
	})
}

func TestUserKey_secondIssuerNeedsAMapping(t *testing.T) {
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

// TestIdentity_Clone_isBounded copies claims that contain themselves.
func TestIdentity_Clone_isBounded(t *testing.T) {
	claims := map[string]any{"a": "b"}
	claims["self"] = claims
	own := (&tenantdb.Identity{Claims: claims}).Clone()
	if own.Claims["a"] != "b" || own.Claims["self"].(map[string]any)["a"] != "b" {
		t.Errorf("the copy has %v", own.Claims["a"])
	}
	type tree map[string]tree
	typed := tree{"a": {}}
	typed["self"] = typed
	own = (&tenantdb.Identity{Claims: map[string]any{"typed": typed}}).Clone()
	if own.Claims["typed"].(tree)["self"]["a"] == nil {
		t.Errorf("the copy of a type that contains itself has %v", own.Claims["typed"].(tree)["self"])
	}
	own = (&tenantdb.Identity{Claims: claims}).Clone()
	own.Claims["a"] = "c"
	if claims["a"] != "b" || (*tenantdb.Identity)(nil).Clone() != nil {
		t.Error("Clone shares its claims, or makes an identity of none")
	}
}
