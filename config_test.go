package tenantdb_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb"
)

func TestConfig_Skip_matchesExactly(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	cfg := w.config()
	cfg.Skip = []string{"GET /healthz", "/static/", "/docs/{page}"}
	h := w.middleware(cfg).Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {}))
	for target, public := range map[string]bool{
		"GET /healthz": true, "HEAD /healthz": true, "POST /healthz": false, "GET /healthz/": false,
		"GET /healthz/x": false, "GET /HEALTHZ": false,
		"GET /static/app.css": true, "GET /static/": true, "GET /static": false,
		"GET /static/../admin": false, "GET //static/x": false,
		"GET /static//x": false, "GET /static/./x": false, "GET /static/%2e%2e/admin": false,
		"GET /static/..%2fadmin": false,
		"GET /%73tatic/x":        false, `GET /static/..\admin`: false, "GET /docs/a": true,
		"GET /docs/a/b": false, "GET /docs/a%2Fb": false,
		"GET /": false, "GET /admin": false, "GET /admin?x=/healthz": false, "GET /admin;/healthz": false,
	} {
		method, path, _ := strings.Cut(target, " ")
		r := httptest.NewRequest(method, "/", nil)
		u, err := url.Parse("http://app.example.com" + path)
		must(t, err)
		r.URL.Path, r.URL.RawPath, r.URL.RawQuery = u.Path, u.RawPath, u.RawQuery
		if strings.HasPrefix(path, "//") { // Parse would read it as a host
			r.URL.Path = path
		}
		if got := do(h, r).Code == 200; got != public {
			t.Errorf("%s: public = %v; want %v", target, got, public)
		}
	}
}

func TestNew_namesTheFieldAndTheRemedy(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	for field, breakIt := range map[string]func(*tenantdb.Config){
		"Host":                   func(c *tenantdb.Config) { c.Host = nil },
		"Authenticator":          func(c *tenantdb.Config) { c.Authenticator = nil },
		"Tenant":                 func(c *tenantdb.Config) { c.Tenant = tenantdb.Source{} },
		"Tenant: FromHeader":     func(c *tenantdb.Config) { c.Tenant = tenantdb.FromHeader("X_Tenant") },
		"Tenant: FromSubdomain":  func(c *tenantdb.Config) { c.Tenant = tenantdb.FromSubdomain("127.0.0.1") },
		"Tenant: FromClaim":      func(c *tenantdb.Config) { c.Tenant = tenantdb.FromClaim("") },
		"Tenant: FromPathValue":  func(c *tenantdb.Config) { c.Tenant = tenantdb.FromPathValue("") },
		"Tenant: FromFunc":       func(c *tenantdb.Config) { c.Tenant = tenantdb.FromFunc("", nil) },
		"Skip":                   func(c *tenantdb.Config) { c.Skip = []string{"GET"} },
		"Skip: \"public":         func(c *tenantdb.Config) { c.Skip = []string{"public.example.com/"} },
		"Skip: \"GET public":     func(c *tenantdb.Config) { c.Skip = []string{"GET public.example.com/"} },
		"Tenant: FromHeader(\"H": func(c *tenantdb.Config) { c.Tenant = tenantdb.FromHeader("host") },
		"Tenant: FromHeader(\"X": func(c *tenantdb.Config) { c.Tenant = tenantdb.FromHeader("X-Té") },
		"Roles":                  func(c *tenantdb.Config) { c.Roles = []string{"a", "a"} },
		"MinSchemaVersion":       func(c *tenantdb.Config) { c.MinSchemaVersion = -1 },
		"Redirects.Login":        func(c *tenantdb.Config) { c.Redirects.Login = "//evil.example" },
		"Redirects.Billing":      func(c *tenantdb.Config) { c.Redirects.Billing = "https://evil.example" },
		"Cache.MaxStaleness":     func(c *tenantdb.Config) { c.Cache.MaxStaleness = time.Millisecond },
		"Cache.MaxStaleIfDown":   func(c *tenantdb.Config) { c.Cache.MaxStaleIfDown = time.Second },
		"Subscription.FreePlans": func(c *tenantdb.Config) { c.Subscription.FreePlans = []string{""} },
		"UserKey": func(c *tenantdb.Config) {
			c.Authenticator = issuers{c.Authenticator, []string{"a", "b"}}
		},
		"UserKey: ": func(c *tenantdb.Config) {
			c.Authenticator = issuers{c.Authenticator, []string{"https://a/{tid}"}}
		},
	} {
		cfg := w.config()
		breakIt(&cfg)
		if mw, err := tenantdb.New(cfg); err == nil ||
			!strings.HasPrefix(err.Error(), "tenantdb: Config."+field) {
			t.Errorf("New without a good %s: %v, %v", field, mw, err)
		}
	}
}

// issuers is an authenticator that names the issuers it accepts.
type issuers struct {
	tenantdb.Authenticator
	names []string
}

func (i issuers) Issuers() []string { return i.names }

func TestNewPool_namesTheField(t *testing.T) {
	for field, cfg := range map[string]tenantdb.PoolConfig{
		"MaxConns":       {MaxConns: -1},
		"Processes":      {Processes: -1},
		"AcquireTimeout": {AcquireTimeout: -1},
		"MaxOpenSQLite":  {MaxOpenSQLite: -1},
	} {
		if _, err := tenantdb.NewPool(cfg); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("NewPool without a good %s: %v", field, err)
		}
	}
	if _, err := tenantdb.NewPool(tenantdb.PoolConfig{MaxConns: 2, Processes: 3}); err == nil {
		t.Error("a process without a connection was accepted")
	}
}

func TestNew_refusesOpenRedirects(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	list, err := os.ReadFile(filepath.Join(tenantdb.VectorDir(t), "other", "openredirects.txt"))
	must(t, err)
	targets := strings.Split(strings.TrimRight(string(list), "\n"), "\n")
	if len(targets) < 500 {
		t.Fatalf("only %d vectors", len(targets))
	}
	for _, target := range targets {
		if target == "" {
			continue // no redirect
		}
		if unescaped, err := url.QueryUnescape(target); err == nil {
			target = unescaped
		}
		cfg := w.config()
		cfg.Redirects.Login = target
		if mw, err := tenantdb.New(cfg); err == nil {
			must(t, mw.Close(t.Context()))
			t.Errorf("Redirects.Login = %q was accepted", target)
		}
	}
}

func TestNewPool_refusesNegativeTimes(t *testing.T) {
	for field, cfg := range map[string]tenantdb.PoolConfig{
		"ConnectTimeout": {ConnectTimeout: -1},
		"ServerRetry":    {ServerRetry: -1},
	} {
		if _, err := tenantdb.NewPool(cfg); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func TestConfig_Skip_letsPreflightsThrough(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	cfg := w.config()
	cfg.Skip = []string{"OPTIONS /"}
	h := w.middleware(cfg).Handler(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.WriteHeader(http.StatusNoContent)
	}))
	for method, want := range map[string]int{"OPTIONS": 204, "GET": 401, "POST": 401} {
		r := request("", "acme")
		r.Method, r.URL.Path = method, "/t/acme/notes"
		if rec := do(h, r); rec.Code != want {
			t.Errorf("%s: %d; want %d", method, rec.Code, want)
		}
	}
}
