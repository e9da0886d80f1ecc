package dburl_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"net"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"pgregory.net/rapid"

	"github.com/tenantdb/tenantdb/internal/dburl"
)

// Those who count a server's connections must count them together.
func TestURL_Server_ignoresTheOrderOfHosts(t *testing.T) {
	for _, text := range []string{"postgres://b:1,a:2/d", "postgres://u:p@a:2,b:1/e?sslmode=prefer"} {
		if u, err := dburl.Parse(text); err != nil || u.Server() != "a:2,b:1" {
			t.Errorf("%s: %v, %v", text, u.Server(), err)
		}
	}
}

func TestParse_forms(t *testing.T) {
	for text, want := range map[string]string{
		"postgres://u:p@h:5433/d": "[h:5433] d u p " +
			"postgres://u:xxxxx@h:5433/d",
		"postgresql://u@h/d": "[h:5432] d u  postgresql://u@h/d",
		"postgres://u@/db?host=/cloudsql/p:r:i": "[[/cloudsql/p:r:i]:5432] db u  " +
			"postgres://u@/db?host=/cloudsql/p:r:i",
		"postgres://u@%2Frun%2Fpg:5433/d": "[/run/pg:5433] d u  " +
			"postgres://u@%2Frun%2Fpg:5433/d",
		"postgres://u:p@a,b:2,[::1]:3/d?sslmode=disable": "[a:5432 b:2 [::1]:3] d u p " +
			"postgres://u:xxxxx@a,b:2,[::1]:3/d?sslmode=disable",
		"postgres://u:p@[fe80::1%25eth0]/d": "[[fe80::1%eth0]:5432] d u p " +
			"postgres://u:xxxxx@[fe80::1%25eth0]/d",
		"postgres://u@/d?host=a,b&port=1,2": "[a:1 b:2] d u  " +
			"postgres://u@/d?host=a,b&port=1,2",
		"postgres://h?user=u&password=a%40b&dbname=d": "[h:5432] d u a@b ",
		"postgres://h?user=u&password=ab&dbname=d": "[h:5432] d u ab " +
			"postgres://h?user=u&password=xxxxx&dbname=xxxxx",
		"postgres://u:p%2Fw%20%C3%BC@h/d%3F": "[h:5432] d? u p/w ü " +
			"postgres://u:xxxxx@h/d%3F",
		"postgres://u:a?b#c@h/d": "[h:5432] d u a?b#c postgres://u:xxxxx@h/d", // as in libpq
		"postgres://u:p@h":       "[h:5432]  u p postgres://u:xxxxx@h",
		"postgres://u:p@H.example/d?search_path=x&sslmode=require": "[H.example:5432] d u p " +
			"postgres://u:xxxxx@H.example/d?search_path=xxxxx&sslmode=require",
	} {
		u, err := dburl.Parse(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		masked, _ := dburl.Mask(text)
		if got := fmt.Sprint(u.Hosts(), " ", u.Database(), " ", u.User(), " ", u.Password(), " ",
			masked); got != want {
			t.Errorf("%s\nis   %s\nwant %s", text, got, want)
		}
	}
	for _, text := range []string{"", "host=h dbname=d", "postgres:host=h", "postgres:h/d", "mysql://u:p@h/d",
		"sqlite:x.db", "postgres://u:a@b@h/d", "postgres://u:a b@h/d",
		"postgres://u@h/d\n", "postgres://db?user=me@corp&password=s", "postgres://h:p/d",
		"postgres://[::1/d", "postgres://[a/b]:1/d", "postgres://u@h/d?x", "postgres://u@h/d?sslmode=no",
		"postgres://u:%zz@h/d", "postgres://a:1,b:2/d?port=1,2,3"} {
		if u, err := dburl.Parse(text); err == nil {
			t.Errorf("%q was taken for %v", text, u.Hosts())
		}
	}
}

// address is a generated address with its meaning.
type address struct {
	text, user, password, database string
	hosts                          []string
}

// encode percent-encodes every byte but letters and digits.
func encode(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// addresses generates addresses of every form.
func addresses(t *rapid.T) address {
	word := func(name string) string { return rapid.StringMatching(`[^\x00]{1,12}`).Draw(t, name) }
	a := address{user: word("user"), password: "pw" +
		rapid.StringMatching(`[^\x00]{8,20}`).Draw(t, "password"), database: word("database")}
	names := rapid.SliceOfN(
		rapid.SampledFrom([]string{"h", "db-1.example.com", "10.0.0.1", "::1", "fe80::1%eth0", "2001:db8::2",
			"/run/pg", "/cloudsql/p:r:i"}), 1, 4).Draw(t, "hosts")
	var hosts, ports []string
	for _, name := range names {
		port := rapid.IntRange(1, 65535).Draw(t, "port")
		a.hosts = append(a.hosts, net.JoinHostPort(name, strconv.Itoa(port)))
		written := encode(name)
		if strings.Contains(name, ":") && name[0] != '/' {
			written = "[" + strings.ReplaceAll(name, "%", "%25") + "]"
		}
		hosts, ports = append(hosts, written+":"+strconv.Itoa(port)), append(ports, strconv.Itoa(port))
	}
	a.hosts = slices.Compact(a.hosts)
	a.text = rapid.SampledFrom([]string{"postgres://", "postgresql://"}).Draw(t, "scheme") + encode(a.user)
	query := []string{"sslmode=" +
		rapid.SampledFrom([]string{"disable", "allow", "prefer", "require"}).Draw(t, "sslmode"),
		"search_path=" + encode(word("path"))}
	if rapid.Bool().Draw(t, "password in the query") {
		query = append(query, "password="+encode(a.password))
	} else {
		a.text += ":" + encode(a.password)
	}
	a.text += "@"
	if rapid.Bool().Draw(t, "hosts in the query") {
		query = append(query, "host="+encode(strings.Join(names, ",")), "port="+strings.Join(ports, ","))
	} else {
		a.text += strings.Join(hosts, ",")
	}
	if rapid.Bool().Draw(t, "database in the query") {
		query = append(query, "dbname="+encode(a.database))
	} else {
		a.text += "/" + encode(a.database)
	}
	a.text += "?" + strings.Join(rapid.Permutation(query).Draw(t, "query"), "&")
	return a
}

// meaning returns what pgx makes of an address, except for the role and the database. Certificates are
// compared by their host.
func meaning(c *pgconn.Config) string {
	text := fmt.Sprint(c.RuntimeParams, c.ConnectTimeout, c.ValidateConnect == nil, c.SSLNegotiation,
		c.ChannelBinding, c.RequireAuth)
	for _, next := range append(
		[]*pgconn.FallbackConfig{{Host: c.Host, Port: c.Port, TLSConfig: c.TLSConfig}}, c.Fallbacks...) {
		text += fmt.Sprintf(" %q:%d", next.Host, next.Port)
		if next.TLSConfig != nil {
			text += fmt.Sprintf(" tls %q %t", next.TLSConfig.ServerName, next.TLSConfig.InsecureSkipVerify)
		}
	}
	return text
}

// pgconn, which connects, is the oracle.
func TestURL_With_isReadAsPgxReadsIt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := addresses(t)
		want, err := pgconn.ParseConfig(a.text)
		if err != nil {
			t.Fatal(err)
		}
		u, err := dburl.Parse(a.text)
		if err != nil {
			t.Fatalf("%s: %v", a.text, err)
		}
		if got := (address{a.text, u.User(), u.Password(), u.Database(), u.Hosts()}); !reflect.DeepEqual(got,
			a) {
			t.Fatalf("%s\nis   %+v\nwant %+v", a.text, got, a)
		}
		if masked, ok := dburl.Mask(a.text); ok &&
			(strings.Contains(masked, a.password) || strings.Contains(masked, encode(a.password))) {
			t.Fatalf("%s is shown as %s", a.text, masked)
		}
		if text := fmt.Sprintf("%v %+v %#v %s %d", u, u, u, u, u); strings.Contains(text,
			encode(a.password)) || strings.Contains(text, a.password) {
			t.Fatalf("printed as %s", text)
		}
		if text := dburl.Redact("so "+a.password+" and "+encode(a.password)+" in "+a.text+".",
			a.text); text != "so *** and *** in ***." {
			t.Fatalf("%s redacted to %s", a.text, text)
		}
		next := addresses(t)
		kept, err := pgconn.ParseConfig(u.With(next.database, nil))
		if err != nil || kept.User != a.user || kept.Password != a.password ||
			kept.Database != next.database || meaning(kept) != meaning(want) {
			t.Fatalf("%s with the database %q: %+v, %v", a.text, next.database, kept, err)
		}
		other, err := pgconn.ParseConfig(
			u.With(next.database, &dburl.Role{Name: next.user, Password: next.password}))
		if err != nil || other.User != next.user || other.Password != next.password ||
			other.Database != next.database || meaning(other) != meaning(want) {
			t.Fatalf("%s with another role: %+v, %v", a.text, other, err)
		}
	})
}

// The parts of an address may cut an unescaped password anywhere. No part of it is shown.
func FuzzUnescapedPasswords(f *testing.F) {
	for _, seed := range []string{"", "a@", "1/", "1?", "#", "1?a=", "p@h/", "p@h?a=", "1,", "]", "[", "%",
		"%40", "p@1:", "a&b=", "/x?password=", "?user=x&password="} {
		f.Add(seed, "h:5432/d?sslmode=disable")
		f.Add(seed, "h?sslmode=disable&user=u")
	}
	f.Fuzz(func(t *testing.T, begin, rest string) {
		const end = "hunter2"
		if strings.Contains(rest, end) {
			return
		}
		for _, password := range []string{begin + end, end + begin, begin + end + begin} {
			text := "postgres://u:" + password + "@" + rest
			if masked, ok := dburl.Mask(text); ok && strings.Contains(masked, end) {
				t.Fatalf("%q is shown as %q", text, masked)
			}
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"postgres://u:p@h:1/d?sslmode=disable", "postgres://[::1]:1,a,/d",
		"postgres://%2Ftmp/", "postgres://@:5/?host=a%2Cb&port=1", "postgres://a/b?c=d&",
		"postgres://[a/b]", "postgres://h?dbname=x&database=y&user=z", "postgresql://?host=/a",
		"postgres://u:p:q@h", "postgres://h/?%64bname=x&&"} {
		f.Add(seed, "d", "u", "p")
	}
	f.Fuzz(func(t *testing.T, text, database, user, password string) {
		if strings.Contains(text, "service") || strings.Contains(database+user+password, "\x00") ||
			database == "" || user == "" || password == "" {
			return
		}
		u, err := dburl.Parse(text)
		if err != nil {
			return
		}
		want, err := pgconn.ParseConfig(text)
		if err != nil {
			t.Fatalf("%q was taken, and pgx refuses it: %v", text, err)
		}
		got, err := pgconn.ParseConfig(u.With(database, &dburl.Role{Name: user, Password: password}))
		if err != nil || got.Database != database || got.User != user || got.Password != password ||
			meaning(got) != meaning(want) {
			t.Fatalf("%q became %q: %v", text, u.With(database, &dburl.Role{Name: user, Password: password}),
				err)
		}
		if kept, err := pgconn.ParseConfig(u.With(database, nil)); err != nil || kept.User != want.User ||
			kept.Password != want.Password || meaning(kept) != meaning(want) {
			t.Fatalf("%q became %q: %v", text, u.With(database, nil), err)
		}
	})
}

func TestRedact_removesEveryPassword(t *testing.T) {
	for address, text := range map[string]string{
		"postgres://u:p%2Fw@h/d":                     "p/w and p%2Fw",
		"postgres://u@h/d?password=s3%2Bt":           "s3+t and s3%2Bt",
		"postgres://u@h/d?sslpassword=k+ey":          "k+ey and k%2Bey",
		"postgres://u:a$b@h/d?sslrootcert=/no/where": "a$b and a%24b",
		"odd:s3cret": "odd:s3cret and odd:s3cret",
	} {
		if got := dburl.Redact(text, address); got != "*** and ***" {
			t.Errorf("%s: %q", address, got)
		}
	}
	for _, address := range []string{"sqlite:x.db", "postgres://u@h/d", "://", ""} {
		if got := dburl.Redact("as it was", address); got != "as it was" {
			t.Errorf("%s: %q", address, got)
		}
	}
}

// A second parser would read some address differently: the pool would accept what the fleet refuses, or a
// budget would count a server twice.
//
// Another dialer would wait for a host that hangs.
func TestPackage_isTheOnlyOneThatParsesAddresses(t *testing.T) {
	root := filepath.Join("..", "..")
	readers := []string{"pgx.ParseConfig", "pgconn.ParseConfig", "pgx.Connect", "pgconn.Connect", "url.Parse"}
	dialers := []string{"pgx.ConnectConfig", "pgconn.ConnectConfig", "stdlib.GetConnector", "stdlib.OpenDB"}
	dials := []string{filepath.Join("internal", "pgdb", "dial.go"),
		filepath.Join("internal", "pghosts", "dialer.go")}
	// They parse addresses of pages and of keys.
	others := []string{"problem.go", filepath.Join("jwtauth", "fetch.go")}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		name, _ := filepath.Rel(root, path)
		switch {
		case err != nil:
			return err
		case entry.IsDir():
			if slices.Contains([]string{"bench", "chaos", "contrib", "examples", ".git",
				filepath.Join("internal", "dburl"), filepath.Join("internal", "pgtest")}, name) {
				return fs.SkipDir // it connects to the tests' own servers
			}
			return nil
		case !strings.HasSuffix(name, ".go"), strings.HasSuffix(name, "_test.go"),
			slices.Contains(others, name):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok {
				if of, ok := sel.X.(*ast.Ident); ok && slices.Contains(readers, of.Name+"."+sel.Sel.Name) {
					t.Errorf("%s calls %s.%s: package dburl reads addresses", name, of.Name, sel.Sel.Name)
				} else if ok && slices.Contains(dialers, of.Name+"."+sel.Sel.Name) &&
					!slices.Contains(dials, name) {
					t.Errorf("%s calls %s.%s: package pghosts knows which host serves", name, of.Name,
						sel.Sel.Name)
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
