package main

import (
	"context"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
)

// onPostgres makes an operator whose host database is on the tests' PostgreSQL server, at 127.0.0.1.
func onPostgres(t *testing.T) *operator {
	t.Helper()
	return newOperator(t, pgtest.Database(t))
}

// at adds a tenant of ann's with its database at an address.
func (o *operator) at(slug, address string) {
	o.t.Helper()
	host := o.host()
	row := &hostdb.TenantCatalog{Slug: slug, Name: slug, IsActive: true, DBURL: hostdb.Secret(address)}
	must(o.t, host.Tenants.Insert(o.t.Context(), row))
	ann, err := host.Users.ByOAuthID(o.t.Context(), "ann")
	must(o.t, err)
	must(o.t, host.Memberships.Insert(o.t.Context(), &hostdb.Membership{UserID: ann.ID, TenantID: row.ID,
		Role: hostdb.RoleOwner, IsActive: true}))
}

// execute runs statements in a database.
func execute(t *testing.T, address, statements string) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context()) // also works when the test ends
	conn, err := pgx.Connect(ctx, address)
	must(t, err)
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, statements)
	must(t, err)
}

// by returns an address with another host and port; "" keeps the port.
func by(t *testing.T, address, host, port string) string {
	t.Helper()
	u, err := url.Parse(address)
	must(t, err)
	if port == "" {
		port = u.Port()
	}
	u.Host = host + ":" + port
	return u.String()
}

func TestDoctor_refusesOneServerUnderTwoNames(t *testing.T) {
	t.Parallel()
	for right, revoke := range map[string]string{
		"with the identifier": "",
		"without":             "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC",
	} {
		t.Run(right, func(t *testing.T) {
			o := onPostgres(t)
			o.tenants("acme")
			there := pgtest.Database(t)
			name := "far_" + hostdb.NewID()
			execute(t, there, "CREATE ROLE "+name+" LOGIN PASSWORD 'x';"+revoke)
			t.Cleanup(func() { execute(t, o.url, "DROP ROLE "+name) })
			far, err := url.Parse(by(t, there, "localhost", ""))
			must(t, err)
			far.User = url.UserPassword(name, "x")
			o.at("far", far.String())
			found := o.findings(1)
			here, err := url.Parse(o.url)
			must(t, err)
			want := "127.0.0.1:" + here.Port() + " and localhost:" + here.Port() + " are one server"
			if detail := found["servers"]["detail"].(string); found["servers"]["status"] != statusWrong ||
				!strings.Contains(detail, want) {
				t.Errorf("servers: %v; want %q", found["servers"], want)
			}
			// The product's 40 by each name and the host database's 15; twice 10 by each and 4; 1 to
			// provision.
			if detail := found["connections"]["detail"].(string); !strings.Contains(detail, "= 144;") {
				t.Errorf("connections: %s", detail)
			}
		})
	}
}

func TestDoctor_findsOneDatabaseUnderTwoServerNames(t *testing.T) {
	t.Parallel()
	o := onPostgres(t)
	database := pgtest.Database(t)
	o.at("acme", database)
	o.at("globex", by(t, database, "localhost", ""))
	_, out, _ := o.run("doctor", "-o", "json")
	if !strings.Contains(out, "its db_url is the database of tenant") {
		t.Errorf("doctor: %s", out)
	}
}

func TestDoctor_distinguishesServers(t *testing.T) {
	t.Parallel()
	primary := pgtest.Start(t)
	o := newOperator(t, primary.Database(t))
	o.at("acme", primary.Database(t))
	standby := primary.Standby(t)
	o.at("reader", standby.URL("postgres"))
	o.at("other", pgtest.Database(t))
	if found := o.findings(0)["servers"]; found["status"] != "ok" {
		t.Errorf("a primary, its standby and another server: %v", found)
	}
}

func TestDoctor_notesAPoolerBesideItsServer(t *testing.T) {
	t.Parallel()
	o := onPostgres(t)
	o.at("acme", pgtest.StartPgBouncer(t, pgtest.Shared(t),
		"pool_mode=session").Through(t, pgtest.Database(t)))
	found := o.findings(0)["servers"]
	if detail := found["detail"].(string); found["status"] != statusNote ||
		!strings.Contains(detail, "(a pooler)") {
		t.Errorf("servers: %v", found)
	}
}

func TestDoctor_reportsOverlappingHostLists(t *testing.T) {
	t.Parallel()
	o := onPostgres(t)
	here, err := url.Parse(o.url)
	must(t, err)
	other := pgtest.Start(t)
	u, err := url.Parse(other.Database(t))
	must(t, err)
	own := u.Host
	u.Host += "," + here.Host
	o.at("acme", u.String())
	found := o.findings(0)["servers"]
	if detail := found["detail"].(string); found["status"] != statusRisk || !strings.Contains(detail, own) ||
		!strings.Contains(detail, here.Host) {
		t.Errorf("servers: %v", found)
	}
}
