package tenantdbtest

import (
	"crypto/rand"
	"fmt"
	"io"
	"maps"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tenantdb/tenantdb/jwtauth"
)

// Issuer signs tokens for development and tests: with its own random secret, if [NewIssuer] made it, or with
// published keys, if [NewJWKSIssuer] did.
type Issuer struct {
	name string // its iss claim
	// A pointer, since fmt prints an Issuer in an unexported field without calling Format.
	secret *[]byte
	set    *keySet // nil with a secret
	now    func() time.Time
}

// The issuer in the tokens of NewIssuer, and the audience in all tokens.
const (
	IssuerName = "https://issuer.test"
	Audience   = "tenantdb-test"
)

// NewIssuer returns an issuer that signs with a secret (HS256).
func NewIssuer() *Issuer {
	secret := []byte(rand.Text() + rand.Text())
	return &Issuer{name: IssuerName, secret: &secret, now: time.Now}
}

// Format implements [fmt.Formatter]. It does not print the secret.
func (i *Issuer) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, "tenantdbtest.Issuer")
}

// Config returns the configuration of an authenticator that accepts only this issuer's tokens.
func (i *Issuer) Config() jwtauth.Config {
	if i.set != nil {
		return i.set.config()
	}
	return jwtauth.Config{Issuer: IssuerName, Audience: Audience, Algorithms: []string{"HS256"},
		Secret: *i.secret}
}

// Token returns a signed token of the subject that expires after ttl. claims are added, or replace the
// default ones.
func (i *Issuer) Token(subject string, ttl time.Duration, claims map[string]any) string {
	now := i.now()
	all := jwt.MapClaims{"iss": i.name, "aud": Audience, "sub": subject, "iat": now.Unix(),
		"exp": now.Add(ttl).Unix()}
	maps.Copy(all, claims)
	token, err := i.sign(all)
	if err != nil {
		panic("tenantdbtest: claims that JSON can't hold: " + err.Error())
	}
	return token
}

// sign signs a token.
func (i *Issuer) sign(claims jwt.MapClaims) (string, error) {
	if i.set != nil {
		return i.set.sign(claims)
	}
	return jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString(*i.secret)
}
