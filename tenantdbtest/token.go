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

// Issuer signs tokens with its own random secret, for development and tests.
type Issuer struct {
	// A pointer, since fmt prints an Issuer in an unexported field without calling Format.
	secret *[]byte
	now    func() time.Time
}

// The issuer and the audience in the tokens of an Issuer.
const (
	IssuerName = "https://issuer.test"
	Audience   = "tenantdb-test"
)

// NewIssuer returns an issuer.
func NewIssuer() *Issuer {
	secret := []byte(rand.Text() + rand.Text())
	return &Issuer{&secret, time.Now}
}

// Format implements [fmt.Formatter]. It does not print the secret.
func (i *Issuer) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, "tenantdbtest.Issuer")
}

// Config returns the configuration of an authenticator that accepts only this issuer's tokens.
func (i *Issuer) Config() jwtauth.Config {
	return jwtauth.Config{Issuer: IssuerName, Audience: Audience, Algorithms: []string{"HS256"},
		Secret: *i.secret}
}

// Token returns a signed token of the subject that expires after ttl. claims are added, or replace the
// default ones.
func (i *Issuer) Token(subject string, ttl time.Duration, claims map[string]any) string {
	now := i.now()
	all := jwt.MapClaims{"iss": IssuerName, "aud": Audience, "sub": subject, "iat": now.Unix(),
		"exp": now.Add(ttl).Unix()}
	maps.Copy(all, claims)
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, all).SignedString(*i.secret)
	if err != nil {
		panic("tenantdbtest: claims that JSON can't hold: " + err.Error())
	}
	return token
}
