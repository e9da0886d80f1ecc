package tenantdb

import (
	"net/http"
	"time"
)

// Authenticator tells who sends a request. Package jwtauth holds the one for JSON Web Tokens; a session store or a table of
// API keys is one method away.
//
// Authenticate returns an identity, or an error that wraps one of ErrNoCredential, ErrInvalidCredential,
// ErrSeveralCredentials, ErrCrossOrigin and ErrAuthUnavailable. Any other error is taken for ErrAuthUnavailable: what an
// authenticator can't judge is never let through. It must not return nil, nil. It is called by many goroutines at once.
//
// An authenticator that accepts several issuers says so by a method Issuers() []string; one that wraps another must not hide it.
// New then wants a Config.UserKey, since subjects of two issuers may be equal and mean two people. A method
// Revalidate(context.Context, *Identity) error, where there is one, is asked by Scope.Check.
type Authenticator interface {
	Authenticate(*http.Request) (*Identity, error)
}

// Identity is a verified caller: the pair of Issuer and Subject names one person or program, and neither does alone
// (OpenID Connect Core 1.0, section 2). An Identity is shared between requests; treat it as read-only.
type Identity struct {
	// Issuer is who vouches for the caller (the iss claim).
	Issuer string
	// Subject is the caller's name at that issuer (the sub claim).
	Subject string
	// ExpiresAt is when the credential ends; zero where it doesn't.
	ExpiresAt time.Time
	// Claims are what else the credential says. Numbers are json.Number.
	Claims map[string]any
}

// Claim returns the claim of that name where it is a string.
func (i *Identity) Claim(name string) (value string, ok bool) {
	value, ok = i.Claims[name].(string)
	return value, ok
}
