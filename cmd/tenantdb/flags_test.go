package main

import (
	"errors"
	"regexp"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/tenantdb/tenantdb/hostdb"
)

func TestCLI_printsHelpWithoutArguments(t *testing.T) {
	o := &operator{t: t, env: map[string]string{}, secret: "\x00"}
	code, out, complaint := o.run()
	if code != 0 || out != o.ok("--help") || complaint != "" || !strings.Contains(out, "Usage: tenantdb") {
		t.Errorf("exit %d, %q, complaint %q", code, out, complaint)
	}
}

func TestVersion_namesTheBuild(t *testing.T) {
	o := &operator{t: t, env: map[string]string{}, secret: "\x00"}
	if out := o.ok("--version"); !regexp.MustCompile(`^tenantdb \S+ go1\.\S+ \w+/\w+\n$`).MatchString(out) {
		t.Errorf("--version: %q", out)
	}
	for version, want := range map[string]string{"v1.2.3": "v1.2.3", "(devel)": "(devel)", "": "(devel)"} {
		if got := versionOf(&debug.BuildInfo{Main: debug.Module{Version: version}}); got != want {
			t.Errorf("built as %q: %q; want %q", version, got, want)
		}
	}
	if got := versionOf(nil); got != "(devel)" {
		t.Errorf("without build information: %q", got)
	}
}

// TestFlags_acceptNegativeNumbers tests every flag that takes a number or a duration.
func TestFlags_acceptNegativeNumbers(t *testing.T) {
	onSQLite(t, func(t *testing.T, o *operator) {
		o.tenants("acme")
		files := "--migrations=" + o.migrations()
		o.ok("migrate", "up", files, "--max-failures", "-1", "--lock-retries", "-1", "--lock-timeout", "-1s")
		o.ok("plan", "create", "pro", "--sort-order", "-5")
		if got := o.one("plan", "show", "pro"); got["sort_order"] != -5.0 {
			t.Errorf("plan: %v", got)
		}
		o.fails(1, "--max-failures", "migrate", "up", files, "--max-failures", "--parallel=2")
		o.fails(1, "--lines", "audit", "tail", "-n", "-1")
		o.fails(1, "--since", "audit", "tail", "--since", "-1h")
		for _, node := range leaves(t) {
			for _, flag := range node.Flags {
				switch kind := flag.Target.Type().String(); strings.TrimPrefix(kind, "*") {
				case "int", "int64", "float64", "time.Duration":
					_, _, complaint := o.run(append(strings.Fields(words(node)), "--"+flag.Name, "-1x")...)
					if strings.Contains(complaint, "(short flag)") {
						t.Errorf("%s --%s -1x: %s", words(node), flag.Name, complaint)
					}
				}
			}
		}
	})
}

func TestFlags_nameTheKnownStatuses(t *testing.T) {
	onBothEngines(t, func(t *testing.T, o *operator) {
		o.tenants("acme")
		id := o.one("subscription", "create", "acme")["id"].(string)
		for _, args := range [][]string{
			{"tenant", "list", "--status=activ"}, {"subscription", "list", "--status=activ"},
			{"subscription", "create", "acme", "--status=activ"},
			{"subscription", "update", id, "--status=activ"}, {"migrate", "results", "--status=activ"},
			{"jobs", "list", "--status=activ"},
			{"webhooks", "list", "--status=activ"}, {"webhooks", "replay", "--status=activ"},
		} {
			known := map[string]string{"tenant": "suspended", "subscription": "past_due",
				"migrate": "skipped", "jobs": "cancelled", "webhooks": "parked"}
			o.fails(1, known[args[0]], args...)
		}
		if rows := o.list("subscription", "list"); len(rows) != 1 || rows[0]["status"] != "incomplete" {
			t.Errorf("subscriptions: %v", rows)
		}
	})
}

// The host database defines the values; the flags accept the same.
func TestFlags_acceptTheHostDatabasesValues(t *testing.T) {
	onSQLite(t, func(t *testing.T, o *operator) {
		host := o.host()
		offered := make(map[string]string)
		for _, node := range leaves(t) {
			for _, flag := range node.Flags {
				offered[words(node)+" --"+flag.Name] = flag.Enum
			}
		}
		for flag, err := range map[string]error{
			"tenant list --status": host.Tenants.Insert(t.Context(),
				&hostdb.TenantCatalog{Name: "x", Status: "odd"}),
			"jobs list --status": host.Jobs.Insert(t.Context(),
				&hostdb.SystemJob{JobType: "x", Status: "odd"}),
			"subscription create --payment-type": host.Subscriptions.Insert(t.Context(),
				&hostdb.Subscription{TenantID: hostdb.NewID(), PaymentType: "odd"}),
		} {
			var field *hostdb.FieldError
			if !errors.As(err, &field) || field.Reason != "must be one of "+offered[flag] {
				t.Errorf("%s offers %q; the host database says %v", flag, offered[flag], err)
			}
		}
	})
}

func TestFlags_nameTheKnownPlans(t *testing.T) {
	onBothEngines(t, func(t *testing.T, o *operator) {
		o.ok("plan", "create", "pro")
		o.ok("plan", "create", "team", "--no-active")
		o.tenants("acme")
		id := o.one("subscription", "create", "acme", "--plan=team")["id"].(string)
		for _, args := range [][]string{
			{"tenant", "create", "globex", "--owner-email=ann@example.com", "--empty", "--plan=nosuch"},
			{"tenant", "list", "--plan=nosuch"},
			{"subscription", "create", "acme", "--plan=nosuch"},
			{"subscription", "update", id, "--plan=nosuch"},
			{"subscription", "trial", "acme", "nosuch"}, {"plan", "show", "nosuch"},
			{"plan", "update", "nosuch", "--name=x"},
		} {
			o.fails(1, `plan "nosuch"`, args...)
			o.fails(1, "pro, team", args...)
		}
		if rows := o.list("tenant", "list", "--plan=free"); len(rows) != 1 { // the free plan needs no row
			t.Errorf("tenants: %v", rows)
		}
		if rows := o.list("subscription", "list"); len(rows) != 1 || rows[0]["plan_tier"] != "team" {
			t.Errorf("subscriptions: %v", rows)
		}
	})
}

func TestExec_writesSingularAndPlural(t *testing.T) {
	onBothEngines(t, func(t *testing.T, o *operator) {
		o.tenants("acme")
		for sql, want := range map[string]string{"INSERT INTO notes VALUES (1, 'x')": "1 row written\n",
			"INSERT INTO notes VALUES (2, 'x'), (3, 'x')": "2 rows written\n",
			"DELETE FROM notes WHERE id = 9":              "0 rows written\n"} {
			if out := o.ok("exec", "-t", "acme", "--write", sql); out != want {
				t.Errorf("%s: %q; want %q", sql, out, want)
			}
		}
	})
}
