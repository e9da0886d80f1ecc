package jwtauth

import (
	"net/http"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"
)

// benchAlgorithms are one of each family.
var benchAlgorithms = []string{"HS256", "RS256", "PS256", "ES256", "EdDSA"}

// BenchmarkCachedHit is a request whose token was seen before; the goal is 150 ns and no allocation.
func BenchmarkCachedHit(b *testing.B) {
	a, s := newFixture(b, "RS256", func(c *Config) { c.Now = nil })
	r := request(s.token(b, map[string]any{"exp": 4102444800, "nbf": nil, "iat": nil}))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Authenticate(r); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCachedHitOfMany goes through 5,000 tokens, more than the processor's caches hold.
func BenchmarkCachedHitOfMany(b *testing.B) {
	a, s := newFixture(b, "HS256", func(c *Config) { c.Now = nil })
	requests := make([]*http.Request, 5000)
	for i := range requests {
		requests[i] = request(s.token(b, map[string]any{"exp": 4102444800, "nbf": nil, "iat": nil, "jti": i}))
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := a.Authenticate(requests[i%len(requests)]); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCachedHitParallel is the same from every core, each with a token of its own.
func BenchmarkCachedHitParallel(b *testing.B) {
	a, s := newFixture(b, "HS256", func(c *Config) { c.Now = nil })
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		r := request(s.token(b, map[string]any{"exp": 4102444800, "nbf": nil, "iat": nil, "jti": new(int)}))
		for pb.Next() {
			if _, err := a.Authenticate(r); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkCachedHitCookie is a hit whose token comes in a cookie among others.
func BenchmarkCachedHitCookie(b *testing.B) {
	a, s := newFixture(b, "RS256", func(c *Config) { c.Now, c.Cookie = nil, "__Host-session" })
	r, err := http.NewRequest(http.MethodGet, "/", nil)
	if err != nil {
		b.Fatal(err)
	}
	token := s.token(b, map[string]any{"exp": 4102444800, "nbf": nil, "iat": nil})
	r.Header["Cookie"] = []string{"theme=dark; __Host-session=" + token + "; consent=yes"}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Authenticate(r); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkUncached verifies the same token, without cache by us and by plain golang-jwt; the goal is 4 µs
// above plain.
func BenchmarkUncached(b *testing.B) {
	for _, algorithm := range benchAlgorithms {
		a, s := newFixture(b, algorithm, func(c *Config) { c.Cache.Disabled = true })
		token := s.token(b, nil)
		b.Run(algorithm+"/jwtauth", func(b *testing.B) {
			r := request(token)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := a.Authenticate(r); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(algorithm+"/golang-jwt", func(b *testing.B) {
			parser := jwt.NewParser(jwt.WithValidMethods([]string{algorithm}), jwt.WithIssuer(testIssuer),
				jwt.WithAudience(testAudience),
				jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithStrictDecoding(),
				jwt.WithTimeFunc(newClock().Now))
			key := func(*jwt.Token) (any, error) { return s.public, nil }
			b.ReportAllocs()
			for b.Loop() {
				if _, err := parser.ParseWithClaims(token, jwt.MapClaims{}, key); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkOversized refuses a token of a mebibyte; the goal is 100 µs and 64 KiB.
func BenchmarkOversized(b *testing.B) {
	a, s := newFixture(b, "HS256", nil)
	r := request(s.token(b, map[string]any{"x": strings.Repeat("x", 1<<20)}))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Authenticate(r); err == nil {
			b.Fatal("accepted")
		}
	}
}
