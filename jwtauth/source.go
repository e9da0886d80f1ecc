package jwtauth

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tenantdb/tenantdb"
)

// newKeySource returns the key source of an issuer.
func newKeySource(c IssuerConfig, allowed []*algorithm, shared *Config) (keySource, error) {
	if err := checkOneSource(c); err != nil {
		return nil, err
	}
	symmetric := allowed[0].symmetric()
	switch {
	case c.Keyfunc != nil:
		return functionKeys{c.Keyfunc}, nil
	case c.JWKS != nil:
		return newJWKSKeys(c.JWKS, allowed)
	case c.Secret != nil:
		return newSecretKey(c.Secret, allowed)
	case symmetric:
		return nil, fmt.Errorf("Algorithms has %s, which needs Secret, or JWKS with oct keys: a public "+
			"key is "+
			"no secret", allowed[0].name)
	case c.PublicKeys != nil:
		return newPublicKeys(c.PublicKeys, allowed)
	case c.PEM != nil:
		return newPEMKeys(c.PEM, allowed)
	}
	return newRemoteKeys(c, allowed, shared)
}

// checkOneSource refuses an issuer without a key source, or with more than one.
func checkOneSource(c IssuerConfig) error {
	var given []string
	for _, source := range []struct {
		name  string
		given bool
	}{
		{"Secret", c.Secret != nil}, {"PublicKeys", c.PublicKeys != nil}, {"PEM", c.PEM != nil},
		{"JWKS", c.JWKS != nil},
		{"JWKSURL", c.JWKSURL != ""}, {"Discover", c.Discover}, {"Keyfunc", c.Keyfunc != nil},
	} {
		if source.given {
			given = append(given, source.name)
		}
	}
	switch len(given) {
	case 0:
		return errors.New("Secret, PublicKeys, PEM, JWKS, JWKSURL, Discover and Keyfunc are all empty: set " +
			"exactly one, the key source")
	case 1:
		return nil
	}
	return fmt.Errorf("%s are key sources, each of its own: keep one of them", strings.Join(given, " and "))
}

// staticKeys are keys that never change.
type staticKeys struct{ set *keySet }

func (s staticKeys) find(_ context.Context, t *unverified, _ time.Time) (*verificationKey, error) {
	return s.set.lookup(t.header, t.algorithm)
}

func (s staticKeys) trusts(*verificationKey, time.Time) bool {
	return true
}

func newSecretKey(secret []byte, allowed []*algorithm) (keySource, error) {
	for _, a := range allowed {
		if err := a.fits(secret); errors.Is(err, errKeyType) {
			return nil, fmt.Errorf("Secret is given, but Algorithms has %s: a secret goes with HS256, "+
				"HS384 or "+
				"HS512", a.name)
		} else if err != nil {
			return nil, fmt.Errorf("Secret: %w", err)
		}
	}
	k, err := newKey("", bytes.Clone(secret), allowed)
	if err != nil {
		return nil, fmt.Errorf("Secret: %w", err)
	}
	return staticKeys{newKeySet([]*verificationKey{k})}, nil
}

func newPublicKeys(public map[string]crypto.PublicKey, allowed []*algorithm) (keySource, error) {
	if len(public) == 0 {
		return nil, errors.New("PublicKeys is empty: give one key at least")
	}
	var keys []*verificationKey
	for _, kid := range slices.Sorted(maps.Keys(public)) {
		k, err := newKey(kid, public[kid], allowed)
		if err == nil && len(kid) > maxKeyIDBytes {
			err = fmt.Errorf("the kid is longer than %d bytes", maxKeyIDBytes)
		}
		if err != nil {
			return nil, fmt.Errorf("PublicKeys[%.40q]: %w; give *rsa.PublicKey, *ecdsa.PublicKey or "+
				"ed25519.PublicKey as Algorithms asks for", kid, err)
		}
		keys = append(keys, k)
	}
	return staticKeys{newKeySet(keys)}, nil
}

func newPEMKeys(text []byte, allowed []*algorithm) (keySource, error) {
	var keys []*verificationKey
	for rest := bytes.TrimSpace(text); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != "PUBLIC KEY" {
			return nil, errors.New("PEM: give PUBLIC KEY blocks (RFC 7468, section 13) and nothing else")
		}
		material, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("PEM: block %d is no public key that we can read", len(keys)+1)
		}
		k, err := newKey("", material, allowed)
		if err != nil {
			return nil, fmt.Errorf("PEM: block %d: %w", len(keys)+1, err)
		}
		keys = append(keys, k)
	}
	if len(keys) == 0 {
		return nil, errors.New("PEM is empty: give a PUBLIC KEY block")
	}
	return staticKeys{newKeySet(keys)}, nil
}

// newJWKSKeys reads a set from the configuration. Unlike a fetched set it may hold secrets, but not together
// with public keys.
func newJWKSKeys(text []byte, allowed []*algorithm) (keySource, error) {
	parsed, err := parseJWKS(text, allowed)
	if err != nil {
		return nil, fmt.Errorf("JWKS: %w", err)
	}
	if parsed.symmetric && parsed.asymmetric {
		return nil, errors.New("JWKS mixes oct keys with public ones: give each kind an issuer of its own")
	}
	if len(parsed.set.keys) == 0 {
		return nil, fmt.Errorf("JWKS: no key can be used with Algorithms: %w", errors.Join(parsed.skipped...))
	}
	return staticKeys{parsed.set}, nil
}

// functionKeys asks a golang-jwt Keyfunc.
type functionKeys struct{ function jwt.Keyfunc }

// find returns the function's key, if it is one key and fits the algorithm. It drops the text of the
// function's error, which may quote the token.
func (f functionKeys) find(_ context.Context, t *unverified, _ time.Time) (*verificationKey, error) {
	material, err := f.function(&jwt.Token{ // in the form that such functions expect, and theirs to change
		Raw:    t.signed + "." + segments.EncodeToString(t.signature),
		Method: jwt.GetSigningMethod(t.algorithm.name), Signature: bytes.Clone(t.signature),
		Header: maps.Clone(t.header.members), Claims: jwt.MapClaims(maps.Clone(t.claims.members)),
	})
	if errors.Is(err, tenantdb.ErrAuthUnavailable) {
		return nil, errKeyfuncUnavailable
	}
	if err != nil {
		return nil, errUnknownKey
	}
	if set, ok := material.(jwt.VerificationKeySet); ok {
		if len(set.Keys) != 1 {
			return nil, errNoKeyID
		}
		material = set.Keys[0]
	}
	k, err := newKey("", material, []*algorithm{t.algorithm})
	if err != nil {
		return nil, errKeyAlgorithm
	}
	return k, nil
}

func (f functionKeys) trusts(*verificationKey, time.Time) bool {
	return false
}
