package tenantgin

import (
	"context"
	"net/http"

	"github.com/gin-gonic/gin"
)

// pass is one request's way through the middleware, which is built once for all requests.
type pass struct {
	c      *gin.Context
	called bool
}

// passKey is the key of pass in a context.
type passKey struct{}

// withPass returns the request with its pass, as http.ServeMux would have matched it: with gin's route as the pattern, whose presence
// tells that routing has happened, and gin's parameters as path values.
func withPass(c *gin.Context, p *pass) *http.Request {
	r := c.Request.WithContext(context.WithValue(c.Request.Context(), passKey{}, p))
	r.Pattern = c.FullPath()
	for _, param := range c.Params {
		r.SetPathValue(param.Key, param.Value)
	}
	return r
}
