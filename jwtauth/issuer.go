package jwtauth

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// issuer is the whole rule set for the tokens of one issuer.
type issuer struct {
	name       string
	algorithms []*algorithm
	keys       keySource
	types      []string
	parties    []string
	scopes     []string
	validator  *jwt.Validator
}

// keySource yields the keys of one issuer.
type keySource interface {
	// find returns the key that a token asks for, and only one that fits the algorithm. Its errors wrap tenantdb.ErrInvalidCredential, or
	// tenantdb.ErrAuthUnavailable where the keys can't be had.
	find(ctx context.Context, t *unverified, now time.Time) (*verificationKey, error)
	// trusts reports whether what a key verified before still holds. False for a key that was never this source's is not promised.
	trusts(k *verificationKey, now time.Time) bool
}

// newIssuer checks the rules of one issuer. The error names the field, without a prefix.
func newIssuer(c IssuerConfig, shared *Config) (*issuer, error) {
	if c.Issuer == "" {
		return nil, errors.New("Issuer is empty: give the exact iss claim of the tokens to accept")
	}
	if c.Audience == "" {
		return nil, errors.New("Audience is empty: give the name that the issuer has for this service, so that tokens for others are refused")
	}
	allowed, err := parseAlgorithms(c.Algorithms)
	if err != nil {
		return nil, err
	}
	types, err := parseTypes(c.TokenTypes)
	if err != nil {
		return nil, err
	}
	if c.AuthorizedParties != nil && len(c.AuthorizedParties) == 0 {
		return nil, errors.New("AuthorizedParties is empty but not nil: leave it nil to accept every party, or name some")
	}
	keys, err := newKeySource(c, allowed, shared)
	if err != nil {
		return nil, err
	}
	return &issuer{
		name: c.Issuer, algorithms: allowed, keys: keys, types: types,
		parties: slices.Clone(c.AuthorizedParties), scopes: slices.Clone(c.Scopes),
		validator: jwt.NewValidator(jwt.WithIssuer(c.Issuer), jwt.WithAudience(c.Audience), jwt.WithExpirationRequired(),
			jwt.WithIssuedAt(), jwt.WithLeeway(shared.Leeway), jwt.WithTimeFunc(shared.Now)),
	}, nil
}

// parseAlgorithms looks the names up, and refuses a mixture of symmetric and asymmetric.
func parseAlgorithms(names []string) ([]*algorithm, error) {
	if len(names) == 0 {
		return nil, errors.New(`Algorithms is empty: name those the issuer signs with, as []string{"RS256"}`)
	}
	var list []*algorithm
	for _, name := range names {
		a := algorithms[name]
		if a == nil {
			return nil, fmt.Errorf("Algorithms: %q is unknown: use names of RFC 7518, section 3.1, such as RS256, or EdDSA", name)
		}
		if a.symmetric() != algorithms[names[0]].symmetric() {
			return nil, errors.New("Algorithms mixes symmetric (HS…) with asymmetric ones: keep one kind, and give the other an issuer of its own")
		}
		if !slices.Contains(list, a) {
			list = append(list, a)
		}
	}
	return list, nil
}

// parseTypes normalizes the accepted token types.
func parseTypes(names []string) ([]string, error) {
	if names == nil {
		return []string{"", "jwt", "at+jwt"}, nil
	}
	if len(names) == 0 {
		return nil, errors.New(`TokenTypes is empty but not nil: leave it nil for the default, or name types, as []string{"at+jwt"}`)
	}
	types := make([]string, len(names))
	for i, name := range names {
		types[i] = mediaType(name)
	}
	return types, nil
}

// verify judges a token by the rules of this issuer, and returns the key that vouches for it.
func (i *issuer) verify(ctx context.Context, t *unverified, now time.Time) (*verificationKey, error) {
	if !t.header.hasTypeOf(i.types) {
		return nil, errType
	}
	if !slices.Contains(i.algorithms, t.algorithm) {
		return nil, errAlgorithm
	}
	k, err := i.keys.find(ctx, t, now)
	if err != nil {
		return nil, err
	}
	if t.algorithm.method.Verify(t.signed, t.signature, k.material) != nil {
		return nil, errSignature
	}
	return k, i.checkClaims(t.claims)
}

// checkClaims judges the claims of a token whose signature is good.
func (i *issuer) checkClaims(claims *claimSet) error {
	if err := i.validator.Validate(claims); err != nil {
		return claimReason(err)
	}
	if _, err := claims.GetSubject(); err != nil {
		return errClaims
	}
	if i.parties != nil && !claims.authorizedBy(i.parties) {
		return errParty
	}
	if !claims.grants(i.scopes) {
		return errScope
	}
	return nil
}
