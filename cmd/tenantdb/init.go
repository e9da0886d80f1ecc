package main

import (
	"context"
	"fmt"

	"github.com/tenantdb/tenantdb/hostdb"
)

// initCmd is tenantdb init.
type initCmd struct{}

// Help is the long help.
func (*initCmd) Help() string {
	return "It is safe to repeat. Other commands never change the schema: they refuse a host database with " +
		"an older one."
}

// Run runs the command.
func (c *initCmd) Run(ctx context.Context, s *session) error {
	given, err := s.hostURL()
	if err != nil {
		return err
	}
	host, err := hostdb.OpenConfig(ctx, hostdb.Config{URL: given, MaxConns: hostConns})
	if err != nil {
		return fmt.Errorf("host database: %w", err)
	}
	s.closers = append(s.closers, host.Close)
	version, err := host.SchemaVersion(ctx)
	if err != nil {
		return err
	}
	return printOne(s, []column[int64]{
		{"host", func(*int64) any { return host.String() }, true},
		{"schema_version", func(v *int64) any { return *v }, true},
	}, &version)
}

// dsnCmd is tenantdb dsn.
type dsnCmd struct {
	Tenant string `arg:"" help:"Slug or id."`
	Show   bool   `help:"Show the password too."`
}

// Run runs the command.
func (c *dsnCmd) Run(ctx context.Context, s *session, host *hostdb.DB) error {
	tenant, err := findTenant(ctx, host, c.Tenant)
	if err != nil {
		return err
	}
	return printOne(s, []column[hostdb.TenantCatalog]{
		{"id", func(t *hostdb.TenantCatalog) any { return t.ID }, true},
		{"slug", func(t *hostdb.TenantCatalog) any { return t.Slug }, true},
		{"db_url", func(t *hostdb.TenantCatalog) any {
			if c.Show {
				return t.DBURL.Reveal()
			}
			return hostdb.MaskURL(t.DBURL)
		}, true},
	}, tenant)
}
