package main

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenantdb/tenantdb/hostdb"
)

// exec runs a statement in the host database as the superuser.
func (o *operator) exec(statement string) {
	o.t.Helper()
	conn, err := pgx.Connect(context.Background(), o.url)
	must(o.t, err)
	defer conn.Close(context.Background())
	_, err = conn.Exec(context.Background(), statement)
	must(o.t, err)
}

// role creates a login role and returns its name, and the host database's URL with it. What it owns and may
// do is dropped with it.
func (o *operator) role(rights string) (name, as string) {
	o.t.Helper()
	name = "role_" + hostdb.NewID()
	o.exec("CREATE ROLE " + name + " LOGIN PASSWORD 'pgtest' " + rights)
	o.t.Cleanup(func() {
		o.exec("REASSIGN OWNED BY " + name + " TO CURRENT_USER; DROP OWNED BY " +
			name + "; DROP ROLE " + name)
	})
	u, err := url.Parse(o.url)
	must(o.t, err)
	u.User = url.UserPassword(name, "pgtest")
	return name, u.String()
}

// connects reports whether a URL's role may connect.
func connects(t *testing.T, as string) bool {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), as)
	var refused *pgconn.PgError
	if errors.As(err, &refused) && refused.Code == "42501" {
		return false
	}
	must(t, err)
	must(t, conn.Close(t.Context()))
	return true
}

func TestLockdown_refusesOtherRoles(t *testing.T) {
	onBothEngines(t, func(t *testing.T, o *operator) {
		if o.engine == "sqlite" {
			o.fails(1, "SQLite has no roles", "hostdb", "lockdown", "--yes")
			return
		}
		o.tenants("acme")
		tenant, err := o.host().Tenants.BySlug(t.Context(), "acme")
		must(t, err)
		asTenant, err := url.Parse(tenant.DBURL.Reveal())
		must(t, err)
		there, err := url.Parse(o.url)
		must(t, err)
		asTenant.Path = there.Path
		_, visitor := o.role("")
		backupName, backup := o.role("")
		_, connected := o.role("")
		session, err := pgx.Connect(t.Context(), connected)
		must(t, err)
		defer session.Close(context.Background())
		ownerName, owner := o.role("SUPERUSER") // until the role owns the database and everything in it
		o.exec("ALTER DATABASE " + pgx.Identifier{strings.TrimPrefix(there.Path, "/")}.Sanitize() +
			" OWNER TO " + ownerName)
		o.exec("ALTER ROLE " + ownerName + " NOSUPERUSER; GRANT ALL ON ALL TABLES IN SCHEMA public TO " +
			ownerName)
		database := strings.TrimPrefix(there.Path, "/")

		if found := o.findings(0)["host access"]; found["status"] != "risk" ||
			!strings.Contains(found["detail"].(string), "hostdb lockdown") {
			t.Errorf("doctor before: %v", found)
		}
		o.env["TENANTDB_HOST_URL"] = owner
		o.fails(1, "not confirmed", "hostdb", "lockdown", "--allow="+backupName)
		if !connects(t, visitor) || !connects(t, asTenant.String()) {
			t.Error("something was done without a confirmation")
		}
		done := o.one("hostdb", "lockdown", "--yes", "--allow="+backupName)
		if done["database"] != database || !strings.Contains(done["may_connect"].(string), ownerName) {
			t.Errorf("lockdown = %v", done)
		}
		for as, want := range map[string]bool{visitor: false, asTenant.String(): false, backup: true,
			connected: true, owner: true, o.url: true} {
			if got := connects(t, as); got != want {
				t.Errorf("%s connects: %v, want %v", hostdb.MaskURL(hostdb.Secret(as)), got, want)
			}
		}
		o.env["TENANTDB_HOST_URL"] = o.url
		if found := o.findings(0)["host access"]; found["status"] != "ok" {
			t.Errorf("doctor after: %v", found)
		}
		o.env["TENANTDB_HOST_URL"] = backup
		o.exec("GRANT ALL ON ALL TABLES IN SCHEMA public TO " + backupName)
		o.fails(1, "the role "+ownerName, "hostdb", "lockdown", "--yes")
		o.env["TENANTDB_HOST_URL"] = o.url
	})
}

func TestDoctor_reportsTenantsWithoutTheirOwnRole(t *testing.T) {
	onBothEngines(t, func(t *testing.T, o *operator) {
		o.tenants("acme", "globex")
		found := o.findings(0)["roles"]
		if found["status"] != "ok" {
			t.Errorf("with roles: %v", found)
		}
		if o.engine == "sqlite" {
			return
		}
		o.ok("tenant", "create", "shared", "--owner-email=ann@example.com", "--migrations="+
			o.migrations(), "--shared-role")
		found = o.findings(0)["roles"]
		if detail := found["detail"].(string); found["status"] != "risk" ||
			!strings.Contains(detail, "of 4 databases, including the host's, 2 share") ||
			!strings.Contains(detail, "1 tenants' databases") {
			t.Errorf("with one that shares the host's role: %v", found)
		}
	})
}
