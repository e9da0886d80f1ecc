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

// UserKey names a user of the host database, either by ID or by OAuthID.
type UserKey = hostdb.UserKey

// Config describes a [Middleware]. Host, Authenticator and Tenant are required. The zero value of every other
// field is safe.
type Config struct {
	// Host is the host database. The Middleware never closes it.
	Host *hostdb.DB
	// Authenticator finds out who sends a request; see package jwtauth.
	Authenticator Authenticator
	// UserKey maps a verified identity to a user. An error refuses the request with [ErrInvalidCredential].
	// Never map by an e-mail address that the issuer hasn't verified. Each call gets a copy of the
	// Identity. The default is [UserBySubject] if there is a single issuer. With several, [New] fails
	// without UserKey, since their subjects may collide. If the Authenticator has no method Issuers, the
	// default accepts only the issuer of the first identity; others are refused with ErrInvalidCredential.
	UserKey func(Identity) (UserKey, error)
	// FirstLogin, if set, creates the user of a verified caller who has none yet. It runs once at a time for
	// each user, however many requests arrive together. It may run again, also in other processes, so a user
	// who exists already ([hostdb.ErrConflict]) is no error.
	//
	// If the caller still has no user after a conflict, the request is refused with [ErrForbidden]. That
	// happens if a row without oauth_id has the same e-mail address, as an invited user's does; the
	// package's example Config (FirstLogin) links it. [hostdb.ErrInvalid] is refused with ErrForbidden too,
	// since another attempt would also fail. If the error wraps one of this package's, that one is the
	// refusal. Any other error, or a panic, which is logged, becomes [ErrHostUnavailable].
	//
	// The context isn't the request's. It ends after [CacheConfig.LoadTimeout], and requests wait no longer.
	FirstLogin func(context.Context, *Identity) error
	// Tenant finds the tenant that a request names.
	Tenant Source
	// Pool holds the tenants' databases. If it is nil, [New] makes one with the defaults, and
	// [Middleware.Close] closes it. A Pool that is given may serve several Middlewares and is closed by
	// whoever made it. New fails unless they all have the same Host, or hosts opened by the same URL.
	Pool *Pool
	// Cache bounds how much of the host database is cached, and for how long.
	Cache CacheConfig
	// Subscription decides which tenants have paid. The zero value requires an active subscription of every
	// tenant.
	Subscription SubscriptionPolicy
	// Roles are the roles of memberships, highest first. The default is owner, admin, member.
	Roles []string
	// Features are the keys that [Middleware.RequireFeature] accepts, so that a misspelt key is found at the
	// program's start. The default is any.
	Features []string
	// Skip lists the public routes as [http.ServeMux] patterns without a host, such as "GET /healthz" or
	// "/static/". They match only a request whose path is clean and plainly escaped. Any other request is
	// authenticated.
	Skip []string
	// MinSchemaVersion is the lowest core_tenants.schema_version that this program works with. Requests for a
	// tenant below it are refused with [ErrTenantUnavailable]. The default is 0: any version, also that of a
	// tenant that was never migrated.
	MinSchemaVersion int64
	// Redirects sends browsers to the login and billing pages.
	Redirects Redirects
	// ErrorHandler writes the response to a refused request. The error is an [*Error], which has been logged.
	// Its text and its Reason must not be shown to the client. The default is [WriteProblem]. ErrorHandler
	// may call it, [WriteError] or [Middleware.WriteError] for the default response.
	ErrorHandler func(http.ResponseWriter, *http.Request, error)
	// Logger gets a line for each refused request (level Info, "request refused") and for each that failed on
	// the server's side (level Error, "request failed"). The level of a failure is Debug if the client had
	// gone.
	//
	// The attributes tell an operator why a member can't get in: code, status, reason (a [Reason]), cause,
	// method, route, host, tenant_id, tenant_slug, and either user_id or issuer and subject. The route is the
	// pattern that matched, not the path, which may hold personal data. The line is logged with the request's
	// context, so that a handler of your own can add a request's id. Each reason and caller gets at most five
	// lines in ten seconds. The next line counts those left out in left_out.
	//
	// The default is the [slog.Default] at the time of [New]. Use slog.New(slog.DiscardHandler) to log
	// nothing.
	Logger *slog.Logger
	// Observer is told what the Middleware decides and does. [PoolConfig.Observer] is the pool's. The default
	// is none, which costs nothing.
	Observer *Observer
	// ProfileLabels labels the goroutines of a request in a tenant with tenant_id, for [runtime/pprof]. The
	// goroutines that a handler starts inherit it. The default is no label.
	ProfileLabels bool
	// Now is the clock for the dates of subscriptions. The default is [time.Now].
	Now func() time.Time
}

// CacheConfig bounds the cache of access facts. While the host database answers, a change that any program
// commits takes effect within MaxStaleness.
//
// During a failover the bound counts from when a host of [hostdb.Config.URL] takes writes and can be reached.
// Until then nobody can commit a change, and known facts serve for MaxStaleIfDown. Name every host in the
// URL: then a primary that hangs, is cut off or has died is left for the one that was promoted. Once the new
// primary was seen, the old one isn't used again.
//
// A process that reaches only an old primary, which still takes writes, can't know of the new one, nor of
// what is committed there. So fence old primaries, as failover managers such as Patroni do.
type CacheConfig struct {
	// Size is how many pairs of a user and a tenant are cached. The default is 100,000.
	Size int
	// Denials is how many refused pairs are cached in addition. The default is 4,096.
	Denials int
	// MaxStaleness bounds how long after its commit a change may go unnoticed while the host database
	// answers. The default is 3 s, the minimum 100 ms.
	MaxStaleness time.Duration
	// MaxAge bounds how long an entry serves before it is loaded again. The default is 5 min.
	MaxAge time.Duration
	// DenialAge is MaxAge for refusals. The default is 2 s.
	DenialAge time.Duration
	// MaxStaleIfDown bounds how long cached facts serve while the host database doesn't answer. The default
	// is 2 min, the minimum MaxStaleness.
	MaxStaleIfDown time.Duration
	// MaxLoads bounds how many lookup queries run at once. The default is 4, the default of
	// [hostdb.Config.LookupConns]. Lookups that wait meanwhile share a query, up to 64 in one. Callers take
	// turns, and each has at most 8 lookups under way, so one who asks for many tenants delays nobody else. A
	// lookup is dropped if its callers have gone before it begins.
	MaxLoads int
	// LoadTimeout bounds how long a request waits for a lookup, including the wait for its turn, and how long
	// a query takes. MaxStaleness bounds a query too, since its answer would be too old afterwards. The
	// default is 1 s.
	LoadTimeout time.Duration
}

// withDefaults returns the configuration with its zero fields set to the defaults.
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

// validate checks the configuration after withDefaults.
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

// validate checks the configuration. Its errors begin with the name of the field, and say how to correct it.
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

// setDefaults sets the fields that are zero.
func (c *Config) setDefaults() {
	c.Cache = c.Cache.withDefaults()
	c.Subscription.Grace = max(0, cmp.Or(c.Subscription.Grace, hostdb.DefaultGrace))
	if len(c.Roles) == 0 {
		c.Roles = []string{hostdb.RoleOwner, hostdb.RoleAdmin, hostdb.RoleMember}
	}
	c.Logger = cmp.Or(c.Logger, slog.Default())
	if c.Now == nil {
		c.Now = time.Now
	}
}

// userKey returns the program's mapping, or the default if a single issuer makes that safe.
func (c *Config) userKey() (func(*Identity) (UserKey, error), error) {
	if mapUser := c.UserKey; mapUser != nil {
		return func(id *Identity) (UserKey, error) { return mapUser(id.own()) }, nil
	}
	if auth, ok := c.Authenticator.(interface{ Issuers() []string }); ok {
		issuers := auth.Issuers()
		if n := len(issuers); n != 1 {
			return nil, fmt.Errorf("UserKey: needed with %d issuers, since the same subject may be another "+
				"person there; see UserByPrefixedSubject", n)
		}
		if strings.Contains(issuers[0], "{") {
			return nil, errors.New("UserKey: needed with an issuer that has a placeholder, as with several")
		}
		return bySubjectOf(issuers[0]), nil
	}
	// The Authenticator doesn't say which issuers it accepts. So only the first one that appears is accepted.
	var first atomic.Pointer[string]
	return func(id *Identity) (UserKey, error) {
		if first.Load() == nil {
			first.CompareAndSwap(nil, &id.Issuer)
		}
		return bySubjectOf(*first.Load())(id)
	}, nil
}

// bySubjectOf is [UserBySubject] for the identities of one issuer. It refuses others.
func bySubjectOf(issuer string) func(*Identity) (UserKey, error) {
	return func(id *Identity) (UserKey, error) {
		if id.Issuer != issuer {
			return UserKey{}, errors.New("identities of several issuers need Config.UserKey")
		}
		return userKeyOf(UserKey{OAuthID: id.Subject})
	}
}

// UserBySubject uses the identity's subject as the user's oauth_id. It is for a single issuer.
func UserBySubject(id Identity) (UserKey, error) {
	return userKeyOf(UserKey{OAuthID: id.Subject})
}

// UserByID uses the identity's subject as the user's id. It is for programs that issue their own tokens.
func UserByID(id Identity) (UserKey, error) {
	if !hostdb.ValidID(id.Subject) {
		return UserKey{}, errors.New("the subject is not a user's id")
	}
	return UserKey{ID: id.Subject}, nil
}

// UserByPrefixedSubject uses a prefix and the subject as the user's oauth_id. prefixes has one for each
// issuer, such as "google_" for https://accounts.google.com. Identities of other issuers are refused.
// UserByPrefixedSubject panics if one prefix begins with another, since two people could then have the same
// oauth_id.
func UserByPrefixedSubject(prefixes map[string]string) func(Identity) (UserKey, error) {
	own := make(map[string]string, len(prefixes))
	for issuer, prefix := range prefixes {
		for other, longer := range prefixes {
			if issuer != other && strings.HasPrefix(longer, prefix) {
				panic(fmt.Sprintf("tenantdb: UserByPrefixedSubject: the prefix %q begins %q, "+
					"so two people could share a name", prefix, longer))
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

// checkUserKey checks what the program's mapping returned.
func checkUserKey(key UserKey) error {
	if (key.ID == "") == (key.OAuthID == "") || key.ID != "" && !hostdb.ValidID(key.ID) {
		return errors.New("Config.UserKey: give either an id of 32 hex digits or an oauth_id")
	}
	return nil
}

// maxOAuthID is how many bytes an oauth_id may have, as in the host database.
const maxOAuthID = 255

// userKeyOf checks an oauth_id that comes from a subject.
func userKeyOf(key UserKey) (UserKey, error) {
	if key.OAuthID == "" || len(key.OAuthID) > maxOAuthID {
		return UserKey{}, errors.New("the subject is empty or too long")
	}
	return key, nil
}

// skipper matches the requests of public routes. It matches none whose path two routers could read
// differently.
type skipper struct {
	mux *http.ServeMux // nil: no route is public
}

// public is the handler of public routes. The mux's own handlers, such as for redirects, have other types.
type public struct{}

// ServeHTTP implements [http.Handler]. It is never called.
func (public) ServeHTTP(http.ResponseWriter, *http.Request) {}

// newSkipper checks the patterns, as [http.ServeMux] does.
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
		path := strings.TrimLeft(pattern[strings.IndexAny(pattern, " \t")+1:], " \t")
		if !strings.HasPrefix(path, "/") {
			return skipper{}, fmt.Errorf("Skip: %q: give a path without a host", pattern)
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
