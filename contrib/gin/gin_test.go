package tenantgin_test

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/gin-gonic/gin"

	tenantgin "github.com/tenantdb/tenantdb/contrib/gin"
)

type key struct{}

// admit is a middleware that lets every path value but "no" in, with a value in the context while the
// handlers run.
func admit(log *[]string) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.PathValue("tenant") == "no" {
				http.Error(w, "no", http.StatusForbidden)
				return
			}
			defer func() { *log = append(*log, "released") }()
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), key{}, r.PathValue("tenant"))))
		})
	}
}

func engine(log *[]string) *gin.Engine {
	gin.SetMode(gin.ReleaseMode)
	e := gin.New()
	e.Use(func(c *gin.Context) {
		c.Next()
		*log = append(*log, fmt.Sprintf("after: %v, status %d", c.Request.Context().Value(key{}),
			c.Writer.Status()))
	})
	e.Use(gin.CustomRecoveryWithWriter(nil, func(c *gin.Context, _ any) { c.AbortWithStatus(500) }))
	e.GET("/t/:tenant", tenantgin.Use(admit(log)), func(c *gin.Context) {
		*log = append(*log, fmt.Sprintf("handler: %v", c.Request.Context().Value(key{})))
		if c.Param("tenant") == "boom" {
			panic("boom")
		}
		c.Status(http.StatusAccepted)
	})
	return e
}

func TestUse_runsTheHandlersInsideTheMiddlewareOrNotAtAll(t *testing.T) {
	for tenant, want := range map[string]string{
		"acme": "[handler: acme released after: <nil>, status 202] 202",
		"no":   "[after: <nil>, status 403] 403",
		"boom": "[handler: boom released after: <nil>, status 500] 500",
	} {
		var log []string
		rec := httptest.NewRecorder()
		engine(&log).ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/t/"+tenant, nil))
		if got := fmt.Sprintf("%v %d", log, rec.Code); got != want {
			t.Errorf("%s: %s; want %s", tenant, got, want)
		}
	}
}

func TestUse_passesGinsRouteAsThePatternAndParametersAsPathValues(t *testing.T) {
	var saw string
	look := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			saw = fmt.Sprintf("%q %q", r.Pattern, r.PathValue("tenant"))
			next.ServeHTTP(w, r)
		})
	}
	gin.SetMode(gin.ReleaseMode)
	e := gin.New()
	e.Use(tenantgin.Use(look)) // runs for what no route matches, too
	for _, route := range []string{"/t/:tenant/notes", "/t/:tenant/files/*path", "/all/*path",
		"/user_:name"} {
		e.GET(route, func(c *gin.Context) { c.Status(http.StatusOK) })
	}
	for path, want := range map[string][2]string{
		"/t/acme/notes":     {"/t/{tenant}/notes", "acme"},
		"/t/acme/files/a/b": {"/t/{tenant}/files/{path...}", "acme"},
		"/all/t/acme/notes": {"/all/{path...}", ""},
		"/user_ann":         {"/user_{name}", ""},
		"/elsewhere":        {"", ""},
	} {
		r := httptest.NewRequest(http.MethodGet, path, nil)
		r.Pattern = "/" // of a ServeMux around the engine
		if e.ServeHTTP(httptest.NewRecorder(), r); saw != fmt.Sprintf("%q %q", want[0], want[1]) {
			t.Errorf("%s: the middleware saw %s; want %q", path, saw, want)
		}
		if outside := cmp.Or(want[0], "/"); r.Pattern != outside {
			t.Errorf("%s: who is around the engine sees %q; want %q", path, r.Pattern, outside)
		}
	}
}

func ExampleUse() {
	onlyAcme := func(next http.Handler) http.Handler { // stands for (*tenantdb.Middleware).Handler
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.PathValue("tenant") != "acme" {
				http.Error(w, "not a member", http.StatusForbidden)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
	gin.SetMode(gin.ReleaseMode)
	router := gin.New()
	group := router.Group("/t/:tenant", tenantgin.Use(onlyAcme))
	group.GET("/notes", func(c *gin.Context) { c.String(http.StatusOK, "notes of %s", c.Param("tenant")) })
	for _, path := range []string{"/t/acme/notes", "/t/globex/notes"} {
		rec := httptest.NewRecorder()
		router.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, path, nil))
		fmt.Println(rec.Code)
	}
	// Output:
	// 200
	// 403
}
