// Package tenantgin puts tenantdb's middleware in front of a group of gin routes. A whole engine needs no
// adapter: it is an [http.Handler], so use mw.Handler(engine).
package tenantgin

import (
	"net/http"

	"github.com/gin-gonic/gin"
)

// Use turns a middleware of net/http, such as (*tenantdb.Middleware).Handler or
// tenantdb.RequireRole("admin"), into one of gin:
//
//	group := engine.Group("/t/:tenant", tenantgin.Use(mw.Handler))
//
// Handlers find the tenant by c.Request.Context(). Passing c itself, as in tenantdb.DB(c), works only if the
// engine's ContextWithFallback is set.
//
// The route's parameters become the request's path values, so that tenantdb.FromPathValue("tenant") works.
// The route becomes the request's Pattern in the notation of [http.ServeMux]: "/t/{tenant}/{path...}" for
// "/t/:tenant/*path". Middleware around the engine sees it too. If the middleware refuses a request, gin's
// handlers don't run.
//
// The middleware must not replace the ResponseWriter, which tenantdb's never does: gin's handlers write to
// c.Writer.
func Use(middleware func(http.Handler) http.Handler) gin.HandlerFunc {
	handler := middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		pass := r.Context().Value(passKey{}).(*pass)
		pass.called = true
		pass.c.Request = r
		pass.c.Next() // inside, so that the tenant's lease lasts as long as the handlers run
	}))
	return func(c *gin.Context) {
		original := c.Request
		defer func() { c.Request = original }() // the scope ends here; what runs after must not find it
		p := &pass{c: c}
		handler.ServeHTTP(c.Writer, withPass(c, p))
		if !p.called {
			c.Abort() // or gin would run the handler after the refusal
		}
	}
}
