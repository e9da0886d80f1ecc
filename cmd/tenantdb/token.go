package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// secretVariable holds the key of development tokens.
const secretVariable = "TENANTDB_TOKEN_SECRET"

// tokenCmd is tenantdb token.
type tokenCmd struct {
	Subject  string            `arg:"" help:"The sub claim: a user's oauth_id, unless the product maps it."`
	Issuer   string            `required:"" help:"The iss claim: jwtauth.Config.Issuer."`
	Audience string            `required:"" help:"The aud claim: jwtauth.Config.Audience."`
	TTL      time.Duration     `name:"ttl" default:"1h" help:"How long the token is valid, at most 24h."`
	Claim    map[string]string `placeholder:"NAME=TEXT" help:"A further claim; may be repeated."`
}

// Help is the long help.
func (*tokenCmd) Help() string {
	return "The token is signed with HS256 and the secret in " + secretVariable + ", which has 32 bytes or " +
		"more. Use it for development only: whoever has the secret can sign in as anybody."
}

// Run runs the command.
func (c *tokenCmd) Run(_ context.Context, s *session) error {
	secret := s.env.getenv(secretVariable)
	switch {
	case len(secret) < 32: // RFC 7518, section 3.2
		return errors.New(secretVariable + ": set it to a secret of at least 32 bytes")
	case c.TTL <= 0 || c.TTL > 24*time.Hour:
		return errors.New("--ttl: more than 0, at most 24h")
	}
	now := s.env.now()
	claims := jwt.MapClaims{}
	for name, value := range c.Claim {
		claims[name] = value
	}
	maps.Copy(claims, jwt.MapClaims{"iss": c.Issuer, "aud": c.Audience, "sub": c.Subject,
		"iat": now.Unix(), "exp": now.Add(c.TTL).Unix()})
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte(secret))
	if err != nil {
		return errors.New("the token can't be signed")
	}
	if s.flags.Output == "json" {
		return printOne(s, []column[string]{{"token", func(t *string) any { return *t }, true}}, &token)
	}
	_, err = fmt.Fprintln(s.env.stdout, token)
	return err
}
