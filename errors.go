package tenantdb

import (
	"errors"
	"net/http"

	"github.com/tenantdb/tenantdb/internal/refusal"
)

// The reasons for which a request is refused. Compare with errors.Is; StatusCode gives the HTTP status of
// each.
var (
	// ErrNoCredential: the request carries no credential (401).
	ErrNoCredential error = refusal.NoCredential
	// ErrInvalidCredential: the credential is malformed, forged, expired, revoked, or meant for others (401).
	ErrInvalidCredential error = refusal.InvalidCredential
	// ErrSeveralCredentials: the request carries more than one credential (400).
	ErrSeveralCredentials error = refusal.SeveralCredentials
	// ErrCrossOrigin: an unsafe request from another origin, authenticated by a cookie (403).
	ErrCrossOrigin error = refusal.CrossOrigin
	// ErrAuthUnavailable: the credential can't be judged now, as when the issuer's keys can't be had (503).
	ErrAuthUnavailable error = refusal.AuthUnavailable
	// ErrNoTenant: the request names no tenant (400).
	ErrNoTenant error = refusal.NoTenant
	// ErrInvalidTenant: the name is neither a slug nor an id, or sources give different kinds of name (400).
	ErrInvalidTenant error = refusal.InvalidTenant
	// ErrTenantConflict: the request names two tenants (403).
	ErrTenantConflict error = refusal.TenantConflict
	// ErrNotMember: the tenant is unknown, or the caller is not an active member of it (403, alike in every
	// case).
	ErrNotMember error = refusal.NotMember
	// ErrTenantSuspended: the tenant is closed to its members (403).
	ErrTenantSuspended error = refusal.TenantSuspended
	// ErrSubscriptionInactive: no paid subscription, or its trial or grace is over (402).
	ErrSubscriptionInactive error = refusal.SubscriptionInactive
	// ErrForbidden: a role, a feature or a tier is missing (403).
	ErrForbidden error = refusal.Forbidden
	// ErrTenantUnavailable: maintenance, a schema below the minimum, or the tenant's server is down (503).
	ErrTenantUnavailable error = refusal.TenantUnavailable
	// ErrBusy: every connection that this tenant may use is taken, for longer than the wait (503).
	ErrBusy error = refusal.Busy
	// ErrTryAgain: a query lost against others that ran at the same time: a serialization failure, a
	// deadlock, or a lock that didn't come free within lock_timeout; or the schema changed, and a statement
	// of a transaction had been prepared before (503). Whoever repeats the whole transaction is likely to
	// succeed.
	ErrTryAgain error = refusal.TryAgain
	// ErrHostUnavailable: the host database can't be asked, and nothing usable is cached (503).
	ErrHostUnavailable error = refusal.HostUnavailable
)

// Mistakes in the program, which a query reports. They are answered with 500 and logged; the client isn't
// told.
var (
	// ErrWrongTenant: a handle, a connection, a statement or a transaction of one tenant, or something that
	// was built on one, was used with the context of another tenant's request.
	ErrWrongTenant = refusal.WrongTenant
	// ErrNoScope: a query was given a context without a scope, and PoolConfig.RequireScope wants one.
	ErrNoScope = refusal.NoScope
)

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

// about is whom and what a refusal is about, as far as it was known, for the log.
type about struct {
	issuer, subject, userID string
	tenantID, tenantSlug    string
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

// StatusCode returns the HTTP status for an error of this package: 200 for nil, 500 for an error that is none
// of ours.
func StatusCode(err error) int {
	if err == nil {
		return http.StatusOK
	}
	return refusal.Of(err).Status
}

// errClosed is why a closed Middleware refuses requests.
var errClosed = errors.New("the middleware is closed")

// Reason tells apart, for logs and counters, what clients are told alike. It is one of the constants below,
// or the code of the refusal where that says it all, such as "busy". Don't send it to a client: it tells
// whether a tenant or a user exists.
type Reason string

// The reasons. Each belongs to the Err value that its comment names.
const (
	// ReasonNoCredential is ErrNoCredential's.
	ReasonNoCredential Reason = "no_credential"
	// ReasonInvalidCredential is ErrInvalidCredential's. The cause beside it says what is wrong with the
	// credential.
	ReasonInvalidCredential Reason = "invalid_credential"
	// ReasonNotRouted: the tenant is expected in the path, and the router hasn't matched the request yet
	// (ErrNoTenant). Wrap the handler instead of the router; see FromPathValue.
	ReasonNotRouted Reason = "not_routed"
	// ReasonNoSoleMembership: the request names no tenant, and the caller isn't a member of exactly one
	// (ErrNoTenant).
	ReasonNoSoleMembership Reason = "no_sole_membership"
	// ReasonUnknownUser: the host database has no user for the verified caller (ErrNotMember, ErrNoTenant).
	// See Config.FirstLogin.
	ReasonUnknownUser Reason = "unknown_user"
	// ReasonUnknownTenant: there is no tenant of that slug or id (ErrNotMember).
	ReasonUnknownTenant Reason = "unknown_tenant"
	// ReasonNoMembership: the user isn't a member of the tenant (ErrNotMember).
	ReasonNoMembership Reason = "no_membership"
	// ReasonMembershipInactive: the membership's is_active is false (ErrNotMember).
	ReasonMembershipInactive Reason = "membership_inactive"
	// ReasonTenantDropped: the tenant's status is dropped (ErrNotMember).
	ReasonTenantDropped Reason = "tenant_dropped"
	// ReasonTenantSuspended: the tenant's status is suspended (ErrTenantSuspended).
	ReasonTenantSuspended Reason = "tenant_suspended"
	// ReasonTenantInactive: the tenant's is_active is false (ErrTenantSuspended).
	ReasonTenantInactive Reason = "tenant_inactive"
	// ReasonTenantMaintenance: the tenant's status is maintenance (ErrTenantUnavailable).
	ReasonTenantMaintenance Reason = "tenant_maintenance"
	// ReasonTenantProvisioning: the tenant's status is provisioning (ErrTenantUnavailable).
	ReasonTenantProvisioning Reason = "tenant_provisioning"
	// ReasonTenantStatus: the tenant has a status that this version doesn't know (ErrTenantUnavailable).
	ReasonTenantStatus Reason = "tenant_status"
	// ReasonSchemaTooOld: the tenant's schema_version is below Config.MinSchemaVersion
	// (ErrTenantUnavailable).
	ReasonSchemaTooOld Reason = "schema_too_old"
	// ReasonNoSubscription: the tenant has no subscription, and its plan isn't in FreePlans
	// (ErrSubscriptionInactive).
	ReasonNoSubscription Reason = "no_subscription"
	// ReasonSubscriptionLapsed: none of the tenant's subscriptions admits now, and its plan isn't in
	// FreePlans (ErrSubscriptionInactive). The cause beside it has the status of the best one.
	ReasonSubscriptionLapsed Reason = "subscription_lapsed"
	// ReasonRole: the caller's role isn't enough for RequireRole (ErrForbidden).
	ReasonRole Reason = "role_missing"
	// ReasonFeature: the plan in force lacks RequireFeature's feature (ErrForbidden).
	ReasonFeature Reason = "feature_missing"
	// ReasonTier: the plan in force is below RequireTier's tier (ErrForbidden).
	ReasonTier Reason = "tier_missing"
	// ReasonFirstLogin: Config.FirstLogin met a conflict or an invalid value, which the next attempt would
	// meet too (ErrForbidden).
	ReasonFirstLogin Reason = "first_login_refused"
)

// reasoned is a refusal with its reason.
type reasoned struct {
	refusal error
	reason  Reason
	text    string
}

// why adds a reason to a refusal, and a text for logs that says it in a few words.
func why(refusal error, reason Reason, text string) error {
	return &reasoned{refusal, reason, text}
}

// Error implements error.
func (r *reasoned) Error() string { return r.refusal.Error() + ": " + r.text }

// Unwrap returns the refusal.
func (r *reasoned) Unwrap() error { return r.refusal }

// The reasons whose text is always the same.
var (
	errUnknownUser   = why(ErrNotMember, ReasonUnknownUser, "the host database has no such user")
	errUnknownTenant = why(ErrNotMember, ReasonUnknownTenant, "there is no such tenant")
	errNoMembership  = why(ErrNotMember, ReasonNoMembership, "the user has no membership of it")
	errInactive      = why(ErrNotMember, ReasonMembershipInactive, "the membership's is_active is false")
	errDropped       = why(ErrNotMember, ReasonTenantDropped, "it was dropped")
	errSuspended     = why(ErrTenantSuspended, ReasonTenantSuspended, "its status is suspended")
	errTenantOff     = why(ErrTenantSuspended, ReasonTenantInactive, "its is_active is false")
	errMaintenance   = why(ErrTenantUnavailable, ReasonTenantMaintenance, "its status is maintenance")
	errProvisioning  = why(ErrTenantUnavailable, ReasonTenantProvisioning, "its status is provisioning")
	errSchemaTooOld  = why(ErrTenantUnavailable, ReasonSchemaTooOld, "its schema is older than this program needs")
	errNotRouted     = why(ErrNoTenant, ReasonNotRouted, "the router has not matched the whole path yet; wrap the handler instead of the router")
	errNoSole        = why(ErrNoTenant, ReasonNoSoleMembership, "the caller is not a member of exactly one")
	errNoUserNoSole  = why(ErrNoTenant, ReasonUnknownUser, "the host database has no such user")
)
