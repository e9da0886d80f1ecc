package tenantdb_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tenantdb/tenantdb"
)

// httpCache is a cache in front of a handler, as RFC 9111, sections 3 and 4, describes a browser's. It serves
// a stored answer to a GET if the request headers that its Vary names equal those of the request that it was
// stored for.
type httpCache struct {
	next   http.Handler
	stored map[string][]storedAnswer // by URL
}

type storedAnswer struct {
	asked http.Header
	rec   *httptest.ResponseRecorder
}

// get returns the answer, and whether it was stored.
func (c *httpCache) get(r *http.Request) (rec *httptest.ResponseRecorder, stored bool) {
	url := r.Host + r.URL.String()
	for _, s := range c.stored[url] {
		if s.serves(r) {
			return s.rec, true
		}
	}
	rec = do(c.next, r)
	heuristic := rec.Header().Get("Last-Modified") != "" // section 4.2.2: it is fresh for a while
	if rec.Code == 200 && heuristic && !strings.Contains(rec.Header().Get("Cache-Control"), "no-store") {
		c.stored[url] = append(c.stored[url], storedAnswer{r.Header.Clone(), rec})
	}
	return rec, false
}

// serves implements section 4.1.
func (s storedAnswer) serves(r *http.Request) bool {
	for _, line := range s.rec.Header()["Vary"] {
		for name := range strings.SplitSeq(line, ",") {
			name = strings.TrimSpace(name)
			if name == "*" || strings.Join(s.asked.Values(name), ",") != strings.Join(r.Header.Values(name),
				",") {
				return false
			}
		}
	}
	return true
}

// TestMiddleware_Vary_keepsPagesApartInACache puts a browser's cache in front of pages that http.ServeFile
// makes cacheable.
func TestMiddleware_Vary_keepsPagesApartInACache(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ann, bob := w.user("ann"), w.user("bob")
		w.member(bob, w.tenant("acme", ann), "member")
		w.member(bob, w.tenant("globex", ann), "member")
		dir := t.TempDir()
		pages := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			name := "anonymous"
			if s, _ := tenantdb.FromContext(r.Context()); s.Tenant != nil {
				name = s.Tenant.Slug + "-" + s.User.OAuthID
			} else if s.User != nil {
				name = s.User.OAuthID
			}
			file := filepath.Join(dir, name)
			must(t, os.WriteFile(file, []byte(name), 0o600))
			http.ServeFile(rw, r, file)
		})
		byHeader := w.middleware(w.config())
		cfg := w.config()
		cfg.Authenticator = newKeeper("ann", "bob")
		byKey := w.middleware(cfg)
		cfg = w.config()
		cfg.Tenant = tenantdb.FromFunc("x-org", func(r *http.Request, _ *tenantdb.Identity) (string, error) {
			return r.Header.Get("X-Org"), nil
		})
		byFunc := w.middleware(cfg)
		anonymous := tenantdb.Rules{AllowAnonymous: true}
		for name, c := range map[string]struct {
			h      http.Handler
			tenant bool // the answer depends on it
			first  string
		}{
			"Handler":        {byHeader.Handler(pages), true, ""},
			"AllowAnonymous": {byHeader.HandlerWith(anonymous, pages), true, "anonymous"},
			"Authenticated":  {byHeader.Authenticated(pages), false, ""},
			"an API key":     {byKey.Handler(pages), true, ""},
			"FromFunc":       {byFunc.Handler(pages), true, ""},
			"two":            {byHeader.Authenticated(byHeader.Handler(pages)), true, ""},
		} {
			cache := &httpCache{next: c.h, stored: map[string][]storedAnswer{}}
			rec, _ := cache.get(request("", ""))
			if got := rec.Body.String(); c.first != "" && got != c.first || c.first == "" && rec.Code == 200 {
				t.Errorf("%s: nobody was answered %d %q", name, rec.Code, got)
			}
			hits := 0
			for range 2 {
				for _, user := range []string{"ann", "bob"} {
					for _, tenant := range []string{"acme", "globex"} {
						for _, cookie := range []bool{false, true} {
							rec, stored := cache.get(caller(user, tenant, cookie))
							want := user
							if c.tenant {
								want = tenant + "-" + user
							}
							if rec.Body.String() != want {
								t.Errorf("%s: %s in %s was answered %d %q", name, user, tenant, rec.Code,
									rec.Body)
							}
							if stored {
								hits++
							}
						}
					}
				}
			}
			if hits == 0 {
				t.Errorf("%s: the cache served nothing, so this proves nothing", name)
			}
		}
	})
}

// caller is a signed-in request, by cookie or by header.
func caller(user, tenant string, cookie bool) *http.Request {
	r := request("", tenant)
	r.Header.Set("X-Org", tenant)
	r.Header.Set("X-Subject", user)
	if cookie {
		r.AddCookie(&http.Cookie{Name: "session", Value: token(user)})
	} else {
		r.Header.Set("Authorization", "Bearer "+token(user))
	}
	return r
}

// TestMiddleware_Vary_namesWhatAnAnswerDependsOn checks answers of the handler and refusals. Public routes
// depend on nothing.
func TestMiddleware_Vary_namesWhatAnAnswerDependsOn(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	w.tenant("acme", w.user("ann"))
	cfg := w.config()
	cfg.Skip = []string{"/public"}
	cfg.Tenant = tenantdb.Sources(tenantdb.FromHeader("x-tenant"), tenantdb.FromHeader("X-Org-Id"),
		tenantdb.FromSubdomain("example.net"),
		tenantdb.FromFunc("x-org-id", func(*http.Request, *tenantdb.Identity) (string, error) {
			return "", nil
		}),
		tenantdb.FromFunc("", func(*http.Request, *tenantdb.Identity) (string, error) { return "", nil }))
	mw := w.middleware(cfg)
	cfg.Authenticator = newKeeper("ann")
	byKey := w.middleware(cfg)
	failing := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		tenantdb.WriteError(rw, r, tenantdb.ErrForbidden)
	})
	adding := http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Add("Vary", "Accept")
	})
	const whole = "Authorization, Cookie, X-Tenant, X-Org-Id"
	for _, test := range []struct {
		name   string
		h      http.Handler
		status int
		want   string
	}{
		{"served", mw.Handler(http.HandlerFunc(whoami)), 200, whole},
		{"and the handler's own", mw.Handler(adding), 200, whole + "; Accept"},
		{"twice guarded", mw.Handler(mw.Handler(http.HandlerFunc(whoami))), 200, whole},
		{"no tenant", mw.Authenticated(emptyHandler), 200, "Authorization, Cookie"},
		{"refused", mw.Handler(tenantdb.RequireRole("nosuch")(failing)), 403, whole},
		{"the handler's error", mw.Handler(failing), 403, whole},
		{"another authenticator", byKey.Handler(http.HandlerFunc(whoami)), 200,
			"Authorization, Cookie, X-Subject, X-Tenant, X-Org-Id"},
		{"not signed in", byKey.Authenticated(failing), 403, "Authorization, Cookie, X-Subject"},
	} {
		rec := do(test.h, caller("ann", "acme", false))
		if got := strings.Join(rec.Header()["Vary"], "; "); rec.Code != test.status || got != test.want {
			t.Errorf("%s: %d, Vary: %s; want %d, %s", test.name, rec.Code, got, test.status, test.want)
		}
	}
	r := request("", "")
	if rec := do(mw.Handler(failing), r); rec.Code != 401 || rec.Header().Get("Vary") != whole {
		t.Errorf("a refusal has %d, Vary: %s", rec.Code, rec.Header()["Vary"])
	}
	r.URL.Path = "/public"
	if rec := do(mw.Handler(http.NotFoundHandler()), r); rec.Code != 404 || rec.Header()["Vary"] != nil {
		t.Errorf("a public route has %d, Vary: %s", rec.Code, rec.Header()["Vary"])
	}
}
