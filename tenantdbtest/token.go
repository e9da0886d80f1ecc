// Package tenantdbtest helps to test programs that use tenantdb. Nothing in it belongs into production.
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

// Issuer signs tokens with a random secret of its own, for development and tests.
type Issuer struct {
	// a pointer, since fmt may print what an Issuer in an unexported field leads to, without asking Format
	secret *[]byte
}

// The issuer and the audience in the tokens of an Issuer.
const (
	IssuerName = "https://issuer.test"
	Audience   = "tenantdb-test"
)

// NewIssuer makes an issuer.
func NewIssuer() *Issuer {
	secret := []byte(rand.Text() + rand.Text())
	return &Issuer{&secret}
}

// Format implements fmt.Formatter: the secret isn't printed.
func (i *Issuer) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, "tenantdbtest.Issuer")
}

// Config is the configuration of an authenticator that accepts this issuer's tokens and no others.
func (i *Issuer) Config() jwtauth.Config {
	return jwtauth.Config{Issuer: IssuerName, Audience: Audience, Algorithms: []string{"HS256"},
		Secret: *i.secret}
}

// Token signs a token of the subject that ends after ttl, with further claims or other ones in place of
// these.
func (i *Issuer) Token(subject string, ttl time.Duration, claims map[string]any) string {
	now := time.Now()
	all := jwt.MapClaims{"iss": IssuerName, "aud": Audience, "sub": subject, "iat": now.Unix(),
		"exp": now.Add(ttl).Unix()}
	maps.Copy(all, claims)
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, all).SignedString(*i.secret)
	if err != nil {
		panic("tenantdbtest: claims that JSON can't hold: " + err.Error())
	}
	return token
}
