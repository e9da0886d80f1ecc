package jwtauth

import (
	"strings"
	"testing"
)

const patternIssuer = "https://login.example/{tid}/v2.0"

// TestIssuerPattern_matches: an issuer with a placeholder accepts the tokens whose iss holds their own claim,
// and no others.
func TestIssuerPattern_matches(t *testing.T) {
	t.Parallel()
	const tid = "72f988bf-86f1-41af-91ab-2d7cd011db47"
	iss := "https://login.example/" + tid + "/v2.0"
	a, s := newFixture(t, "HS256", func(c *Config) { c.Issuer = patternIssuer })
	for name, changes := range map[string]map[string]any{
		"another tenant's claim": {"iss": iss, "tid": "other"},
		"no claim":               {"iss": iss},
		"a number":               {"iss": "https://login.example/1/v2.0", "tid": 1},
		"an array":               {"iss": iss, "tid": []string{tid}},
		"empty":                  {"iss": "https://login.example//v2.0", "tid": ""},
		"the pattern's own text": {"iss": patternIssuer, "tid": "{tid}"},
		"another path":           {"iss": iss + "/x", "tid": tid},
		"a deeper path":          {"iss": "https://login.example/a/b/v2.0", "tid": "a/b"},
		"dots":                   {"iss": "https://login.example/../v2.0", "tid": ".."},
		"another host":           {"iss": "https://login.example.evil/" + tid + "/v2.0", "tid": tid},
		"another scheme":         {"iss": "http://login.example/" + tid + "/v2.0", "tid": tid},
		"a long value": {"iss": "https://login.example/" + strings.Repeat("a", 65) + "/v2.0",
			"tid": strings.Repeat("a", 65)},
		"the claim in other case": {"iss": iss, "TID": tid},
		"the value in other case": {"iss": iss, "tid": strings.ToUpper(tid)},
	} {
		refuses(t, a, name, s.token(t, changes), errIssuer)
	}
	for range 2 { // from the cache, too
		identity, err := a.Verify(t.Context(), s.token(t, map[string]any{"iss": iss, "tid": tid}))
		if err != nil || identity.Issuer != iss {
			t.Fatalf("%+v, %v", identity, err)
		}
	}
}

// TestIssuerPattern_areCheckedByNew: what could let a token choose between rules, or name another site, is
// refused.
func TestIssuerPattern_areCheckedByNew(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"https://login.example/{tid", "https://login.example/tid}", "https://login.example/{}",
		"https://login.example/{tid}/{x}",
		"https://{tid}.login.example/", "https://{tid}/v2.0", "{tid}", "https://login.example/a{tid}",
		"https://login.example/{tid}b",
		"https://login.example/{iss}", "https://login.example/{a b}", "https://login.example/{{tid}}",
	} {
		c := testConfig("HS256")
		c.Secret, c.Issuer = make([]byte, 32), name
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), "Config.Issuer") {
			t.Errorf("%s: %v", name, err)
		}
	}
	c := testConfig("RS256")
	c.Issuer, c.Discover = patternIssuer, true
	if _, err := New(c); err == nil || !strings.Contains(err.Error(), "JWKSURL") {
		t.Errorf("Discover: %v", err)
	}
	for other, want := range map[string]bool{
		"https://login.example/{oid}/v2.0": false, "https://login.example/a/{tid}": false,
		"https://login.example/{tid}":      true,
		"https://login.example/{tid}/v1.0": true, "https://other.example/{tid}/v2.0": true,
		"https://login.example/a/v2.0": true,
	} {
		c := testConfig("HS256")
		c.Secret, c.Issuer = make([]byte, 32), patternIssuer
		c.Others = []IssuerConfig{{Issuer: other, Audience: "a", Algorithms: []string{"HS256"},
			Secret: make([]byte, 32)}}
		if _, err := New(c); (err == nil) != want {
			t.Errorf("beside %s: %v", other, err)
		}
	}
}

// TestIssuerPattern_yieldsToAnExactName: a token of an issuer that is named exactly must satisfy that one's
// rules.
func TestIssuerPattern_yieldsToAnExactName(t *testing.T) {
	t.Parallel()
	const exact = "https://login.example/own/v2.0"
	own := newSigner(t, "HS256")
	a, others := newFixture(t, "HS256", func(c *Config) {
		c.Issuer = patternIssuer
		c.Others = []IssuerConfig{{Issuer: exact, Audience: testAudience, Algorithms: []string{"HS256"},
			Secret: own.private.([]byte)}}
	})
	changes := map[string]any{"iss": exact, "tid": "own"}
	refuses(t, a, "with the pattern's key", others.named(t, "", changes), errSignature)
	verifies(t, a, "with its own", own.named(t, "", changes), nil)
}

func FuzzIssuerPattern(f *testing.F) {
	f.Add("https://login.example/a-b/v2.0", "a-b")
	f.Add("https://login.example/{tid}/v2.0", "{tid}")
	f.Add("https://login.example//v2.0", "")
	f.Fuzz(func(t *testing.T, iss, tid string) {
		p, err := parseIssuer(IssuerConfig{Issuer: patternIssuer})
		if err != nil {
			t.Fatal(err)
		}
		if p.matches(iss, &claimSet{members: map[string]any{"tid": tid}}) &&
			(iss != strings.Replace(patternIssuer, "{tid}", tid, 1) || tid == "" || len(tid) > 64 ||
				strings.ContainsAny(tid, "/.{}%\x00 ")) {
			t.Errorf("%q with %q", iss, tid)
		}
	})
}
