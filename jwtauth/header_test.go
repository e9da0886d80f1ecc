package jwtauth

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tenantdb/tenantdb"
)

// refuses fails the test unless the token is refused for the reason.
func refuses(t *testing.T, a *Authenticator, name, token string, reason error) {
	t.Helper()
	identity, err := a.Verify(t.Context(), token)
	if identity != nil || !errors.Is(err, reason) || !errors.Is(err, tenantdb.ErrInvalidCredential) {
		t.Errorf("%s: %v, %v; want %v", name, identity, err, reason)
	}
}

// TestHeader_attacks signs each hostile header with the right key: only the header check stands between it
// and a 200.
func TestHeader_attacks(t *testing.T) {
	t.Parallel()
	a, s := newFixture(t, "ES256", nil)
	good := `{"alg":"ES256","kid":"key-1"`
	for name, test := range map[string]struct {
		header string
		reason error
	}{
		"crit unknown":         {good + `,"crit":["exp"]}`, errHeader},
		"crit empty":           {good + `,"crit":[]}`, errHeader},
		"crit a string":        {good + `,"crit":"exp"}`, errHeader},
		"crit null":            {good + `,"crit":null}`, errHeader},
		"crit in capitals":     {good + `,"CRIT":["x"]}`, errHeader},
		"b64 false":            {good + `,"b64":false}`, errHeader},
		"b64 false with crit":  {good + `,"b64":false,"crit":["b64"]}`, errHeader},
		"b64 true":             {good + `,"b64":true}`, errHeader},
		"zip":                  {good + `,"zip":"DEF"}`, errHeader},
		"cty":                  {good + `,"cty":"JWT"}`, errHeader},
		"jwk":                  {good + `,"jwk":` + s.jwk(t, testKeyID, nil) + `}`, errHeader},
		"jku":                  {good + `,"jku":"https://issuer.example/keys"}`, errHeader},
		"x5u":                  {good + `,"x5u":"https://issuer.example/cert"}`, errHeader},
		"x5c":                  {good + `,"x5c":["MIIB"]}`, errHeader},
		"typ of another kind":  {good + `,"typ":"logout+jwt"}`, errType},
		"typ empty":            {good + `,"typ":""}`, errType},
		"typ a number":         {good + `,"typ":1}`, errType},
		"typ null":             {good + `,"typ":null}`, errType},
		"typ of another tree":  {good + `,"typ":"text/jwt"}`, errType},
		"kid a path":           {`{"alg":"ES256","kid":"../../../dev/null"}`, errUnknownKey},
		"kid SQL":              {`{"alg":"ES256","kid":"key-1' OR '1'='1"}`, errUnknownKey},
		"kid in other case":    {`{"alg":"ES256","kid":"KEY-1"}`, errUnknownKey},
		"kid empty":            {`{"alg":"ES256","kid":""}`, errUnknownKey},
		"kid a number":         {`{"alg":"ES256","kid":1}`, errHeader},
		"kid null":             {`{"alg":"ES256","kid":null}`, errHeader},
		"kid an array":         {`{"alg":"ES256","kid":["key-1"]}`, errHeader},
		"kid too long":         {`{"alg":"ES256","kid":"` + strings.Repeat("k", 257) + `"}`, errHeader},
		"kid twice":            {good + `,"kid":"key-1"}`, errHeader},
		"alg twice":            {good + `,"alg":"ES256"}`, errHeader},
		"alg twice, escaped":   {good + `,"\u0061lg":"none"}`, errHeader},
		"alg in two cases":     {good + `,"ALG":"none"}`, errHeader},
		"kid with Kelvin sign": {good + `,"\u212aid":"x"}`, errHeader},
		"own member twice":     {good + `,"x":1,"x":1}`, errHeader},
		"nested twice":         {good + `,"x":{"a":1,"a":1}}`, errHeader},
		"alg missing":          {`{"kid":"key-1"}`, errHeader},
		"alg null":             {`{"alg":null,"kid":"key-1"}`, errHeader},
		"alg a list":           {`{"alg":["ES256"],"kid":"key-1"}`, errHeader},
		"alg none":             {`{"alg":"none","kid":"key-1"}`, errAlgorithm},
		"alg None":             {`{"alg":"None","kid":"key-1"}`, errAlgorithm},
		"alg lower case":       {`{"alg":"es256","kid":"key-1"}`, errAlgorithm},
		"alg with a space":     {`{"alg":"ES256 ","kid":"key-1"}`, errAlgorithm},
		"alg unknown":          {`{"alg":"ES256K","kid":"key-1"}`, errAlgorithm},
		"alg of another hash":  {`{"alg":"ES384","kid":"key-1"}`, errAlgorithm},
		"alg symmetric":        {`{"alg":"HS256","kid":"key-1"}`, errAlgorithm},
		"no object":            {`[{"alg":"ES256","kid":"key-1"}]`, errHeader},
		"null":                 {`null`, errHeader},
		"text behind":          {good + `}x`, errHeader},
		"not UTF-8":            {good + `,"x":"` + "\xff" + `"}`, errHeader},
		"a lone surrogate":     {good + `,"x":"\ud800"}`, errHeader},
		"deep": {good + `,"x":` + strings.Repeat("[", 200) + strings.Repeat("]", 200) + `}`,
			errHeader},
	} {
		refuses(t, a, name, s.raw(t, test.header, jsonText(t, claims(nil))), test.reason)
	}
	if _, err := a.Verify(t.Context(), s.raw(t, good+`}`, jsonText(t, claims(nil)))); err != nil {
		t.Errorf("the header that all these begin with is refused: %v", err)
	}
}

func TestHeader_forms(t *testing.T) {
	t.Parallel()
	a, s := newFixture(t, "ES256", nil)
	for _, header := range []string{
		`{"alg":"ES256"}`, `{"alg":"ES256","kid":"key-1","typ":"JWT"}`, `{"alg":"ES256","typ":"jwt"}`,
		`{"alg":"ES256","typ":"at+jwt"}`,
		`{"alg":"ES256","typ":"application/at+jwt"}`, `{"alg":"ES256","typ":"application/jwt"}`,
		` { "kid" : "key-1" , "alg" : "ES256" } `,
		`{"alg":"ES256","x5t":"abc","x5t#S256":"def","nonce":"n"}`,
	} {
		if _, err := a.Verify(t.Context(), s.raw(t, header, jsonText(t, claims(nil)))); err != nil {
			t.Errorf("%s: %v", header, err)
		}
	}
}

// TestHeader_algorithmConfusion signs HS256 with what an attacker knows of a public key.
func TestHeader_algorithmConfusion(t *testing.T) {
	t.Parallel()
	a, s := newFixture(t, "RS256", nil)
	modulus := testRSA[0]().N.Bytes()
	for name, secret := range map[string][]byte{
		"modulus": modulus, "jwk": []byte(s.jwk(t, testKeyID, nil)), "empty": {},
		"pem": []byte(publicPEM(t, s.public)),
	} {
		forger := &signer{method: newSigner(t, "HS256").method, private: secret}
		refuses(t, a, name, forger.token(t, nil), errAlgorithm)
	}
}

// TestParse_tokenForms refuses every other spelling of a good token, and what is no token at all.
func TestParse_tokenForms(t *testing.T) {
	t.Parallel()
	a, s := newFixture(t, "HS256", func(c *Config) { c.Cache.Disabled = true })
	good := s.token(t, nil)
	parts := strings.Split(good, ".")
	// The last character of a 32-byte signature carries two unused bits: four spellings decode alike.
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, good[len(good)-1])
	unusedBits := good[:len(good)-1] + string(alphabet[last^1])
	for name, token := range map[string]string{
		"empty": "", "dots": "..", "one segment": parts[0], "two segments": parts[0] + "." + parts[1],
		"four segments": good + ".x",
		"dot behind":    good + ".", "dot before": "." + good, "no header": "." + parts[1] + "." + parts[2],
		"no payload":   parts[0] + ".." + parts[2],
		"no signature": parts[0] + "." + parts[1] + ".", "padding": good + "=", "space behind": good + " ",
		"newline behind":           good + "\n",
		"newline in the signature": good[:len(good)-4] + "\n" + good[len(good)-4:],
		"return in the signature":  good[:len(good)-4] + "\r" + good[len(good)-4:],
		"newline in the header":    "\n" + good, "NUL": good + "\x00", "not ASCII": good + "é",
		"standard alphabet":  strings.NewReplacer("-", "+", "_", "/").Replace(good) + "+",
		"JWE":                parts[0] + "." + parts[1] + "." + parts[2] + "." + parts[1] + "." + parts[2],
		"JSON serialization": `{"payload":"` + parts[1] + `"}`,
	} {
		refuses(t, a, name, token, errForm)
	}
	// The payload is not decoded by the form check: a bad length or unused bits show when it is.
	refuses(t, a, "payload of impossible length",
		parts[0]+"."+parts[1]+strings.Repeat("A", 5-len(parts[1])%4)+"."+parts[2], errForm)
	refuses(t, a, "header of impossible length",
		parts[0]+strings.Repeat("A", 5-len(parts[0])%4)+"."+parts[1]+"."+parts[2], errForm)
	refuses(t, a, "unused bits in the signature", unusedBits, errForm)
	refuses(t, a, "another signature", parts[0]+"."+parts[1]+"."+encode(strings.Repeat("x", 32)),
		errSignature)
	refuses(t, a, "signature cut", good[:len(good)-3], errSignature)
	if _, err := a.Verify(t.Context(), good); err != nil {
		t.Errorf("the token that all these are made of is refused: %v", err)
	}
}

func TestHeader_longTokensAreRefusedBeforeDecoding(t *testing.T) {
	a, s := newFixture(t, "HS256", nil)
	base := len(s.token(t, map[string]any{"x": ""}))
	fill := (maxTokenBytes - base) * 3 / 4
	longest := s.token(t, map[string]any{"x": strings.Repeat("x", fill-2)})
	if len(longest) > maxTokenBytes || len(longest) < maxTokenBytes-8 {
		t.Fatalf("the test's longest token has %d bytes", len(longest))
	}
	if _, err := a.Verify(t.Context(), longest); err != nil {
		t.Errorf("a token of %d bytes: %v", len(longest), err)
	}
	refuses(t, a, "16 KiB and some", s.token(t, map[string]any{"x": strings.Repeat("x", fill+8)}), errTooLong)
	huge := request(s.token(t, map[string]any{"x": strings.Repeat("x", 1<<20)}))
	if n := testing.AllocsPerRun(10, func() {
		if _, err := a.Authenticate(huge); !errors.Is(err, errTooLong) {
			t.Error(err)
		}
	}); n > 0 {
		t.Errorf("a token of a mebibyte costs %v allocations", n)
	}
}

// TestHeader_embeddedAddressesAreNeverCalled runs a server at every address that a token can bring along.
func TestHeader_embeddedAddressesAreNeverCalled(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	lure := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { calls.Add(1) }))
	defer lure.Close()
	s := newSigner(t, "ES256")
	server := newKeyServer(t, keySetOf(s.jwk(t, testKeyID, nil)))
	a := newRemoteFixture(t, server, nil)
	for _, name := range []string{"jku", "x5u", "jwk", "x5c", "kid", "iss", "other"} {
		h := map[string]any{"alg": "ES256", "kid": testKeyID}
		changes := map[string]any{"iss": lure.URL, "jku": lure.URL, "jwks_uri": lure.URL}
		maps.Copy(h, map[string]any{name: lure.URL})
		refuses(t, a, name, s.raw(t, jsonText(t, h), jsonText(t, claims(changes))),
			tenantdb.ErrInvalidCredential)
	}
	if n := calls.Load(); n != 0 {
		t.Errorf("%d calls to an address from a token", n)
	}
	if n := server.fetches(); n != 0 {
		t.Errorf("%d fetches for tokens that no rule set is for", n)
	}
}

// FuzzParseHeader checks that what passes has the form that it promises, and that the standard decoder reads
// the same header.
func FuzzParseHeader(f *testing.F) {
	for _, seed := range []string{`{"alg":"HS256"}`, `{"alg":"ES256","kid":"k","typ":"at+jwt"}`,
		`{"alg":"x","crit":["a"]}`, `{"ALG":"x","alg":"y"}`, `{"alg":"a","kid":1}`} {
		f.Add(encode(seed) + ".e30.AA")
	}
	f.Add("..")
	f.Add("e30.e30.")
	f.Fuzz(func(t *testing.T, token string) {
		h, err := parseHeader(token)
		if err != nil {
			if !errors.Is(err, tenantdb.ErrInvalidCredential) || h.members != nil {
				t.Fatalf("%q: %v, %v", token, h, err)
			}
			return
		}
		parts := strings.Split(token, ".")
		if len(parts) != 3 {
			t.Fatalf("%q has the wrong form", token)
		}
		text, err := base64.RawURLEncoding.DecodeString(parts[0])
		if err != nil || encode(string(text)) != parts[0] {
			t.Fatalf("%q is not canonical: %v", token, err)
		}
		// A struct is what a lenient reader decodes into, regardless of case: it must not see another header.
		var lenient struct {
			Alg                                string
			Kid, Typ                           any
			Crit, Zip, Cty, JWK, JKU, X5U, X5C any
		}
		if err := json.Unmarshal(text, &lenient); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if lenient.Alg != h.algorithm || h.hasKeyID != (lenient.Kid != nil) || h.hasKeyID &&
			lenient.Kid != h.keyID || h.hasType && lenient.Typ != h.tokenType {
			t.Fatalf("%q: %+v, but a lenient reader has %+v", text, h, lenient)
		}
		if s := fmt.Sprint(lenient.Crit, lenient.Zip, lenient.Cty, lenient.JWK, lenient.JKU, lenient.X5U,
			lenient.X5C); s != strings.TrimSpace(strings.Repeat("<nil> ", 7)) {
			t.Fatalf("%q passes with %s", text, s)
		}
	})
}
