package main

// FROZEN since the first measurement: this file is the yardstick, so its code doesn't change while tenantdb
// is tuned.

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/tenantdb/tenantdb/hostdb"
)

// bound is the least that a guard of this kind can do when it is written by hand for one product. It has a
// cache of verified tokens whose entries lead straight to the access record (one merged lookup), an expiry
// check of both, and one context value. It leases no database, notices changes only by age, and has no bound
// on its memory.
type bound struct {
	verify func(token string) (subject string, expires time.Time, err error)
	load   func(ctx context.Context, user hostdb.UserKey, tenant hostdb.TenantKey) (*hostdb.Access, error)
	next   http.Handler

	read   atomic.Pointer[map[string]*boundEntry] // never written to, only replaced
	mu     sync.Mutex                             // guards what follows
	all    map[string]*boundEntry                 // what read has, and what came since
	misses int                                    // tokens that weren't in read since it was made
}

// boundEntry is a verified token, and the access record that was last asked for with it.
type boundEntry struct {
	subject string
	expires int64
	access  atomic.Pointer[boundAccess]
}

// boundAccess is an access record, and when it was found.
type boundAccess struct {
	slug   string
	loaded int64
	*hostdb.Access
}

// boundContext is a request's context with the access record in it.
type boundContext struct {
	context.Context
	access *boundAccess
}

type boundKey struct{}

const boundAge = 5 * time.Minute

// Value implements context.Context.
func (c *boundContext) Value(key any) any {
	if key == (boundKey{}) {
		return c.access
	}
	return c.Context.Value(key)
}

// newBound returns the guard in front of next.
func newBound(keys *keyPair, host *hostdb.DB, next http.Handler) http.Handler {
	parser := jwt.NewParser(jwt.WithValidMethods([]string{keys.algorithm}), jwt.WithIssuer(issuer),
		jwt.WithAudience(audience), jwt.WithExpirationRequired())
	b := &bound{load: host.Access, next: next, all: map[string]*boundEntry{}}
	b.verify = func(token string) (string, time.Time, error) {
		var claims jwt.RegisteredClaims
		if _, err := parser.ParseWithClaims(token, &claims, func(*jwt.Token) (any, error) {
			return keys.public, nil
		}); err != nil {
			return "", time.Time{}, err
		}
		return claims.Subject, claims.ExpiresAt.Time, nil
	}
	b.read.Store(&map[string]*boundEntry{})
	return b
}

// ServeHTTP implements http.Handler.
func (b *bound) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	values, tenants := r.Header["Authorization"], r.Header[tenantHeader]
	if len(values) != 1 || len(tenants) != 1 || !strings.HasPrefix(values[0], "Bearer ") {
		http.Error(w, "unauthenticated", http.StatusUnauthorized)
		return
	}
	token, now := values[0][len("Bearer "):], time.Now().UnixNano()
	e := (*b.read.Load())[token]
	if e == nil || now >= e.expires {
		if e = b.enter(token, now); e == nil {
			http.Error(w, "unauthenticated", http.StatusUnauthorized)
			return
		}
	}
	a := e.access.Load()
	if a == nil || a.slug != tenants[0] || now-a.loaded > int64(boundAge) {
		if a = b.ask(r.Context(), e, tenants[0], now); a == nil {
			http.Error(w, "not a member", http.StatusForbidden)
			return
		}
	}
	if a.Tenant.Status != hostdb.TenantActive ||
		!a.Subscriptions[0].ActiveAt(time.Unix(0, now), hostdb.DefaultGrace) {
		http.Error(w, "closed", http.StatusForbidden)
		return
	}
	b.next.ServeHTTP(w, r.WithContext(&boundContext{r.Context(), a}))
}

// enter verifies a token that isn't in the read map, or takes it from all. It returns nil if the token isn't
// valid.
func (b *bound) enter(token string, now int64) *boundEntry {
	b.mu.Lock()
	e := b.all[token]
	b.mu.Unlock()
	if e == nil || now >= e.expires {
		subject, expires, err := b.verify(token)
		if err != nil {
			return nil
		}
		e = &boundEntry{subject: subject, expires: expires.UnixNano()}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all[token] = e
	if b.misses++; b.misses >= len(b.all) {
		copied := make(map[string]*boundEntry, len(b.all))
		for k, v := range b.all {
			copied[k] = v
		}
		b.read.Store(&copied)
		b.misses = 0
	}
	return e
}

// ask loads the access record. It returns nil if there is none, or if it can't be loaded.
func (b *bound) ask(ctx context.Context, e *boundEntry, slug string, now int64) *boundAccess {
	found, err := b.load(ctx, hostdb.UserKey{OAuthID: e.subject}, hostdb.TenantKey{Slug: slug})
	if err != nil || found.Membership == nil || !found.Membership.IsActive || len(found.Subscriptions) == 0 {
		return nil
	}
	a := &boundAccess{slug: strings.Clone(slug), loaded: now, Access: found}
	e.access.Store(a)
	return a
}
