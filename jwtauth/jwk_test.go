package jwtauth

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

// algorithmsNamed looks algorithms up.
func algorithmsNamed(names ...string) (list []*algorithm) {
	for _, name := range names {
		list = append(list, algorithms[name])
	}
	return list
}

// TestJWK_rules changes one member of a good key at a time.
func TestJWK_rules(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		algorithm string
		changes   map[string]any
		want      string // part of the reason; empty for a usable key
	}{
		"RSA":            {"RS256", nil, ""},
		"RSA for PSS":    {"PS512", nil, ""},
		"EC":             {"ES384", nil, ""},
		"EC of odd size": {"ES512", nil, ""},
		"OKP":            {"EdDSA", nil, ""},
		"oct":            {"HS512", nil, ""},
		"no alg":         {"ES256", map[string]any{"alg": nil}, ""},
		"no use":         {"ES256", map[string]any{"use": nil}, ""},
		"no kid":         {"ES256", map[string]any{"kid": nil}, ""},
		"own members": {"ES256", map[string]any{"x5t": "a", "x5c": []string{"MIIB"}, "exp": 1,
			"nbf": "x"}, ""},
		"key_ops": {"ES256", map[string]any{"key_ops": []string{"sign", "verify"}}, ""},
		"key_ops without verify": {"ES256", map[string]any{"key_ops": []string{"sign"}},
			"key_ops has no verify"},
		"key_ops empty":    {"ES256", map[string]any{"key_ops": []string{}}, "key_ops has no verify"},
		"key_ops a string": {"ES256", map[string]any{"key_ops": "verify"}, "key_ops has no verify"},
		"key_ops null": {"ES256", map[string]any{"key_ops": json.RawMessage("null")},
			"key_ops has no verify"},
		"use enc":               {"ES256", map[string]any{"use": "enc"}, "use is not sig"},
		"use in capitals":       {"ES256", map[string]any{"use": "SIG"}, "use is not sig"},
		"use a list":            {"ES256", map[string]any{"use": []string{"sig"}}, "use is not sig"},
		"alg of another family": {"ES256", map[string]any{"alg": "RS256"}, "alg is not one of"},
		"alg of another hash":   {"RS256", map[string]any{"alg": "RS384"}, "alg is not one of"},
		"alg for encryption":    {"RS256", map[string]any{"alg": "RSA-OAEP"}, "alg is not one of"},
		"alg a number":          {"RS256", map[string]any{"alg": 256}, "alg is not a string"},
		"kid a number":          {"ES256", map[string]any{"kid": 1}, "kid is not a string"},
		"kid too long": {"ES256", map[string]any{"kid": strings.Repeat("k", 257)},
			"kid is longer"},
		"kty missing":              {"ES256", map[string]any{"kty": nil}, "kty is none of"},
		"kty of another family":    {"ES256", map[string]any{"kty": "RSA"}, "n is missing"},
		"kty unknown":              {"ES256", map[string]any{"kty": "AKP"}, "kty is none of"},
		"kty in lower case":        {"ES256", map[string]any{"kty": "ec"}, "kty is none of"},
		"private RSA":              {"RS256", map[string]any{"d": "AQAB"}, "private key"},
		"private EC":               {"ES256", map[string]any{"d": "AQAB"}, "private key"},
		"private OKP":              {"EdDSA", map[string]any{"d": 1}, "private key"},
		"crv of another algorithm": {"ES256", map[string]any{"crv": "P-384"}, "not on curve"},
		"crv unknown":              {"ES256", map[string]any{"crv": "secp256k1"}, "crv is none of"},
		"crv of 224 bits":          {"ES256", map[string]any{"crv": "P-224"}, "crv is none of"},
		"crv empty":                {"ES256", map[string]any{"crv": ""}, "crv is none of"},
		"crv left out":             {"ES512", map[string]any{"crv": nil}, ""},
		"crv X25519":               {"EdDSA", map[string]any{"crv": "X25519"}, "crv is not Ed25519"},
		"crv Ed448":                {"EdDSA", map[string]any{"crv": "Ed448"}, "crv is not Ed25519"},
		"x missing":                {"ES256", map[string]any{"x": nil}, "x is missing"},
		"x a number":               {"ES256", map[string]any{"x": 1}, "x is not a string"},
		"x padded": {"EdDSA", map[string]any{"x": strings.Repeat("A", 43) + "="},
			"x is missing or not base64url"},
		"x short": {"EdDSA", map[string]any{"x": strings.Repeat("A", 40)},
			"x must have 32 bytes"},
		"x of 33 bytes": {"EdDSA", map[string]any{"x": strings.Repeat("A", 44)},
			"x must have 32 bytes"},
		"y too long":         {"ES256", map[string]any{"y": strings.Repeat("A", 44)}, "y is too long"},
		"y of another point": {"ES256", map[string]any{"y": strings.Repeat("A", 43)}, "not on curve"},
		"n of 1024 bits": {"RS256", map[string]any{"n": strings.Repeat("_", 170) + "8"},
			"RSA modulus of 1024 bits"},
		"n of a mebibyte": {"RS256", map[string]any{"n": strings.Repeat("_", 1<<20)},
			"more than 8192 bits"},
		"n even": {"RS256", map[string]any{"n": "gA" + strings.Repeat("A", 340)},
			"modulus odd"},
		"e missing":    {"RS256", map[string]any{"e": nil}, "e is missing"},
		"e one":        {"RS256", map[string]any{"e": "AQ"}, "exponent must be odd"},
		"e zero":       {"RS256", map[string]any{"e": "AA"}, "exponent must be odd"},
		"e even":       {"RS256", map[string]any{"e": "Ag"}, "exponent must be odd"},
		"e of 32 bits": {"RS256", map[string]any{"e": "_____w"}, "more than 31 bits"},
		"e of 9 bytes": {"RS256", map[string]any{"e": "AQAAAAAAAAAB"}, "more than 31 bits"},
		"k short": {"HS512", map[string]any{"k": strings.Repeat("A", 84)},
			"63 bytes are too short"},
		"k empty": {"HS256", map[string]any{"k": ""}, "k is missing"},
		"k not base64url": {"HS256", map[string]any{"k": strings.Repeat("+", 43)},
			"k is missing or not"},
	} {
		document := keySetOf(newSigner(t, test.algorithm).jwk(t, testKeyID, test.changes))
		parsed, err := parseJWKS([]byte(document), algorithmsNamed(test.algorithm))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if usable := len(parsed.set.keys) == 1; usable != (test.want == "") {
			t.Errorf("%s: usable %t, %v", name, usable, parsed.skipped)
		}
		if reason := errors.Join(parsed.skipped...); test.want != "" &&
			(reason == nil || !strings.Contains(reason.Error(), test.want)) {
			t.Errorf("%s: %v, want %q", name, reason, test.want)
		}
	}
}

// TestJWK_keyWithoutAlgServesWhatFits, and a key with alg serves that alone.
func TestJWK_keyWithoutAlgServesWhatFits(t *testing.T) {
	t.Parallel()
	all := algorithmsNamed(append([]string{"HS256", "HS384", "HS512"}, asymmetric...)...)
	for algorithm, want := range map[string]string{
		"RS256": "RS256 RS384 RS512 PS256 PS384 PS512", "ES256": "ES256", "ES384": "ES384", "ES512": "ES512",
		"EdDSA": "EdDSA", "HS256": "HS256 HS384 HS512",
	} {
		s := newSigner(t, algorithm)
		for alg, want := range map[string]string{"": want, algorithm: algorithm} {
			change := map[string]any{"alg": alg}
			if alg == "" {
				change["alg"] = nil
			}
			parsed, err := parseJWKS([]byte(keySetOf(s.jwk(t, testKeyID, change))), all)
			if err != nil || len(parsed.set.keys) != 1 {
				t.Fatalf("%s: %v, %v", algorithm, err, parsed.skipped)
			}
			var names []string
			for _, a := range parsed.set.keys[0].algorithms {
				names = append(names, a.name)
			}
			if got := strings.Join(names, " "); got != want {
				t.Errorf("%s with alg %q serves %s, want %s", algorithm, alg, got, want)
			}
		}
	}
}

// TestJWK_leadingZerosOfCoordinates may be left out, as some encoders do: the point is the same.
func TestJWK_leadingZerosOfCoordinates(t *testing.T) {
	t.Parallel()
	size := (elliptic.P521().Params().BitSize + 7) / 8
	for { // half of all x coordinates of this curve begin with a zero byte
		s := newSigner(t, "ES512")
		point, err := s.public.(*ecdsa.PublicKey).Bytes()
		if err != nil {
			t.Fatal(err)
		}
		if point[1] != 0 {
			continue
		}
		x := strings.TrimLeft(string(point[1:1+size]), "\x00")
		c := testConfig("ES512")
		c.JWKS = []byte(keySetOf(s.jwk(t, testKeyID, map[string]any{"x": encode(x)})))
		a, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		verifies(t, a, "shortened x", s.token(t, nil), nil)
		return
	}
}

func TestJWK_lookupNeverTriesKeys(t *testing.T) {
	t.Parallel()
	one, two := newSigner(t, "ES256"), newSigner(t, "ES256")
	for name, test := range map[string]struct {
		keys []string
		kid  string
		want error
	}{
		"one key, its name":     {[]string{one.jwk(t, "one", nil)}, "one", nil},
		"one key, no name":      {[]string{one.jwk(t, "one", nil)}, "", nil},
		"one key, another name": {[]string{one.jwk(t, "one", nil)}, "other", errUnknownKey},
		"nameless key, no name": {[]string{one.jwk(t, "", map[string]any{"kid": nil})}, "", nil},
		"nameless key, a name": {[]string{one.jwk(t, "", map[string]any{"kid": nil})}, "one",
			errUnknownKey},
		"two keys, no name": {[]string{one.jwk(t, "one", nil), two.jwk(t, "two", nil)}, "",
			errNoKeyID},
		"two keys, the name": {[]string{one.jwk(t, "one", nil), two.jwk(t, "two", nil)},
			"one", nil},
		"two keys, the other's name": {[]string{one.jwk(t, "one", nil), two.jwk(t, "two", nil)}, "two",
			errSignature},
		"two nameless keys, no name": {[]string{one.jwk(t, "", map[string]any{"kid": nil}),
			two.jwk(t, "", map[string]any{"kid": nil})}, "", errNoKeyID},
		"one usable of two, no name": {[]string{one.jwk(t, "one", nil),
			two.jwk(t, "two", map[string]any{"use": "enc"})}, "", nil},
		"namesake for encryption": {[]string{one.jwk(t, "one", nil),
			two.jwk(t, "one", map[string]any{"use": "enc"})}, "one", nil},
		"namesake, broken": {[]string{one.jwk(t, "one", nil),
			two.jwk(t, "one", map[string]any{"x": 1}), two.jwk(t, "two", nil)}, "one", errUnknownKey},
		"key for another, its name": {[]string{one.jwk(t, "one", map[string]any{"alg": nil}),
			newSigner(t, "RS256").jwk(t, "rsa", nil)}, "rsa", errKeyAlgorithm},
		"only key for another, no name": {[]string{newSigner(t, "RS256").jwk(t, "rsa", nil)}, "",
			errKeyAlgorithm},
	} {
		c := testConfig("ES256")
		c.Algorithms = []string{"ES256", "RS256"}
		c.JWKS = []byte(keySetOf(test.keys...))
		a, err := New(c)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		verifies(t, a, name, one.named(t, test.kid, nil), test.want)
	}
}

// FuzzParseJWKS checks that whatever is parsed keeps the rules: a kid is one key's, and every key fits its
// algorithms.
func FuzzParseJWKS(f *testing.F) {
	for _, algorithm := range []string{"HS256", "RS256", "ES256", "ES384", "ES512", "EdDSA"} {
		s := newSigner(f, algorithm)
		f.Add(keySetOf(s.jwk(f, "a", nil), s.jwk(f, "a", map[string]any{"use": "enc"}),
			s.jwk(f, "b", map[string]any{"alg": nil, "key_ops": []string{"verify"}})))
	}
	f.Add(`{"keys":null}`)
	f.Add(`{"keys":[null,1,{},{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}]}`)
	all := algorithmsNamed(append([]string{"HS256", "HS384", "HS512"}, asymmetric...)...)
	f.Fuzz(func(t *testing.T, document string) {
		parsed, err := parseJWKS([]byte(document), all)
		if err != nil {
			return
		}
		if len(parsed.set.keys)+len(parsed.skipped) > strings.Count(document, ",")+1 {
			t.Fatalf("%q: %d keys and %d skipped", document, len(parsed.set.keys), len(parsed.skipped))
		}
		seen := make(map[string]bool)
		for _, k := range parsed.set.keys {
			if len(k.algorithms) == 0 || len(k.id) > maxKeyIDBytes || seen[k.id] && k.id != "" ||
				!utf8.ValidString(k.id) {
				t.Fatalf("%q: a key with name %q and %d algorithms", document, k.id, len(k.algorithms))
			}
			seen[k.id] = true
			for _, a := range k.algorithms {
				if err := a.fits(k.material); err != nil {
					t.Fatalf("%q: %v", document, err)
				}
				// The crypto must refuse, not panic, whatever the key is.
				if a.method.Verify("a.b", make([]byte, 2*a.hmacBytes+64), k.material) == nil {
					t.Fatalf("%q: a signature of zeros is good", document)
				}
			}
			if k.id != "" && parsed.set.named[k.id] != k {
				t.Fatalf("%q: %q is not found", document, k.id)
			}
		}
	})
}
