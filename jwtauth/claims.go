package jwtauth

import (
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/internal/strictjson"
)

// errClaimType is returned by the getters for a claim of another JSON type than its definition says.
var errClaimType = errors.New("a registered claim has a wrong type or value")

// registeredClaims are the names of RFC 7519, section 4.1.
var registeredClaims = []string{"iss", "sub", "aud", "exp", "nbf", "iat", "jti"}

// latestDate is the last second of the year 9999: a later date is a mistake or an attack on integer
// arithmetic.
const latestDate = 253402300799

// claimSet is a token's decoded payload in the form that golang-jwt's validator takes.
type claimSet struct {
	members map[string]any
	// size is how many bytes members takes beside the payload's text.
	size int
}

// parseClaims decodes a payload.
func parseClaims(payload string) (*claimSet, error) {
	members, size, err := decodeObject(payload)
	if err == nil && ambiguousCase(members, registeredClaims) {
		err = strictjson.ErrDuplicate
	}
	return &claimSet{members, size}, err
}

// GetExpirationTime implements jwt.Claims.
func (c *claimSet) GetExpirationTime() (*jwt.NumericDate, error) { return c.date("exp") }

// GetIssuedAt implements jwt.Claims.
func (c *claimSet) GetIssuedAt() (*jwt.NumericDate, error) { return c.date("iat") }

// GetNotBefore implements jwt.Claims.
func (c *claimSet) GetNotBefore() (*jwt.NumericDate, error) { return c.date("nbf") }

// GetIssuer implements jwt.Claims.
func (c *claimSet) GetIssuer() (string, error) { return c.text("iss") }

// GetSubject implements jwt.Claims. A subject is required, and a database must be able to store it.
func (c *claimSet) GetSubject() (string, error) {
	subject, err := c.text("sub")
	if subject == "" || strings.ContainsRune(subject, 0) {
		return "", errClaimType
	}
	return subject, err
}

// GetAudience implements jwt.Claims: a string, or an array of nothing but strings.
func (c *claimSet) GetAudience() (jwt.ClaimStrings, error) {
	audience, ok := stringsOf(c.members["aud"])
	if _, present := c.members["aud"]; present && !ok {
		return nil, errClaimType
	}
	return audience, nil
}

// text returns a claim that must be a string. It returns "" if the claim is absent.
func (c *claimSet) text(name string) (string, error) {
	v, present := c.members[name]
	s, ok := v.(string)
	if present && !ok {
		return "", errClaimType
	}
	return s, nil
}

// date returns a claim that must be a NumericDate (RFC 7519, section 2), or nil if it is absent. Fractions of
// a second are rounded against the token: exp down, nbf and iat up.
func (c *claimSet) date(name string) (*jwt.NumericDate, error) {
	v, present := c.members[name]
	if !present {
		return nil, nil
	}
	n, ok := v.(json.Number)
	if !ok {
		return nil, errClaimType
	}
	seconds, err := n.Float64()
	if err != nil || seconds < 0 || seconds > latestDate {
		return nil, errClaimType
	}
	if name != "exp" {
		seconds = math.Ceil(seconds)
	}
	return &jwt.NumericDate{Time: time.Unix(int64(seconds), 0).UTC()}, nil
}

// addresses returns an error if a token is not meant for the audience, which a claim other than aud names. If
// aud is present, it must name the audience as well.
func (c *claimSet) addresses(audience, claim string) error {
	named, ok := c.members[claim].(string)
	switch {
	case c.members[claim] == nil:
		return errClaimMissing
	case !ok:
		return errClaims
	case named != audience:
		return errAudience
	}
	if _, present := c.members["aud"]; !present {
		return nil
	}
	list, err := c.GetAudience()
	if err != nil {
		return errClaims
	}
	if !slices.Contains(list, audience) {
		return errAudience
	}
	return nil
}

// authorizedBy reports whether azp names one of the parties (OpenID Connect Core 1.0, section 2).
func (c *claimSet) authorizedBy(parties []string) bool {
	party, ok := c.members["azp"].(string)
	return ok && slices.Contains(parties, party)
}

// grants reports whether every scope is granted by the claim scope, a list separated by spaces (RFC 8693,
// section 4.2), or by scp, which some issuers write instead. Each is a string or an array.
func (c *claimSet) grants(scopes []string) bool {
	var granted []string
	for _, name := range []string{"scope", "scp"} {
		list, _ := stringsOf(c.members[name])
		for _, entry := range list {
			granted = append(granted, strings.Fields(entry)...)
		}
	}
	for _, scope := range scopes {
		if !slices.Contains(granted, scope) {
			return false
		}
	}
	return true
}

// stringsOf returns a string, or an array of nothing but strings, as a slice.
func stringsOf(v any) (list []string, ok bool) {
	switch v := v.(type) {
	case string:
		return []string{v}, true
	case []any:
		for _, element := range v {
			s, ok := element.(string)
			if !ok {
				return nil, false
			}
			list = append(list, s)
		}
		return list, true
	}
	return nil, false
}

// identity returns the identity that validated claims name.
func (c *claimSet) identity() tenantdb.Identity {
	identity := tenantdb.Identity{Claims: c.members}
	identity.Issuer, _ = c.text("iss")
	identity.Subject, _ = c.text("sub")
	if exp, err := c.date("exp"); err == nil && exp != nil {
		identity.ExpiresAt = exp.Time
	}
	return identity
}
