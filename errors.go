package tenantdb

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// The reasons for which a request is refused. Compare with errors.Is; StatusCode gives the HTTP status of
// each.
var (
	// ErrNoCredential: the request carries no credential (401).
	ErrNoCredential error = &refusal{"unauthenticated", http.StatusUnauthorized, "sign in first"}
	// ErrInvalidCredential: the credential is malformed, forged, expired, revoked, or meant for others (401).
	ErrInvalidCredential error = &refusal{"unauthenticated", http.StatusUnauthorized, "the credential is not valid"}
	// ErrSeveralCredentials: the request carries more than one credential (400).
	ErrSeveralCredentials error = &refusal{"several_credentials", http.StatusBadRequest, "send exactly one credential"}
	// ErrCrossOrigin: an unsafe request from another origin, authenticated by a cookie (403).
	ErrCrossOrigin error = &refusal{"cross_origin", http.StatusForbidden, "cross-origin request refused"}
	// ErrAuthUnavailable: the credential can't be judged now, as when the issuer's keys can't be had (503).
	ErrAuthUnavailable error = &refusal{"auth_unavailable", http.StatusServiceUnavailable, "authentication is unavailable"}
	// ErrNoTenant: the request names no tenant (400).
	ErrNoTenant error = &refusal{"no_tenant", http.StatusBadRequest, "the request names no tenant"}
	// ErrInvalidTenant: the name is neither a slug nor an id, or sources give different kinds of name (400).
	ErrInvalidTenant error = &refusal{"invalid_tenant", http.StatusBadRequest, "the tenant's name is not valid"}
	// ErrTenantConflict: the request names two tenants (403).
	ErrTenantConflict error = &refusal{"tenant_conflict", http.StatusForbidden, "the request names more than one tenant"}
	// ErrNotMember: the tenant is unknown, or the caller is not an active member of it (403, alike in every
	// case).
	ErrNotMember error = &refusal{"not_member", http.StatusForbidden, "not a member of this tenant"}
	// ErrTenantSuspended: the tenant is closed to its members (403).
	ErrTenantSuspended error = &refusal{"tenant_suspended", http.StatusForbidden, "this tenant is suspended"}
	// ErrSubscriptionInactive: no paid subscription, or its trial or grace is over (402).
	ErrSubscriptionInactive error = &refusal{"subscription_inactive", http.StatusPaymentRequired, "no active subscription"}
	// ErrForbidden: a role, a feature or a tier is missing (403).
	ErrForbidden error = &refusal{"forbidden", http.StatusForbidden, "not allowed"}
	// ErrTenantUnavailable: maintenance, a schema below the minimum, or the tenant's server is down (503).
	ErrTenantUnavailable error = &refusal{"tenant_unavailable", http.StatusServiceUnavailable, "this tenant is unavailable for the moment"}
	// ErrBusy: every connection that this tenant may use is taken, for longer than the wait (503).
	ErrBusy error = &refusal{"busy", http.StatusServiceUnavailable, "too much is going on; try again"}
	// ErrTryAgain: a query lost against others that ran at the same time: a serialization failure, a
	// deadlock, or a lock that didn't come free within lock_timeout; or the schema changed, and a statement
	// of a transaction had been prepared before (503). Whoever repeats the whole transaction is likely to
	// succeed.
	ErrTryAgain error = &refusal{"try_again", http.StatusServiceUnavailable, "another request was in the way; try again"}
	// ErrHostUnavailable: the host database can't be asked, and nothing usable is cached (503).
	ErrHostUnavailable error = &refusal{"host_unavailable", http.StatusServiceUnavailable, "the service is unavailable for the moment"}
)

// Mistakes in the program, which a query reports. They are answered with 500 and logged; the client isn't
// told.
var (
	// ErrWrongTenant: a handle, a connection, a statement or a transaction of one tenant, or something that
	// was built on one, was used with the context of another tenant's request.
	ErrWrongTenant = errors.New("tenantdb: this handle is not of the context's tenant")
	// ErrNoScope: a query was given a context without a scope, and PoolConfig.RequireScope wants one.
	ErrNoScope = errors.New("tenantdb: no scope in the query's context")
)

// refusal is the one type behind the Err values: what the client may know.
type refusal struct {
	code   string
	status int
	text   string
}

// Error implements error.
func (r *refusal) Error() string {
	return "tenantdb: " + r.text
}

// Error is a refusal with its circumstances, as ErrorHandler receives it. Its text is for logs: of all this,
// only the code reaches a client. Log it as a slog attribute to have what the middleware itself logs.
type Error struct {
	// Code is the stable word that the response carries, such as "not_member".
	Code string
	// Reason tells apart what the response tells alike, such as an unknown tenant and a missing membership.
	Reason Reason
	// TenantID is the tenant's id, or its name as the request gave it where the caller may not know the id.
	// It may be empty.
	TenantID string
	// Err wraps one of the Err values, and the cause where there is one.
	Err error

	about  about
	handed bool // ErrorHandler has it
}

// Error implements error. Control characters in the tenant's name are escaped by the name's own grammar: a
// name outside it is never stored here.
func (e *Error) Error() string {
	if e.TenantID == "" {
		return e.cause()
	}
	return e.cause() + " (tenant " + e.TenantID + ")"
}

// cause is Err's text; the code where a program made the error without one.
func (e *Error) cause() string {
	if e.Err == nil {
		return e.Code
	}
	return e.Err.Error()
}

// Unwrap returns Err.
func (e *Error) Unwrap() error {
	return e.Err
}

// because joins a refusal and its cause in one error.
func because(reason, cause error) error {
	if cause == nil {
		return reason
	}
	return &caused{reason, cause}
}

// caused is a refusal and its cause; errors.Is finds both.
type caused struct{ reason, cause error }

// Error implements error.
func (c *caused) Error() string {
	return c.reason.Error() + ": " + strings.TrimPrefix(c.cause.Error(), "tenantdb: ")
}

// Unwrap returns the refusal first: it decides the status, whatever the cause wraps.
func (c *caused) Unwrap() []error {
	return []error{c.reason, c.cause}
}

// StatusCode returns the HTTP status for an error of this package: 200 for nil, 500 for an error that is none
// of ours.
func StatusCode(err error) int {
	if err == nil {
		return http.StatusOK
	}
	return refusalOf(err).status
}

// unknown stands for an error that is none of ours. It tells the client nothing.
var unknown = &refusal{"internal", http.StatusInternalServerError, "internal error"}

// refusalOf returns the refusal that an error wraps, the outermost first.
func refusalOf(err error) *refusal {
	var r *refusal
	if errors.As(err, &r) {
		return r
	}
	return unknown
}

var (
	errPoolClosed = errors.New("the pool is closed")
	errClosed     = errors.New("the middleware is closed")
	errNoScope    = fmt.Errorf("%w; give it the request's context or that of Middleware.Enter (PoolConfig.RequireScope)", ErrNoScope)
)

// wrongTenantMend says what to do about ErrWrongTenant.
const wrongTenantMend = "call tenantdb.DB(r.Context()), or ReadDB or PG, in each request instead of keeping its result"
