package main

import (
	"cmp"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
)

// leaves returns the commands of the grammar.
func leaves(t *testing.T) []*kong.Node {
	t.Helper()
	parser, err := newParser(new(cli), environment{getenv: func(string) string { return "" }}, func(int) {})
	must(t, err)
	return parser.Model.Leaves(true)
}

// words returns a command's name, such as "tenant create".
func words(node *kong.Node) string {
	if node.Parent.Type == kong.ApplicationNode {
		return node.Name
	}
	return words(node.Parent) + " " + node.Name
}

// everyCommand is one use of each command, for the tenant acme, the user bob and the plan pro.
var everyCommand = map[string][]string{
	"init": nil, "doctor": nil, "hostdb lockdown": {"--yes"}, "dsn": {"acme"},
	"tenant create": {"globex", "--owner-oauth-id=ann", "--empty"}, "tenant list": nil,
	"tenant show": {"acme"}, "tenant suspend": {"acme"},
	"tenant resume": {"acme"}, "tenant maintenance": {"acme", "on"}, "tenant rename": {"acme", "--name=A"},
	"tenant drop": {"acme", "--yes"},
	"user create": {"eve@example.com"}, "user list": nil, "user show": {"--oauth-id=bob"},
	"user update": {"--oauth-id=bob", "--new-stripe-cust=c"},
	"user delete": {"--email=bob@example.com", "--yes"}, "user export": {"--oauth-id=bob"},
	"user erase": {"--oauth-id=bob", "--yes"}, "jobs prune": {"--older-than=240h"},
	"member add": {"acme", "--oauth-id=bob"}, "member list": nil,
	"member update": {"acme", "--oauth-id=ann", "--role=owner"},
	"member remove": {"acme", "--oauth-id=bob", "--yes"},
	"plan create":   {"free"}, "plan list": nil, "plan show": {"pro"}, "plan update": {"pro", "--name=Pro"},
	"subscription create": {"acme"}, "subscription trial": {"acme", "pro"}, "subscription list": nil,
	"subscription show":   {"ID"},
	"subscription update": {"ID", "--status=active"},
	"exec":                {"--all", "SELECT 1 AS one"}, "migrate up": nil, "migrate status": nil,
	"migrate plan": nil, "migrate down": {"--to=0", "--yes"},
	"migrate retry": nil, "migrate pause": nil, "migrate runs": nil, "migrate results": nil,
	"jobs list": nil, "jobs retry": {"ID"}, "jobs cancel": {"ID"}, "jobs work": {"--drain"},
	"webhooks list": nil, "webhooks replay": {"evt_1"},
	"audit tail": {"-n1000"}, "token": {"ann", "--issuer=i", "--audience=a"},
	"completion": {"bash"},
}

// last is 1 for a command that deletes what others need, and 0 for others.
func last(node *kong.Node) int {
	if slices.Contains([]string{"drop", "delete", "remove"}, node.Name) {
		return 1
	}
	return 0
}

// The password is in the URLs of the host database and of the tenants, one of which is on a server that
// doesn't answer. It is also a user's password hash and the secret of tokens.
func TestCLI_printsNoPassword(t *testing.T) {
	const password = "pa55-Word_of-32-characters-0rmore"
	server := pgtest.Start(t)
	base := server.Database(t)
	conn, err := pgx.Connect(t.Context(), base)
	must(t, err)
	_, err = conn.Exec(t.Context(), "CREATE ROLE operator SUPERUSER LOGIN PASSWORD '"+password+"'")
	must(t, err)
	must(t, conn.Close(t.Context()))
	u, err := url.Parse(base)
	must(t, err)
	u.User = url.UserPassword("operator", password)
	for host, form := range map[string]string{u.String(): "table",
		"sqlite:" + t.TempDir() + "/host.db": "json"} {
		o := newOperator(t, host)
		o.secret = password
		o.env["TENANTDB_MIGRATIONS"], o.env[secretVariable] = o.migrations(), password
		o.tenants("acme")
		o.ok("plan", "create", "pro")
		db := o.host()
		must(t, db.Users.Insert(t.Context(), &hostdb.GlobalUser{Email: "bob@example.com", OAuthID: "bob",
			PasswordHash: password}))
		for slug, dsn := range map[string]hostdb.Secret{"far": "postgres://u:" + password +
			"@127.0.0.1:1/x?sslpassword=" + password,
			"bent": "postgres://u:" + password + "@127.0.0.1:notaport/x", "odd": "odd:" + password} {
			must(t, db.Tenants.Insert(t.Context(), &hostdb.TenantCatalog{Slug: slug, Name: slug,
				IsActive: true, DBURL: dsn}))
		}
		nodes := leaves(t)
		slices.SortStableFunc(nodes, func(a, b *kong.Node) int { return cmp.Compare(last(a), last(b)) })
		for _, node := range nodes {
			args, known := everyCommand[words(node)]
			if !known {
				t.Fatalf("add %q to everyCommand", words(node))
			}
			// this looks for the secret
			_, _, _ = o.run(append(append(strings.Fields(words(node)), args...), "-o", form)...)
		}
		for _, slug := range []string{"far", "bent", "odd"} {
			_, _, _ = o.run("dsn", slug)
			_, _, _ = o.run("tenant", "drop", slug, "--yes")
			_, _, _ = o.run("exec", "-t", slug, "SELECT 1")
			o.secret = "\x00"
			if out := o.ok("dsn", slug, "--show"); !strings.Contains(out, password) {
				t.Errorf("dsn --show: %s", out)
			}
			o.secret = password
		}
		o.fails(1, "--host", "tenant", "list", "--host="+strings.Replace(u.String(), password, "another", 1))
		for _, wrong := range []string{strings.Replace(u.String(), u.Port(), "1", 1),
			strings.Replace(u.String(), "operator", "nobody", 1),
			"postgres://u:" + password + "@%zz/x", "mysql://u:" + password + "@h/x"} {
			o.env["TENANTDB_HOST_URL"] = wrong
			o.fails(1, "host database", "tenant", "list")
		}
		o.env["TENANTDB_HOST_URL"], o.env["TENANTDB_SERVER_URL"] = host, "postgres://u:"+
			password+"@h:notaport/x"
		o.fails(1, "TENANTDB_SERVER_URL", "tenant", "suspend", "far")
		delete(o.env, "TENANTDB_SERVER_URL")
	}
}

func TestCLI_refusesAPasswordAsArgument(t *testing.T) {
	o := &operator{t: t, env: map[string]string{}, secret: "s3cret"}
	for _, host := range []string{"postgres://u:s3cret@h/x", "postgres://h/x?password=s3cret",
		"postgresql://u@h/x?sslpassword=s3cret", "postgres://u:s3cret@%zz"} {
		o.fails(1, "TENANTDB_HOST_URL", "tenant", "list", "--host="+host)
	}
}

func TestCLI_helpAndMistakes(t *testing.T) {
	o := &operator{t: t, env: map[string]string{}, secret: "\x00"}
	for _, args := range [][]string{{"--help"}, {"tenant", "--help"}, {"migrate", "up", "--help"}} {
		if out := o.ok(args...); !strings.Contains(out, "Usage: tenantdb") {
			t.Errorf("%v: %s", args, out)
		}
	}
	o.fails(1, "bogus", "bogus")
	o.fails(1, "-o", "tenant", "list", "-o", "yaml")
	o.fails(1, "TENANTDB_HOST_URL", "tenant", "list")
}

func TestRerun_quotesForAShell(t *testing.T) {
	s := &session{given: map[string]string{"host": "sqlite:it's \"here\" $HOME.db", "actor": "",
		"migrations": "a b/*", "output": "json"}}
	line := s.command([]string{"migrations"}, "migrate", "retry", "x;rm")
	want := []string{"tenantdb", "migrate", "retry", "x;rm", "--host=sqlite:it's \"here\" $HOME.db",
		"--actor=", "--migrations=a b/*"}
	if got := shellWords(t, line); strings.Join(got, "\x00") != strings.Join(want, "\x00") {
		t.Errorf("%s\nis read as %q; want %q", line, got, want)
	}
}
