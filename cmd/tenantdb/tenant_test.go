package main

import (
	"slices"
	"strings"
	"testing"
)

func TestTenant_createCloseOpenRenameAndDrop(t *testing.T) {
	onBothEngines(t, func(t *testing.T, o *operator) {
		made := o.one("tenant", "create", "acme", "--name=Acme Inc.", "--owner-oauth-id=ann",
			"--migrations="+o.migrations())
		id := made["id"].(string)
		if made["slug"] != "acme" || made["name"] != "Acme Inc." || made["status"] != "active" ||
			made["schema_version"] != 1.0 {
			t.Errorf("created: %v", made)
		}
		for _, step := range []struct{ args, field, want string }{
			{"suspend acme", "status", "suspended"},
			{"suspend acme", "status", "suspended"},
			{"resume acme", "status", "active"},
			{"maintenance acme on", "status", "maintenance"},
			{"maintenance " + id + " off", "status", "active"},
			{"rename acme --slug=acme-2", "slug", "acme-2"},
			{"show " + id, "name", "Acme Inc."},
		} {
			if got := o.one(append([]string{"tenant"},
				strings.Fields(step.args)...)...); got[step.field] != step.want {
				t.Errorf("%s: %v", step.args, got)
			}
		}
		rows := table(o.ok("tenant", "list"))
		if want := []string{"ID", "SLUG", "NAME", "STATUS", "IS_ACTIVE", "PLAN_TIER",
			"SCHEMA_VERSION"}; !slices.Equal(rows[0], want) || len(rows) != 2 {
			t.Errorf("table: %v; want the heading %v and one row", rows, want)
		}
		if want := []string{id, "acme-2", "Acme", "Inc.", "active", "yes", "free",
			"1"}; !slices.Equal(rows[1], want) {
			t.Errorf("row %v; want %v", rows[1], want)
		}
		if got := o.list("tenant", "list", "--status=suspended"); len(got) != 0 {
			t.Errorf("suspended: %v", got)
		}
		o.ok("tenant", "drop", id, "--yes")
		o.ok("tenant", "drop", id, "--yes")
		if got := o.one("tenant", "show", id); got["status"] != "dropped" || got["slug"] != "" {
			t.Errorf("dropped: %v", got)
		}
		events := ""
		for _, row := range o.list("audit", "tail", "--target="+id) {
			events += row["event_type"].(string) + " by " + row["actor_user_id"].(string) + "\n"
		}
		if n := strings.Count(events, "tenant.updated by tenantdb\n"); n < 6 {
			t.Errorf("audit log:\n%s", events)
		}
	})
}

func TestTenant_dropAsksForTheSlug(t *testing.T) {
	onBothEngines(t, func(t *testing.T, o *operator) {
		o.tenants("acme")
		for _, typed := range []string{"", "\n", "y\n", "globex\n", "ACME\n", strings.Repeat("acme", 1000)} {
			if code, _, complaint := o.typing(typed, "tenant", "drop", "acme"); code != 1 ||
				!strings.Contains(complaint, "not confirmed") {
				t.Errorf("typed %.20q: exit %d, %q", typed, code, complaint)
			}
		}
		if got := o.one("tenant", "show", "acme"); got["status"] != "active" {
			t.Fatalf("not confirmed, and yet: %v", got)
		}
		if code, out, complaint := o.typing("acme\n", "tenant", "drop", "acme"); code != 0 ||
			!strings.Contains(out, "dropped") {
			t.Errorf("typed: exit %d, %q, %q", code, out, complaint)
		}
	})
}

func TestTenant_isFoundBySlugOrIDOnly(t *testing.T) {
	onBothEngines(t, func(t *testing.T, o *operator) {
		o.tenants("acme")
		o.fails(1, "neither a slug", "tenant", "show", `"; DROP DATABASE postgres; --`)
		o.fails(1, "not found", "tenant", "show", "globex")
		o.fails(1, "not found", "tenant", "suspend", strings.Repeat("0", 32))
		o.fails(1, "slug", "tenant", "create", `";DROP`, "--owner-email=ann@example.com", "--empty")
		o.fails(1, "conflict", "tenant", "create", "acme", "--owner-email=ann@example.com", "--empty")
		o.fails(1, "conflict", "tenant", "maintenance", suspended(o, "acme"), "on")
		o.fails(1, "not found", "tenant", "create", "globex", "--owner-email=nobody@example.com", "--empty")
		o.fails(1, "--owner-id", "tenant", "create", "globex", "--empty")
		o.fails(1, "together", "tenant", "create", "globex", "--empty", "--owner-id=1",
			"--owner-email=ann@example.com")
		o.fails(1, "--migrations", "tenant", "create", "globex", "--owner-email=ann@example.com")
		o.fails(1, "not a directory", "tenant", "create", "globex", "--owner-email=ann@example.com",
			"--migrations=/nowhere")
		if n := len(o.list("tenant", "list")); n != 1 {
			t.Errorf("%d tenants; want the one", n)
		}
	})
}

// suspended suspends a tenant and returns its slug.
func suspended(o *operator, slug string) string {
	o.t.Helper()
	o.ok("tenant", "suspend", slug)
	return slug
}

func TestTenant_listHasPages(t *testing.T) {
	onSQLite(t, func(t *testing.T, o *operator) {
		for _, name := range []string{"bob", "eve", "joe"} {
			o.ok("user", "create", name+"@example.com")
		}
		first := o.list("user", "list", "--limit=3")
		rest := o.list("user", "list", "--after="+first[2]["id"].(string))
		if len(first) != 3 || len(rest) != 1 || rest[0]["email"] != "joe@example.com" ||
			len(o.list("user", "list", "--limit=0")) != 4 {
			t.Errorf("pages: %v, %v", first, rest)
		}
	})
}
