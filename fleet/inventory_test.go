package fleet_test

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tenantdb/tenantdb/fleet"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
)

// TestInventory_reportsStraysAndMissingDatabases restores yesterday's host database. It has a tenant that
// was dropped today, and lacks one that was created today.
func TestInventory_reportsStraysAndMissingDatabases(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		f, ctx := w.fleet(t, schema), t.Context()
		acme, err := f.Provision(ctx, fleet.Spec{Slug: "acme", OwnerID: w.owner.ID})
		must(t, err)
		url := "sqlite:" + filepath.Join(t.TempDir(), "yesterday.db")
		if strings.HasPrefix(w.url, "postgres") {
			url = pgtest.Database(t)
		}
		yesterday, err := hostdb.Open(ctx, url)
		must(t, err)
		defer yesterday.Close()
		must(t, yesterday.Tenants.Insert(ctx, acme))
		restored, err := fleet.New(fleet.Config{Host: yesterday, Pool: w.pool, Server: hostdb.Secret(w.url)})
		must(t, err)
		if found, err := restored.Inventory(ctx); err != nil || len(found.Missing) > 0 ||
			slices.Contains(found.Orphans, acme.ID) {
			t.Errorf("before: %+v, %v", found, err)
		}

		globex, err := f.Provision(ctx, fleet.Spec{Slug: "globex", OwnerID: w.owner.ID})
		must(t, err)
		must(t, f.Drop(ctx, acme.ID))
		found, err := restored.Inventory(ctx)
		must(t, err)
		if len(found.Missing) != 1 || found.Missing[0].ID != acme.ID || !slices.Contains(found.Orphans,
			globex.ID) || slices.Contains(found.Orphans, acme.ID) {
			t.Errorf("yesterday's catalog: %+v; want acme missing and globex an orphan", found)
		}
		today, err := f.Inventory(ctx)
		must(t, err)
		if len(today.Missing) > 0 || slices.Contains(today.Orphans, globex.ID) ||
			slices.Contains(today.Orphans, acme.ID) {
			t.Errorf("today's catalog: %+v", today)
		}
	})
}

func TestProvision_refusesMalformedAndReservedSlugs(t *testing.T) {
	w := newWorld(t, "sqlite")
	config := fleet.Config{Host: w.host, Pool: w.pool, Migrations: schema}
	f, err := fleet.New(config)
	must(t, err)
	acme, err := f.Provision(t.Context(), fleet.Spec{Slug: "acme", OwnerID: w.owner.ID})
	must(t, err)
	for _, slug := range []string{"", "Ac_me", "-a", strings.Repeat("a", 64), acme.ID, "www",
		"api", "login", "admin"} {
		_, err := f.Provision(t.Context(), fleet.Spec{Slug: slug, OwnerID: w.owner.ID})
		wantSlugRefused(t, slug, err)
		if slug != "" { // the empty slug changes nothing
			wantSlugRefused(t, slug, f.Rename(t.Context(), acme.ID, slug, ""))
		}
	}

	config.ReservedSlugs = []string{"mine"}
	f, err = fleet.New(config)
	must(t, err)
	_, err = f.Provision(t.Context(), fleet.Spec{Slug: "mine", OwnerID: w.owner.ID})
	wantSlugRefused(t, "mine", err)
	must(t, f.Rename(t.Context(), acme.ID, "www", ""))

	config.ReservedSlugs = nil
	f, err = fleet.New(config)
	must(t, err)
	must(t, f.Rename(t.Context(), acme.ID, "www", "Acme Inc.")) // its own slug
	config.ReservedSlugs = []string{}
	f, err = fleet.New(config)
	must(t, err)
	_, err = f.Provision(t.Context(), fleet.Spec{Slug: "mine", OwnerID: w.owner.ID})
	must(t, err)
}

func wantSlugRefused(t *testing.T, slug string, err error) {
	t.Helper()
	var field *hostdb.FieldError
	if !errors.Is(err, hostdb.ErrInvalid) || !errors.As(err, &field) || field.Field != "slug" {
		t.Errorf("%q: error = %v; want ErrInvalid on slug", slug, err)
	}
}
