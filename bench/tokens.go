package main

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"net/http"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/tenantdb/tenantdb/jwtauth"
)

const (
	issuer       = "https://issuer.example"
	audience     = "tenantdb-bench"
	tenantHeader = "X-Tenant"
)

// keyPair signs and verifies the tokens of a comparison.
type keyPair struct {
	algorithm       string
	private, public any
}

// newKeyPair makes a key for HS256, RS256 (2048 bits) or EdDSA (Ed25519).
func newKeyPair(algorithm string) (*keyPair, error) {
	switch algorithm {
	case "HS256":
		secret := make([]byte, 32)
		_, err := rand.Read(secret)
		return &keyPair{algorithm, secret, secret}, err
	case "RS256":
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			return nil, err
		}
		return &keyPair{algorithm, key, &key.PublicKey}, nil
	case "EdDSA":
		public, private, err := ed25519.GenerateKey(rand.Reader)
		return &keyPair{algorithm, private, public}, err
	}
	return nil, fmt.Errorf("no key for algorithm %q", algorithm)
}

// wireKey is the verifying half of a keyPair, for another process.
type wireKey struct {
	Algorithm string
	Bytes     []byte // the secret, or the public key in PKIX form
}

// wire returns the verifying half of a key pair.
func (k *keyPair) wire() (*wireKey, error) {
	if secret, ok := k.public.([]byte); ok {
		return &wireKey{k.algorithm, secret}, nil
	}
	der, err := x509.MarshalPKIXPublicKey(k.public)
	return &wireKey{k.algorithm, der}, err
}

// keys returns the pair. If the key is a public key, the private half is missing.
func (w *wireKey) keys() (*keyPair, error) {
	if w.Algorithm == "HS256" {
		return &keyPair{w.Algorithm, w.Bytes, w.Bytes}, nil
	}
	public, err := x509.ParsePKIXPublicKey(w.Bytes)
	return &keyPair{algorithm: w.Algorithm, public: public}, err
}

// config returns jwtauth's configuration for these tokens.
func (k *keyPair) config() jwtauth.Config {
	c := jwtauth.Config{Issuer: issuer, Audience: audience, Algorithms: []string{k.algorithm}}
	if secret, ok := k.public.([]byte); ok {
		c.Secret = secret
	} else {
		c.PublicKeys = map[string]crypto.PublicKey{"": k.public}
	}
	return c
}

// token makes a token that is valid for a day.
func (k *keyPair) token(subject string) (string, error) {
	now := time.Now()
	claims := jwt.RegisteredClaims{Issuer: issuer, Audience: jwt.ClaimStrings{audience}, Subject: subject,
		IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(24 * time.Hour))}
	return jwt.NewWithClaims(jwt.GetSigningMethod(k.algorithm), claims).SignedString(k.private)
}

// requests returns a request of each of a world's first n users into the user's tenant.
func (k *keyPair) requests(w *world, n int) ([]*http.Request, error) {
	list := make([]*http.Request, n)
	for i := range list {
		token, err := k.token(subject(i))
		if err != nil {
			return nil, err
		}
		r, err := http.NewRequest(http.MethodGet, "http://app.example.com/", nil)
		if err != nil {
			return nil, err
		}
		r.Header.Set("Authorization", "Bearer "+token)
		r.Header.Set(tenantHeader, w.tenants[i%len(w.tenants)].Slug)
		list[i] = r
	}
	return list, nil
}
