package tenantdb

import (
	"errors"
	"net/http"

	"github.com/tenantdb/tenantdb/internal/refusal"
)

// The reasons to refuse a request. Compare with [errors.Is]. [StatusCode] returns the HTTP status, which is
// in parentheses here.
var (
	// ErrNoCredential: the request has no credential (401).
	ErrNoCredential error = refusal.NoCredential
	// ErrInvalidCredential: the credential is malformed, forged, expired, revoked, or for another audience
	// (401).
	ErrInvalidCredential error = refusal.InvalidCredential
	// ErrSeveralCredentials: the request has more than one credential (400).
	ErrSeveralCredentials error = refusal.SeveralCredentials
	// ErrCrossOrigin: another origin sends an unsafe request that is authenticated by a cookie (403).
	ErrCrossOrigin error = refusal.CrossOrigin
	// ErrAuthUnavailable: the credential can't be verified now, for example because the issuer's keys can't
	// be fetched (503).
	ErrAuthUnavailable error = refusal.AuthUnavailable
	// ErrNoTenant: the request names no tenant (400).
	ErrNoTenant error = refusal.NoTenant
	// ErrInvalidTenant: the name is neither a slug nor an id, or one source gives a slug and another an id
	// (400).
	ErrInvalidTenant error = refusal.InvalidTenant
	// ErrTenantConflict: the request names two tenants (403).
	ErrTenantConflict error = refusal.TenantConflict
	// ErrNotMember: the tenant is unknown, or the caller isn't an active member of it. The response is the
	// same in both cases (403).
	ErrNotMember error = refusal.NotMember
	// ErrTenantSuspended: the tenant is closed to its members (403).
	ErrTenantSuspended error = refusal.TenantSuspended
	// ErrSubscriptionInactive: the tenant has no paid subscription, or its trial or grace period is over
	// (402).
	ErrSubscriptionInactive error = refusal.SubscriptionInactive
	// ErrForbidden: the caller lacks a role, the tenant lacks a feature or a tier, or [Config.FirstLogin]
	// could not create the user (403).
	ErrForbidden error = refusal.Forbidden
	// ErrTenantUnavailable: the tenant is in maintenance or being provisioned, its schema is too old, its
	// server or file can't be used, or the scope is over (503).
	ErrTenantUnavailable error = refusal.TenantUnavailable
	// ErrBusy: no connection that the tenant may use came free in time (503).
	ErrBusy error = refusal.Busy
	// ErrTryAgain: a query lost against a concurrent one, by a serialization failure, a deadlock or a
	// lock_timeout. Or the schema changed after a statement of a transaction was prepared. Repeating the
	// whole transaction is likely to succeed (503).
	ErrTryAgain error = refusal.TryAgain
	// ErrHostUnavailable: the host database doesn't answer, and nothing usable is cached (503).
	ErrHostUnavailable error = refusal.HostUnavailable
)

// The errors of queries that report a mistake in the program. They are logged and answered with 500. The
// client isn't told.
var (
	// ErrWrongTenant: a handle, connection, statement or transaction of one tenant, or something built on
	// one, was used with the context of another tenant's request.
	ErrWrongTenant = refusal.ErrWrongTenant
	// ErrNoScope: a query has a context without a scope, and [PoolConfig.RequireScope] is set.
	ErrNoScope = refusal.ErrNoScope
)

// Error is a refused or failed request, as [Config.ErrorHandler] gets it. The response carries the code
// alone. The rest is for logs: as a slog attribute an Error has the attributes that the middleware logs.
type Error struct {
	// Code is the stable word in the response, such as "not_member".
	Code string
	// Reason is more precise than Code. It tells an unknown tenant from a missing membership, for example.
	Reason Reason
	// TenantID is the tenant's id. If the caller may not know the id, it is the name that the request gave.
	// It may be empty.
	TenantID string
	// Err wraps one of the Err values, and the cause if there is one.
	Err error

	about   about
	handled bool // ErrorHandler has it
}

// about is what a request is about, for the log. What isn't known is empty.
type about struct {
	issuer, subject, userID string
	tenantID, tenantSlug    string
}

// Error implements error. TenantID needs no escaping, since it is an id or a slug.
func (e *Error) Error() string {
	if e.TenantID == "" {
		return e.cause()
	}
	return e.cause() + " (tenant " + e.TenantID + ")"
}

// cause returns Err's text. It is the code if a program made the error without Err.
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

// StatusCode returns the HTTP status of an error. It is 200 for nil, and 500 for an error that doesn't wrap
// one of this package's.
func StatusCode(err error) int {
	if err == nil {
		return http.StatusOK
	}
	return refusal.Of(err).Status
}

// errClosed is the cause if a closed Middleware refuses requests.
var errClosed = errors.New("the middleware is closed")

// Reason says, for logs and counters, what a response must not tell: whether a tenant or a user exists. Don't
// send it to a client. It is one of the constants below, or the refusal's code if that is precise enough,
// such as "busy".
type Reason string

// The reasons. The Err value in parentheses is the refusal that each belongs to.
const (
	// ReasonNoCredential: the request has no credential (ErrNoCredential).
	ReasonNoCredential Reason = "no_credential"
	// ReasonInvalidCredential: the credential isn't good, as the cause explains (ErrInvalidCredential).
	ReasonInvalidCredential Reason = "invalid_credential"
	// ReasonNotRouted: the tenant should be in the path, and the router hasn't matched the request yet
	// (ErrNoTenant). Wrap the handler instead of the router; see [FromPathValue].
	ReasonNotRouted Reason = "not_routed"
	// ReasonNoSoleMembership: the request names no tenant, and the caller isn't a member of exactly one
	// (ErrNoTenant).
	ReasonNoSoleMembership Reason = "no_sole_membership"
	// ReasonUnknownUser: the host database has no user for the verified caller (ErrNotMember, ErrNoTenant).
	// See [Config.FirstLogin].
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
	// ReasonSchemaTooOld: the tenant's schema_version is below [Config.MinSchemaVersion]
	// (ErrTenantUnavailable).
	ReasonSchemaTooOld Reason = "schema_too_old"
	// ReasonNoSubscription: the tenant has no subscription, and its plan isn't in FreePlans
	// (ErrSubscriptionInactive).
	ReasonNoSubscription Reason = "no_subscription"
	// ReasonSubscriptionLapsed: none of the tenant's subscriptions is active, and its plan isn't in
	// FreePlans. The cause has the status of the best one (ErrSubscriptionInactive).
	ReasonSubscriptionLapsed Reason = "subscription_lapsed"
	// ReasonRole: the caller's role is below the one that RequireRole wants (ErrForbidden).
	ReasonRole Reason = "role_missing"
	// ReasonFeature: the plan in force lacks the feature that RequireFeature wants (ErrForbidden).
	ReasonFeature Reason = "feature_missing"
	// ReasonTier: the plan in force is below the tier that RequireTier wants (ErrForbidden).
	ReasonTier Reason = "tier_missing"
	// ReasonFirstLogin: [Config.FirstLogin] had a conflict or an invalid value, as the next attempt would too
	// (ErrForbidden).
	ReasonFirstLogin Reason = "first_login_refused"
)

// reasoned is a refusal with its reason.
type reasoned struct {
	refused error
	reason  Reason
	text    string
}

// why adds a reason to a refusal, and a text for logs.
func why(refused error, reason Reason, text string) error {
	return &reasoned{refused, reason, text}
}

// Error implements error.
func (r *reasoned) Error() string { return r.refused.Error() + ": " + r.text }

// Unwrap returns the refusal.
func (r *reasoned) Unwrap() error { return r.refused }

// The reasons whose text is constant.
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
	errSchemaTooOld  = why(ErrTenantUnavailable, ReasonSchemaTooOld,
		"its schema is older than this program needs")
	errNotRouted = why(ErrNoTenant, ReasonNotRouted,
		"the router has not matched the whole path yet; wrap the handler instead of the router")
	errNoSole       = why(ErrNoTenant, ReasonNoSoleMembership, "the caller is not a member of exactly one")
	errNoUserNoSole = why(ErrNoTenant, ReasonUnknownUser, "the host database has no such user")
)
