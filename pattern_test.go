package tenantdb_test

import (
	"net/http"
	"testing"

	"github.com/tenantdb/tenantdb"
)

// TestAMiddlewareAroundOursSeesThePatternThatMatchedInside, however the handler ends.
func TestAMiddlewareAroundOursSeesThePatternThatMatchedInside(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	w.tenant("acme", w.user("ann"))
	cfg := w.config()
	cfg.Skip = []string{"/public"}
	mw := w.middleware(cfg)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /notes/{id}", whoami)
	mux.Handle("GET /panic", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
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
			t.Errorf("%s: %d, the pattern is %q; want %d, %q", name, status, r.Pattern, test.status, test.want)
		}
	}
}
