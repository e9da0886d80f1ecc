// Package refusal says why a request or a query is refused. Its errors reach the library's users: package
// tenantdb exports them, and documents them.
package refusal

import (
	"errors"
	"net/http"
	"strings"
)

// Refusal is what a client may know of a refused request.
type Refusal struct {
	Code   string // the stable word in the response's body
	Status int    // the HTTP status
	Text   string // for people
}

// Error implements error.
func (r *Refusal) Error() string { return "tenantdb: " + r.Text }

// The refusals. Package tenantdb exports each by the name that has Err before it.
var (
	NoCredential       = &Refusal{"unauthenticated", http.StatusUnauthorized, "sign in first"}
	InvalidCredential  = &Refusal{"unauthenticated", http.StatusUnauthorized, "the credential is not valid"}
	SeveralCredentials = &Refusal{"several_credentials", http.StatusBadRequest,
		"send exactly one credential"}
	CrossOrigin     = &Refusal{"cross_origin", http.StatusForbidden, "cross-origin request refused"}
	AuthUnavailable = &Refusal{"auth_unavailable", http.StatusServiceUnavailable,
		"authentication is unavailable"}
	NoTenant       = &Refusal{"no_tenant", http.StatusBadRequest, "the request names no tenant"}
	InvalidTenant  = &Refusal{"invalid_tenant", http.StatusBadRequest, "the tenant's name is not valid"}
	TenantConflict = &Refusal{"tenant_conflict", http.StatusForbidden,
		"the request names more than one tenant"}
	NotMember            = &Refusal{"not_member", http.StatusForbidden, "not a member of this tenant"}
	TenantSuspended      = &Refusal{"tenant_suspended", http.StatusForbidden, "this tenant is suspended"}
	SubscriptionInactive = &Refusal{"subscription_inactive", http.StatusPaymentRequired,
		"no active subscription"}
	Forbidden         = &Refusal{"forbidden", http.StatusForbidden, "not allowed"}
	TenantUnavailable = &Refusal{"tenant_unavailable", http.StatusServiceUnavailable,
		"this tenant is unavailable for the moment"}
	Busy     = &Refusal{"busy", http.StatusServiceUnavailable, "too much is going on; try again"}
	TryAgain = &Refusal{"try_again", http.StatusServiceUnavailable,
		"another request was in the way; try again"}
	HostUnavailable = &Refusal{"host_unavailable", http.StatusServiceUnavailable,
		"the service is unavailable for the moment"}
)

// Unknown stands for an error that is none of the library's. It tells the client nothing.
var Unknown = &Refusal{"internal", http.StatusInternalServerError, "internal error"}

// Of returns the refusal that an error wraps, the outermost first, or Unknown.
func Of(err error) *Refusal {
	var r *Refusal
	if errors.As(err, &r) {
		return r
	}
	return Unknown
}

// WithCause returns an error that is both the reason and its cause to errors.Is.
func WithCause(reason, cause error) error {
	if cause == nil {
		return reason
	}
	return &caused{reason, cause}
}

// caused is a reason and its cause.
type caused struct{ reason, cause error }

// Error implements error.
func (c *caused) Error() string {
	return c.reason.Error() + ": " + strings.TrimPrefix(c.cause.Error(), "tenantdb: ")
}

// Unwrap returns the reason first: it decides the status, whatever the cause wraps.
func (c *caused) Unwrap() []error { return []error{c.reason, c.cause} }

// Mistakes in the program. They are answered with 500, and the client isn't told. Package tenantdb exports
// and documents them.
var (
	ErrWrongTenant = errors.New("tenantdb: this handle is not of the context's tenant")
	ErrNoScope     = errors.New("tenantdb: no scope in the query's context")
)

// ErrPoolClosed is why a tenant's database isn't given out: Pool.Close was called, or the database was
// retired and has closed.
var ErrPoolClosed = errors.New("the pool, or the tenant's database in it, is closed")

// Misuse is the error of a statement that its connection refuses: the program is at fault, not the database.
type Misuse struct {
	Reason error
	Err    error // what the driver said, if it was asked
}

// Error implements error.
func (m *Misuse) Error() string { return "tenantdb: " + m.Reason.Error() }

// Unwrap returns the reason and the driver's error.
func (m *Misuse) Unwrap() []error { return []error{m.Reason, m.Err} }

// IsMisuse reports whether an error says that the program is at fault.
func IsMisuse(err error) bool {
	var misuse *Misuse
	return errors.Is(err, ErrWrongTenant) || errors.Is(err, ErrNoScope) || errors.As(err, &misuse)
}
