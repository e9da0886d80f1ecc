package jwtauth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// What the tests' tokens say. testNow lies well inside their time.
const (
	testIssuer   = "https://issuer.example"
	testAudience = "tenantdb-test"
	testKeyID    = "key-1"
)

var testNow = time.Unix(1_800_000_000, 0)

// clock is a settable time.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: testNow} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// signer holds a key pair, or a secret, and signs tokens.
type signer struct {
	method  jwt.SigningMethod
	private any
	public  crypto.PublicKey
}

// RSA keys are slow to make; all tests share two.
var testRSA = [2]func() *rsa.PrivateKey{sync.OnceValue(newRSA), sync.OnceValue(newRSA)}

func newRSA() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
}

func newSigner(t testing.TB, algorithm string) *signer {
	t.Helper()
	s := &signer{method: jwt.GetSigningMethod(algorithm)}
	switch algorithm[:2] {
	case "HS":
		secret := make([]byte, 64)
		rand.Read(secret)
		s.private, s.public = secret, secret
	case "RS", "PS":
		s.private, s.public = testRSA[0](), &testRSA[0]().PublicKey
	case "ES":
		curve := map[string]elliptic.Curve{"ES256": elliptic.P256(), "ES384": elliptic.P384(),
			"ES512": elliptic.P521()}[algorithm]
		k, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		s.private, s.public = k, &k.PublicKey
	default:
		public, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		s.private, s.public = private, public
	}
	return s
}

// claims returns good claims with changes: a nil value takes a claim away.
func claims(changes map[string]any) map[string]any {
	c := map[string]any{
		"iss": testIssuer, "aud": testAudience, "sub": "user-1", "tenant_id": "acme",
		"iat": testNow.Add(-time.Minute).Unix(), "nbf": testNow.Add(-time.Minute).Unix(),
		"exp": testNow.Add(time.Hour).Unix(),
	}
	maps.Copy(c, changes)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return c
}

// token signs good claims with changes, under the usual header.
func (s *signer) token(t testing.TB, changes map[string]any) string {
	t.Helper()
	return s.named(t, testKeyID, changes)
}

// named signs as token does, under another kid; an empty one is left out.
func (s *signer) named(t testing.TB, kid string, changes map[string]any) string {
	t.Helper()
	h := map[string]any{"alg": s.method.Alg(), "typ": "JWT"}
	if kid != "" {
		h["kid"] = kid
	}
	return s.raw(t, jsonText(t, h), jsonText(t, claims(changes)))
}

// raw signs any header and payload.
func (s *signer) raw(t testing.TB, header, payload string) string {
	t.Helper()
	text := encode(header) + "." + encode(payload)
	signature, err := s.method.Sign(text, s.private)
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + encode(string(signature))
}

func encode(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

func jsonText(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// jwk returns the public JWK, with members changed.
func (s *signer) jwk(t testing.TB, kid string, changes map[string]any) string {
	t.Helper()
	k := map[string]any{"kid": kid, "use": "sig", "alg": s.method.Alg()}
	switch public := s.public.(type) {
	case []byte:
		k["kty"], k["k"] = "oct", encode(string(public))
	case *rsa.PublicKey:
		k["kty"], k["n"], k["e"] = "RSA", encode(string(public.N.Bytes())), "AQAB"
	case *ecdsa.PublicKey:
		point, err := public.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		half := 1 + len(point)/2
		k["kty"], k["crv"] = "EC", public.Curve.Params().Name
		k["x"], k["y"] = encode(string(point[1:half])), encode(string(point[half:]))
	case ed25519.PublicKey:
		k["kty"], k["crv"], k["x"] = "OKP", "Ed25519", encode(string(public))
	}
	maps.Copy(k, changes)
	maps.DeleteFunc(k, func(_ string, v any) bool { return v == nil })
	return jsonText(t, k)
}

// keySetOf joins JWKs.
func keySetOf(jwks ...string) string {
	return `{"keys":[` + strings.Join(jwks, ",") + `]}`
}

// testConfig accepts the tokens of newSigner(t, algorithm) at testNow, once it has a key source.
func testConfig(algorithm string) Config {
	return Config{
		Issuer: testIssuer, Audience: testAudience, Algorithms: []string{algorithm},
		Now: func() time.Time { return testNow },
	}
}

// newFixture returns an authenticator with a static key, and the signer of its tokens.
func newFixture(t testing.TB, algorithm string, change func(*Config)) (*Authenticator, *signer) {
	t.Helper()
	s := newSigner(t, algorithm)
	c := testConfig(algorithm)
	c.JWKS = []byte(keySetOf(s.jwk(t, testKeyID, nil)))
	if change != nil {
		change(&c)
	}
	a, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return a, s
}
