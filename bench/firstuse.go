package main

import (
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strings"

	"github.com/golang-jwt/jwt/v5"
	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/jwtauth"
)

const (
	signatureAlone = "signature alone"
	golangJWT      = "golang-jwt, ParseWithClaims"
)

var tokenScenario = Scenario{
	Name:  "token",
	Title: "A token's first use, and the next",
	About: `Verifying one token: its signature alone; by golang-jwt with issuer, audience and expiry; by
jwtauth without its cache, so that each time is the first; and by jwtauth once it has seen the token.
jwtauth also refuses duplicate members, embedded keys, odd numbers and the rest of what the suites of
hostile tokens contain. The last group is a header of 1 MiB. Targets: first use ≤ golang-jwt + 4 µs and ≤
the signature + 4 µs; seen before ≤ 150 ns without an allocation; 1 MiB < 100 µs and < 64 KiB.`,
	Open: openToken,
}

func openToken(b *Bench) (*Comparison, error) {
	c := &Comparison{Bases: []string{golangJWT}, Columns: []Column{
		{Name: "time", Format: nanoseconds, Ratio: true},
		{Name: "allocations", Format: tenths}, {Name: "bytes", Format: integer}}, Notes: tokenNotes}
	for _, algorithm := range algorithms {
		keys, err := newKeyPair(algorithm)
		if err != nil {
			return nil, err
		}
		if err := addToken(b, c, keys); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// tokenNotes returns how much longer a first use takes than its bases.
func tokenNotes(rows []*measured) []string {
	var notes []string
	for _, m := range rows {
		if m.Name != firstUse {
			continue
		}
		for _, name := range []string{golangJWT, signatureAlone} {
			if base := find(rows, m.Group, name); base != nil {
				notes = append(notes, fmt.Sprintf("- %s: first use %s beyond %s", m.Group,
					nanoseconds(median(m.figures[0])-median(base.figures[0])), name))
			}
		}
	}
	return notes
}

const firstUse = "tenantdb, first use"

// addToken compares ways to verify one algorithm's tokens.
func addToken(b *Bench, c *Comparison, keys *keyPair) error {
	token, err := keys.token(subject(0))
	if err != nil {
		return err
	}
	end := strings.LastIndexByte(token, '.')
	parser := jwt.NewParser(jwt.WithValidMethods([]string{keys.algorithm}), jwt.WithIssuer(issuer),
		jwt.WithAudience(audience), jwt.WithExpirationRequired())
	parsed, err := parser.Parse(token, func(*jwt.Token) (any, error) { return keys.public, nil })
	if err != nil {
		return err
	}
	uncached := keys.config()
	uncached.Cache.Disabled = true
	first, err := jwtauth.New(uncached)
	if err != nil {
		return err
	}
	again, err := jwtauth.New(keys.config())
	if err != nil {
		return err
	}
	verify := func(a *jwtauth.Authenticator) func() error {
		r := &http.Request{Header: http.Header{"Authorization": {"Bearer " + token}}}
		return func() error {
			_, err := a.Authenticate(r)
			return err
		}
	}
	huge := &http.Request{Header: http.Header{
		"Authorization": {"Bearer " + token[:end] + strings.Repeat("A", 1<<20)}}}
	group := keys.algorithm
	c.Rows = append(c.Rows,
		costing(b, group, signatureAlone, func() error {
			return parsed.Method.Verify(token[:end], parsed.Signature, keys.public)
		}),
		costing(b, group, golangJWT, func() error {
			_, err := parser.ParseWithClaims(token, &jwt.RegisteredClaims{}, func(*jwt.Token) (any, error) {
				return keys.public, nil
			})
			return err
		}),
		costing(b, group, firstUse, verify(first)),
		costing(b, group, "tenantdb, seen before", verify(again)),
		costing(b, group, "tenantdb, 1 MiB", func() error {
			if _, err := first.Authenticate(huge); !errors.Is(err, tenantdb.ErrInvalidCredential) {
				return fmt.Errorf("a token of 1 MiB: %v", err)
			}
			return nil
		}))
	return nil
}

// costing makes a row with the time, allocations and bytes of one call.
func costing(b *Bench, group, name string, do func() error) Row {
	return Row{group, name, func() ([]float64, error) {
		n := 0
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		figures, err := timed(b.scale.slice, func(int) error { n++; return do() })
		runtime.ReadMemStats(&after)
		return append(figures, float64(after.Mallocs-before.Mallocs)/float64(n),
			float64(after.TotalAlloc-before.TotalAlloc)/float64(n)), err
	}}
}
