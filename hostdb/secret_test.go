package hostdb_test

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/tenantdb/tenantdb/hostdb"
)

const password = "hunter2"

// shown returns a value in every form in which it may be printed.
func shown(t *testing.T, v any) string {
	t.Helper()
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%10v", "%-.3s", "% x",
		"%T", "%t"} {
		fmt.Fprintf(&out, verb+"\n", v)
	}
	fmt.Fprintln(&out, v)
	for _, handler := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(handler).Info("x", "v", v, slog.Group("g", "v", v))
	}
	encoded, err := json.MarshalIndent(map[string]any{"v": v}, "", " ")
	must(t, err)
	out.Write(encoded)
	return out.String()
}

func wantHidden(t *testing.T, what, text string) {
	t.Helper()
	for _, form := range []string{password, fmt.Sprintf("%x", password), fmt.Sprintf("%X", password),
		fmt.Sprintf("% x", password), password[:3]} {
		if strings.Contains(text, form) {
			t.Errorf("%s shows the secret as %q:\n%s", what, form, text)
		}
	}
}

func TestSecret_isMaskedInEveryForm(t *testing.T) {
	s := hostdb.Secret(password)
	tenant := hostdb.TenantCatalog{Name: "x", DBURL: s}
	for what, v := range map[string]any{"secret": s, "pointer": &s, "tenant": tenant,
		"tenant's pointer": &tenant, "tenants": []hostdb.TenantCatalog{tenant},
		"map": map[string]hostdb.Secret{"a": s}, "user": hostdb.GlobalUser{PasswordHash: s},
		"access": hostdb.Access{Tenant: &tenant}, "config": hostdb.Config{URL: "sqlite:" + s}} {
		if _, isConfig := v.(hostdb.Config); isConfig {
			wantHidden(t, what, fmt.Sprintf("%v %+v %#v", v, v, v))
			continue
		}
		wantHidden(t, what, shown(t, v))
	}
	var out bytes.Buffer
	must(t, xml.NewEncoder(&out).Encode(s))
	must(t, gob.NewEncoder(&out).Encode(struct{ S hostdb.Secret }{s}))
	wantHidden(t, "xml and gob", out.String())
	if s.Reveal() != password || hostdb.Secret("").String() != "" {
		t.Error("Reveal or the empty secret is wrong")
	}
}

func TestSecret_isReadFromJSONAndTheDatabase(t *testing.T) {
	var given struct{ DBURL hostdb.Secret }
	must(t, json.Unmarshal([]byte(`{"DBURL":"hunter2"}`), &given))
	if given.DBURL.Reveal() != password {
		t.Error("JSON was not read")
	}
	var s hostdb.Secret
	for _, src := range []any{password, []byte(password)} {
		must(t, s.Scan(src))
		if s.Reveal() != password {
			t.Errorf("scanned %q", s.Reveal())
		}
	}
	must(t, s.Scan(nil))
	if v, err := s.Value(); v != nil || err != nil || s != "" {
		t.Errorf("NULL became %v, %v", v, err)
	}
	if err := s.Scan(7); err == nil {
		t.Error("a number was scanned")
	}
}

func TestMaskURL_hidesAURLWithAMisplacedPassword(t *testing.T) {
	for _, given := range []hostdb.Secret{
		"postgres://u:a@hunter2@h/x", "postgres://u:12/hunter2@h/x", "postgres://u:1/x?hunter2",
		"postgres://h:1/x?sslmode=disable&hunter2",
		"postgres://h/x#hunter2", "postgres://u:hunter2%@h/x", "postgres://u:hun ter2@h/x",
		"sqlite:postgres://u:hunter2@h/x", "sqlite:u:hunter2@h", "mysql://u:hunter2@h/x",
		"host=h password=hunter2", "hunter2",
		"postgres://u:12%3Fhunter2@h/x@hunter2",
	} {
		if masked := hostdb.MaskURL(given); masked != "[secret]" {
			t.Errorf("%q is shown as %q", given.Reveal(), masked)
		}
	}
	for given, want := range map[hostdb.Secret]string{
		"postgres://u:hunter2@h:5432/x?sslmode=disable": "postgres://u:xxxxx@h:5432/x?sslmode=disable",
		"postgres://u:12?hunter2#3@h/x":                 "postgres://u:xxxxx@h/x", // as in libpq and pgx
		"postgres://u@h/x?search_path=hunter2":          "postgres://u@h/x?search_path=xxxxx",
		"sqlite:data/host.db":                           "sqlite:data/host.db",
		"sqlite::memory:":                               "sqlite::memory:",
		"":                                              "",
	} {
		if masked := hostdb.MaskURL(given); masked != want {
			t.Errorf("%q is shown as %q; want %q", given.Reveal(), masked, want)
		}
	}
}

func TestDB_showsNoPassword(t *testing.T) {
	u := strings.Replace(postgresURL(t), ":pgtest@", ":pgtest@", 1)
	db := open(t, hostdb.Config{URL: hostdb.Secret(u)})
	text := shown(t, db) + fmt.Sprintf("%+v %#v", struct{ DB *hostdb.DB }{db}, struct{ DB *hostdb.DB }{db})
	if strings.Contains(text, "pgtest@") || strings.Contains(text, "password") {
		t.Errorf("the password is shown:\n%s", text)
	}
	if db.URI() != u || !strings.Contains(db.String(), ":xxxxx@") {
		t.Errorf("URI = %q, String = %q", db.URI(), db.String())
	}
	for given, want := range map[string]string{
		"postgres://u@h/d?password=hunter2&port=5": "postgres://u@h/d?password=xxxxx&port=5",
		"postgresql://u:hunter2@h/d":               "postgresql://u:xxxxx@h/d",
	} {
		if masked, _, _, err := hostdb.ParseURL(given); err != nil || masked != want {
			t.Errorf("%q is shown as %q, %v", given, masked, err)
		}
	}
}
