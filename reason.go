package tenantdb

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
