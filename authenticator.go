package tenantdb

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/tenantdb/tenantdb/internal/deepcopy"
)

// Authenticator finds out who sends a request. Package jwtauth has one for JSON Web Tokens. One for sessions
// or for API keys needs a single method.
//
// Authenticate returns an identity, or an error that wraps one of [ErrNoCredential], [ErrInvalidCredential],
// [ErrSeveralCredentials], [ErrCrossOrigin] and [ErrAuthUnavailable]. Any other error counts as
// ErrAuthUnavailable. It must not return nil, nil. It must be safe for concurrent use.
//
// An Authenticator may have these methods too:
//
//   - Issuers() []string returns the issuers that it accepts. An issuer with a placeholder, such as
//     https://login.example/{tid}, counts as several. With several, [New] requires a [Config.UserKey], since
//     the same subject may be another person at another issuer. An Authenticator that wraps
//     this one must have the method too.
//   - Vary() []string returns the request headers that it reads besides Authorization and Cookie. Every
//     response names them in its Vary header, so that no cache shows one caller's response to another.
//   - Revalidate(context.Context, *Identity) error reports whether an identity that it returned earlier is
//     still good. [Scope.Check], [Scope.Refresh] and [Middleware.EnterAs] call it.
//   - Timed(self Authenticator) func(*http.Request) (*Identity, time.Time, error) returns what New calls
//     instead of Authenticate. That function also reports the machine's time as it read it, so that the
//     middleware needn't: reading the clock takes 73 ns of a request's 270 ns. It reports the zero time if it
//     may have waited since. Timed returns nil if self is not its receiver but embeds it. Then self's own
//     Authenticate is called.
type Authenticator interface {
	Authenticate(*http.Request) (*Identity, error)
}

// timedAuthenticator is an [Authenticator] with the method Timed.
type timedAuthenticator interface {
	Timed(self Authenticator) func(*http.Request) (*Identity, time.Time, error)
}

// asking returns how to call an authenticator. The time is zero if it doesn't report one.
func asking(a Authenticator) func(*http.Request) (*Identity, time.Time, error) {
	if timed, ok := a.(timedAuthenticator); ok {
		if ask := timed.Timed(a); ask != nil {
			return ask
		}
	}
	return func(r *http.Request) (*Identity, time.Time, error) {
		identity, err := a.Authenticate(r)
		return identity, time.Time{}, err
	}
}

// Identity is a verified caller. Issuer and Subject together name one person or program. Neither does alone
// (OpenID Connect Core 1.0, section 2).
//
// Requests may share the Identity that an Authenticator returns. Whoever wraps the Authenticator and changes
// the Identity must change an [Identity.Clone] instead. Handlers, sources and the functions of [Config] get a
// copy of their own.
type Identity struct {
	cached *atomic.Pointer[entry] // the cache's last answer about the caller; nil outside a KeptIdentity

	// Issuer is who vouches for the caller (the iss claim).
	Issuer string
	// Subject is the caller's name at the issuer (the sub claim).
	Subject string
	// ExpiresAt is when the credential expires. Zero means that it doesn't.
	ExpiresAt time.Time
	// Claims is what else the credential says, as JSON: strings, booleans, json.Number, nil, []any and
	// map[string]any. An Authenticator may put values of other types there.
	//
	// A copy of an Identity has its own maps, slices and arrays. At most 65,536 values are copied; those
	// beyond are nil. Pointers, and structs with pointers, are copied as they are, so what they point to must
	// be safe for concurrent use.
	Claims map[string]any

	valid func() error // reports whether the credential is still good; nil: ExpiresAt decides
}

// KeptIdentity holds an [Identity] that an [Authenticator] keeps and returns for every request with the same
// credential. It remembers the cache's last answer about the caller, so that the next request needn't look it
// up. With 4,000 callers in turn that saves a third of a request's processor time. It may be a field of what
// the authenticator keeps, so that a request reads one block of memory. It must not be copied.
type KeptIdentity struct {
	cached   atomic.Pointer[entry]
	identity Identity
}

// Keep sets the identity and returns it. Call it once. valid reports whether a request with the credential
// would be authenticated now: nil, or the error that Authenticate would return. [Scope.Check] calls it. If
// valid is nil, [Identity.ExpiresAt] decides.
func (k *KeptIdentity) Keep(id Identity, valid func() error) *Identity {
	k.identity = id
	k.identity.cached, k.identity.valid = &k.cached, valid
	return &k.identity
}

// Identity returns what [KeptIdentity.Keep] returned.
func (k *KeptIdentity) Identity() *Identity { return &k.identity }

// check reports whether the credential is still good.
func (i *Identity) check(now func() time.Time) error {
	if i.valid != nil {
		return i.valid()
	}
	if !i.ExpiresAt.IsZero() && !now().Before(i.ExpiresAt) {
		return fmt.Errorf("%w: it has expired", ErrInvalidCredential)
	}
	return nil
}

// lastAnswer returns the cache's last answer about the caller, nil if none is remembered.
func (i *Identity) lastAnswer() *entry {
	if i.cached == nil {
		return nil
	}
	return i.cached.Load()
}

// remember keeps the cache's answer about the caller if the identity is in a [KeptIdentity].
func (i *Identity) remember(answer *entry) {
	if i.cached != nil {
		i.cached.Store(answer)
	}
}

// Claim returns the claim of that name. It reports false if there is none, or it isn't a string.
func (i *Identity) Claim(name string) (value string, ok bool) {
	value, ok = i.Claims[name].(string)
	return value, ok
}

// Clone returns a copy of the identity with claims of its own, except for what [Identity.Claims] says about
// pointers. Use it to change an identity that another Authenticator returned. Clone of nil is nil.
func (i *Identity) Clone() *Identity {
	if i == nil {
		return nil
	}
	own := i.own()
	return &own
}

// own is [Identity.Clone] by value. The copy remembers no answer of the cache.
func (i *Identity) own() Identity {
	own := *i
	own.cached, own.Claims = nil, deepcopy.Object(i.Claims)
	return own
}
