package tenantdb

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/tenantdb/tenantdb/internal/deepcopy"
)

// Authenticator tells who sends a request. Package jwtauth holds the one for JSON Web Tokens; a session store
// or a table of API keys is one method away.
//
// Authenticate returns an identity, or an error that wraps one of ErrNoCredential, ErrInvalidCredential,
// ErrSeveralCredentials, ErrCrossOrigin and ErrAuthUnavailable. Any other error is taken for
// ErrAuthUnavailable: what an authenticator can't judge is never let through. It must not return nil, nil. It
// is called by many goroutines at once.
//
// An authenticator that accepts several issuers says so by a method Issuers() []string; one that wraps
// another must not hide it. An issuer with a placeholder, such as https://login.example/{tid}, stands for
// several. New then wants a Config.UserKey, since subjects of two issuers may be equal and mean two people.
// One that looks at other request headers than Authorization and Cookie names them by a method Vary()
// []string, so that no cache shows one caller's answer to another. A method Revalidate(context.Context,
// *Identity) error, where there is one, is asked by Scope.Check. A method Timed(self Authenticator)
// func(*http.Request) (*Identity, time.Time, error), where there is one, is asked once by New, and may return
// what is called instead of Authenticate. That also returns what it read of the machine's clock, if nothing
// that may wait was done since, so that a request reads it once; else the zero time. Timed returns nil where
// self is another Authenticator, which embeds the one with the method: its own Authenticate is to be called.
type Authenticator interface {
	Authenticate(*http.Request) (*Identity, error)
}

// asking returns how an authenticator is asked.
func asking(a Authenticator) func(*http.Request) (*Identity, time.Time, error) {
	if timed, ok := a.(interface {
		Timed(Authenticator) func(*http.Request) (*Identity, time.Time, error)
	}); ok {
		if ask := timed.Timed(a); ask != nil {
			return ask
		}
	}
	return func(r *http.Request) (*Identity, time.Time, error) {
		identity, err := a.Authenticate(r)
		return identity, time.Time{}, err
	}
}

// Identity is a verified caller: the pair of Issuer and Subject names one person or program, and neither does
// alone (OpenID Connect Core 1.0, section 2). What an Authenticator returns may be shared between requests,
// so whoever wraps one changes a [Identity.Clone]. Handlers, sources and the functions of Config get an
// Identity of their own.
type Identity struct {
	last *atomic.Pointer[entry] // what was found out about the caller last; nil where the identity isn't a KeptIdentity's

	// Issuer is who vouches for the caller (the iss claim).
	Issuer string
	// Subject is the caller's name at that issuer (the sub claim).
	Subject string
	// ExpiresAt is when the credential ends; zero where it doesn't.
	ExpiresAt time.Time
	// Claims are what else the credential says, as JSON: strings, booleans, json.Number, nil, []any and
	// map[string]any. An Authenticator may put other types there. Maps, slices and arrays are copied for each
	// request that asks; a pointer or a struct with pointers is handed on as it is, so it must be safe for
	// many goroutines. At most 65,536 values are copied; those beyond are nil.
	Claims map[string]any

	holds func() error // nil: ExpiresAt decides
}

// KeptIdentity is an identity for an Authenticator that keeps it and returns it again for later requests with
// the same credential. It leads straight to what the last request found out about the caller in its tenant,
// as long as that is good. It may be part of what the authenticator keeps anyway, so that both lie side by
// side in memory; it must not be copied.
type KeptIdentity struct {
	found    atomic.Pointer[entry]
	identity Identity
}

// Keep fills in the identity, once, and returns it. holds tells Scope.Check whether a request would be
// authenticated now, by returning Authenticate's error; nil: ExpiresAt decides.
func (k *KeptIdentity) Keep(id Identity, holds func() error) *Identity {
	k.identity = id
	k.identity.last, k.identity.holds = &k.found, holds
	return &k.identity
}

// Identity returns what Keep did.
func (k *KeptIdentity) Identity() *Identity { return &k.identity }

// check reports whether the credential is still good.
func (i *Identity) check(now func() time.Time) error {
	if i.holds != nil {
		return i.holds()
	}
	if !i.ExpiresAt.IsZero() && !now().Before(i.ExpiresAt) {
		return fmt.Errorf("%w: it has expired", ErrInvalidCredential)
	}
	return nil
}

// lastFound returns what the last request found, if the identity leads there.
func (i *Identity) lastFound() *entry {
	if i.last == nil {
		return nil
	}
	return i.last.Load()
}

// found has the identity lead there.
func (i *Identity) found(e *entry) {
	if i.last != nil {
		i.last.Store(e)
	}
}

// Claim returns the claim of that name where it is a string.
func (i *Identity) Claim(name string) (value string, ok bool) {
	value, ok = i.Claims[name].(string)
	return value, ok
}

// Clone returns a copy of the identity whose claims are its own: an authenticator that adds to what another
// one returned changes a clone. Values of Claims that are neither JSON's nor maps, slices or arrays are not
// copied; see Claims.
func (i *Identity) Clone() *Identity {
	if i == nil {
		return nil
	}
	own := i.own()
	return &own
}

// own is Clone by value. The copy doesn't lead to the cache.
func (i *Identity) own() Identity {
	own := *i
	own.last = nil
	own.Claims = deepcopy.Object(i.Claims)
	return own
}
