package hostdb

import (
	"context"
	"time"
)

// The default roles. A product may use words of its own (a-z, 0-9 and "_", beginning with a letter, up to
// 32).
const (
	RoleOwner  = "owner" // a tenant keeps at least one active owner
	RoleAdmin  = "admin"
	RoleMember = "member"
)

// Membership lets a user into a tenant (core_memberships). A user has at most one in a tenant.
//
// A tenant never loses its last active owner (RoleOwner and IsActive), so promote first, then demote.
// Tenants that are being provisioned or dropped are exempt, but can't become active without one. The refusal
// is ErrConflict on the field "last_owner". The rule applies to the word "owner", whatever roles a product
// has.
type Membership struct {
	ID             string
	UserID         string // required
	TenantID       string // required
	ProfileID      string // the user's row in the tenant's own database
	MetaAttributes string // the product's own JSON, up to 64 KiB
	Role           string // default RoleMember
	IsActive       bool   // stored as given: false lets nobody in; [NewMembership] sets it
	CreatedAt      time.Time
}

// NewMembership returns an active membership of a user in a tenant, with an id. Role "" means RoleMember.
// Insert stores it.
func NewMembership(userID, tenantID, role string) *Membership {
	setDefault(&role, RoleMember)
	return &Membership{ID: NewID(), UserID: userID, TenantID: tenantID, Role: role, IsActive: true}
}

var membershipRelation = relation[Membership]{
	table: "core_memberships", subject: "membership", foreignKey: "membership_id",
	references: []reference{{"user_id", "core_users"}, {"tenant_id", "core_tenants"}},
	columns: []column[Membership]{
		{"id", func(m *Membership) any { return &m.ID }, idRule},
		{"user_id", func(m *Membership) any { return &m.UserID }, idRule},
		{"tenant_id", func(m *Membership) any { return &m.TenantID }, idRule},
		{"profile_id", func(m *Membership) any { return &m.ProfileID }, anyText},
		{"meta_attributes", func(m *Membership) any { return &m.MetaAttributes }, jsonRule},
		{"role", func(m *Membership) any { return &m.Role }, wordRule},
		{"is_active", func(m *Membership) any { return &m.IsActive }, anyBool},
		{"created_at", func(m *Membership) any { return &m.CreatedAt }, anyTime},
	},
	defaults: func(m *Membership) { setDefault(&m.Role, RoleMember) },
}

// Memberships is the table of memberships.
type Memberships struct{ Table[Membership] }

// Find returns a user's membership in a tenant, active or not. Errors: ErrNotFound; ErrInvalid.
func (t Memberships) Find(ctx context.Context, userID, tenantID string) (*Membership, error) {
	if err := idRule.checkText("user_id", userID); err != nil {
		return nil, err
	}
	if err := idRule.checkText("tenant_id", tenantID); err != nil {
		return nil, err
	}
	return t.one(ctx, "WHERE user_id = $1 AND tenant_id = $2", userID, tenantID)
}

// ListForUser returns a user's memberships, active or not, as [Table.List] does. Errors: ErrInvalid.
func (t Memberships) ListForUser(ctx context.Context, userID string,
	filters ...Filter) ([]*Membership, error) {
	return t.List(ctx, append([]Filter{Where("user_id", userID)}, filters...)...)
}

// ListForTenant returns a tenant's memberships, active or not, as [Table.List] does. Errors: ErrInvalid.
func (t Memberships) ListForTenant(ctx context.Context, tenantID string,
	filters ...Filter) ([]*Membership, error) {
	return t.List(ctx, append([]Filter{Where("tenant_id", tenantID)}, filters...)...)
}
