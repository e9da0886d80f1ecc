package tenantgin

import (
	"context"
	"net/http"
	"strings"

	"github.com/gin-gonic/gin"
)

// pass is one request on its way through the middleware, which is built once for all requests.
type pass struct {
	c      *gin.Context
	called bool
}

// passKey is the key of pass in a context.
type passKey struct{}

// withPass returns the request with its pass, as if http.ServeMux had matched it: gin's route is the pattern
// and gin's parameters are path values. A pattern tells that routing has happened. The outer request gets it
// too, for loggers and metrics.
func withPass(c *gin.Context, p *pass) *http.Request {
	pattern := patternOf(c.FullPath())
	if pattern != "" {
		c.Request.Pattern = pattern
	}
	r := c.Request.WithContext(context.WithValue(c.Request.Context(), passKey{}, p))
	r.Pattern = pattern // "" where no route has matched, whatever a router around the engine did
	for _, param := range c.Params {
		r.SetPathValue(param.Key, param.Value)
	}
	return r
}

// patternOf returns a gin route as a pattern of http.ServeMux: "/t/{tenant}/{path...}" for
// "/t/:tenant/*path".
func patternOf(route string) string {
	var pattern strings.Builder
	for {
		i := strings.IndexAny(route, ":*")
		if i < 0 {
			pattern.WriteString(route)
			return pattern.String()
		}
		name, rest, more := strings.Cut(route[i+1:], "/")
		pattern.WriteString(route[:i] + "{" + name)
		if route[i] == '*' {
			pattern.WriteString("...")
		}
		pattern.WriteString("}")
		if !more {
			return pattern.String()
		}
		route = "/" + rest
	}
}
