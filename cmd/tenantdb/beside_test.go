package main

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

func TestNames_listsShowSlugsAndAddresses(t *testing.T) {
	onBothEngines(t, func(t *testing.T, o *operator) {
		o.tenants("acme")
		acme := o.one("tenant", "show", "acme")["id"]
		o.ok("user", "create", "bob@example.com", "--oauth-id=bob")
		o.ok("member", "add", "acme", "--email=bob@example.com")
		o.ok("subscription", "create", "acme", "--status=active", "--stripe-sub=sub_1")
		host := o.host()
		must(t, host.Jobs.Insert(t.Context(), &hostdb.SystemJob{JobType: "mail", TenantID: acme.(string)}))
		must(t, host.Jobs.Insert(t.Context(), &hostdb.SystemJob{JobType: "sweep"})) // of no tenant
		must(t, host.WebhookEvents.Insert(t.Context(), &hostdb.StripeWebhookEvent{EventID: "evt_1",
			EventType: "x", TenantID: acme.(string)}))
		for _, list := range []string{"member list", "jobs list --type=mail",
			"subscription list", "webhooks list"} {
			args := strings.Fields(list)
			rows := o.list(args...)
			if len(rows) == 0 {
				t.Errorf("%s: no rows", list)
			}
			for _, row := range rows {
				if row["tenant"] != "acme" || row["tenant_id"] != acme {
					t.Errorf("%s: %v", list, row)
				}
			}
			if out := table(o.ok(args...)); !slices.Contains(out[0], "TENANT") ||
				!slices.Contains(out[1], "acme") {
				t.Errorf("%s: %v", list, out)
			}
		}
		if rows := o.list("jobs", "list", "--type=sweep"); rows[0]["tenant"] != "" {
			t.Errorf("a job of no tenant: %v", rows)
		}
		members := o.list("member", "list", "--tenant=acme", "--email=bob@example.com")
		if len(members) != 1 || members[0]["email"] != "bob@example.com" || members[0]["user_id"] == "" {
			t.Errorf("members: %v", members)
		}
	})
}

func TestAudit_namesActorsAndTargets(t *testing.T) {
	onBothEngines(t, func(t *testing.T, o *operator) {
		ann := o.one("user", "show", "--email=ann@example.com")["id"].(string)
		o.env["TENANTDB_ACTOR"] = ann
		o.tenants("acme")
		o.ok("user", "create", "bob@example.com", "--oauth-id=bob")
		o.ok("member", "add", "acme", "--email=bob@example.com")
		o.ok("subscription", "create", "acme")
		delete(o.env, "TENANTDB_ACTOR")
		// a word that is also a user's address
		o.ok("user", "create", "eve@example.com", "--actor=ann@example.com")
		seen := make(map[string]any)
		for _, row := range o.list("audit", "tail", "-n1000") {
			seen[fmt.Sprint(row["event_type"], " ", row["actor"])] = row["target"]
		}
		for event, target := range map[string]string{"user.created tenantdb": "ann@example.com",
			"tenant.updated ann@example.com":       "acme",
			"membership.created ann@example.com":   "bob@example.com in acme",
			"subscription.created ann@example.com": "acme",
			"user.created ann@example.com":         "eve@example.com"} {
			if seen[event] != target {
				t.Errorf("%s: %q; want %q (of %v)", event, seen[event], target, seen)
			}
		}
		mine := o.list("audit", "tail", "-n1000", "--by="+ann)
		both := o.list("audit", "tail", "-n1000", "--by=ann@example.com")
		if len(mine) == 0 || len(both) != len(mine)+1 {
			t.Errorf("%d rows by the id, %d by the address; want one more, by the word", len(mine), len(both))
		}
		acme := o.one("tenant", "show", "acme")["id"].(string)
		for name, id := range map[string]string{"acme": acme, "ann@example.com": ann} {
			byName, byID := o.list("audit", "tail", "-n1000", "--target="+name),
				o.list("audit", "tail", "-n1000", "--target="+id)
			if len(byName) == 0 || len(byName) != len(byID) {
				t.Errorf("%s: %d rows by its name, %d by its id", name, len(byName), len(byID))
			}
		}
		if line := o.followed("acme ("+acme+")", "audit", "tail", "-n1000", "-f",
			"--target=acme"); !strings.Contains(line, "ann@example.com") {
			t.Errorf("followed: %s", line)
		}
	})
}

// followed runs a command that follows something until its output contains a text, and returns the output.
func (o *operator) followed(text string, args ...string) string {
	o.t.Helper()
	ctx, interrupt := context.WithTimeout(o.t.Context(), time.Minute)
	defer interrupt()
	out := &watched{tell: func(all string) {
		if strings.Contains(all, text) {
			interrupt()
		}
	}}
	var complaint bytes.Buffer
	if code := run(ctx, args, o.world(strings.NewReader(""), out, &complaint)); code != 0 {
		o.t.Errorf("%v: exit %d, %s", args, code, &complaint)
	}
	return out.String()
}

func TestSubscription_isFoundByIDStripeIDOrTenant(t *testing.T) {
	onBothEngines(t, func(t *testing.T, o *operator) {
		o.tenants("acme", "globex")
		id := o.one("subscription", "create", "acme", "--stripe-sub=sub_1")["id"].(string)
		for _, name := range []string{id, "sub_1", "acme"} {
			if got := o.one("subscription", "show", name); got["id"] != id {
				t.Errorf("%s: %v", name, got)
			}
			if got := o.one("subscription", "update", name, "--status=active"); got["id"] != id ||
				got["tenant"] != "acme" {
				t.Errorf("%s: %v", name, got)
			}
		}
		o.fails(1, "no subscription", "subscription", "show", "globex")
		o.fails(1, "not found", "subscription", "show", "sub_2")
		o.fails(1, "not found", "subscription", "show", "nosuch")
		second := o.one("subscription", "create", "acme")["id"].(string)
		o.fails(1, second, "subscription", "update", "acme", "--status=canceled")
		if got := o.one("subscription", "show", id); got["status"] != "active" {
			t.Errorf("one of two was changed: %v", got)
		}
	})
}

func TestDelete_namesTheRowsThatStillRefer(t *testing.T) {
	onBothEngines(t, func(t *testing.T, o *operator) {
		slugs := []string{"acme", "globex", "hooli", "initech", "umbrella"}
		o.ok("user", "create", "bob@example.com", "--oauth-id=bob")
		host := o.host()
		bob, err := host.Users.ByOAuthID(t.Context(), "bob")
		must(t, err)
		for i, slug := range slugs {
			tenant := &hostdb.TenantCatalog{Name: slug, Slug: slug, IsActive: true,
				Status: hostdb.TenantProvisioning}
			must(t, host.Tenants.Insert(t.Context(), tenant))
			must(t, host.Memberships.Insert(t.Context(),
				&hostdb.Membership{UserID: bob.ID, TenantID: tenant.ID, IsActive: true}))
			want := "core_memberships: acme"
			if i >= 3 {
				want = "core_memberships: acme, globex, hooli, …"
			}
			o.fails(1, want, "user", "delete", "--oauth-id=bob", "--yes")
			if code, _, complaint := o.typing("bob@example.com\n", "user", "delete",
				"--oauth-id=bob"); code != 1 || strings.Contains(complaint, "Type") {
				t.Errorf("exit %d, %q: nothing need be confirmed that can't be done", code, complaint)
			}
		}
	})
}

func TestTenant_suspendAndMaintenanceWaitForOtherProcesses(t *testing.T) {
	onBothEngines(t, func(t *testing.T, o *operator) {
		o.tenants("acme")
		o.ok("tenant", "suspend", "acme", "--wait-for-others=1ms")
		o.ok("tenant", "resume", "acme")
		for _, args := range [][]string{{"tenant", "suspend", "acme"},
			{"tenant", "maintenance", "acme", "on"}, {"tenant", "drop", "acme", "--yes"}} {
			o.fails(1, "--wait-for-others", append(args, "--wait-for-others=-1s")...)
		}
		const patience = 700 * time.Millisecond
		o.env["TENANTDB_WAIT_FOR_OTHERS"] = patience.String()
		for _, closing := range []string{"suspend acme", "resume acme", "maintenance acme on",
			"maintenance acme off", "drop acme --yes"} {
			began := time.Now()
			o.ok(append([]string{"tenant"}, strings.Fields(closing)...)...)
			if took := time.Since(began); took < patience && closing != "resume acme" &&
				closing != "maintenance acme off" {
				t.Errorf("%s took %v; it waits for others for %v", closing, took, patience)
			}
		}
	})
}
