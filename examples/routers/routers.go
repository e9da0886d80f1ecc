// Package routers shows how each router takes tenantdb: from outside, around the whole router, and from
// inside, for a part of it.
package routers

import (
	"fmt"
	"net/http"

	"github.com/gin-gonic/gin"
	"github.com/go-chi/chi/v5"

	"github.com/tenantdb/tenantdb"
	tenantgin "github.com/tenantdb/tenantdb/contrib/gin"
)

// whoami answers with the name in the tenant's own database.
func whoami(w http.ResponseWriter, r *http.Request) {
	var name string
	if err := tenantdb.DB(r.Context()).QueryRowContext(r.Context(),
		"SELECT name FROM me").Scan(&name); err != nil {
		tenantdb.WriteError(w, r, err)
		return
	}
	fmt.Fprint(w, name)
}

// ServeMuxOutside guards a whole http.ServeMux.
func ServeMuxOutside(mw *tenantdb.Middleware) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /whoami", whoami)
	return mw.Handler(mux)
}

// ServeMuxInside guards single routes, whose patterns name the tenant: path values exist once the mux has
// matched.
func ServeMuxInside(mw *tenantdb.Middleware) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /t/{tenant}/whoami", mw.Handler(http.HandlerFunc(whoami)))
	mux.HandleFunc("GET /public", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "public") })
	return mux
}

// ChiOutside guards a whole chi router.
func ChiOutside(mw *tenantdb.Middleware) http.Handler {
	r := chi.NewRouter()
	r.Get("/whoami", whoami)
	return mw.Handler(r)
}

// ChiUse guards every route of a chi router from inside. Use runs before chi has matched, so the tenant can't
// be a parameter.
func ChiUse(mw *tenantdb.Middleware) http.Handler {
	r := chi.NewRouter()
	r.Use(mw.Handler)
	r.Get("/whoami", whoami)
	return r
}

// ChiWith guards routes whose patterns name the tenant: With runs after chi has matched.
func ChiWith(mw *tenantdb.Middleware) http.Handler {
	r := chi.NewRouter()
	r.With(mw.Handler).Get("/t/{tenant}/whoami", whoami)
	r.With(mw.Handler, tenantdb.RequireRole("owner")).Get("/t/{tenant}/billing", whoami)
	r.Get("/public", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "public") })
	return r
}

// ChiRoute guards all routes below one that names the tenant. Use inside Route runs after chi has matched
// that part.
func ChiRoute(mw *tenantdb.Middleware) http.Handler {
	r := chi.NewRouter()
	r.Route("/t/{tenant}", func(r chi.Router) {
		r.Use(mw.Handler)
		r.Get("/whoami", whoami)
		r.With(tenantdb.RequireRole("owner")).Get("/billing", whoami)
	})
	r.Get("/public", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "public") })
	return r
}

// GinOutside guards a whole gin engine: it is an http.Handler like any other.
func GinOutside(mw *tenantdb.Middleware) http.Handler {
	engine := newEngine()
	engine.GET("/whoami", ginWhoami)
	return mw.Handler(engine)
}

// GinGroup guards a group of gin routes, through contrib/gin.
func GinGroup(mw *tenantdb.Middleware) http.Handler {
	engine := newEngine()
	engine.GET("/public", func(c *gin.Context) { c.String(http.StatusOK, "public") })
	group := engine.Group("/t/:tenant", tenantgin.Use(mw.Handler))
	group.GET("/whoami", ginWhoami)
	group.GET("/billing", tenantgin.Use(tenantdb.RequireRole("owner")), ginWhoami)
	return engine
}

func newEngine() *gin.Engine {
	gin.SetMode(gin.ReleaseMode)
	engine := gin.New()
	engine.ContextWithFallback = true // so that tenantdb.DB(c) finds what c.Request.Context() has
	engine.Use(gin.Recovery())
	return engine
}

// ginWhoami is whoami in gin's form.
func ginWhoami(c *gin.Context) {
	var name string
	if err := tenantdb.DB(c).QueryRowContext(c, "SELECT name FROM me").Scan(&name); err != nil {
		tenantdb.WriteError(c.Writer, c.Request, err)
		return
	}
	c.String(http.StatusOK, "%s", name)
}
