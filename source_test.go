package tenantdb

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tenantdb/tenantdb/hostdb"
)

const someID = "0123456789abcdef0123456789abcdef"

func TestSource_selectsOneTenantOrRefuses(t *testing.T) {
	header, subdomain, claim := FromHeader("X-Tenant-Id"), FromSubdomain("Example.com."), FromClaim("tenant")
	for _, test := range []struct {
		name   string
		source Source
		host   string
		path   string
		header map[string][]string
		claims map[string]any
		want   hostdb.TenantKey
		err    error
	}{
		{name: "header slug", source: header, header: map[string][]string{"X-Tenant-Id": {"acme"}},
			want: hostdb.TenantKey{Slug: "acme"}},
		{name: "header id", source: header, header: map[string][]string{"X-Tenant-Id": {someID}},
			want: hostdb.TenantKey{ID: someID}},
		{name: "no header", source: header},
		{name: "empty header", source: header, header: map[string][]string{"X-Tenant-Id": {""}},
			err: ErrInvalidTenant},
		{name: "upper case", source: header, header: map[string][]string{"X-Tenant-Id": {"Acme"}},
			err: ErrInvalidTenant},
		{name: "upper-case id", source: header,
			header: map[string][]string{"X-Tenant-Id": {strings.ToUpper(someID)}}, err: ErrInvalidTenant},
		{name: "two like headers", source: header,
			header: map[string][]string{"X-Tenant-Id": {"acme", "acme"}},
			want:   hostdb.TenantKey{Slug: "acme"}},
		{name: "two headers", source: header, header: map[string][]string{"X-Tenant-Id": {"acme", "globex"}},
			err: ErrTenantConflict},
		{name: "a list in a header", source: header,
			header: map[string][]string{"X-Tenant-Id": {"acme, globex"}}, err: ErrInvalidTenant},
		{name: "underscores", source: header, header: map[string][]string{"X_tenant_id": {"acme"}},
			err: ErrInvalidTenant},
		{name: "one underscore", source: header, header: map[string][]string{"X-Tenant_id": {"acme"},
			"X-Tenant-Id": {"acme"}}, err: ErrInvalidTenant},
		{name: "subdomain", source: subdomain, host: "acme.example.com",
			want: hostdb.TenantKey{Slug: "acme"}},
		{name: "subdomain in disguise", source: subdomain, host: "ACME.Example.COM.:8443",
			want: hostdb.TenantKey{Slug: "acme"}},
		{name: "two labels", source: subdomain, host: "a.b.example.com", err: ErrInvalidTenant},
		{name: "no label", source: subdomain, host: ".example.com", err: ErrInvalidTenant},
		{name: "the base itself", source: subdomain, host: "example.com"},
		{name: "another domain", source: subdomain, host: "acme.example.org"},
		{name: "a domain that ends alike", source: subdomain, host: "acme.notexample.com"},
		{name: "an address", source: subdomain, host: "127.0.0.1:8080"},
		{name: "two dots at the end", source: subdomain, host: "acme.example.com..", err: ErrInvalidTenant},
		{name: "two ports", source: subdomain, host: "acme.example.com:80:90", err: ErrInvalidTenant},
		{name: "an IPv6 address without a port", source: subdomain, host: "[::1]"},
		{name: "an IPv6 address", source: subdomain, host: "[::1]:8080"},
		{name: "prefix", source: FromPathPrefix(), path: "/acme/notes", want: hostdb.TenantKey{Slug: "acme"}},
		{name: "prefix alone", source: FromPathPrefix(), path: "/acme", want: hostdb.TenantKey{Slug: "acme"}},
		{name: "root", source: FromPathPrefix(), path: "/"},
		{name: "double slash", source: FromPathPrefix(), path: "//acme/notes", err: ErrInvalidTenant},
		{name: "dots", source: FromPathPrefix(), path: "/acme/../globex/notes", err: ErrInvalidTenant},
		{name: "escaped dots", source: FromPathPrefix(), path: "/acme/%2e%2e/globex", err: ErrInvalidTenant},
		{name: "escaped slash", source: FromPathPrefix(), path: "/acme%2Fglobex/notes",
			err: ErrInvalidTenant},
		{name: "claim", source: claim, claims: map[string]any{"tenant": "acme"},
			want: hostdb.TenantKey{Slug: "acme"}},
		{name: "no claim", source: claim},
		{name: "claim of another type", source: claim, claims: map[string]any{"tenant": json.Number("7")},
			err: ErrInvalidTenant},
		{name: "claim in another case", source: claim, claims: map[string]any{"Tenant": "acme"}},
		{name: "empty claim", source: claim, claims: map[string]any{"tenant": ""}, err: ErrInvalidTenant},
		{name: "agreement", source: Sources(header, subdomain, claim), host: "acme.example.com",
			header: map[string][]string{"X-Tenant-Id": {"acme"}},
			claims: map[string]any{"tenant": "acme"}, want: hostdb.TenantKey{Slug: "acme"}},
		{name: "one of several", source: Sources(header, subdomain, claim),
			claims: map[string]any{"tenant": "acme"}, want: hostdb.TenantKey{Slug: "acme"}},
		{name: "disagreement", source: Sources(header, claim),
			header: map[string][]string{"X-Tenant-Id": {"acme"}}, claims: map[string]any{"tenant": "globex"},
			err: ErrTenantConflict},
		{name: "two kinds", source: Sources(header, claim),
			header: map[string][]string{"X-Tenant-Id": {"acme"}}, claims: map[string]any{"tenant": someID},
			err: ErrInvalidTenant},
		{name: "one bad among good", source: Sources(header, claim),
			header: map[string][]string{"X-Tenant-Id": {"acme"}}, claims: map[string]any{"tenant": "../x"},
			err: ErrInvalidTenant},
	} {
		t.Run(test.name, func(t *testing.T) {
			target := "http://other.example/"
			if test.path != "" {
				target = "http://other.example" + test.path
			}
			r := httptest.NewRequest(http.MethodGet, target, nil)
			if test.host != "" {
				r.Host = test.host
			}
			r.Header = test.header
			got, err := test.source.tenant(r, &Identity{Claims: test.claims})
			if got != test.want || !errors.Is(err, test.err) || (err == nil) != (test.err == nil) {
				t.Errorf("tenant = %v, %v; want %v, %v", got, err, test.want, test.err)
			}
		})
	}
}

func TestSource_naughtyNamesAreNoTenants(t *testing.T) {
	var naughty []string
	list, err := os.ReadFile(filepath.Join(vectorDir(t), "other", "blns.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(list, &naughty); err != nil || len(naughty) < 500 {
		t.Fatalf("%d strings, %v", len(naughty), err)
	}
	source := Sources(FromHeader("X-Tenant"), FromClaim("tenant"))
	for _, name := range naughty {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header["X-Tenant"] = []string{name}
		key, err := source.tenant(r, &Identity{Claims: map[string]any{"tenant": name}})
		if err == nil && !plain(key.Slug+key.ID) {
			t.Errorf("%q became tenant %v", name, key)
		}
		if err != nil && len(name) > 3 && strings.Contains(err.Error(), name) {
			t.Errorf("the error repeats %q: %v", name, err)
		}
	}
}

// plain says what the name of a tenant may look like, in other words than hostdb does.
func plain(name string) bool {
	return name != "" && len(name) <= 63 &&
		strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == "" &&
		strings.Trim(name, "-") == name
}

// vectorDir is the folder of the external security vectors.
func vectorDir(t *testing.T) string {
	dir := os.Getenv("TENANTDB_VECTORS")
	if dir == "" {
		dir = filepath.Join("..", "shared", "vectors")
	}
	if _, err := os.Stat(dir); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("the security vectors are missing: %v", err)
		}
		t.Skipf("no security vectors (set TENANTDB_VECTORS): %v", err)
	}
	return dir
}

func FuzzSource_tenantName(f *testing.F) {
	for _, seed := range []string{
		"acme", someID, "", "-a", "a-", "A", "a.b", "../x", "a\x00", "ａcme", strings.Repeat("a", 64),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		key, err := tenantKey(name)
		if (err == nil) != plain(name) {
			t.Fatalf("tenantKey(%q) = %v, %v", name, key, err)
		}
		if err == nil && key.ID+key.Slug != name {
			t.Fatalf("tenantKey(%q) = %v", name, key)
		}
	})
}

func FuzzSource_subdomain(f *testing.F) {
	for _, seed := range []string{
		"acme.example.com", "acme.example.com:80", "ACME.EXAMPLE.COM.", "[::1]:80", "a.b.example.com",
		".example.com", "\x00.example.com",
	} {
		f.Add(seed)
	}
	source := FromSubdomain("example.com")
	f.Fuzz(func(t *testing.T, host string) {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Host = host
		key, err := source.tenant(r, nil)
		if err != nil || key == (hostdb.TenantKey{}) {
			return
		}
		name := key.Slug + key.ID
		if !plain(name) || !strings.HasPrefix(strings.ToLower(host), name+".example.com") {
			t.Fatalf("host %q became %q", host, name)
		}
		if _, err := netip.ParseAddr(host); err == nil {
			t.Fatalf("the address %q became %q", host, name)
		}
	})
}

func FuzzSource_pathPrefix(f *testing.F) {
	for _, seed := range []string{"/acme/x", "//acme", "/acme/../x", "/acme%2Fx", "/", "*", "/a\\b"} {
		f.Add(seed)
	}
	source := FromPathPrefix()
	f.Fuzz(func(t *testing.T, target string) {
		r, err := http.NewRequest(http.MethodGet, "http://h"+target, nil)
		if err != nil {
			return
		}
		key, err := source.tenant(r, nil)
		if err != nil || key == (hostdb.TenantKey{}) {
			return
		}
		// A router that cleans or unescapes the path must find the same first segment.
		if name := key.Slug + key.ID; !plain(name) || !strings.HasPrefix(r.URL.Path+"/", "/"+name+"/") {
			t.Fatalf("path %q became %q", r.URL.Path, name)
		}
	})
}

func FuzzRedirects_localTarget(f *testing.F) {
	for _, seed := range []string{
		"/login", "//evil", "/\\evil", "/login?next=/x", "https://evil", "/%2f/evil", "/\tevil",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, target string) {
		if localTarget(target) && (target[0] != '/' || len(target) > 1 &&
			(target[1] == '/' || target[1] == '\\') || strings.ContainsAny(target, "\\\t\r\n \x00")) {
			t.Fatalf("%q would lead off the site", target)
		}
	})
}
