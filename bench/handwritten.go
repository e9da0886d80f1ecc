package main

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/hashicorp/golang-lru/v2/expirable"
	"github.com/tenantdb/tenantdb/hostdb"
)

// handwritten is the guard that a product's own team writes in an afternoon: golang-jwt, and for users,
// tenants and memberships an expiring cache and a context value each. It leases no database and notices
// changes only by age.
type handwritten struct {
	parser  *jwt.Parser
	keys    *keyPair
	host    *hostdb.DB
	next    http.Handler
	users   *expirable.LRU[string, *hostdb.GlobalUser]
	tenants *expirable.LRU[string, *hostdb.TenantCatalog]
	members *expirable.LRU[[2]string, *hostdb.Membership]
}

type (
	userKey       struct{}
	tenantKey     struct{}
	membershipKey struct{}
)

// newHandwritten returns the guard in front of next.
func newHandwritten(keys *keyPair, host *hostdb.DB, next http.Handler) http.Handler {
	const size, age = 100_000, 5 * time.Minute
	return &handwritten{
		parser: jwt.NewParser(jwt.WithValidMethods([]string{keys.algorithm}), jwt.WithIssuer(issuer),
			jwt.WithAudience(audience), jwt.WithExpirationRequired()),
		keys: keys, host: host, next: next,
		users:   expirable.NewLRU[string, *hostdb.GlobalUser](size, nil, age),
		tenants: expirable.NewLRU[string, *hostdb.TenantCatalog](size, nil, age),
		members: expirable.NewLRU[[2]string, *hostdb.Membership](size, nil, age),
	}
}

// ServeHTTP implements http.Handler.
func (h *handwritten) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		http.Error(w, "unauthenticated", http.StatusUnauthorized)
		return
	}
	var claims jwt.RegisteredClaims
	if _, err := h.parser.ParseWithClaims(token, &claims, func(*jwt.Token) (any, error) {
		return h.keys.public, nil
	}); err != nil {
		http.Error(w, "unauthenticated", http.StatusUnauthorized)
		return
	}
	ctx := r.Context()
	user, err := remembered(h.users, claims.Subject, func() (*hostdb.GlobalUser, error) {
		return h.host.Users.ByOAuthID(ctx, claims.Subject)
	})
	if err != nil {
		http.Error(w, "unknown user", http.StatusForbidden)
		return
	}
	slug := r.Header.Get(tenantHeader)
	tenant, err := remembered(h.tenants, slug, func() (*hostdb.TenantCatalog, error) {
		return h.host.Tenants.BySlug(ctx, slug)
	})
	if err != nil || tenant.Status != hostdb.TenantActive {
		http.Error(w, "unknown tenant", http.StatusForbidden)
		return
	}
	member, err := remembered(h.members, [2]string{user.ID, tenant.ID}, func() (*hostdb.Membership, error) {
		return h.host.Memberships.Find(ctx, user.ID, tenant.ID)
	})
	if err != nil || !member.IsActive {
		http.Error(w, "not a member", http.StatusForbidden)
		return
	}
	ctx = context.WithValue(ctx, userKey{}, user)
	ctx = context.WithValue(ctx, tenantKey{}, tenant)
	ctx = context.WithValue(ctx, membershipKey{}, member)
	h.next.ServeHTTP(w, r.WithContext(ctx))
}

// remembered returns a cached value, and loads it if it is missing.
func remembered[K comparable, V any](cache *expirable.LRU[K, V], key K, load func() (V, error)) (V, error) {
	if v, ok := cache.Get(key); ok {
		return v, nil
	}
	v, err := load()
	if err == nil {
		cache.Add(key, v)
	}
	return v, err
}
