// Package jwtauth authenticates requests by JSON Web Tokens (RFC 7519): it is the tenantdb.Authenticator for
// products whose users sign in with an identity provider, or with tokens of their own making.
//
// It follows RFC 8725, the best current practices for tokens. Every set of rules names its algorithms, its
// issuer and its audience. A key in a token is never used, and keys are never tried one after the other. A
// token seen before costs a map lookup, within the bounds of [Config.Cache].
package jwtauth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/tenantdb/tenantdb"
)

// Authenticator verifies tokens. Make one with [New]. It is safe for concurrent use. It needs no Close: it
// fetches keys only for a request, and each fetch has a timeout.
type Authenticator struct {
	// state is a pointer so that a printed Authenticator shows an address and no key.
	state *state
}

// state is what an Authenticator is made of. Only the cache and the fetched keys ever change.
type state struct {
	issuers     map[string]*issuer
	patterns    []*issuer // those of issuers whose name has a placeholder
	cookie      string
	crossOrigin *http.CrossOriginProtection
	revoked     func(context.Context, tenantdb.Identity) error
	cache       *tokenCache
	maxCached   time.Duration
	leeway      time.Duration
	now         func() time.Time // nil: the machine's clock
}

// New returns an Authenticator, or an error if the configuration is not valid. The error names the field and
// how to fix it, and shows no key. New does no I/O.
func New(c Config) (*Authenticator, error) {
	if err := c.setDefaults(); err != nil {
		return nil, fmt.Errorf("jwtauth: Config.%w", err)
	}
	s := &state{
		issuers: make(map[string]*issuer), cookie: c.Cookie, crossOrigin: c.CrossOrigin, revoked: c.Revoked,
		cache: newTokenCache(c.Cache), maxCached: c.Cache.MaxAge, leeway: c.expiryLeeway(), now: c.Now,
	}
	for n, rules := range append([]IssuerConfig{c.first()}, c.Others...) {
		where := "Config."
		if n > 0 {
			where = fmt.Sprintf("Config.Others[%d].", n-1)
		}
		i, err := newIssuer(rules, &c)
		if err == nil && s.issuers[i.name] != nil {
			err = errors.New("Issuer is that of another issuer: which rules a token must satisfy would " +
				"be a " +
				"guess")
		}
		if err != nil {
			return nil, fmt.Errorf("jwtauth: %s%w", where, err)
		}
		s.issuers[i.name] = i
		if i.pattern == nil {
			continue
		}
		for _, other := range s.patterns {
			if i.pattern.overlaps(other.pattern) {
				return nil, fmt.Errorf("jwtauth: %sIssuer: a token could match it and %q as well", where,
					other.name)
			}
		}
		s.patterns = append(s.patterns, i)
	}
	return &Authenticator{s}, nil
}

// setDefaults checks and completes what all issuers share.
func (c *Config) setDefaults() error {
	if c.Leeway > time.Minute {
		return errors.New("Leeway must be a minute at most")
	}
	if c.Cookie != "" && (&http.Cookie{Name: c.Cookie}).Valid() != nil {
		return fmt.Errorf("Cookie: %q is no cookie name (RFC 6265, section 4.1.1)", c.Cookie)
	}
	if c.CrossOrigin == nil {
		c.CrossOrigin = http.NewCrossOriginProtection()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if err := c.setRefreshDefaults(); err != nil {
		return err
	}
	return c.Cache.setDefaults()
}

// Authenticate returns the identity that the request's token stands for. The token is in the Authorization
// header or in the cookie that [Config.Cookie] names. Authenticate implements [tenantdb.Authenticator] and
// returns its errors:
//
//   - [tenantdb.ErrNoCredential] if there is neither,
//   - [tenantdb.ErrSeveralCredentials] if there are several,
//   - [tenantdb.ErrCrossOrigin] if another origin sends a cookie with an unsafe method,
//   - [tenantdb.ErrInvalidCredential] if the token is refused, wrapping errors such as [jwt.ErrTokenExpired],
//   - [tenantdb.ErrAuthUnavailable] if the issuer's keys, or [Config.Revoked], are not available.
//
// The texts of the errors may be logged: they hold nothing of the request. The identity may be shared with
// other requests of the same token. An Authenticator that wraps this one must change a Clone only.
func (a *Authenticator) Authenticate(r *http.Request) (*tenantdb.Identity, error) {
	identity, _, err := a.state.authenticate(r)
	return identity, err
}

// Timed returns, for tenantdb.New, Authenticate in a form that also returns when it read the clock: for a
// token seen before, unless Config.Now is set or Config.Revoked was asked; else the zero time. It returns nil
// where self is an authenticator that embeds this one.
func (a *Authenticator) Timed(self tenantdb.Authenticator) func(*http.Request) (*tenantdb.Identity, time.Time,
	error) {
	if self != tenantdb.Authenticator(a) {
		return nil
	}
	return a.state.authenticate
}

// authenticate is Authenticate. It also returns the time that Timed describes.
func (s *state) authenticate(r *http.Request) (*tenantdb.Identity, time.Time, error) {
	token, fromCookie, err := credentialOf(r.Header, s.cookie)
	if err != nil {
		return nil, time.Time{}, err
	}
	if fromCookie && s.crossOrigin.Check(r) != nil {
		return nil, time.Time{}, errCrossOrigin
	}
	return s.identify(r.Context(), token)
}

// Issuers returns the issuers whose tokens are accepted, as [Config] names them. Subjects of several issuers,
// or of one with a placeholder, may collide, so [tenantdb.New] then requires a UserKey.
func (a *Authenticator) Issuers() []string {
	return slices.Sorted(maps.Keys(a.state.issuers))
}

// Verify returns the identity that a token stands for which does not come in an HTTP header, but in a
// message, a WebSocket frame or RPC metadata. Its errors are those of [Authenticator.Authenticate]. The
// identity is the caller's own.
func (a *Authenticator) Verify(ctx context.Context, token string) (*tenantdb.Identity, error) {
	identity, _, err := a.state.identify(ctx, token)
	return identity.Clone(), err
}

// identify verifies a token. It also returns the time that Timed describes.
func (s *state) identify(ctx context.Context, token string) (identity *tenantdb.Identity, at time.Time,
	err error) {
	if len(token) > maxTokenBytes {
		return nil, at, errTooLong
	}
	now := s.clock()
	if s.now == nil {
		at = now
	}
	if identity = s.cache.get(token, now); identity == nil {
		at = time.Time{}
		if identity, err = s.verify(ctx, token, now); err != nil {
			return nil, at, err
		}
	}
	if s.revoked != nil {
		at = time.Time{}
		if err := s.checkRevoked(ctx, identity); err != nil {
			return nil, at, err
		}
	}
	return identity, at, nil
}

// clock reads the clock.
func (s *state) clock() time.Time { return readClock(s.now) }

// readClock reads a clock. Nil stands for the machine's clock.
func readClock(now func() time.Time) time.Time {
	if now != nil {
		return now()
	}
	return time.Now()
}

// Revalidate asks [Config.Revoked] about an identity again. [tenantdb.Scope.Check] calls it for long-lived
// connections. Its errors are those of [Authenticator.Authenticate].
func (a *Authenticator) Revalidate(ctx context.Context, identity *tenantdb.Identity) error {
	if a.state.revoked == nil {
		return nil
	}
	return a.state.checkRevoked(ctx, identity)
}

// checkRevoked asks Config.Revoked. It drops the text of the error, which may be a driver's.
func (s *state) checkRevoked(ctx context.Context, identity *tenantdb.Identity) error {
	err := s.revoked(ctx, *identity.Clone())
	switch {
	case err == nil:
		return nil
	case errors.Is(err, tenantdb.ErrAuthUnavailable), errors.Is(err, context.DeadlineExceeded),
		errors.Is(err, context.Canceled):
		return errRevocationUnavailable
	}
	return errRevoked
}

// verify verifies a token that is not in the cache, and caches it if it is valid.
func (s *state) verify(ctx context.Context, token string, now time.Time) (*tenantdb.Identity, error) {
	t, err := parse(token)
	if err != nil {
		return nil, err
	}
	i := s.issuerOf(t.claims)
	if i == nil {
		return nil, errIssuer
	}
	k, err := i.verify(ctx, t, now)
	if err != nil {
		return nil, err
	}
	identity := t.claims.identity()
	if i.pattern == nil {
		identity.Issuer = i.name // the same text, which whoever compares it need not read
	}
	ends, promised := identity.ExpiresAt.Add(s.leeway), i.keys.trusts(k, now)
	e := s.entryFor(ends, t.claims.size, i, k, now)
	e.kept.Keep(identity, func() error {
		now := s.clock()
		switch {
		case !now.Before(ends):
			return errExpired
		case k.retired.Load():
			return errUnknownKey
		// a Keyfunc promises nothing, and can be asked with a token only
		case promised && !i.keys.trusts(k, now):
			return errTooOld
		}
		return nil
	})
	if !promised {
		return e.kept.Identity(), nil
	}
	return s.cache.add(token, e, now), nil
}

// issuerOf returns the issuer whose rules a token must satisfy, or nil. An exact name comes before a pattern,
// and patterns don't overlap.
func (s *state) issuerOf(claims *claimSet) *issuer {
	name, err := claims.GetIssuer()
	if err != nil {
		return nil
	}
	if i := s.issuers[name]; i != nil && i.pattern == nil {
		return i
	}
	for _, i := range s.patterns {
		if i.pattern.matches(name, claims) {
			return i
		}
	}
	return nil
}

// entryFor returns the cache entry of a token that was verified now. Its nbf has passed.
func (s *state) entryFor(ends time.Time, size int, i *issuer, k *verificationKey, now time.Time) *cacheEntry {
	until := now.Round(0).Add(s.maxCached) // by the wall's clock
	if ends.Before(until) {
		until = ends
	}
	return &cacheEntry{key: k, issuer: i, size: uint32(size), from: now.UnixNano(), until: until.UnixNano()}
}
