package jwtauth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// TestNew_refuses weak, contradictory and incomplete configurations, and names the field each time.
func TestNew_refuses(t *testing.T) {
	t.Parallel()
	secret := []byte(strings.Repeat("s", 64))
	es := newSigner(t, "ES256")
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	//lint:ignore SA1019 nothing but raw coordinates makes a key that is off its curve
	offCurve := &ecdsa.PublicKey{Curve: elliptic.P256(), X: big.NewInt(1), Y: big.NewInt(1)}
	public := func(k crypto.PublicKey) func(*Config) {
		return func(c *Config) { c.Secret, c.PublicKeys = nil, map[string]crypto.PublicKey{"k": k} }
	}
	with := func(algorithms []string, change func(*Config)) func(*Config) {
		return func(c *Config) { c.Algorithms = algorithms; change(c) }
	}
	keyfunc := func(*jwt.Token) (any, error) { return secret, nil }
	for name, test := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"no issuer":     {func(c *Config) { c.Issuer = "" }, "Config.Issuer is empty"},
		"no audience":   {func(c *Config) { c.Audience = "" }, "Config.Audience is empty"},
		"no algorithms": {func(c *Config) { c.Algorithms = nil }, "Config.Algorithms is empty"},
		"algorithm none": {func(c *Config) { c.Algorithms = []string{"none"} },
			`Config.Algorithms: "none" is unknown`},
		"algorithm empty": {func(c *Config) { c.Algorithms = []string{"HS256", ""} },
			`Config.Algorithms: "" is unknown`},
		"algorithm in other case": {func(c *Config) { c.Algorithms = []string{"hs256"} },
			`Config.Algorithms: "hs256" is unknown`},
		"mixed algorithms": {func(c *Config) { c.Algorithms = []string{"HS256", "RS256"} },
			"Config.Algorithms mixes"},
		"no key source": {func(c *Config) { c.Secret = nil },
			"Config.Secret, PublicKeys, PEM, JWKS, JWKSURL, Discover and Keyfunc are all empty"},
		"two key sources": {func(c *Config) { c.JWKSURL = "https://issuer.example/keys" },
			"Config.Secret and JWKSURL are key sources"},
		"keyfunc beside another":   {func(c *Config) { c.Keyfunc = keyfunc }, "Secret and Keyfunc"},
		"discovery beside another": {func(c *Config) { c.Discover = true }, "Secret and Discover"},
		"secret empty": {func(c *Config) { c.Secret = []byte{} },
			"Config.Secret: 0 bytes are too short: HS256 needs 32"},
		"secret short": {func(c *Config) { c.Secret = secret[:31] },
			"Config.Secret: 31 bytes are too short: HS256 needs 32"},
		"secret short for HS384": {with([]string{"HS384"}, func(c *Config) { c.Secret = secret[:47] }),
			"HS384 needs 48"},
		"secret short for one of two": {with([]string{"HS256", "HS512"},
			func(c *Config) { c.Secret = secret[:63] }), "HS512 needs 64"},
		"secret for RSA": {func(c *Config) { c.Algorithms = []string{"RS256"} },
			"Config.Secret is given, but Algorithms has RS256"},
		"public keys for HMAC": {public(es.public), "Config.Algorithms has HS256"},
		"JWKS URL for HMAC": {func(c *Config) {
			c.Secret, c.JWKSURL = nil,
				"https://issuer.example/"
		}, "Config.Algorithms has HS256"},
		"public keys empty": {with([]string{"ES256"},
			func(c *Config) { c.Secret, c.PublicKeys = nil, map[string]crypto.PublicKey{} }),
			"Config.PublicKeys is empty"},
		"RSA of 1024 bits": {with([]string{"RS256"}, public(&small.PublicKey)),
			`Config.PublicKeys["k"]: an RSA modulus of 1024 bits`},
		"RSA of 8193 bits": {with([]string{"RS256"},
			public(&rsa.PublicKey{N: new(big.Int).Add(new(big.Int).Lsh(big.NewInt(1), 8192), big.NewInt(1)),
				E: 65537})), "8193 bits"},
		"RSA exponent 1": {with([]string{"RS256"},
			public(&rsa.PublicKey{N: testRSA[0]().N, E: 1})), "exponent must be odd"},
		"RSA exponent even": {with([]string{"RS256"},
			public(&rsa.PublicKey{N: testRSA[0]().N, E: 65536})), "exponent must be odd"},
		"RSA without modulus": {with([]string{"RS256"}, public(&rsa.PublicKey{})), "another type"},
		"RSA nil": {with([]string{"RS256"}, public((*rsa.PublicKey)(nil))),
			"another type"},
		"RSA for ECDSA": {with([]string{"ES256"}, public(&testRSA[0]().PublicKey)),
			"another type"},
		"private key":         {with([]string{"ES256"}, public(es.private)), "another type"},
		"bytes as public key": {with([]string{"ES256"}, public(secret)), "another type"},
		"nil as public key":   {with([]string{"ES256"}, public(nil)), "another type"},
		"nil ECDSA key": {with([]string{"ES256"}, public((*ecdsa.PublicKey)(nil))),
			"another type"},
		"another curve":       {with([]string{"ES256"}, public(&p384.PublicKey)), "another type"},
		"point off the curve": {with([]string{"ES256"}, public(offCurve)), `Config.PublicKeys["k"]`},
		"Ed25519 cut": {with([]string{"EdDSA"},
			public(newSigner(t, "EdDSA").public.(ed25519.PublicKey)[:31])), "another type"},
		"kid too long": {with([]string{"ES256"}, func(c *Config) {
			c.Secret, c.PublicKeys = nil, map[string]crypto.PublicKey{strings.Repeat("k", 257): es.public}
		}), "longer than 256 bytes"},
		"PEM of nothing": {with([]string{"ES256"}, func(c *Config) { c.Secret, c.PEM = nil, []byte("\n") }),
			"Config.PEM is empty"},
		"PEM of text": {with([]string{"ES256"}, func(c *Config) { c.Secret, c.PEM = nil, []byte("key") }),
			"Config.PEM: give PUBLIC KEY"},
		"PEM of a private key": {with([]string{"ES256"}, func(c *Config) {
			c.Secret, c.PEM = nil, []byte(strings.ReplaceAll(publicPEM(t, es.public), "PUBLIC", "PRIVATE"))
		}), "Config.PEM: give PUBLIC KEY"},
		"PEM with text behind": {with([]string{"ES256"},
			func(c *Config) { c.Secret, c.PEM = nil, []byte(publicPEM(t, es.public)+"x") }),
			"Config.PEM: give PUBLIC KEY"},
		"PEM of another family": {with([]string{"RS256"},
			func(c *Config) { c.Secret, c.PEM = nil, []byte(publicPEM(t, es.public)) }),
			"Config.PEM: block 1"},
		"JWKS empty": {func(c *Config) { c.Secret, c.JWKS = nil, []byte{} },
			"Config.JWKS: not a JWK set"},
		"JWKS without keys": {func(c *Config) { c.Secret, c.JWKS = nil, []byte(`{"keys":[]}`) },
			"Config.JWKS: no key can be used"},
		"JWKS mixed": {func(c *Config) {
			c.Secret, c.JWKS = nil, []byte(keySetOf(newSigner(t, "HS256").jwk(t, "a", nil),
				es.jwk(t, "b", nil)))
		}, "Config.JWKS mixes"},
		"JWKS of secrets for RSA": {with([]string{"RS256"},
			func(c *Config) {
				c.Secret, c.JWKS = nil,
					[]byte(keySetOf(newSigner(t, "HS256").jwk(t, "a", nil)))
			}), "Config.JWKS: no key can be used"},
		"JWKS of short secrets": {func(c *Config) {
			c.Secret, c.JWKS = nil,
				[]byte(`{"keys":[{"kty":"oct","k":"AAAA"}]}`)
		}, "HS256 needs 32"},
		"JWKS URL plain": {remoteAt("http://issuer.example/keys"),
			"Config.JWKSURL: http is for loopback"},
		"JWKS URL almost loopback": {remoteAt("http://localhost.evil.example/keys"),
			"Config.JWKSURL: http is for loopback"},
		"JWKS URL relative":     {remoteAt("/keys"), "Config.JWKSURL: not an absolute"},
		"JWKS URL a file":       {remoteAt("file:///keys"), "Config.JWKSURL: not an absolute"},
		"JWKS URL without host": {remoteAt("https://:443/keys"), "Config.JWKSURL: not an absolute"},
		"JWKS URL with password": {remoteAt("https://u:p@issuer.example/keys"),
			"Config.JWKSURL: an address with a user"},
		"JWKS URL broken": {remoteAt("https://issuer.example/%zz"),
			"Config.JWKSURL: not an absolute"},
		"discovery without address": {with([]string{"RS256"},
			func(c *Config) { c.Secret, c.Discover, c.Issuer = nil, true, "issuer" }),
			"Config.Discover: not an absolute"},
		"discovery plain": {with([]string{"RS256"},
			func(c *Config) { c.Secret, c.Discover, c.Issuer = nil, true, "http://issuer.example" }),
			"Config.Discover: http is for"},
		"no token types": {func(c *Config) { c.TokenTypes = []string{} },
			"Config.TokenTypes is empty"},
		"no parties": {func(c *Config) { c.AuthorizedParties = []string{} },
			"Config.AuthorizedParties is empty"},
		"audience by sub":         {func(c *Config) { c.AudienceClaim = "sub" }, "Config.AudienceClaim"},
		"leeway over a minute":    {func(c *Config) { c.Leeway = time.Minute + 1 }, "Config.Leeway"},
		"cookie name":             {func(c *Config) { c.Cookie = "a b" }, "Config.Cookie"},
		"cookie name with a line": {func(c *Config) { c.Cookie = "a\nb" }, `Config.Cookie: "a\nb"`},
		"cache entries negative":  {func(c *Config) { c.Cache.Entries = -1 }, "Config.Cache.Entries"},
		"cache bytes negative":    {func(c *Config) { c.Cache.Bytes = -1 }, "Cache.Bytes"},
		"cache age negative":      {func(c *Config) { c.Cache.MaxAge = -1 }, "Config.Cache.MaxAge"},
		"cache age over a minute": {func(c *Config) { c.Cache.MaxAge = time.Hour }, "Config.Cache.MaxAge"},
		"refresh too often":       {func(c *Config) { c.KeyRefresh = time.Second }, "Config.KeyRefresh"},
		"refresh negative":        {func(c *Config) { c.KeyRefresh = -time.Hour }, "Config.KeyRefresh"},
		"maximum age below refresh": {func(c *Config) { c.KeyRefresh, c.KeyMaxAge = time.Hour, time.Minute },
			"Config.KeyMaxAge"},
		"second issuer incomplete": {func(c *Config) {
			c.Others = []IssuerConfig{{Issuer: "b", Algorithms: []string{"HS256"}, Secret: secret}}
		}, "Config.Others[0].Audience is empty"},
		"second issuer the same": {func(c *Config) { c.Others = []IssuerConfig{c.first()} },
			"Config.Others[0].Issuer is that of another"},
		"third issuer without keys": {func(c *Config) {
			o := c.first()
			o.Issuer = "b"
			c.Others = []IssuerConfig{o, {Issuer: "c", Audience: "a", Algorithms: []string{"HS256"}}}
		}, "Config.Others[1].Secret, PublicKeys"},
	} {
		c := testConfig("HS256")
		c.Secret = secret
		test.change(&c)
		a, err := New(c)
		if a != nil || err == nil || !strings.HasPrefix(err.Error(), "jwtauth: Config.") ||
			!strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}

// remoteAt sets the address of a key set.
func remoteAt(address string) func(*Config) {
	return func(c *Config) { c.Secret, c.JWKSURL, c.Algorithms = nil, address, []string{"RS256"} }
}

// TestNew_doesNotKeepTheSecretsBytes: who wipes or reuses the slice does not change the key.
func TestNew_doesNotKeepTheSecretsBytes(t *testing.T) {
	t.Parallel()
	s := newSigner(t, "HS256")
	secret := []byte(string(s.private.([]byte)))
	c := testConfig("HS256")
	c.Secret = secret
	a, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	clear(secret)
	verifies(t, a, "after the slice is wiped", s.named(t, "", nil), nil)
}

func TestConfig_loopbackMayBePlain(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"http://localhost/keys", "http://127.0.0.1:8080/keys",
		"http://127.8.8.8/keys", "http://[::1]:1/keys"} {
		c := testConfig("RS256")
		c.JWKSURL = address
		if _, err := New(c); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
}

// TestConfig_malformedKeysAreRefusedByName, those of golang's types that no decoder makes included.
func TestConfig_malformedKeysAreRefusedByName(t *testing.T) {
	t.Parallel()
	modulus := new(big.Int).Lsh(big.NewInt(1), 2047)
	modulus.Add(modulus, big.NewInt(1))
	for algorithm, key := range map[string]crypto.PublicKey{
		"ES256": &ecdsa.PublicKey{Curve: elliptic.P256()},
		"RS256": &rsa.PublicKey{N: modulus.Neg(modulus), E: 65537}, "EdDSA": ed25519.PublicKey{},
	} {
		_, err := New(Config{Issuer: testIssuer, Audience: testAudience, Algorithms: []string{algorithm},
			PublicKeys: map[string]crypto.PublicKey{"k": key}})
		if err == nil || !strings.HasPrefix(err.Error(), "jwtauth: Config.PublicKeys") {
			t.Errorf("%s: %v", algorithm, err)
		}
	}
}
