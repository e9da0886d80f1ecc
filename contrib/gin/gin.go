// Package tenantgin lets tenantdb guard a group of gin routes. An engine as a whole needs no adapter: it is
// an http.Handler, so mw.Handler(engine) does.
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
// Handlers find the tenant by c.Request.Context(). Passing c itself, as in tenantdb.DB(c), works where the
// engine's ContextWithFallback is set; by default gin's context doesn't show what is in its request's.
//
// The route's parameters are the request's path values, so that tenantdb.FromPathValue("tenant") works. The
// route is the request's Pattern in the notation of http.ServeMux, "/t/{tenant}/{path...}" for
// "/t/:tenant/*path", also for a middleware around the engine. A request that the middleware refuses goes no
// further.
//
// Use is for middleware that doesn't replace the ResponseWriter, as tenantdb's never does: gin's handlers
// write to c.Writer, whatever ResponseWriter the middleware passes on.
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
