package jwtauth

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// issuer has the rules for the tokens of one issuer.
type issuer struct {
	name     string         // the iss claim, or the pattern's text
	pattern  *issuerPattern // nil where the name is exact
	audience string
	// audienceClaim is the claim that must equal audience. "" stands for aud.
	audienceClaim string
	algorithms    []*algorithm
	keys          keySource
	types         []string
	parties       []string
	scopes        []string
	// validator checks exp without leeway, and all else with the leeway for clocks that are ahead.
	validator *jwt.Validator
	// expiryLeeway is how long after exp a token is accepted.
	expiryLeeway time.Duration
	now          func() time.Time
}

// keySource yields the keys of one issuer.
type keySource interface {
	// find returns the key that a token names, if it fits the algorithm. Its errors wrap
	// tenantdb.ErrInvalidCredential, or tenantdb.ErrAuthUnavailable if the keys are not available.
	find(ctx context.Context, t *unverified, now time.Time) (*verificationKey, error)
	// trusts reports whether tokens that a key verified earlier are still valid. It is only asked about this
	// source's keys.
	trusts(k *verificationKey, now time.Time) bool
}

// newIssuer checks the rules of one issuer. The error names the field, without a prefix.
func newIssuer(c IssuerConfig, shared *Config) (*issuer, error) {
	if c.Issuer == "" {
		return nil, errors.New("Issuer is empty: give the exact iss claim of the tokens to accept")
	}
	if c.Audience == "" {
		return nil, errors.New("Audience is empty: give the name that the issuer has for this service, so " +
			"that " +
			"tokens for others are refused")
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
		return nil, errors.New("AuthorizedParties is empty but not nil: leave it nil to accept every " +
			"party, or " +
			"name some")
	}
	pattern, err := parseIssuer(c)
	if err != nil {
		return nil, err
	}
	if err := checkAudienceClaim(c.AudienceClaim); err != nil {
		return nil, err
	}
	keys, err := newKeySource(c, allowed, shared)
	if err != nil {
		return nil, err
	}
	i := &issuer{
		name: c.Issuer, pattern: pattern, audience: c.Audience, algorithms: allowed, keys: keys, types: types,
		parties: slices.Clone(c.AuthorizedParties), scopes: slices.Clone(c.Scopes),
		expiryLeeway: shared.expiryLeeway(), now: shared.Now,
	}
	options := []jwt.ParserOption{jwt.WithExpirationRequired(), jwt.WithIssuedAt(),
		jwt.WithLeeway(shared.issueLeeway()), jwt.WithTimeFunc(shared.Now)}
	if pattern == nil {
		options = append(options, jwt.WithIssuer(c.Issuer))
	}
	if c.AudienceClaim == "" || c.AudienceClaim == "aud" {
		options = append(options, jwt.WithAudience(c.Audience))
	} else {
		i.audienceClaim = c.AudienceClaim
	}
	i.validator = jwt.NewValidator(options...)
	return i, nil
}

// checkAudienceClaim refuses the names of claims with another meaning.
func checkAudienceClaim(name string) error {
	if name != "aud" && slices.Contains(registeredClaims, name) {
		return fmt.Errorf("AudienceClaim: %q never names the service: use client_id, azp or a claim of the "+
			"issuer's own", name)
	}
	return nil
}

// parseAlgorithms looks the names up. It refuses a mixture of symmetric and asymmetric algorithms.
func parseAlgorithms(names []string) ([]*algorithm, error) {
	if len(names) == 0 {
		return nil, errors.New(`Algorithms is empty: name those the issuer signs with, as []string{"RS256"}`)
	}
	var list []*algorithm
	for _, name := range names {
		a := algorithms[name]
		if a == nil {
			return nil, fmt.Errorf("Algorithms: %q is unknown: use names of RFC 7518, section 3.1, such as "+
				"RS256, or EdDSA", name)
		}
		if a.symmetric() != algorithms[names[0]].symmetric() {
			return nil, errors.New("Algorithms mixes symmetric (HS…) with asymmetric ones: keep one kind, " +
				"and " +
				"give the other an issuer of its own")
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
		return nil, errors.New("TokenTypes is empty but not nil: leave it nil for the default, or name " +
			`types, as []string{"at+jwt"}`)
	}
	types := make([]string, len(names))
	for i, name := range names {
		types[i] = mediaType(name)
	}
	return types, nil
}

// verify checks a token against the issuer's rules and returns the key that verified it.
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

// checkClaims checks the claims of a token whose signature is valid.
func (i *issuer) checkClaims(claims *claimSet) error {
	if err := i.validator.Validate(claims); err != nil {
		return claimReason(err)
	}
	exp, err := claims.date("exp")
	if err != nil || exp == nil {
		return errClaims
	}
	if !readClock(i.now).Before(exp.Add(i.expiryLeeway)) {
		return errExpired
	}
	if _, err := claims.GetSubject(); err != nil {
		return errClaims
	}
	if i.audienceClaim != "" {
		if err := claims.addresses(i.audience, i.audienceClaim); err != nil {
			return err
		}
	}
	if i.parties != nil && !claims.authorizedBy(i.parties) {
		return errParty
	}
	if !claims.grants(i.scopes) {
		return errScope
	}
	return nil
}
