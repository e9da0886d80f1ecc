package main

import (
	"strings"
	"testing"
)

func TestUser_createShowUpdateAndDelete(t *testing.T) {
	onBothEngines(t, func(t *testing.T, o *operator) {
		bob := o.one("user", "create", "bob@example.com", "--oauth-id=bob", "--stripe-cust=cus_1")
		for _, flag := range []string{"--id=" + bob["id"].(string),
			"--email=BOB@example.com", "--oauth-id=bob"} {
			if got := o.one("user", "show", flag); got["id"] != bob["id"] ||
				got["stripe_cust_id"] != "cus_1" {
				t.Errorf("%s: %v", flag, got)
			}
		}
		o.fails(1, "not found", "user", "show", "--email=bob") // an oauth_id is never tried as an address
		o.fails(1, "not found", "user", "show", "--oauth-id=bob@example.com")
		o.fails(1, "--id", "user", "show")
		o.fails(1, "email", "user", "create", "Bob@example.com")
		got := o.one("user", "update", "--oauth-id=bob", "--new-email=b@example.com",
			"--new-oauth-id=", "--sys-admin")
		if got["email"] != "b@example.com" || got["oauth_id"] != "" || got["is_sys_admin"] != true ||
			got["stripe_cust_id"] != "cus_1" {
			t.Errorf("updated: %v", got)
		}
		if got := o.one("user", "update", "--email=b@example.com",
			"--no-sys-admin"); got["is_sys_admin"] != false {
			t.Errorf("updated again: %v", got)
		}
		if code, _, _ := o.typing("yes\n", "user", "delete", "--email=b@example.com"); code != 1 {
			t.Error("deleted without the address typed")
		}
		if code, _, complaint := o.typing("b@example.com\n", "user", "delete",
			"--email=b@example.com"); code != 0 {
			t.Errorf("delete: %s", complaint)
		}
		o.fails(1, "not found", "user", "show", "--email=b@example.com")
	})
}

func TestMember_addUpdateAndRemove(t *testing.T) {
	onBothEngines(t, func(t *testing.T, o *operator) {
		o.tenants("acme")
		o.ok("user", "create", "bob@example.com", "--oauth-id=bob")
		if got := o.one("member", "add", "acme", "--email=bob@example.com"); got["role"] != "member" ||
			got["is_active"] != true || got["profile_id"] == "" {
			t.Errorf("added: %v", got)
		}
		o.fails(1, "conflict", "member", "add", "acme", "--email=bob@example.com")
		if got := o.one("member", "update", "acme", "--oauth-id=bob", "--role=admin",
			"--no-active"); got["role"] != "admin" || got["is_active"] != false {
			t.Errorf("updated: %v", got)
		}
		o.fails(1, "give", "member", "update", "acme", "--oauth-id=bob")
		o.fails(1, "last_owner", "member", "remove", "acme", "--oauth-id=ann", "--yes")
		if n, mine := len(o.list("member", "list", "--tenant=acme")),
			o.list("member", "list", "--oauth-id=bob"); n != 2 || len(mine) != 1 {
			t.Errorf("%d members, bob's: %v", n, mine)
		}
		if code, _, complaint := o.typing("acme\n", "member", "remove", "acme", "--oauth-id=bob"); code != 0 {
			t.Errorf("remove: %s", complaint)
		}
		o.fails(1, "not found", "member", "update", "acme", "--oauth-id=bob", "--role=admin")
	})
}

func TestPlan_andSubscriptionCommands(t *testing.T) {
	onBothEngines(t, func(t *testing.T, o *operator) {
		o.tenants("acme", "globex")
		plan := o.one("plan", "create", "pro", "--name=Pro", "--amount-monthly=2900", "--features=export,sso",
			"--tier-level=2", "--trial-days=14")
		if plan["trial_days"] != 14.0 || plan["currency"] != "usd" || len(plan["features"].([]any)) != 2 ||
			plan["is_active"] != true {
			t.Errorf("plan: %v", plan)
		}
		if got := o.one("plan", "update", "pro", "--no-active",
			"--trial-days=7"); got["is_active"] != false || got["amount_monthly"] != 2900.0 {
			t.Errorf("updated: %v", got)
		}
		if got := o.list("plan", "list"); len(got) != 1 || o.one("plan", "show", "pro")["trial_days"] != 7.0 {
			t.Errorf("plans: %v", got)
		}
		made := o.one("subscription", "create", "acme", "--plan=pro", "--status=active",
			"--period-end=2030-01-31T12:00:00Z", "--amount-cents=2900")
		id := made["id"].(string)
		if made["status"] != "active" || made["current_period_end"] != "2030-01-31T12:00:00Z" ||
			made["payment_type"] != "subscription" {
			t.Errorf("subscription: %v", made)
		}
		if got := o.one("subscription", "update", id, "--status=canceled"); got["status"] != "canceled" ||
			got["amount_cents"] != 2900.0 {
			t.Errorf("updated: %v", got)
		}
		if got := o.one("subscription", "show", id); got["plan_tier"] != "pro" {
			t.Errorf("shown: %v", got)
		}
		if got := o.one("subscription", "trial", "globex", "pro"); got["status"] != "trialing" {
			t.Errorf("trial: %v", got)
		}
		o.fails(1, "already", "subscription", "trial", "globex", "pro")
		if got := o.list("subscription", "list", "--tenant=acme", "--status=canceled"); len(got) != 1 {
			t.Errorf("list: %v", got)
		}
		o.fails(1, "--payment-type", "subscription", "update", id, "--payment-type=barter")
		if out := o.ok("subscription", "list"); !strings.Contains(out, "2030-01-31T12:00:00Z") {
			t.Errorf("table: %s", out)
		}
		o.ok("tenant", "create", "hooli", "--owner-email=ann@example.com", "--empty", "--plan=pro", "--trial")
		if got := o.list("subscription", "list", "--tenant=hooli"); len(got) != 1 ||
			got[0]["status"] != "trialing" {
			t.Errorf("with --trial: %v", got)
		}
	})
}

func TestUser_exportAndErase(t *testing.T) {
	onBothEngines(t, func(t *testing.T, o *operator) {
		o.tenants("acme")
		bob := o.one("user", "create", "bob@example.com", "--oauth-id=auth|bob-1", "--stripe-cust=cus_bob")
		id := bob["id"].(string)
		o.ok("member", "add", "acme", "--id="+id)
		tables := map[string]int{}
		for _, row := range o.list("user", "export", "--email=bob@example.com") {
			tables[row["table"].(string)]++
			if row["table"] == "core_users" && row["row"].(map[string]any)["email"] != "bob@example.com" {
				t.Errorf("the export has %v", row)
			}
		}
		if tables["core_users"] != 1 || tables["core_memberships"] != 1 || tables["sys_audit_logs"] == 0 {
			t.Errorf("the export has %v", tables)
		}
		if code, out, _ := o.run("-o", "table", "user", "export", "--id="+id); code != 0 ||
			!strings.Contains(out, `"email":"bob@example.com"`) {
			t.Errorf("as a table: %d %s", code, out)
		}
		o.fails(1, "last active owner of acme", "user", "erase", "--oauth-id=ann", "--yes")
		o.fails(1, "not found", "user", "erase", "--email=nobody@example.com", "--yes")
		if code, _, _ := o.typing("yes\n", "user", "erase", "--email=bob@example.com"); code != 1 {
			t.Error("erased without the address typed")
		}
		if code, _, complaint := o.typing("bob@example.com\n", "user", "erase",
			"--email=bob@example.com"); code != 0 {
			t.Errorf("erase: %s", complaint)
		}
		if again := o.one("user", "erase", "--id="+id, "--yes"); again["user"] != false ||
			again["audit_parts"] != 0.0 {
			t.Errorf("erased again: %v", again)
		}
		if left := o.ok("user", "export", "--id="+id); strings.Contains(left, "bob") ||
			!strings.Contains(left, "user.erased") {
			t.Errorf("left is %s", left)
		}
	})
}
