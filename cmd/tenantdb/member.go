package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/tenantdb/tenantdb/hostdb"
)

// memberCmd is tenantdb member.
type memberCmd struct {
	Add    memberAddCmd    `cmd:"" help:"Make a user a member of a tenant."`
	List   memberListCmd   `cmd:"" help:"List a tenant's members, or a user's memberships."`
	Update memberUpdateCmd `cmd:"" help:"Change a member's role, or close or open the membership."`
	Remove memberRemoveCmd `cmd:"" help:"Remove a membership."`
}

// memberColumns are the columns of a membership, with its tenant's slug and its user's e-mail address.
func memberColumns(n *names) []column[hostdb.Membership] {
	return []column[hostdb.Membership]{
		{"id", func(m *hostdb.Membership) any { return m.ID }, false},
		{"tenant", func(m *hostdb.Membership) any { return n.tenant(m.TenantID) }, true},
		{"tenant_id", func(m *hostdb.Membership) any { return m.TenantID }, true},
		{"email", func(m *hostdb.Membership) any { return n.user(m.UserID) }, true},
		{"user_id", func(m *hostdb.Membership) any { return m.UserID }, true},
		{"role", func(m *hostdb.Membership) any { return m.Role }, true},
		{"is_active", func(m *hostdb.Membership) any { return m.IsActive }, true},
		{"profile_id", func(m *hostdb.Membership) any { return m.ProfileID }, false},
		{"created_at", func(m *hostdb.Membership) any { return m.CreatedAt }, true},
	}
}

// memberArg names a membership by its tenant and its user.
type memberArg struct {
	tenantArg
	userRef
}

// tenantAndUser returns the tenant and the user.
func (c memberArg) tenantAndUser(ctx context.Context,
	host *hostdb.DB) (*hostdb.TenantCatalog, *hostdb.GlobalUser, error) {
	tenant, err := findTenant(ctx, host, c.Tenant)
	if err != nil {
		return nil, nil, err
	}
	user, err := c.user(ctx, host)
	return tenant, user, err
}

// membership returns the tenant and the membership.
func (c memberArg) membership(ctx context.Context,
	host *hostdb.DB) (*hostdb.TenantCatalog, *hostdb.Membership, error) {
	tenant, user, err := c.tenantAndUser(ctx, host)
	if err != nil {
		return nil, nil, err
	}
	member, err := host.Memberships.Find(ctx, user.ID, tenant.ID)
	if err != nil {
		return nil, nil, fmt.Errorf("membership of %s in %s: %w", user.Email, nameOf(tenant), err)
	}
	return tenant, member, nil
}

// memberAddCmd is tenantdb member add.
type memberAddCmd struct {
	memberArg
	Role string `default:"member" help:"The role: owner, admin, member, or one of the product's."`
}

// Run runs the command.
func (c *memberAddCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	tenant, user, err := c.tenantAndUser(ctx, host)
	if err != nil {
		return err
	}
	member := hostdb.NewMembership(user.ID, tenant.ID, c.Role)
	member.ProfileID = hostdb.NewID()
	if err := host.Memberships.Insert(ctx, member); err != nil {
		return err
	}
	return printOne(s, memberColumns(s.names(ctx, host)), member)
}

// memberListCmd is tenantdb member list.
type memberListCmd struct {
	page
	Tenant  string `placeholder:"TENANT" help:"Only members of this tenant (slug or id)."`
	ID      string `xor:"user" placeholder:"ID" help:"${member_id}"`
	Email   string `xor:"user" placeholder:"ADDRESS" help:"${member_email}"`
	OAuthID string `name:"oauth-id" xor:"user" placeholder:"SUBJECT" help:"${member_oauth_id}"`
}

// Run runs the command.
func (c *memberListCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	tenant, err := tenantID(ctx, host, c.Tenant)
	if err != nil {
		return err
	}
	userID := ""
	if ref := (userRef{ID: c.ID, Email: c.Email, OAuthID: c.OAuthID}); ref != (userRef{}) {
		user, err := ref.user(ctx, host)
		if err != nil {
			return err
		}
		userID = user.ID
	}
	filters := c.filters("tenant_id", tenant, "user_id", userID)
	return printList(s, memberColumns(s.names(ctx, host)), host.Memberships.All(ctx, filters...))
}

// memberUpdateCmd is tenantdb member update.
type memberUpdateCmd struct {
	memberArg
	Role   *string `help:"The new role."`
	Active *bool   `negatable:"" help:"Whether the member may enter."`
}

// Run runs the command.
func (c *memberUpdateCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	if c.Role == nil && c.Active == nil {
		return errors.New("give --role, --active or --no-active")
	}
	_, member, err := c.membership(ctx, host)
	if err != nil {
		return err
	}
	return change(ctx, s, memberColumns(s.names(ctx, host)), host.Memberships.Table, member.ID,
		func(m *hostdb.Membership) {
			set(&m.Role, c.Role)
			set(&m.IsActive, c.Active)
		})
}

// memberRemoveCmd is tenantdb member remove.
type memberRemoveCmd struct {
	memberArg
	confirmation
}

// Run runs the command.
func (c *memberRemoveCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	tenant, member, err := c.membership(ctx, host)
	if err != nil {
		return err
	}
	what := "This removes the membership with its profile and attributes. " +
		"To close it only, use member update --no-active."
	if err := s.confirm(ctx, c.confirmation, nameOf(tenant), what); err != nil {
		return err
	}
	if err := host.Memberships.Delete(ctx, member.ID); err != nil {
		return err
	}
	return printOne(s, memberColumns(s.names(ctx, host)), member)
}
