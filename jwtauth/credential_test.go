package jwtauth

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/tenantdb/tenantdb"
)

func TestCredential_isReadAndCounted(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		authorization, cookies []string
		token                  string
		fromCookie             bool
		err                    error
	}{
		"none":                      {nil, nil, "", false, tenantdb.ErrNoCredential},
		"bearer":                    {[]string{"Bearer abc"}, nil, "abc", false, nil},
		"lower case":                {[]string{"bearer abc"}, nil, "abc", false, nil},
		"upper case":                {[]string{"BEARER abc"}, nil, "abc", false, nil},
		"several spaces":            {[]string{"Bearer   abc"}, nil, "abc", false, nil},
		"tab":                       {[]string{"Bearer\tabc"}, nil, "", false, errScheme},
		"no space":                  {[]string{"Bearerabc"}, nil, "", false, errScheme},
		"no token":                  {[]string{"Bearer"}, nil, "", false, errScheme},
		"spaces only":               {[]string{"Bearer  "}, nil, "", false, errScheme},
		"empty":                     {[]string{""}, nil, "", false, errScheme},
		"token only":                {[]string{"abc.def.ghi"}, nil, "", false, errScheme},
		"another scheme":            {[]string{"Basic dTpw"}, nil, "", false, errScheme},
		"folded scheme":             {[]string{"Bearer\u212a abc"}, nil, "", false, errScheme},
		"two headers":               {[]string{"Bearer a", "Bearer a"}, nil, "", false, errSeveral},
		"two schemes":               {[]string{"Basic a", "Bearer a"}, nil, "", false, errSeveral},
		"two in one header":         {[]string{"Bearer a, Bearer b"}, nil, "a, Bearer b", false, nil},
		"cookie":                    {nil, []string{"session=abc"}, "abc", true, nil},
		"cookie among others":       {nil, []string{"a=1; session=abc; b=2"}, "abc", true, nil},
		"cookie on a second line":   {nil, []string{"a=1", "session=abc"}, "abc", true, nil},
		"cookie quoted":             {nil, []string{`session="abc"`}, "abc", true, nil},
		"cookie half quoted":        {nil, []string{`session="abc`}, `"abc`, true, nil},
		"cookie with equals signs":  {nil, []string{"session=a=b="}, "a=b=", true, nil},
		"cookie with inner spaces":  {nil, []string{"a=1;\tsession = abc "}, " abc", true, nil},
		"cookie empty":              {nil, []string{"session="}, "", false, tenantdb.ErrNoCredential},
		"cookie empty, quoted":      {nil, []string{`session=""`}, "", false, tenantdb.ErrNoCredential},
		"cookie without value":      {nil, []string{"session"}, "", false, tenantdb.ErrNoCredential},
		"cookie in other case":      {nil, []string{"Session=abc"}, "", false, tenantdb.ErrNoCredential},
		"cookie by suffix":          {nil, []string{"xsession=abc"}, "", false, tenantdb.ErrNoCredential},
		"cookie by prefix":          {nil, []string{"sessionx=abc"}, "", false, tenantdb.ErrNoCredential},
		"cookie within a value":     {nil, []string{"a=session=abc"}, "", false, tenantdb.ErrNoCredential},
		"two cookies":               {nil, []string{"session=a; session=b"}, "", false, errSeveral},
		"two equal cookies":         {nil, []string{"session=a; session=a"}, "", false, errSeveral},
		"two cookies on two lines":  {nil, []string{"session=a", "session=b"}, "", false, errSeveral},
		"header and cookie":         {[]string{"Bearer a"}, []string{"session=b"}, "", false, errSeveral},
		"basic and cookie":          {[]string{"Basic a"}, []string{"session=b"}, "", false, errSeveral},
		"header and empty cookie":   {[]string{"Bearer a"}, []string{"session="}, "a", false, nil},
		"header and another cookie": {[]string{"Bearer a"}, []string{"theme=dark"}, "a", false, nil},
		"nothing but semicolons":    {nil, []string{";;; ;"}, "", false, tenantdb.ErrNoCredential},
	} {
		h := http.Header{}
		if test.authorization != nil {
			h["Authorization"] = test.authorization
		}
		if test.cookies != nil {
			h["Cookie"] = test.cookies
		}
		token, fromCookie, err := credentialOf(h, "session")
		if token != test.token || fromCookie != test.fromCookie || !errors.Is(err, test.err) {
			t.Errorf("%s: %q, %t, %v; want %q, %t, %v", name, token, fromCookie, err, test.token,
				test.fromCookie, test.err)
		}
	}
}

// TestCredential_cookiesAreNotReadUnlessNamed, nor is anything but the header and that cookie.
func TestCredential_cookiesAreNotReadUnlessNamed(t *testing.T) {
	t.Parallel()
	a, s := newFixture(t, "HS256", nil)
	token := s.token(t, nil)
	r := httptest.NewRequest(http.MethodGet, "/?access_token="+token+"&token="+token,
		strings.NewReader("access_token="+token))
	r.Header.Set("Cookie", "=Bearer "+token+"; session="+token+"; access_token="+token)
	r.Header.Set("X-Access-Token", token)
	r.Header.Set("Proxy-Authorization", "Bearer "+token)
	if _, err := a.Authenticate(r); !errors.Is(err, tenantdb.ErrNoCredential) {
		t.Errorf("%v, want %v", err, tenantdb.ErrNoCredential)
	}
}

func TestCredential_crossOrigin(t *testing.T) {
	t.Parallel()
	trusting := http.NewCrossOriginProtection()
	if err := trusting.AddTrustedOrigin("https://app.example"); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		method, site, origin string
		inHeader             bool
		protection           *http.CrossOriginProtection
		want                 error
	}{
		"GET from elsewhere":        {method: "GET", site: "cross-site"},
		"POST from elsewhere":       {method: "POST", site: "cross-site", want: tenantdb.ErrCrossOrigin},
		"POST from a sister site":   {method: "POST", site: "same-site", want: tenantdb.ErrCrossOrigin},
		"DELETE from elsewhere":     {method: "DELETE", site: "cross-site", want: tenantdb.ErrCrossOrigin},
		"unknown method, elsewhere": {method: "BREW", site: "cross-site", want: tenantdb.ErrCrossOrigin},
		"POST from here":            {method: "POST", site: "same-origin"},
		"POST typed by hand":        {method: "POST", site: "none"},
		"POST, old browser": {method: "POST", origin: "https://evil.example",
			want: tenantdb.ErrCrossOrigin},
		"POST, old browser, here": {method: "POST", origin: "https://example.com"},
		"POST of a program":       {method: "POST"},
		"POST with header":        {method: "POST", site: "cross-site", inHeader: true},
		"POST from a trusted origin": {method: "POST", site: "cross-site", origin: "https://app.example",
			protection: trusting},
		"POST from an untrusted one": {method: "POST", site: "cross-site", origin: "https://evil.example",
			protection: trusting, want: tenantdb.ErrCrossOrigin},
	} {
		a, s := newFixture(t, "HS256", func(c *Config) {
			c.Cookie, c.CrossOrigin = "__Host-session",
				test.protection
		})
		r := httptest.NewRequest(test.method, "https://example.com/", nil)
		if test.inHeader {
			r.Header.Set("Authorization", "Bearer "+s.token(t, nil))
		} else {
			r.Header.Set("Cookie", "__Host-session="+s.token(t, nil))
		}
		if test.site != "" {
			r.Header.Set("Sec-Fetch-Site", test.site)
		}
		if test.origin != "" {
			r.Header.Set("Origin", test.origin)
		}
		identity, err := a.Authenticate(r)
		if !errors.Is(err, test.want) || (identity == nil) == (test.want == nil) {
			t.Errorf("%s: %v, %v; want %v", name, identity, err, test.want)
		}
	}
}

// FuzzCredentialOf compares with net/http: who reads the request with the standard library must not see
// another cookie, nor two where we see one.
func FuzzCredentialOf(f *testing.F) {
	f.Add("Bearer abc", "a=1; session=abc")
	f.Add("", "session=a; session=\"b\"")
	f.Add("bearer  x", `session="";session= y`)
	f.Add("Basic eDp5", "session")
	f.Add("", "session= 0")
	f.Add("0", "session\n=0")
	f.Fuzz(func(t *testing.T, authorization, cookie string) {
		h := http.Header{}
		if authorization != "" {
			h["Authorization"] = []string{authorization}
		}
		if cookie != "" {
			h["Cookie"] = []string{cookie}
		}
		token, fromCookie, err := credentialOf(h, "session")
		var standard []string
		for _, c := range (&http.Request{Header: h}).CookiesNamed("session") {
			if c.Value != "" {
				standard = append(standard, c.Value)
			}
		}
		switch {
		case err != nil && token != "":
			t.Fatalf("%q comes with %v", token, err)
		case errors.Is(err, tenantdb.ErrNoCredential):
			if authorization != "" || len(standard) > 0 {
				t.Fatalf("no credential in %q", h)
			}
		case errors.Is(err, tenantdb.ErrSeveralCredentials):
			if authorization == "" && strings.Count(cookie, "session") < 2 {
				t.Fatalf("several credentials in %q", h)
			}
		case errors.Is(err, tenantdb.ErrInvalidCredential):
			if authorization == "" || len(standard) > 0 {
				t.Fatalf("an invalid credential in %q", h)
			}
		case err != nil || token == "":
			t.Fatalf("%q: %q, %v", h, token, err)
		case fromCookie:
			if authorization != "" || len(standard) > 1 || len(standard) == 1 && standard[0] != token {
				t.Fatalf("%q: cookie %q, net/http has %q", h, token, standard)
			}
		default:
			if len(standard) > 0 || !strings.HasSuffix(authorization, token) ||
				!strings.EqualFold(authorization[:7], "bearer ") {
				t.Fatalf("%q: bearer %q", h, token)
			}
		}
	})
}
