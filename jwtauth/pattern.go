package jwtauth

import (
	"errors"
	"fmt"
	"strings"
)

// issuerPattern is an iss with one placeholder, which stands for a claim of the same token.
type issuerPattern struct {
	before, after string
	claim         string
}

// maxPlaceholder bounds the text that takes the placeholder's place, in bytes.
const maxPlaceholder = 64

// parseIssuer returns the pattern of an issuer's name, or nil if the name is exact.
func parseIssuer(c IssuerConfig) (*issuerPattern, error) {
	before, rest, opened := strings.Cut(c.Issuer, "{")
	claim, after, closed := strings.Cut(rest, "}")
	switch {
	case !strings.ContainsAny(c.Issuer, "{}"):
		return nil, nil
	case !opened || !closed || strings.ContainsAny(before+claim+after, "{}"):
		return nil, errors.New(`Issuer: give one placeholder at most, a claim's name in braces, as {tid}`)
	case !isPlaceholderValue(claim) || claim == "iss":
		return nil, fmt.Errorf("Issuer: %.40q can't name the claim of a placeholder", claim)
	case !strings.HasSuffix(before, "/") || strings.Count(before, "/") < 3:
		return nil, errors.New("Issuer: a placeholder stands in the path, after a slash: in the host it " +
			"could " +
			"name another site")
	case after != "" && after[0] != '/':
		return nil, errors.New("Issuer: a placeholder fills a whole segment of the path: put a slash " +
			"behind it")
	case c.Discover:
		return nil, errors.New("Discover can't find the keys of an issuer with a placeholder: give JWKSURL")
	}
	return &issuerPattern{before, after, claim}, nil
}

// matches reports whether an iss is the pattern with the token's claim in the placeholder's place.
func (p *issuerPattern) matches(iss string, claims *claimSet) bool {
	value, found := p.value(iss)
	own, ok := claims.members[p.claim].(string)
	return found && ok && own == value
}

// value returns the text in the placeholder's place.
func (p *issuerPattern) value(iss string) (value string, found bool) {
	value, found = strings.CutPrefix(iss, p.before)
	if !found {
		return "", false
	}
	value, found = strings.CutSuffix(value, p.after)
	return value, found && isPlaceholderValue(value)
}

// overlaps reports whether one iss could match both patterns. A placeholder fills one segment of the path.
func (p *issuerPattern) overlaps(other *issuerPattern) bool {
	const placeholder = "{}"
	ours := strings.Split(p.before+placeholder+p.after, "/")
	theirs := strings.Split(other.before+placeholder+other.after, "/")
	if len(ours) != len(theirs) {
		return false
	}
	for i := range ours {
		if ours[i] != theirs[i] && ours[i] != placeholder && theirs[i] != placeholder {
			return false
		}
	}
	return true
}

// isPlaceholderValue reports whether a text is 1 to 64 ASCII letters, digits, hyphens and underscores.
func isPlaceholderValue(text string) bool {
	for i := range len(text) {
		c := text[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
			return false
		}
	}
	return text != "" && len(text) <= maxPlaceholder
}
