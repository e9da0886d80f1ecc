package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tenantdb/tenantdb/fleet"
	"github.com/tenantdb/tenantdb/hostdb"
)

// tenantCmd is tenantdb tenant.
type tenantCmd struct {
	Create      tenantCreateCmd      `cmd:"" help:"Create a tenant: its database, its schema, its owner."`
	List        tenantListCmd        `cmd:"" help:"List tenants."`
	Show        tenantShowCmd        `cmd:"" help:"Show a tenant."`
	Suspend     tenantSuspendCmd     `cmd:"" help:"Close a tenant to its members until resume."`
	Resume      tenantResumeCmd      `cmd:"" help:"Open a suspended tenant."`
	Maintenance tenantMaintenanceCmd `cmd:"" help:"${maintenance}"`
	Rename      tenantRenameCmd      `cmd:"" help:"Give a tenant another slug or name."`
	Drop        tenantDropCmd        `cmd:"" help:"Remove a tenant and its database for good."`
}

var tenantColumns = []column[hostdb.TenantCatalog]{
	{"id", func(t *hostdb.TenantCatalog) any { return t.ID }, true},
	{"slug", func(t *hostdb.TenantCatalog) any { return t.Slug }, true},
	{"name", func(t *hostdb.TenantCatalog) any { return t.Name }, true},
	{"status", func(t *hostdb.TenantCatalog) any { return t.Status }, true},
	{"is_active", func(t *hostdb.TenantCatalog) any { return t.IsActive }, true},
	{"plan_tier", func(t *hostdb.TenantCatalog) any { return t.PlanTier }, true},
	{"schema_version", func(t *hostdb.TenantCatalog) any { return t.SchemaVersion }, true},
	{"created_at", func(t *hostdb.TenantCatalog) any { return t.CreatedAt }, false},
}

// tenantCreateCmd is tenantdb tenant create.
type tenantCreateCmd struct {
	Slug       string  `arg:"" help:"The tenant's name in URLs: 1 to 63 of a-z, 0-9 and inner hyphens."`
	Name       string  `help:"The name that people read. Default: the slug."`
	Owner      userRef `embed:"" prefix:"owner-"`
	Plan       string  `default:"free" help:"The tenant's own plan."`
	Trial      bool    `help:"Start the plan's trial."`
	Migrations string  `env:"TENANTDB_MIGRATIONS" placeholder:"DIR" xor:"db" required:"" help:"${migrations}"`
	Empty      bool    `xor:"db" required:"" help:"Leave the new database empty."`
	provisioning
}

// Help is the long help.
func (*tenantCreateCmd) Help() string {
	return `The database is created on the host database's server, or as a SQLite file in --tenants-dir.
TENANTDB_SERVER_URL sets another server. After a failure, the same command resumes.`
}

// Run runs the command.
func (c *tenantCreateCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	owner, err := c.Owner.user(ctx, host)
	if err != nil {
		return err
	}
	if err := checkPlan(ctx, host, c.Plan); err != nil {
		return err
	}
	f, err := s.openFleet(host, c.Migrations, c.provisioning)
	if err != nil {
		return err
	}
	spec := fleet.Spec{Slug: c.Slug, Name: c.Name, OwnerID: owner.ID, PlanTier: c.Plan, Trial: c.Trial}
	tenant, err := f.Provision(ctx, spec)
	if err != nil {
		return err
	}
	return printOne(s, tenantColumns, tenant)
}

// tenantListCmd is tenantdb tenant list.
type tenantListCmd struct {
	page
	Status *string `enum:"${tenant_statuses}" help:"Only tenants with this status (${enum})."`
	Plan   *string `help:"Only tenants with this plan."`
}

// Run runs the command.
func (c *tenantListCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	if err := checkPlanFlag(ctx, host, c.Plan); err != nil {
		return err
	}
	filters := c.filters("status", given(c.Status), "plan_tier", given(c.Plan))
	return printList(s, tenantColumns, host.Tenants.All(ctx, filters...))
}

// tenantArg names a tenant.
type tenantArg struct {
	Tenant string `arg:"" help:"Slug or id."`
}

// waiting is the flag of commands that close a tenant.
type waiting struct {
	WaitForOthers time.Duration `env:"TENANTDB_WAIT_FOR_OTHERS" default:"0s" help:"${wait_for_others}"`
}

// begin sets how long the command's fleet waits.
func (w waiting) begin(s *session) error {
	if w.WaitForOthers < 0 {
		return errors.New("--wait-for-others can't be negative")
	}
	s.others = w.WaitForOthers
	return nil
}

// fleetWork is work of a fleet on a tenant.
type fleetWork func(context.Context, *fleet.Fleet, *hostdb.TenantCatalog) error

// do calls work with the tenant, and prints the changed tenant.
func (c tenantArg) do(ctx context.Context, s *session, host *hostdb.DB, how provisioning,
	work fleetWork) error {
	tenant, err := findTenant(ctx, host, c.Tenant)
	if err != nil {
		return err
	}
	f, err := s.openFleet(host, "", how)
	if err != nil {
		return err
	}
	if err := work(ctx, f, tenant); err != nil {
		return err
	}
	if tenant, err = host.Tenants.Get(ctx, tenant.ID); err != nil {
		return err
	}
	return printOne(s, tenantColumns, tenant)
}

// byID makes fleetWork of a method of Fleet.
func byID(method func(*fleet.Fleet, context.Context, string) error) fleetWork {
	return func(ctx context.Context, f *fleet.Fleet, t *hostdb.TenantCatalog) error {
		return method(f, ctx, t.ID)
	}
}

// tenantShowCmd is tenantdb tenant show.
type tenantShowCmd struct{ tenantArg }

// Run runs the command.
func (c *tenantShowCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	tenant, err := findTenant(ctx, host, c.Tenant)
	if err != nil {
		return err
	}
	return printOne(s, tenantColumns, tenant)
}

// tenantSuspendCmd is tenantdb tenant suspend.
type tenantSuspendCmd struct {
	tenantArg
	waiting
}

// Run runs the command.
func (c *tenantSuspendCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	if err := c.waiting.begin(s); err != nil {
		return err
	}
	return c.do(ctx, s, host, noProvisioning, byID((*fleet.Fleet).Suspend))
}

// tenantResumeCmd is tenantdb tenant resume.
type tenantResumeCmd struct{ tenantArg }

// Run runs the command.
func (c *tenantResumeCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	return c.do(ctx, s, host, noProvisioning, byID((*fleet.Fleet).Resume))
}

// tenantMaintenanceCmd is tenantdb tenant maintenance.
type tenantMaintenanceCmd struct {
	tenantArg
	Switch string `arg:"" enum:"on,off" help:"on, or off."`
	waiting
}

// Run runs the command.
func (c *tenantMaintenanceCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	if err := c.waiting.begin(s); err != nil {
		return err
	}
	return c.do(ctx, s, host, noProvisioning, func(ctx context.Context, f *fleet.Fleet,
		t *hostdb.TenantCatalog) error {
		return f.Maintenance(ctx, t.ID, c.Switch == "on")
	})
}

// tenantRenameCmd is tenantdb tenant rename.
type tenantRenameCmd struct {
	tenantArg
	Slug string `help:"The new slug."`
	Name string `help:"The new name."`
	reservation
}

// Run runs the command.
func (c *tenantRenameCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	if c.Slug == "" && c.Name == "" {
		return errors.New("give --slug, --name or both")
	}
	how := noProvisioning
	how.reservation = c.reservation
	return c.do(ctx, s, host, how, func(ctx context.Context, f *fleet.Fleet, t *hostdb.TenantCatalog) error {
		return f.Rename(ctx, t.ID, c.Slug, c.Name)
	})
}

// tenantDropCmd is tenantdb tenant drop.
type tenantDropCmd struct {
	tenantArg
	confirmation
	waiting
}

// Run runs the command.
func (c *tenantDropCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	if err := c.waiting.begin(s); err != nil {
		return err
	}
	return c.do(ctx, s, host, noProvisioning, func(ctx context.Context, f *fleet.Fleet,
		t *hostdb.TenantCatalog) error {
		what := fmt.Sprintf("This removes the tenant %s and its database, for good.", nameOf(t))
		if err := s.confirm(ctx, c.confirmation, nameOf(t), what); err != nil {
			return err
		}
		return f.Drop(ctx, t.ID)
	})
}
