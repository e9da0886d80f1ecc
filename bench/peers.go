package main

import (
	"context"
	"fmt"
	"net/http"

	jwtmiddleware "github.com/auth0/go-jwt-middleware/v2"
	"github.com/auth0/go-jwt-middleware/v2/validator"
	chijwt "github.com/go-chi/jwtauth/v5"
	"github.com/lestrrat-go/jwx/v2/jwt"
	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/jwtauth"
)

// The guards that are compared, by the names that the tables show.
const (
	bareHandler = "bare handler"
	chiPeer     = "go-chi/jwtauth v5"
	auth0Peer   = "auth0/go-jwt-middleware v2"
	byHand      = "hand-written"
	lowerBound  = "lower bound"
	ours        = "tenantdb"
	oursRead    = "tenantdb, its Scope read" // by the handler
)

// guards are all of them, in the tables' order.
var guards = []string{bareHandler, lowerBound, ours, byHand, auth0Peer, chiPeer}

// remembers reports whether a guard keeps anything of the requests that it has seen.
func remembers(guard string) bool {
	return guard == lowerBound || guard == ours || guard == oursRead || guard == byHand
}

// readingScope asks for the Scope before next.
func readingScope(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if scope, ok := tenantdb.FromContext(r.Context()); !ok || scope.Role == "" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// newGuard puts one of the guards in front of next. The peers authenticate, and do nothing about tenants.
func newGuard(name string, keys *keyPair, host *hostdb.DB, pool *tenantdb.Pool,
	next http.Handler) (http.Handler, func(), error) {
	nothing := func() {}
	if name == oursRead {
		name, next = ours, readingScope(next)
	}
	switch name {
	case bareHandler:
		return next, nothing, nil
	case chiPeer:
		auth := chijwt.New(keys.algorithm, nil, keys.public, jwt.WithIssuer(issuer),
			jwt.WithAudience(audience))
		if keys.algorithm == "HS256" { // then the same key signs and verifies
			auth = chijwt.New(keys.algorithm, keys.private, nil, jwt.WithIssuer(issuer),
				jwt.WithAudience(audience))
		}
		return chijwt.Verifier(auth)(chijwt.Authenticator(auth)(next)), nothing, nil
	case auth0Peer:
		v, err := validator.New(func(context.Context) (any, error) {
			return keys.public, nil
		}, validator.SignatureAlgorithm(keys.algorithm),
			issuer, []string{audience})
		if err != nil {
			return nil, nil, err
		}
		return jwtmiddleware.New(v.ValidateToken).CheckJWT(next), nothing, nil
	case byHand:
		return newHandwritten(keys, host, next), nothing, nil
	case lowerBound:
		return newBound(keys, host, next), nothing, nil
	case ours:
		auth, err := jwtauth.New(keys.config())
		if err != nil {
			return nil, nil, err
		}
		mw, err := tenantdb.New(tenantdb.Config{
			Host: host, Authenticator: auth, Tenant: tenantdb.FromHeader(tenantHeader), Pool: pool})
		if err != nil {
			return nil, nil, err
		}
		return mw.Handler(next), func() { _ = mw.Close(context.Background()) }, nil
	}
	return nil, nil, fmt.Errorf("no guard is called %q", name)
}
