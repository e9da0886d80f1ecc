package routers

import (
	"context"
	"net/http"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/go-chi/chi/v5"
	"github.com/labstack/echo/v4"

	"github.com/tenantdb/tenantdb"
	tenantgin "github.com/tenantdb/tenantdb/contrib/gin"
)

// TestFromSoleMembership_needsAFullyMatchedRoute: a route that matches a subtree has another router behind
// it, which may find a tenant in the path. So the caller's only tenant must not be taken for the one that is
// meant.
func TestFromSoleMembership_needsAFullyMatchedRoute(t *testing.T) {
	p := newProduct(t)
	mw := p.middleware(t, tenantdb.Sources(tenantdb.FromPathValue("tenant"), tenantdb.FromSoleMembership()))
	inner := http.NewServeMux()
	inner.HandleFunc("/api/t/{tenant}/whoami", whoami)
	inner.HandleFunc("/api/whoami", whoami)
	for name, h := range map[string]http.Handler{
		"ServeMux":     serveMuxOf("/api/", mw.Handler(inner)),
		"ServeMux ...": serveMuxOf("/api/{rest...}", mw.Handler(inner)),
		"chi":          chiOf("/api/*", mw.Handler(inner)),
		"chi regexp":   chiOf("/api/{rest:.+}i", mw.Handler(inner)), // matches several segments, up to an i
		"gin":          ginOf("/api/*path", mw, inner),
		"echo":         echoOf("/api/*", echo.WrapMiddleware(mw.Handler), inner),
		"echo, named":  echoOf("/api/*path", matched(mw.Handler), inner),
	} {
		if rec := get(h, "joe", "/api/t/globex/whoami", ""); rec.Code != http.StatusBadRequest {
			t.Errorf("%s: joe, of acme, asked for globex and was answered %d %q", name, rec.Code, rec.Body)
		}
		// The path is one segment for the regular expression, so the route counts as matched.
		if rec := get(h, "joe", "/api/whoami", ""); rec.Code != http.StatusBadRequest &&
			name != "chi regexp" {
			t.Errorf("%s: joe named no tenant and was answered %d %q", name, rec.Code, rec.Body)
		}
	}
	for name, h := range map[string]http.Handler{
		"ServeMux": serveMuxOf("/api/whoami", mw.Handler(inner)),
		"chi":      chiOf("/api/whoami", mw.Handler(inner)),
		"chi, /":   chiOf("/api/{name}/", mw.Handler(http.HandlerFunc(whoami))),
		"gin":      ginOf("/api/:name", mw, inner),
		"echo":     echoOf("/api/:name", matched(mw.Handler), inner),
	} {
		path := "/api/whoami"
		if name == "chi, /" {
			path += "/"
		}
		if rec := get(h, "joe", path, ""); rec.Code != http.StatusOK || rec.Body.String() != "acme" {
			t.Errorf("%s: joe named no tenant and was answered %d %q, though the route is matched", name,
				rec.Code, rec.Body)
		}
	}
}

func serveMuxOf(pattern string, h http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle(pattern, h)
	return mux
}

func chiOf(pattern string, h http.Handler) http.Handler {
	r := chi.NewRouter()
	r.Handle(pattern, h)
	return r
}

func ginOf(route string, mw *tenantdb.Middleware, h http.Handler) http.Handler {
	engine := newEngine()
	engine.GET(route, tenantgin.Use(mw.Handler), func(c *gin.Context) { h.ServeHTTP(c.Writer, c.Request) })
	return engine
}

func echoOf(route string, use echo.MiddlewareFunc, h http.Handler) http.Handler {
	e := echo.New()
	e.GET(route, echo.WrapHandler(h), use)
	return e
}

// matched is what a product writes for echo, as contrib/gin does for gin. It sets the request's pattern to
// the route that echo has matched.
func matched(middleware func(http.Handler) http.Handler) echo.MiddlewareFunc {
	wrapped := echo.WrapMiddleware(middleware)
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			r := c.Request().WithContext(context.WithoutCancel(c.Request().Context()))
			r.Pattern = c.Path()
			for i, name := range c.ParamNames() {
				r.SetPathValue(name, c.ParamValues()[i])
			}
			c.SetRequest(r)
			return wrapped(next)(c)
		}
	}
}
