package fleet_test

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenantdb/tenantdb/fleet"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/dburl"
)

func TestTemplate_isSharedAndRemadeWhenMigrationsChange(t *testing.T) {
	w := newWorld(t, "postgres")
	ctx := t.Context()
	for range 2 { // two fleets share a template
		acme := w.provision(t, w.fleet(t, schema), "t-"+hostdb.NewID()[:8]+hostdb.NewID()[24:])
		w.at(t, acme, 2)
	}
	first := w.templates(t)
	if len(first) != 1 {
		t.Fatalf("templates: %v", first)
	}
	u, err := url.Parse(w.url)
	must(t, err)
	u.Path = "/" + first[0]
	if conn, err := pgx.Connect(ctx, u.String()); err == nil {
		_ = conn.Close(ctx)
		t.Error("the template lets connections in")
	}
	for i, more := range [][]string{{extra(3)}, {extra(3), extra(4)}, {extra(3), extra(4), extra(5)}} {
		tenant := w.provision(t, w.fleet(t, newest(more...)), "n"+strings.Repeat("x", i))
		w.at(t, tenant, int64(3+i))
	}
	if left := w.templates(t); len(left) != 2 || left[0] == first[0] {
		t.Errorf("templates: %v; want the newest two", left)
	}
	f := w.fleet(t, schema)
	w.provision(t, f, "before")
	w.dropTemplates(t) // an operator drops the template
	w.at(t, w.provision(t, f, "after"), 2)
}

func TestTemplate_isRemadeIfACrashLeftItUnfinished(t *testing.T) {
	w := newWorld(t, "postgres")
	broken := newest("NONSENSE")
	if _, err := w.fleet(t, broken).Provision(t.Context(),
		fleet.Spec{Slug: "acme", OwnerID: w.owner.ID}); err == nil {
		t.Fatal("a broken migration passed")
	}
	var unfinished string
	must(t, w.connect(t).QueryRow(t.Context(), "SELECT datname FROM pg_database WHERE starts_with(datname, "+
		"'tenantdb_template_') AND datallowconn ORDER BY oid DESC LIMIT 1").Scan(&unfinished))
	if _, err := w.fleet(t, broken).Provision(t.Context(),
		fleet.Spec{Slug: "acme", OwnerID: w.owner.ID}); err == nil ||
		strings.Contains(err.Error(), "exists") {
		t.Errorf("again: %v", err)
	}
	tenant, err := w.fleet(t, schema).Provision(t.Context(), fleet.Spec{Slug: "acme", OwnerID: w.owner.ID})
	must(t, err)
	must(t, w.fleet(t, schema).Drop(t.Context(), tenant.ID))
	_, err = w.connect(t).Exec(t.Context(), "DROP DATABASE IF EXISTS "+unfinished)
	must(t, err)
}

func TestProvision_roleReachesOnlyItsOwnDatabase(t *testing.T) {
	w := newWorld(t, "postgres")
	ctx := t.Context()
	f := w.fleet(t, schema)
	acme, globex := w.provision(t, f, "acme"), w.provision(t, f, "globex")
	if acme.SchemaVersion != 2 {
		t.Errorf("version %d", acme.SchemaVersion)
	}
	conn, err := pgx.Connect(ctx, acme.DBURL.Reveal())
	must(t, err)
	defer conn.Close(context.Background())
	var role string
	var super bool
	must(t, conn.QueryRow(ctx, "SELECT current_user, rolsuper OR rolcreatedb OR rolcreaterole FROM "+
		"pg_roles WHERE rolname = current_user").Scan(&role, &super))
	if role != "tenant_"+acme.ID || super {
		t.Errorf("the role is %s, with rights: %v", role, super)
	}
	_, err = conn.Exec(ctx, "ALTER TABLE notes ADD COLUMN mine text") // migrations run as this role
	must(t, err)
	trespass, err := url.Parse(acme.DBURL.Reveal())
	must(t, err)
	trespass.Path = "/tenant_" + globex.ID
	_, err = pgx.Connect(ctx, trespass.String())
	var refused *pgconn.PgError
	if !errors.As(err, &refused) || refused.Code != "42501" {
		t.Errorf("another tenant's database: %v", err)
	}
	_ = conn.Close(ctx)
	must(t, f.Drop(ctx, acme.ID))
	if w.roles(t) != 1 || w.databases(t) != 1 {
		t.Errorf("%d roles and %d databases are left; want globex's", w.roles(t), w.databases(t))
	}
}

func TestDrop_endsAndRefusesUnknownConnections(t *testing.T) {
	w := newWorld(t, "postgres")
	f := w.fleet(t, schema)
	acme, err := f.Provision(t.Context(), fleet.Spec{Slug: "acme", OwnerID: w.owner.ID})
	must(t, err)
	cutOff, err := pgx.Connect(t.Context(), acme.DBURL.Reveal())
	must(t, err)
	defer cutOff.Close(context.Background())
	must(t, f.Drop(t.Context(), acme.ID))
	if _, err := cutOff.Exec(t.Context(), "INSERT INTO notes (body) VALUES ('x')"); err == nil {
		t.Error("it writes on")
	}
}

func TestProvision_trialNeedsAPlanWithTrialDays(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		must(t, w.host.InTx(t.Context(), func(tx *hostdb.Tx) error {
			if err := tx.Plans.Insert(t.Context(), &hostdb.PricingPlan{ID: "pro", Name: "Pro",
				TrialDays: 14}); err != nil {
				return err
			}
			if err := tx.Plans.Insert(t.Context(), &hostdb.PricingPlan{ID: "none", Name: "None",
				TrialDays: 1}); err != nil {
				return err
			}
			plan, err := tx.Plans.Get(t.Context(), "none")
			if err != nil {
				return err
			}
			plan.TrialDays = 0
			return tx.Plans.Update(t.Context(), plan)
		}))
		f := w.fleet(t, schema)
		for _, plan := range []string{"none", "unknown", ""} {
			if _, err := f.Provision(t.Context(), fleet.Spec{Slug: "acme", OwnerID: w.owner.ID,
				PlanTier: plan, Trial: true}); err == nil || !strings.Contains(err.Error(), "Spec.Trial") {
				t.Errorf("plan %q: %v", plan, err)
			}
		}
		acme, err := f.Provision(t.Context(), fleet.Spec{Slug: "acme", OwnerID: w.owner.ID,
			PlanTier: "pro", Trial: true})
		must(t, err)
		trials, err := w.host.Subscriptions.ListForTenant(t.Context(), acme.ID)
		must(t, err)
		if len(trials) != 1 || trials[0].Status != hostdb.SubscriptionTrialing ||
			trials[0].PaymentType != hostdb.PaymentSubscription || trials[0].TrialEnd == nil {
			t.Errorf("subscriptions: %+v", trials)
		}
		must(t, f.Drop(t.Context(), acme.ID))
	})
}

func TestFleet_recordsNoPasswordInErrors(t *testing.T) {
	w := newWorld(t, "postgres")
	f, err := fleet.New(fleet.Config{Host: w.host, Pool: w.pool,
		Migrations: fstest.MapFS{"00001_leak.sql": step("-- +goose StatementBegin\n"+
			"DO $$ BEGIN RAISE EXCEPTION 'it is %', current_setting('tenantdb.test'); END $$;\n"+
			"-- +goose StatementEnd\n", "")}})
	must(t, err)
	_, err = f.Provision(t.Context(), fleet.Spec{Slug: "acme", OwnerID: w.owner.ID})
	if err == nil {
		t.Fatal("a broken migration passed")
	}
	row, findErr := w.host.Tenants.BySlug(t.Context(), "acme")
	must(t, findErr)
	u, parseErr := url.Parse(row.DBURL.Reveal())
	must(t, parseErr)
	password, _ := u.User.Password()
	jobs, listErr := w.host.Jobs.List(t.Context())
	must(t, listErr)
	if len(jobs) != 1 || jobs[0].ErrorLog == "" || strings.Contains(jobs[0].ErrorLog+jobs[0].Payload+
		err.Error(), password) {
		t.Errorf("jobs: %+v, error %v", jobs, err)
	}
	must(t, f.Drop(t.Context(), row.ID))
	for text, want := range map[string]string{"a " + password + " b": "a *** b", "x": "x"} {
		if got := dburl.Redact(text, row.DBURL.Reveal()); got != want {
			t.Errorf("%q became %q", text, got)
		}
	}
}
