package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/fleet"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/tenantdbtest"
)

//go:embed migrations/*.sql
var migrations embed.FS

// demo is what the quickstart runs on.
type demo struct {
	dir    string // SQLite files, removed at the end; "" on PostgreSQL
	host   *hostdb.DB
	pool   *tenantdb.Pool
	issuer *tenantdbtest.Issuer
}

// setUp opens the host database and creates ann, who owns acme, and bob, who owns globex. If it fails, it
// undoes what it did.
func setUp(ctx context.Context, postgres string) (_ *demo, err error) {
	d := &demo{issuer: tenantdbtest.NewIssuer()}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	url := postgres
	if postgres == "" {
		if d.dir, err = os.MkdirTemp("", "tenantdb-quickstart-"); err != nil {
			return nil, err
		}
		url = "sqlite:" + filepath.Join(d.dir, "host.db")
	}
	if d.host, err = hostdb.Open(ctx, url); err != nil {
		return nil, err
	}
	if d.pool, err = tenantdb.NewPool(tenantdb.PoolConfig{
		SQLiteDir: filepath.Join(d.dir, "tenants")}); err != nil {
		return nil, err
	}
	schema, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	tenants, err := fleet.New(fleet.Config{Host: d.host, Pool: d.pool, Migrations: schema})
	if err != nil {
		return nil, err
	}
	for user, slug := range map[string]string{"ann": "acme", "bob": "globex"} {
		if err := d.addTenant(ctx, tenants, user, slug); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// addTenant creates a user and their tenant, unless an earlier run did.
func (d *demo) addTenant(ctx context.Context, tenants *fleet.Fleet, user, slug string) error {
	owner := hostdb.NewUser(user+"@example.com", user)
	if err := d.host.Users.Insert(ctx, owner); errors.Is(err, hostdb.ErrConflict) {
		owner, err = d.host.Users.ByOAuthID(ctx, user)
		if err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	_, err := tenants.Provision(ctx, fleet.Spec{Slug: slug, OwnerID: owner.ID})
	if errors.Is(err, hostdb.ErrConflict) {
		return nil
	}
	return err
}

// printCommands prints the commands to paste into another terminal.
func (d *demo) printCommands(w io.Writer, addr string) {
	fmt.Fprintf(w, "Serving two tenants on http://%s. In another terminal:\n\n", addr)
	fmt.Fprintf(w, "ANN=%s\nBOB=%s\n\n", d.issuer.Token("ann", 12*time.Hour, nil),
		d.issuer.Token("bob", 12*time.Hour, nil))
	for _, line := range []string{
		`-H "Authorization: Bearer $ANN" -H "X-Tenant: acme" -d "buy milk" `,
		`-H "Authorization: Bearer $ANN" -H "X-Tenant: acme" `,
		`-H "Authorization: Bearer $BOB" -H "X-Tenant: globex" `,
		`-H "Authorization: Bearer $BOB" -H "X-Tenant: acme" `,
	} {
		fmt.Fprintf(w, "curl -i %shttp://%s/notes\n", line, addr)
	}
	fmt.Fprintln(w, "\nThe last one is refused: bob is not a member of acme. Ctrl-C ends.")
}

// close closes what is open and removes the files.
func (d *demo) close() {
	if d.pool != nil {
		_ = d.pool.Close(context.Background())
	}
	if d.host != nil {
		_ = d.host.Close()
	}
	if d.dir != "" {
		_ = os.RemoveAll(d.dir)
	}
}
