package main

import (
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

func TestDoctor_findsNothingWrongWithAHealthyProduct(t *testing.T) {
	onBothEngines(t, func(t *testing.T, o *operator) {
		o.tenants("acme", "globex")
		o.ok("tenant", "suspend", "globex")
		found := o.findings(0)
		for _, check := range []string{"schema", "clock", "feed", "catalog", "connections"} {
			if found[check]["status"] != "ok" {
				t.Errorf("%s: %v", check, found[check])
			}
		}
		if detail := found["catalog"]["detail"].(string); !strings.Contains(detail, "1 active, 1 suspended") {
			t.Errorf("catalog: %s", detail)
		}
	})
}

func TestDoctor_namesFailingTenants(t *testing.T) {
	onBothEngines(t, func(t *testing.T, o *operator) {
		o.tenants("acme", "globex")
		host := o.host()
		for _, row := range []*hostdb.TenantCatalog{
			{Slug: "gone", Name: "Gone", IsActive: true,
				DBURL: hostdb.Secret("sqlite:" + hostdb.NewID() + ".db")},
			{Slug: "far", Name: "Far", IsActive: true, DBURL: "postgres://u" +
				hostdb.Secret(o.secret) + "127.0.0.1:1/x"},
			{Slug: "stuck", Name: "Stuck", IsActive: true, Status: hostdb.TenantProvisioning,
				CreatedAt: time.Now().Add(-2 * time.Hour)},
		} {
			must(t, host.Tenants.Insert(t.Context(), row))
		}
		found := o.findings(2)
		wantFinding(t, found["tenant gone"], statusWrong, "no active owner; its database can't be reached")
		wantFinding(t, found["tenant far"], statusWrong, "can't be reached")
		wantFinding(t, found["tenant stuck"], statusWrong, "its provisioning began")
		if found["tenant acme"] != nil || found["connections"]["status"] != "ok" {
			t.Errorf("found: %v", found)
		}
	})
}

func TestDoctor_addsUpConnections(t *testing.T) {
	onBothEngines(t, func(t *testing.T, o *operator) {
		if o.engine == "sqlite" {
			if found := o.findings(0, "--processes=1000"); found["connections"]["status"] != "ok" {
				t.Errorf("connections: %v", found["connections"])
			}
			return
		}
		o.tenants("acme")
		// Of 200 connections, 3 are kept: 2×(40+15) + 2×(10+4) + 1 = 139, and 4×(40+15) + 29 = 249.
		wantFinding(t, o.findings(0, "--processes=2")["connections"], statusOK, "= 139", "= 197")
		wantFinding(t, o.findings(1, "--processes=4")["connections"], statusWrong, "= 249")
	})
}

func TestDoctor_comparesClocks(t *testing.T) {
	now := time.Now()
	for off, want := range map[time.Duration]string{0: statusOK, time.Second: statusOK,
		-time.Second:    statusOK,
		3 * time.Second: statusWrong, -time.Hour: statusWrong} {
		d := &doctor{}
		d.clock(now, now.Add(10*time.Millisecond), now.Add(off))
		if d.findings[0].status != want {
			t.Errorf("%v off: %v", off, d.findings[0])
		}
	}
}

func TestInit_aloneCreatesOrUpgradesAHostDatabase(t *testing.T) {
	file := filepath.Join(t.TempDir(), "host.db")
	o := &operator{t: t, env: map[string]string{}, secret: "\x00"}
	for _, args := range [][]string{{"doctor"}, {"tenant", "list"}, {"user", "create", "x@example.com"}} {
		o.fails(1, "tenantdb init", append(args, "--host=sqlite:"+file)...)
	}
	if _, err := os.Stat(file); err == nil {
		t.Fatal("a file was made")
	}
	first := o.one("init", "--host=sqlite:"+file)
	again := o.one("init", "--host=sqlite:"+file)
	if first["schema_version"] == 0.0 || again["schema_version"] != first["schema_version"] {
		t.Errorf("init: %v, then %v", first, again)
	}
	o.ok("tenant", "list", "--host=sqlite:"+file)
	o.env["DB_TYPE"], o.env["DB_NAME"] = "SQLITE", file
	o.ok("tenant", "list")
	o.env["DB_TYPE"] = "POSTGRESQL"
	o.fails(1, "DB_PASS", "tenant", "list")
}

func TestDoctor_findsTwoTenantsWithOneDatabase(t *testing.T) {
	onBothEngines(t, func(t *testing.T, o *operator) {
		o.tenants("acme", "globex")
		host := o.host()
		acme, err := host.Tenants.BySlug(t.Context(), "acme")
		must(t, err)
		globex, err := host.Tenants.BySlug(t.Context(), "globex")
		must(t, err)
		url := acme.DBURL.Reveal()
		if path, ok := strings.CutPrefix(url, "sqlite:"); ok {
			url = "sqlite:" + filepath.Join(o.dir, "tenants", path)
		} else {
			url += "&application_name=other"
		}
		globex.DBURL = hostdb.Secret(url)
		must(t, host.Tenants.Update(t.Context(), globex))
		_, out, _ := o.run("doctor", "-o", "json")
		if !strings.Contains(out, "its db_url is the database of tenant") {
			t.Errorf("doctor: %s", out)
		}
	})
}

func TestDoctor_namesADisabledTriggerAndItsFix(t *testing.T) {
	onBothEngines(t, func(t *testing.T, o *operator) {
		driver, source := "pgx", o.host().URI()
		statement := "ALTER TABLE core_memberships DISABLE TRIGGER core_memberships_changed"
		want := "ALTER TABLE core_memberships ENABLE ALWAYS TRIGGER core_memberships_changed"
		if file, found := strings.CutPrefix(source, "sqlite:"); found {
			driver, source = "sqlite", file
			statement, want = "DROP TRIGGER core_memberships_deleted", "core_memberships_deleted is missing"
		}
		db, err := sql.Open(driver, source)
		must(t, err)
		defer db.Close()
		_, err = db.Exec(statement)
		must(t, err)
		found := o.findings(1)
		for _, check := range []string{"integrity", "feed"} {
			wantFinding(t, found[check], statusWrong, want)
		}
	})
}

func TestDoctor_comparesTheCatalogWithTheDatabases(t *testing.T) {
	onSQLite(t, func(t *testing.T, o *operator) {
		o.tenants("acme", "globex")
		host := o.host()
		acme, err := host.Tenants.BySlug(t.Context(), "acme")
		must(t, err)
		orphan := hostdb.NewID()
		file := func(id string) string { return filepath.Join(o.dir, "tenants", id+".db") }
		must(t, os.Rename(file(acme.ID), file(orphan)))
		found := o.findings(2)
		wantFinding(t, found["databases"], statusNote, "1 without a row", orphan)
		wantFinding(t, found["tenant acme"], statusWrong, "doesn't exist")
	})
}

func TestTenant_reservedSlugsCanBeReplaced(t *testing.T) {
	onSQLite(t, func(t *testing.T, o *operator) {
		create := []string{"tenant", "create", "www", "--owner-email=ann@example.com", "--empty"}
		o.fails(1, "slug: is reserved", create...)
		o.fails(1, "slug: is reserved", append(create, "--reserved-slugs=www,mine")...)
		o.ok(append(create, "--reserved-slugs=mine")...)
		o.fails(1, "slug: is reserved", "tenant", "rename", "www", "--slug=api")
		o.env["TENANTDB_RESERVED_SLUGS"] = "none"
		o.ok("tenant", "rename", "www", "--slug=api")
	})
}

func TestDoctor_reportsWhetherWebhooksArrive(t *testing.T) {
	onBothEngines(t, func(t *testing.T, o *operator) {
		o.tenants("acme")
		host := o.host()
		wantFinding(t, o.findings(0)["webhooks"], statusOK, "no Stripe event is stored")
		acme, err := host.Tenants.BySlug(t.Context(), "acme")
		must(t, err)
		recent, longAgo := time.Now().Add(-6*24*time.Hour), time.Now().Add(-8*24*time.Hour)
		renewing := &hostdb.Subscription{TenantID: acme.ID, Status: hostdb.SubscriptionActive,
			CurrentPeriodEnd: &recent}
		must(t, host.Subscriptions.Insert(t.Context(), renewing))
		_, err = host.WebhookEvents.Record(t.Context(), &hostdb.StripeWebhookEvent{EventID: "evt_1",
			EventType: "invoice.paid", CreatedAt: time.Now().Add(-50 * time.Hour)})
		must(t, err)
		wantFinding(t, o.findings(0)["webhooks"], statusOK, "arrived 50h0m")
		renewing.CurrentPeriodEnd = &longAgo
		must(t, host.Subscriptions.Update(t.Context(), renewing))
		wantFinding(t, o.findings(0)["webhooks"], statusNote, "arrived 50h0m", "1 subscription(s) are active",
			"7 days", "SubscriptionPolicy.MaxOverdue")
	})
}
