package tenantdbtest

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/madescope"
)

// Request returns a request of a user to a tenant, for an http.Handler. It carries a token for an hour of the
// kit's clock, and the tenant's slug as [Options.Address] places it. In the path, {tenant} stands for the
// slug. Without a user it carries no token, and without a tenant it names none. body may be nil.
func (k *Kit) Request(user *hostdb.GlobalUser, tenant *hostdb.TenantCatalog, method, path string,
	body io.Reader) *http.Request {
	k.t.Helper()
	if tenant != nil {
		path = strings.ReplaceAll(path, "{tenant}", tenant.Slug)
	}
	r := httptest.NewRequest(method, path, body).WithContext(k.t.Context())
	k.sign(r, user, tenant)
	return r
}

// sign adds the credential of a user and the name of a tenant to a request.
func (k *Kit) sign(r *http.Request, user *hostdb.GlobalUser, tenant *hostdb.TenantCatalog) {
	switch {
	case tenant == nil:
	case k.options.Address != nil:
		k.options.Address(r, tenant)
	default:
		r.Header.Set(TenantHeader, tenant.Slug)
	}
	if user != nil {
		r.Header.Set("Authorization", "Bearer "+k.token(user, tenant))
	}
}

// token returns a token of a user.
func (k *Kit) token(user *hostdb.GlobalUser, tenant *hostdb.TenantCatalog) string {
	var claims map[string]any
	if k.options.Claims != nil && tenant != nil {
		claims = k.options.Claims(user, tenant)
	}
	return k.Issuer.Token(user.OAuthID, time.Hour, claims)
}

// Do has a handler serve a request, and returns its response.
func (k *Kit) Do(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	response := httptest.NewRecorder()
	h.ServeHTTP(response, r)
	return response
}

// Context returns a context for code without HTTP, such as a store's methods: that of a request of the user
// to the tenant, as [tenantdb.Middleware.EnterAs] makes it. It has the tenant's database and a
// [tenantdb.Scope]. Without a user it is that of [tenantdb.Middleware.Enter]. The scope ends with the test.
//
// If the user may not enter the tenant, Context fails the test with the reason.
func (k *Kit) Context(user *hostdb.GlobalUser, tenant *hostdb.TenantCatalog) context.Context {
	k.t.Helper()
	ctx, end, err := k.enter(user, tenant)
	if err != nil {
		k.t.Fatalf("tenantdbtest: Context: %v", err)
	}
	k.t.Cleanup(end)
	return ctx
}

// enter makes the context of Context, and the function that ends its scope.
func (k *Kit) enter(user *hostdb.GlobalUser, tenant *hostdb.TenantCatalog) (context.Context, func(),
	error) {
	if user == nil {
		return k.Middleware.Enter(k.t.Context(), tenant.ID)
	}
	identity, err := k.auth.Authenticate(k.Request(user, tenant, http.MethodGet, "/", nil))
	if err != nil {
		return nil, nil, err
	}
	return k.Middleware.EnterAs(k.t.Context(), identity, hostdb.TenantKey{ID: tenant.ID}, tenantdb.Rules{})
}

// WithScope returns a context in which [tenantdb.FromContext] finds a scope that a test has made, for unit
// tests of code that reads a role, a plan or features, and needs no database.
//
// A made scope grants nothing. [tenantdb.DB] and its like panic as without a scope, guards such as
// [tenantdb.RequireRole] and [tenantdb.Scope.Check] refuse, and the scope of a middleware takes precedence.
// Use [Kit.Context] for code that needs these.
func WithScope(ctx context.Context, scope *tenantdb.Scope) context.Context {
	return context.WithValue(ctx, madescope.Key{}, scope)
}
