package fleet_test

import (
	"context"
	"errors"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/fleet"
	"github.com/tenantdb/tenantdb/hostdb"
)

// onServer makes a fleet that creates databases on a server.
func (w *world) onServer(t *testing.T, server hostdb.Secret, roles bool, more ...string) *fleet.Fleet {
	t.Helper()
	f, err := fleet.New(fleet.Config{Host: w.host, Pool: w.pool, Migrations: newest(more...),
		Server: server, SharedRole: !roles})
	must(t, err)
	return f
}

func TestFleet_needsNoSuperuser(t *testing.T) {
	for kind, rights := range map[string]string{
		"with a role per tenant":             "CREATEDB CREATEROLE",
		"that inherits nothing":              "CREATEDB CREATEROLE NOINHERIT",
		"without roles, but with a template": "CREATEDB",
	} {
		t.Run(kind, func(t *testing.T) {
			w, roles := newWorld(t, "postgres"), rights != "CREATEDB"
			ctx := t.Context()
			server, _ := w.ordinary(t, rights)
			if roles { // a first attempt stops after the role was created
				if _, err := w.onServer(t, server, true, "NONSENSE").Provision(ctx,
					fleet.Spec{Slug: "acme", OwnerID: w.owner.ID}); err == nil {
					t.Fatal("a broken migration passed")
				}
			}
			f := w.onServer(t, server, roles)
			acme, err := f.Provision(ctx, fleet.Spec{Slug: "acme", OwnerID: w.owner.ID})
			must(t, err)
			w.at(t, acme, 2)
			if n := len(w.templates(t)); n != 1 {
				t.Errorf("%d templates", n)
			}
			if roles {
				w.checkIsolation(t, server, acme)
			}
			_, err = w.onServer(t, server, roles, extra(3)).Migrate(ctx, fleet.MigrateOptions{})
			must(t, err)
			w.at(t, acme, 3)
			must(t, f.Suspend(ctx, acme.ID))
			must(t, f.Resume(ctx, acme.ID))
			cutOff, err := pgx.Connect(ctx, acme.DBURL.Reveal())
			must(t, err)
			defer cutOff.Close(context.Background())
			for range 2 {
				must(t, f.Drop(ctx, acme.ID))
			}
			if _, err := cutOff.Exec(ctx, "SELECT 1"); err == nil {
				t.Error("who was connected still is")
			}
			if n := w.databases(t) + w.roles(t); n != 0 {
				t.Errorf("%d databases and roles are left", n)
			}
		})
	}
}

// checkIsolation checks that only the tenant's role may connect to its database. The server's role may
// not, and has none of the tenant's rights. From PostgreSQL 16 on the creator of a role stays a member
// that may only grant the membership.
func (w *world) checkIsolation(t *testing.T, server hostdb.Secret, tenant *hostdb.TenantCatalog) {
	t.Helper()
	u, err := url.Parse(server.Reveal())
	must(t, err)
	conn := w.connect(t)
	becomes := "MEMBER"
	if w.version(t) >= 16 {
		becomes = "SET"
	}
	var connects, inherits, set bool
	must(t, conn.QueryRow(t.Context(), "SELECT has_database_privilege($1, $2, 'CONNECT'), pg_has_role($1, "+
		"$2, 'USAGE'), pg_has_role($1, $2, $3)",
		u.User.Username(), "tenant_"+tenant.ID, becomes).Scan(&connects, &inherits, &set))
	if connects || inherits || set {
		t.Errorf(
			"the server's role may connect: %v, has the tenant's rights: %v, may become the tenant's: %v",
			connects, inherits, set)
	}
}

func TestNew_namesTheRightThatTheServersRoleLacks(t *testing.T) {
	for want, rights := range map[string]string{"CREATEDB": "CREATEROLE", "CREATEROLE": "CREATEDB"} {
		t.Run(want, func(t *testing.T) {
			w := newWorld(t, "postgres")
			server, change := w.ordinary(t, rights)
			cfg := fleet.Config{Host: w.host, Pool: w.pool, Migrations: schema, Server: server}
			_, err := fleet.New(cfg)
			if err == nil || !strings.Contains(err.Error(), "Config.Server's role") ||
				strings.Contains(err.Error(), "s3cret") ||
				!regexp.MustCompile(`ALTER ROLE "app_\w+" `+want+`\b`).MatchString(err.Error()) ||
				strings.Contains(err.Error(), "Config.SharedRole") != (want == "CREATEROLE") {
				t.Fatalf("New = %v", err)
			}
			cfg.SharedRole = true
			shared, err := fleet.New(cfg)
			must(t, err)
			acme, err := shared.Provision(t.Context(), fleet.Spec{Slug: "acme", OwnerID: w.owner.ID})
			if want == "CREATEDB" {
				if err == nil || !strings.Contains(err.Error(), "CREATEDB") {
					t.Errorf("Provision = %v", err)
				}
				return
			}
			must(t, err)
			if w.roles(t) != 0 {
				t.Error("it has a role of its own")
			}
			must(t, shared.Drop(t.Context(), acme.ID))
			change("ALTER ROLE %s " + want)
			cfg.SharedRole = false
			f, err := fleet.New(cfg)
			must(t, err)
			change("ALTER ROLE %s NO" + want) // after New
			_, err = f.Provision(t.Context(), fleet.Spec{Slug: "globex", OwnerID: w.owner.ID})
			if err == nil || !strings.Contains(err.Error(), "Config.SharedRole") ||
				strings.Contains(err.Error(), "s3cret") {
				t.Errorf("Provision = %v", err)
			}
			change("ALTER ROLE %s " + want) // now it succeeds
			globex, err := f.Provision(t.Context(), fleet.Spec{Slug: "globex", OwnerID: w.owner.ID})
			must(t, err)
			must(t, f.Drop(t.Context(), globex.ID))
		})
	}
}

func TestNew_failsIfTheServerCantBeAsked(t *testing.T) {
	w := newWorld(t, "sqlite")
	cfg := fleet.Config{Host: w.host, Pool: w.pool, Server: "postgres://app:s3cret@127.0.0.1:1/postgres"}
	if _, err := fleet.New(cfg); err == nil || !strings.Contains(err.Error(), "can't be reached") ||
		strings.Contains(err.Error(), "s3cret") {
		t.Errorf("New = %v", err)
	}
	cfg.SharedRole = true
	if _, err := fleet.New(cfg); err != nil {
		t.Errorf("New with a shared role = %v", err)
	}
}

func TestDrop_reportsASuperusersConnection(t *testing.T) {
	w := newWorld(t, "postgres")
	ctx := t.Context()
	server, _ := w.ordinary(t, "CREATEDB CREATEROLE")
	f := w.onServer(t, server, true)
	acme, err := f.Provision(ctx, fleet.Spec{Slug: "acme", OwnerID: w.owner.ID})
	must(t, err)
	u, err := url.Parse(w.url)
	must(t, err)
	u.Path = "/tenant_" + acme.ID
	super, err := pgx.Connect(ctx, u.String())
	must(t, err)
	err = f.Drop(ctx, acme.ID)
	if err == nil || !strings.Contains(err.Error(), "end its connections") ||
		!strings.Contains(err.Error(), "isn't a superuser") {
		t.Errorf("Drop = %v", err)
	}
	dropped := make(chan error, 1)
	go func() { dropped <- f.Drop(ctx, acme.ID) }()
	must(t, super.Close(ctx)) // its server notices later, and the drop waits for it
	must(t, <-dropped)
	if n := w.databases(t) + w.roles(t); n != 0 {
		t.Errorf("%d databases and roles are left", n)
	}
	lease, err := w.pool.Lease(acme)
	must(t, err)
	defer lease.Release()
	if err := lease.DB().PingContext(ctx); !errors.Is(err, tenantdb.ErrTenantUnavailable) {
		t.Errorf("the dropped tenant's database: %v", err)
	}
}
