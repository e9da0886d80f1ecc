package tenantdb_test

import (
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/tenantdb/tenantdb"
)

func TestRedirects_leadToAnotherHostAndBack(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	central := tenantdb.Redirects{
		Login: "/login?a=b", Billing: "/billing", Origin: "https://accounts.example.com",
		ReturnTo: "return_to",
	}
	here := tenantdb.Redirects{Login: "/login", ReturnTo: "return_to"}
	for _, c := range []struct {
		name             string
		redirects        tenantdb.Redirects
		method, to, want string
	}{
		{"central", central, "GET", "/notes?x=1&y=%26", "https://accounts.example.com/login?a=b&return_to=" +
			url.QueryEscape("https://acme.example.com/notes?x=1&y=%26")},
		{"here", here, "GET", "/notes?x=1", "/login?return_to=" + url.QueryEscape("/notes?x=1")},
		{"a form", here, "POST", "/notes", "/login"},
		{"another host in the path", here, "GET", "//evil.example/x", "/login"},
		{"the same, escaped", here, "GET", "/%2fevil.example/x", "/login"},
		{"a backslash", here, "GET", "/%5cevil.example", "/login"},
		{"very long", here, "GET", "/?x=" + strings.Repeat("x", 2000), "/login"},
		{"not asked for", tenantdb.Redirects{Login: "/login", Origin: "http://app.localhost:8080"}, "GET",
			"/notes", "http://app.localhost:8080/login"},
	} {
		cfg := w.config()
		cfg.Logger, cfg.Redirects = slog.New(slog.DiscardHandler), c.redirects
		r := request("", "acme")
		u, err := url.ParseRequestURI(c.to)
		must(t, err)
		r.Method, r.Host, r.URL = c.method, "acme.example.com", u
		r.Header.Set("Accept", "text/html")
		rec := do(w.middleware(cfg).Handler(http.NotFoundHandler()), r)
		if rec.Code != 303 || rec.Header().Get("Location") != c.want {
			t.Errorf("%s: %d to %q; want %q", c.name, rec.Code, rec.Header().Get("Location"), c.want)
		}
	}
	for _, bad := range []tenantdb.Redirects{
		{Origin: "accounts.example.com"}, {Origin: "http://accounts.example.com"},
		{Origin: "https://a@b.example"},
		{Origin: "https://a.example/x"}, {Origin: "https://a.example?x"}, {Origin: "https://"},
		{Origin: "//a.example"}, {Origin: "javascript:x"},
		{ReturnTo: "a&b"}, {ReturnTo: "a=b"},
	} {
		cfg := w.config()
		cfg.Redirects = bad
		if _, err := tenantdb.New(cfg); err == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
}

func TestRedirects_sendBrowsersToLoginAndBilling(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	acme := w.tenant("acme", w.user("ann"))
	setTier("pro")(w, acme)
	cfg := w.config()
	cfg.Redirects = tenantdb.Redirects{Login: "/login", Billing: "/billing"}
	h := w.middleware(cfg).Handler(http.HandlerFunc(whoami))
	const browser = "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"
	for _, test := range []struct {
		name, user, tenant, accept string
		htmx                       bool
		status                     int
		header, target             string
	}{
		{"signed out", "", "acme", browser, false, 303, "Location", "/login"},
		{"lapsed", "ann", "acme", browser, false, 303, "Location", "/billing"},
		{"signed out, HTMX", "", "acme", "*/*", true, 200, "Hx-Redirect", "/login"},
		{"lapsed, HTMX", "ann", "acme", "*/*", true, 200, "Hx-Redirect", "/billing"},
		{"a program", "", "acme", "application/json", false, 401, "Location", ""},
		{"a program that takes anything", "", "acme", "*/*", false, 401, "Location", ""},
		{"html refused", "", "acme", "text/html;q=0, application/json", false, 401, "Location", ""},
		{"no such page for this", "ann", "nobody", browser, false, 403, "Location", ""},
	} {
		r := request(test.user, test.tenant)
		r.Header.Set("Accept", test.accept)
		if test.htmx {
			r.Header.Set("HX-Request", "true")
		}
		rec := do(h, r)
		if rec.Code != test.status || rec.Header().Get(test.header) != test.target ||
			rec.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %d %v", test.name, rec.Code, rec.Header())
		}
	}
}
