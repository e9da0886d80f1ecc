package tenantdb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// UserKey names a user of the host database: by ID or by OAuthID, exactly one of them.
type UserKey = hostdb.UserKey

// Config describes a Middleware. Host, Authenticator and Tenant are needed; the zero value of everything else
// is safe.
type Config struct {
	// Host is the host database. The Middleware never closes it.
	Host *hostdb.DB
	// Authenticator tells who sends a request; see package jwtauth.
	Authenticator Authenticator
	// UserKey maps a verified identity to a user. Default with one issuer: UserBySubject. With several
	// issuers New fails without it, since their subjects may collide. An error refuses the request as
	// ErrInvalidCredential. Never map by an e-mail address that the issuer hasn't verified. Each call gets an
	// Identity of its own, whose claims are copied for it.
	UserKey func(Identity) (UserKey, error)
	// FirstLogin, where set, is called when a verified caller has no user yet, to create one: once at a time
	// for each user, however many requests arrive together. It may be called again, also by other processes,
	// so a user who exists already (hostdb.ErrConflict) is not an error. A conflict that leaves the caller
	// without a user, as where the e-mail address is that of a row without an oauth_id, and hostdb.ErrInvalid
	// refuse the request as ErrForbidden, since the next attempt would meet them too: the example shows how
	// an invited user's row is linked. One of this package's errors, such as ErrForbidden, refuses the
	// request as that; any other, and a panic, which is logged, as ErrHostUnavailable. Its context is the
	// library's own and ends after Cache.LoadTimeout; requests wait no longer.
	FirstLogin func(context.Context, *Identity) error
	// Tenant is where a request names its tenant.
	Tenant Source
	// Pool holds the tenants' databases. Nil: one is made with the defaults and closed by Close. A Pool that
	// is given may serve several Middlewares and is closed by whoever made it. They must have the same Host,
	// or one that was opened by the same URL: New fails otherwise.
	Pool *Pool
	// Cache bounds what is remembered of the host database, and for how long.
	Cache CacheConfig
	// Subscription says what paying means. The zero value wants an active subscription of every tenant.
	Subscription SubscriptionPolicy
	// Roles are the roles of memberships, highest first. Default: owner, admin, member.
	Roles []string
	// Features are the keys of features that Middleware.RequireFeature takes, so that a misspelt one is
	// noticed at start. Default: any.
	Features []string
	// Skip are the public routes, as http.ServeMux patterns without a host ("GET /healthz", "/static/"). They
	// are matched only where the request's path is clean and plainly escaped; anything else authenticates.
	Skip []string
	// MinSchemaVersion is the lowest core_tenants.schema_version that this program works with; a tenant below
	// it is answered ErrTenantUnavailable. Default 0: any, also a tenant that was never migrated.
	MinSchemaVersion int64
	// Redirects sends browsers to the login and billing pages.
	Redirects Redirects
	// ErrorHandler writes the response to a refused request. Default: WriteProblem, which it may call for
	// what it doesn't answer itself. The error is an *Error; its text and its Reason may be shown to nobody.
	// It has been logged. WriteError and [Middleware.WriteError], called by it, write the default response.
	ErrorHandler func(http.ResponseWriter, *http.Request, error)
	// Logger receives a line for each refused request (level Info, "request refused") and for each that
	// failed on the server's side (level Error, "request failed"; Debug where the client had gone). The line
	// says what an operator needs to know why a member can't get in: code, status, reason (a [Reason]),
	// cause, method, route (the pattern that matched, not the path, which may hold personal data), host,
	// tenant_id, tenant_slug, and user_id or else issuer and subject. It is logged with the request's
	// context, so that a handler of your own can add a request's id. A reason and caller get at most five
	// lines in ten seconds; left_out in the next one counts the others. Default: slog.Default as it is when
	// New is called. slog.New(slog.DiscardHandler) silences it.
	Logger *slog.Logger
	// Now is the clock that subscriptions are judged by. Default: time.Now.
	Now func() time.Time
}

// CacheConfig bounds the cache of access facts. A change committed to the host database, by whatever program,
// is felt within MaxStaleness while the host database answers.
//
// During a failover the bound counts from the moment at which a host of hostdb.Config.URL takes writes and
// can be reached. Until then nobody can commit a change, and known facts serve for MaxStaleIfDown. Name every
// host in the URL: a primary that hangs, is cut off or has died is left for the one that was promoted, and
// once that was seen the old primary isn't gone back to. A process that can reach only an old primary which
// still takes writes can't know of the new one, nor of what is committed there: fence old primaries, as
// failover managers such as Patroni do.
type CacheConfig struct {
	// Size is how many (user, tenant) pairs are kept. Default 100,000.
	Size int
	// Denials is how many refused pairs are kept, apart from the others. Default 4,096.
	Denials int
	// MaxStaleness bounds how long after its commit a change may go unnoticed while the host database
	// answers. Default 3 s, at least 100 ms.
	MaxStaleness time.Duration
	// MaxAge bounds how long an entry lives without being loaded anew. Default 5 min.
	MaxAge time.Duration
	// DenialAge is MaxAge for refusals. Default 2 s.
	DenialAge time.Duration
	// MaxStaleIfDown bounds how long cached facts serve while the host database doesn't answer. Default 2
	// min; at least MaxStaleness.
	MaxStaleIfDown time.Duration
	// MaxLoads bounds how many queries look callers up at once. Default 4, as many as
	// hostdb.Config.LookupConns gives connections to. What has to wait meanwhile then goes together, up to 64
	// lookups in one query; callers take turns, so that one who asks for many tenants holds up nobody else,
	// and has 8 lookups under way at most. A lookup whose callers have gone is not begun.
	MaxLoads int
	// LoadTimeout bounds how long a request waits for a lookup, the wait for its turn included, and how long
	// a query takes. Default 1 s. A query may take no longer than MaxStaleness, since its answer would be too
	// old.
	LoadTimeout time.Duration
}

// withDefaults fills in what is zero.
func (c CacheConfig) withDefaults() CacheConfig {
	c.Size = cmp.Or(c.Size, 100_000)
	c.Denials = cmp.Or(c.Denials, 4096)
	c.MaxLoads = cmp.Or(c.MaxLoads, 4)
	c.MaxStaleness = cmp.Or(c.MaxStaleness, 3*time.Second)
	c.MaxAge = cmp.Or(c.MaxAge, 5*time.Minute)
	c.DenialAge = cmp.Or(c.DenialAge, 2*time.Second)
	c.MaxStaleIfDown = cmp.Or(c.MaxStaleIfDown, 2*time.Minute)
	c.LoadTimeout = cmp.Or(c.LoadTimeout, time.Second)
	return c
}

// validate checks a filled-in CacheConfig.
func (c CacheConfig) validate() error {
	switch {
	case c.Size < 0 || c.Denials < 0 || c.MaxLoads < 0:
		return errors.New("Cache: Size, Denials and MaxLoads can't be negative")
	case c.MaxStaleness < 100*time.Millisecond:
		return errors.New("Cache.MaxStaleness: give at least 100ms; changes can't be looked for more often")
	case c.MaxStaleIfDown < c.MaxStaleness:
		return errors.New("Cache.MaxStaleIfDown: give at least Cache.MaxStaleness")
	case c.MaxAge < 0 || c.DenialAge < 0 || c.LoadTimeout < 0:
		return errors.New("Cache: MaxAge, DenialAge and LoadTimeout can't be negative")
	}
	return nil
}

// validate names what is missing and how to mend it.
func (c *Config) validate() error {
	switch {
	case c.Host == nil:
		return errors.New("Host: give the host database, from hostdb.Open or hostdb.FromEnv")
	case c.Authenticator == nil:
		return errors.New("Authenticator: give one, such as jwtauth.New's")
	case c.Tenant.err != nil:
		return fmt.Errorf("Tenant: %w", c.Tenant.err)
	case len(c.Tenant.finders) == 0 && !c.Tenant.sole:
		return errors.New("Tenant: give a source, such as FromHeader(\"X-Tenant\")")
	case c.MinSchemaVersion < 0:
		return errors.New("MinSchemaVersion: can't be negative")
	}
	for i, role := range c.Roles {
		if role == "" || slices.Contains(c.Roles[:i], role) {
			return fmt.Errorf("Roles: %q is empty or named twice", role)
		}
	}
	if err := c.Subscription.validate(); err != nil {
		return err
	}
	if err := c.Redirects.validate(); err != nil {
		return err
	}
	return c.Cache.withDefaults().validate()
}

// setDefaults fills in what is zero.
func (c *Config) setDefaults() {
	c.Cache = c.Cache.withDefaults()
	c.Subscription.Grace = cmp.Or(c.Subscription.Grace, hostdb.DefaultGrace)
	c.Subscription.Grace = max(0, c.Subscription.Grace)
	if len(c.Roles) == 0 {
		c.Roles = []string{hostdb.RoleOwner, hostdb.RoleAdmin, hostdb.RoleMember}
	}
	c.Logger = defaultLogger(c.Logger)
	if c.Now == nil {
		c.Now = time.Now
	}
}

// userKey returns the configured mapping, or the default where it is safe.
func (c *Config) userKey() (func(*Identity) (UserKey, error), error) {
	if own := c.UserKey; own != nil {
		return func(id *Identity) (UserKey, error) { return own(id.own()) }, nil
	}
	if several, ok := c.Authenticator.(interface{ Issuers() []string }); ok {
		issuers := several.Issuers()
		if n := len(issuers); n != 1 {
			return nil, fmt.Errorf("UserKey: needed with %d issuers, since the same subject may be another person there; see UserByPrefixedSubject", n)
		}
		if strings.Contains(issuers[0], "{") {
			return nil, errors.New("UserKey: needed with an issuer that has a placeholder, since it stands for several")
		}
		return bySubjectOf(issuers[0]), nil
	}
	// An authenticator that doesn't say which issuers it accepts is taken to have one: the first that is
	// seen, and no other after it.
	var first atomic.Pointer[string]
	return func(id *Identity) (UserKey, error) {
		if p := first.Load(); p == nil {
			first.CompareAndSwap(nil, &id.Issuer)
		}
		return bySubjectOf(*first.Load())(id)
	}, nil
}

// bySubjectOf is UserBySubject for one issuer's identities, and refuses others.
func bySubjectOf(issuer string) func(*Identity) (UserKey, error) {
	return func(id *Identity) (UserKey, error) {
		if id.Issuer != issuer {
			return UserKey{}, errors.New("identities of several issuers need Config.UserKey")
		}
		return userKeyOf(UserKey{OAuthID: id.Subject})
	}
}

// UserBySubject takes the identity's subject for the user's oauth_id. It is right with a single issuer.
func UserBySubject(id Identity) (UserKey, error) {
	return userKeyOf(UserKey{OAuthID: id.Subject})
}

// UserByID takes the identity's subject for the user's id, as where the program issues its own tokens.
func UserByID(id Identity) (UserKey, error) {
	if !hostdb.ValidID(id.Subject) {
		return UserKey{}, errors.New("the subject is not a user's id")
	}
	return UserKey{ID: id.Subject}, nil
}

// UserByPrefixedSubject takes prefix + subject for the user's oauth_id, with a prefix for each issuer, such
// as "google_" for https://accounts.google.com. Identities of other issuers are refused. No prefix may begin
// with another one.
func UserByPrefixedSubject(prefixes map[string]string) func(Identity) (UserKey, error) {
	own := make(map[string]string, len(prefixes))
	for issuer, prefix := range prefixes {
		for other, longer := range prefixes {
			if issuer != other && len(prefix) <= len(longer) && longer[:len(prefix)] == prefix {
				panic(fmt.Sprintf("tenantdb: UserByPrefixedSubject: the prefix %q begins %q, so two people could share a name", prefix, longer))
			}
		}
		own[issuer] = prefix
	}
	return func(id Identity) (UserKey, error) {
		prefix, ok := own[id.Issuer]
		if !ok {
			return UserKey{}, errors.New("no prefix for this issuer")
		}
		if id.Subject == "" {
			return UserKey{}, errors.New("the identity has no subject")
		}
		return userKeyOf(UserKey{OAuthID: prefix + id.Subject})
	}
}

// checkUserKey refuses what a mapping of the program's own got wrong.
func checkUserKey(key UserKey) error {
	if (key.ID == "") == (key.OAuthID == "") || key.ID != "" && !hostdb.ValidID(key.ID) {
		return errors.New("Config.UserKey: give either an id of 32 hex digits or an oauth_id")
	}
	return nil
}

// maxOAuthID bounds the name that an identity gives, in bytes; the host database's bound is the same.
const maxOAuthID = 255

// userKeyOf checks a key by oauth_id.
func userKeyOf(key UserKey) (UserKey, error) {
	if key.OAuthID == "" || len(key.OAuthID) > maxOAuthID {
		return UserKey{}, errors.New("the subject is empty or too long")
	}
	return key, nil
}

// skipper matches the public routes. It matches a request only where every router reads its path alike;
// whatever is odd authenticates.
type skipper struct {
	mux *http.ServeMux // nil: nothing is public
}

// public marks a match: the mux's own handlers (redirects, not found, method not allowed) are of other types.
type public struct{}

// ServeHTTP implements http.Handler; it is never served.
func (public) ServeHTTP(http.ResponseWriter, *http.Request) {}

// newSkipper checks the patterns, which follow http.ServeMux.
func newSkipper(patterns []string) (s skipper, err error) {
	if len(patterns) == 0 {
		return skipper{}, nil
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("Skip: %v", p)
		}
	}()
	s.mux = http.NewServeMux()
	for _, pattern := range patterns {
		if path := pattern[strings.IndexAny(pattern, " \t")+1:]; !strings.HasPrefix(strings.TrimLeft(path, " \t"), "/") {
			return skipper{}, fmt.Errorf("Skip: %q: give a path, without a host, which clients choose", pattern)
		}
		s.mux.Handle(pattern, public{})
	}
	return s, nil
}

// match reports whether a request's route is public.
func (s *skipper) match(r *http.Request) bool {
	if s.mux == nil || r.Method == http.MethodConnect || r.URL.RawPath != "" || !cleanPath(r.URL.Path) {
		return false
	}
	handler, _ := s.mux.Handler(r)
	_, ok := handler.(public)
	return ok
}
