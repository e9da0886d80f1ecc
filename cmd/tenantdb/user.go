package main

import (
	"context"
	"fmt"

	"github.com/tenantdb/tenantdb/hostdb"
)

// userCmd is tenantdb user.
type userCmd struct {
	Create userCreateCmd `cmd:"" help:"Create a user."`
	List   userListCmd   `cmd:"" help:"List users."`
	Show   userShowCmd   `cmd:"" help:"Show a user."`
	Update userUpdateCmd `cmd:"" help:"Change a user."`
	Delete userDeleteCmd `cmd:"" help:"${user_delete}"`
	Export userExportCmd `cmd:"" help:"Print everything that the host database stores about a user."`
	Erase  userEraseCmd  `cmd:"" help:"${user_erase}"`
}

var userColumns = []column[hostdb.GlobalUser]{
	{"id", func(u *hostdb.GlobalUser) any { return u.ID }, true},
	{"email", func(u *hostdb.GlobalUser) any { return u.Email }, true},
	{"oauth_id", func(u *hostdb.GlobalUser) any { return u.OAuthID }, true},
	{"stripe_cust_id", func(u *hostdb.GlobalUser) any { return u.StripeCustID }, false},
	{"is_sys_admin", func(u *hostdb.GlobalUser) any { return u.IsSysAdmin }, true},
	{"created_at", func(u *hostdb.GlobalUser) any { return u.CreatedAt }, false},
	{"last_login", func(u *hostdb.GlobalUser) any { return u.LastLogin }, true},
}

// userCreateCmd is tenantdb user create.
type userCreateCmd struct {
	Email      string `arg:"" help:"The user's e-mail address."`
	OAuthID    string `name:"oauth-id" placeholder:"SUBJECT" help:"The subject at the identity provider."`
	StripeCust string `placeholder:"CUSTOMER" help:"The Stripe customer."`
	SysAdmin   bool   `help:"${sys_admin}"`
}

// Run runs the command.
func (c *userCreateCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	user := hostdb.NewUser(c.Email, c.OAuthID)
	user.StripeCustID, user.IsSysAdmin = c.StripeCust, c.SysAdmin
	if err := host.Users.Insert(ctx, user); err != nil {
		return err
	}
	return printOne(s, userColumns, user)
}

// userListCmd is tenantdb user list.
type userListCmd struct{ page }

// Run runs the command.
func (c *userListCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	return printList(s, userColumns, host.Users.All(ctx, c.filters()...))
}

// userShowCmd is tenantdb user show.
type userShowCmd struct{ userRef }

// Run runs the command.
func (c *userShowCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	user, err := c.user(ctx, host)
	if err != nil {
		return err
	}
	return printOne(s, userColumns, user)
}

// userUpdateCmd is tenantdb user update.
type userUpdateCmd struct {
	userRef
	NewEmail      *string `placeholder:"ADDRESS" help:"The new e-mail address."`
	NewOAuthID    *string `name:"new-oauth-id" placeholder:"SUBJECT" help:"${new_oauth_id}"`
	NewStripeCust *string `placeholder:"CUSTOMER" help:"The new Stripe customer; empty for none."`
	SysAdmin      *bool   `negatable:"" help:"Whether the user is an administrator of the product."`
}

// Run runs the command.
func (c *userUpdateCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	named, err := c.user(ctx, host)
	if err != nil {
		return err
	}
	return change(ctx, s, userColumns, host.Users.Table, named.ID, func(user *hostdb.GlobalUser) {
		set(&user.Email, c.NewEmail)
		set(&user.OAuthID, c.NewOAuthID)
		set(&user.StripeCustID, c.NewStripeCust)
		set(&user.IsSysAdmin, c.SysAdmin)
	})
}

// userDeleteCmd is tenantdb user delete.
type userDeleteCmd struct {
	userRef
	confirmation
}

// Run runs the command.
func (c *userDeleteCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	user, err := c.user(ctx, host)
	if err != nil {
		return err
	}
	if err := refuseMember(ctx, host, user); err != nil {
		return err
	}
	what := fmt.Sprintf("This deletes the user %s for good.", clean(user.Email))
	if err := s.confirm(ctx, c.confirmation, user.Email, what); err != nil {
		return err
	}
	if err := host.Users.Delete(ctx, user.ID); err != nil {
		return err
	}
	return printOne(s, userColumns, user)
}

// refuseMember returns an error if the user has memberships, which names some of them.
func refuseMember(ctx context.Context, host *hostdb.DB, user *hostdb.GlobalUser) error {
	members, err := host.Memberships.ListForUser(ctx, user.ID, hostdb.Limit(shownRows+1))
	if err != nil || len(members) == 0 {
		return err
	}
	slugs := make([]string, 0, len(members))
	for _, member := range members {
		tenant, err := host.Tenants.Get(ctx, member.TenantID)
		if err != nil {
			return err
		}
		slugs = append(slugs, nameOf(tenant))
	}
	return fmt.Errorf("user %s still has memberships (rows of core_memberships: %s); "+
		"remove them first, with member remove", user.Email, some(slugs, shownRows))
}
