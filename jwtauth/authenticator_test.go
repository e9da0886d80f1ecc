package jwtauth

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/goleak"

	"github.com/tenantdb/tenantdb"
)

var _ tenantdb.Authenticator = (*Authenticator)(nil)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// heapInUse returns the bytes of live objects.
func heapInUse() uint64 {
	runtime.GC()
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

// TestAuthenticator_everyAlgorithmFromEverySource accepts the key's own tokens, and those of no other key of
// its kind.
func TestAuthenticator_everyAlgorithmFromEverySource(t *testing.T) {
	t.Parallel()
	for name := range algorithms {
		s, forger := newSigner(t, name), newSigner(t, name)
		if algorithms[name].keyType == "RSA" {
			forger.private = testRSA[1]()
		}
		sources := map[string]func(*Config){
			"JWKS":    func(c *Config) { c.JWKS = []byte(keySetOf(s.jwk(t, testKeyID, nil))) },
			"Keyfunc": func(c *Config) { c.Keyfunc = func(*jwt.Token) (any, error) { return s.public, nil } },
		}
		if name[0] == 'H' {
			sources["Secret"] = func(c *Config) { c.Secret = s.public.([]byte) }
		} else {
			server := newKeyServer(t, keySetOf(s.jwk(t, testKeyID, nil)))
			sources["PublicKeys"] = func(c *Config) {
				c.PublicKeys = map[string]crypto.PublicKey{testKeyID: s.public}
			}
			sources["PEM"] = func(c *Config) { c.PEM = []byte(publicPEM(t, s.public)) }
			sources["JWKSURL"] = func(c *Config) { c.JWKSURL = server.URL }
		}
		for source, change := range sources {
			c := testConfig(name)
			change(&c)
			a, err := New(c)
			if err != nil {
				t.Fatalf("%s from %s: %v", name, source, err)
			}
			kid := testKeyID
			if source == "Secret" || source == "PEM" {
				kid = ""
				refuses(t, a, source+" and a kid", s.token(t, nil), errUnknownKey)
			}
			for range 2 {
				verifies(t, a, name+" from "+source, s.named(t, kid, nil), nil)
			}
			verifies(t, a, name+" from "+source+", forged", forger.named(t, kid, nil), errSignature)
		}
	}
}

// TestAuthenticator_saltLength: golang-jwt accepts any, RFC 7518 only that of the hash.
func TestAuthenticator_saltLength(t *testing.T) {
	t.Parallel()
	a, s := newFixture(t, "PS256", nil)
	loose := *jwt.SigningMethodPS256
	options := *loose.Options
	loose.Options = &options
	for salt, want := range map[int]error{32: nil, 31: errSignature, 33: errSignature, 20: errSignature,
		64: errSignature} {
		options.SaltLength = salt
		signer := &signer{method: &loose, private: s.private}
		verifies(t, a, "salt", signer.token(t, map[string]any{"jti": salt}), want)
	}
}

// TestAuthenticator_issuersSideBySide crosses every part of two rule sets: no mixture passes.
func TestAuthenticator_issuersSideBySide(t *testing.T) {
	t.Parallel()
	rs, hs, es := newSigner(t, "RS256"), newSigner(t, "HS256"), newSigner(t, "ES256")
	c := testConfig("RS256")
	c.PublicKeys = map[string]crypto.PublicKey{testKeyID: rs.public}
	c.Others = []IssuerConfig{
		{Issuer: "tests", Audience: "hs", Algorithms: []string{"HS256"},
			JWKS: []byte(keySetOf(hs.jwk(t, testKeyID, nil))), Scopes: []string{"test"}},
		{Issuer: "edge", Audience: "es", Algorithms: []string{"ES256"},
			PublicKeys: map[string]crypto.PublicKey{testKeyID: es.public}, TokenTypes: []string{"", "JWT"}},
	}
	a, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	rules := []struct {
		issuer, audience string
		signer           *signer
	}{{testIssuer, testAudience, rs}, {"tests", "hs", hs}, {"edge", "es", es}}
	for i, issuer := range rules {
		for j, audience := range rules {
			for k, signer := range rules {
				token := signer.signer.token(t, map[string]any{"iss": issuer.issuer, "aud": audience.audience,
					"scope": "test"})
				for range 2 {
					identity, err := a.Verify(t.Context(), token)
					if want := i == j && j == k; (err == nil) != want || want &&
						identity.Issuer != issuer.issuer {
						t.Errorf("iss of %d, aud of %d, key of %d: %v, %v", i, j, k, identity, err)
					}
				}
			}
		}
	}
	refuses(t, a, "one issuer's scopes for another", hs.token(t, map[string]any{"iss": "tests", "aud": "hs"}),
		errScope)
	refuses(t, a, "unknown issuer", rs.token(t, map[string]any{"iss": "nobody"}), errIssuer)
	both := rs.token(t, map[string]any{"aud": []string{"hs", "es", testAudience}})
	verifies(t, a, "an audience of all three", both, nil)
}

func TestAuthenticator_asksRevokedEachTime(t *testing.T) {
	t.Parallel()
	var failure error
	asked := 0
	type contextKey struct{}
	a, s := newFixture(t, "HS256", func(c *Config) {
		c.Revoked = func(ctx context.Context, identity tenantdb.Identity) error {
			asked++
			if ctx.Value(contextKey{}) != "request" || identity.Subject != "user-1" {
				t.Errorf("asked about %v with another context", identity)
			}
			return failure
		}
	})
	token := s.token(t, nil)
	for i, step := range []struct {
		failure error
		want    error
	}{
		{nil, nil}, {nil, nil}, {errors.New("signed out"), tenantdb.ErrInvalidCredential},
		{errors.New("signed out"), errRevoked}, {nil, nil},
		{fmt.Errorf("%w: down", tenantdb.ErrAuthUnavailable), errRevocationUnavailable},
		{context.DeadlineExceeded, tenantdb.ErrAuthUnavailable}, {nil, nil},
	} {
		failure = step.failure
		r := request(token)
		identity, err := a.Authenticate(r.WithContext(context.WithValue(r.Context(), contextKey{},
			"request")))
		if !errors.Is(err, step.want) || (identity == nil) != (step.want != nil) {
			t.Errorf("step %d: %v, %v; want %v", i, identity, err, step.want)
		}
		if asked != i+1 {
			t.Errorf("step %d: asked %d times", i, asked)
		}
	}
	a.Verify(t.Context(), s.token(t, map[string]any{"exp": 1}))
	if asked != 8 {
		t.Error("asked about a token that is not valid")
	}
}

// TestKeyfunc_findsTheClaimsThatItExpects: functions for golang-jwt read jwt.MapClaims, and may change what
// they are given.
func TestKeyfunc_findsTheClaimsThatItExpects(t *testing.T) {
	t.Parallel()
	s := newSigner(t, "ES256")
	c := testConfig("ES256")
	c.Keyfunc = func(token *jwt.Token) (any, error) {
		claims, ok := token.Claims.(jwt.MapClaims)
		if !ok || claims["iss"] != testIssuer {
			return nil, errors.New("another issuer")
		}
		claims["sub"] = "somebody else"
		return s.public, nil
	}
	a, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	identity, err := a.Authenticate(request(s.token(t, nil)))
	if err != nil || identity.Subject != "user-1" || identity.Claims["sub"] != "user-1" {
		t.Errorf("%+v, %v", identity, err)
	}
}

// TestAuthenticator_aTokenWithoutAKidMeansTheOneKeyOfItsAlgorithm: two keys of different families can be told
// apart, two of one can't.
func TestAuthenticator_aTokenWithoutAKidMeansTheOneKeyOfItsAlgorithm(t *testing.T) {
	t.Parallel()
	es, ed, second := newSigner(t, "ES256"), newSigner(t, "EdDSA"), newSigner(t, "ES256")
	c := testConfig("ES256")
	c.Algorithms = []string{"ES256", "EdDSA"}
	c.PEM = []byte(publicPEM(t, es.public) + publicPEM(t, ed.public))
	a, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*signer{es, ed} {
		verifies(t, a, s.method.Alg(), s.raw(t, `{"alg":"`+s.method.Alg()+`"}`,
			jsonText(t, claims(nil))), nil)
	}
	verifies(t, a, "another key", second.raw(t, `{"alg":"ES256"}`, jsonText(t, claims(nil))),
		tenantdb.ErrInvalidCredential)
	c.PEM = []byte(publicPEM(t, es.public) + publicPEM(t, second.public))
	if a, err = New(c); err != nil {
		return // as good
	}
	verifies(t, a, "two keys of one algorithm", es.raw(t, `{"alg":"ES256"}`, jsonText(t, claims(nil))),
		tenantdb.ErrInvalidCredential)
}

func TestAuthenticator_fractionsOfASecondAreReadToTheTokensDisadvantage(t *testing.T) {
	t.Parallel()
	clock := newClock()
	a, s := newFixture(t, "HS256", func(c *Config) { c.Now, c.Leeway = clock.Now, -1 })
	now := float64(clock.Now().Unix())
	for name, want := range map[string]error{"nbf": tenantdb.ErrInvalidCredential,
		"iat": tenantdb.ErrInvalidCredential} {
		verifies(t, a, name, s.token(t, map[string]any{name: now + 0.9}), want)
	}
	verifies(t, a, "exp", s.token(t, map[string]any{"exp": now + 0.9}), tenantdb.ErrInvalidCredential)
	verifies(t, a, "whole", s.token(t, map[string]any{"nbf": now, "iat": now, "exp": now + 1}), nil)
}

func TestAuthenticator_Revalidate_asksAgain(t *testing.T) {
	t.Parallel()
	var failure error
	a, s := newFixture(t, "HS256", func(c *Config) {
		c.Revoked = func(context.Context, tenantdb.Identity) error { return failure }
	})
	identity, err := a.Authenticate(request(s.token(t, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Revalidate(t.Context(), identity); err != nil {
		t.Errorf("Revalidate = %v", err)
	}
	failure = errors.New("signed out")
	if err := a.Revalidate(t.Context(), identity); !errors.Is(err, tenantdb.ErrInvalidCredential) {
		t.Errorf("Revalidate of a revoked one = %v", err)
	}
	plain, _ := newFixture(t, "HS256", nil)
	if err := plain.Revalidate(t.Context(), identity); err != nil {
		t.Errorf("without Revoked: %v", err)
	}
}

func TestKeyfunc_refusesWhatDoesNotFit(t *testing.T) {
	t.Parallel()
	s, other := newSigner(t, "RS256"), newSigner(t, "ES256")
	small := []byte("short")
	for name, test := range map[string]struct {
		algorithm string
		key       any
		err       error
		want      error
	}{
		"right":        {"RS256", s.public, nil, nil},
		"a set of one": {"RS256", jwt.VerificationKeySet{Keys: []jwt.VerificationKey{s.public}}, nil, nil},
		"an empty set": {"RS256", jwt.VerificationKeySet{}, nil, errNoKeyID},
		"a set of two": {"RS256", jwt.VerificationKeySet{Keys: []jwt.VerificationKey{s.public, s.public}},
			nil, errNoKeyID},
		"nil":            {"RS256", nil, nil, errKeyAlgorithm},
		"another family": {"RS256", other.public, nil, errKeyAlgorithm},
		"private":        {"RS256", s.private, nil, errKeyAlgorithm},
		"short secret":   {"HS256", small, nil, errKeyAlgorithm},
		"error":          {"RS256", s.public, errors.New("no such key"), errUnknownKey},
		"unavailable":    {"RS256", s.public, tenantdb.ErrAuthUnavailable, tenantdb.ErrAuthUnavailable},
	} {
		asked := 0
		c := testConfig(test.algorithm)
		c.Keyfunc = func(token *jwt.Token) (any, error) {
			if asked++; token.Header["kid"] != testKeyID || token.Method.Alg() != test.algorithm ||
				token.Valid {
				t.Errorf("%s: asked with %v", name, token.Header)
			}
			return test.key, test.err
		}
		a, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		by := s
		if test.algorithm == "HS256" {
			by = &signer{method: jwt.SigningMethodHS256, private: small}
		}
		token := by.token(t, nil)
		for range 3 {
			verifies(t, a, name, token, test.want)
		}
		if asked != 3 {
			t.Errorf("%s: asked %d times for 3 requests", name, asked)
		}
	}
}

// TestAuthenticator_errorsAreTenantdbs: whatever the reason, the root package finds a status.
func TestAuthenticator_errorsAreTenantdbs(t *testing.T) {
	t.Parallel()
	for _, err := range []error{errTooLong, errForm, errHeader, errType, errClaims, errIssuer, errAlgorithm,
		errNoKeyID, errUnknownKey, errKeyAlgorithm, errSignature, errParty, errScope, errRevoked, errScheme,
		errSeveral, errCrossOrigin, errKeyfuncUnavailable, errRevocationUnavailable} {
		want := map[bool]int{true: http.StatusUnauthorized}[errors.Is(err, tenantdb.ErrInvalidCredential)]
		switch {
		case errors.Is(err, tenantdb.ErrSeveralCredentials):
			want = http.StatusBadRequest
		case errors.Is(err, tenantdb.ErrCrossOrigin):
			want = http.StatusForbidden
		case errors.Is(err, tenantdb.ErrAuthUnavailable):
			want = http.StatusServiceUnavailable
		}
		if got := tenantdb.StatusCode(err); got != want || want == 0 {
			t.Errorf("%v: status %d, want %d", err, got, want)
		}
	}
}

// TestAuthenticator_defaultClock is time.Now.
func TestAuthenticator_defaultClock(t *testing.T) {
	t.Parallel()
	a, s := newFixture(t, "HS256", func(c *Config) { c.Now = nil })
	now := time.Now()
	at := func(exp time.Time) map[string]any {
		return map[string]any{"exp": exp.Unix(), "iat": now.Add(-time.Hour).Unix(),
			"nbf": now.Add(-time.Hour).Unix()}
	}
	verifies(t, a, "good", s.token(t, at(now.Add(time.Hour))), nil)
	verifies(t, a, "expired", s.token(t, at(now.Add(-time.Minute))), jwt.ErrTokenExpired)
}
