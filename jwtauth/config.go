package jwtauth

import (
	"context"
	"crypto"
	"log/slog"
	"net/http"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tenantdb/tenantdb"
)

// Config says whose tokens are accepted, and how requests carry them. Issuer, Audience, Algorithms and
// exactly one key source are required; the zero value of every other field is the safe choice.
//
// A printed or logged Config shows no key, except as an unexported field of another struct, where fmt can't
// call its methods.
type Config struct {
	// Issuer is the exact iss claim of accepted tokens (RFC 7519, section 4.1.1).
	//
	// It may hold one placeholder, a claim's name in braces, for an identity provider that writes its own
	// tenant's name there, as Microsoft does in "https://login.microsoftonline.com/{tid}/v2.0". A token's iss
	// must then be this text with that claim of the same token in place of the placeholder. The claim must be
	// 1 to 64 letters, digits, hyphens and underscores. Every tenant of that provider can sign in, so
	// tenantdb.New wants a Config.UserKey, which gets the token's whole iss in Identity.Issuer. Such an
	// issuer needs JWKSURL or another key source than Discover.
	Issuer string
	// Audience is the name of this service: it must be, or be among, the aud claim (RFC 7519, section 4.1.3).
	// Without it a token that the same issuer made for another service would open this one.
	Audience string
	// AudienceClaim names another claim that must equal Audience, for issuers whose tokens have no aud:
	// "client_id" for access tokens of Amazon Cognito (RFC 9068, section 2.2), "azp" for session tokens of
	// Clerk. A token that has an aud all the same must name Audience there too. Default: "aud".
	AudienceClaim string
	// Algorithms are the signature algorithms that the issuer uses: HS256, HS384, HS512; or RS256, RS384,
	// RS512, PS256, PS384, PS512, ES256, ES384, ES512 and EdDSA (RFC 7518, section 3.1; RFC 8037). The two
	// groups exclude each other: who accepts both accepts tokens signed with a public key as if it were a
	// secret (RFC 8725, section 2.1).
	Algorithms []string

	// Secret is a key source: the one symmetric key, as bytes, not encoded. It needs at least the length of
	// the hash (RFC 7518, section 3.2). It has no kid, so a token with a kid is refused: keys with names go
	// in JWKS.
	Secret []byte
	// PublicKeys is a key source: *rsa.PublicKey of at least 2048 bits, *ecdsa.PublicKey and
	// ed25519.PublicKey by their kid. The empty kid is a key without a name.
	PublicKeys map[string]crypto.PublicKey
	// PEM is a key source: one or more PUBLIC KEY blocks, without names.
	PEM []byte
	// JWKS is a key source: a JWK set (RFC 7517, section 5) as JSON. With symmetric algorithms it holds oct
	// keys, several of them while a secret is rotated. Keys that can't be used are skipped, but one must be
	// left.
	JWKS []byte
	// JWKSURL is a key source: the https address of the issuer's JWK set. http is for loopback hosts. The set
	// is fetched when the first token comes, and again as KeyRefresh and unknown kids ask for it, at most
	// once a second. A token with an unknown kid waits for a fetch that began after it came, so that nobody's
	// made-up kids delay a new key.
	JWKSURL string
	// Discover is a key source: the JWK set that the issuer's discovery document names (OpenID Connect
	// Discovery 1.0, section 4). Issuer must then be an https address; http is for loopback hosts.
	Discover bool
	// Keyfunc is a key source: a function of golang-jwt's that returns one key. What it returns must fit the
	// algorithm, and be long enough, as keys from every source must. Only it knows when a key ends, so its
	// tokens are never cached. An error that wraps tenantdb.ErrAuthUnavailable means that the keys can't be
	// had; every other one refuses the token.
	Keyfunc jwt.Keyfunc

	// TokenTypes are the accepted typ headers, without "application/" and regardless of case (RFC 8725,
	// section 3.11). The empty string stands for a token without typ. Default: "", "JWT" and "at+jwt".
	TokenTypes []string
	// AuthorizedParties, where there are any, must have the token's azp claim among them (OpenID Connect Core
	// 1.0, section 2).
	AuthorizedParties []string
	// Scopes must all be granted by the token's scope or scp claim (RFC 8693, section 4.2). Default: none.
	Scopes []string

	// Others are further issuers, each with its own rules. A token's iss chooses the one whose rules it must
	// then satisfy in full: no key, algorithm or audience of one issuer counts for another.
	Others []IssuerConfig

	// Cookie is the name of a cookie that may carry the token instead of the Authorization header. Default:
	// none, cookies are not read. Name it with __Host- and set it HttpOnly, Secure and SameSite=Lax.
	Cookie string
	// CrossOrigin judges requests whose credential is in the cookie. Default: the zero
	// http.CrossOriginProtection, which refuses methods other than GET, HEAD and OPTIONS from other origins.
	// WebSocket handshakes are GETs: their library checks Origin.
	CrossOrigin *http.CrossOriginProtection
	// Leeway is how far the issuer's clock may be off when exp, nbf and iat are compared, at most a minute. A
	// negative Leeway means none at all. The default is 30 seconds for nbf and iat, and none for exp: a clock
	// that is a second ahead would otherwise have a token refused that its issuer made just now, while a
	// token that is accepted after its end outlives what its issuer promised.
	Leeway time.Duration
	// Revoked, if set, is asked about each identity on every request, also where the token is cached. An
	// error refuses the credential (401); one that wraps tenantdb.ErrAuthUnavailable, or a context's error,
	// says that it can't be judged now (503).
	Revoked func(context.Context, tenantdb.Identity) error
	// Cache bounds the memory of verified tokens.
	Cache CacheConfig

	// HTTPClient fetches JWK sets and discovery documents. Its CheckRedirect is replaced by ours: no redirect
	// leaves the host or https. Default: http.DefaultTransport.
	HTTPClient *http.Client
	// KeyRefresh is the age at which keys are fetched again, in the background. Default: 15 minutes.
	KeyRefresh time.Duration
	// KeyMaxAge is the age up to which fetched keys are used while the issuer can't be reached. After that
	// requests fail with [tenantdb.ErrAuthUnavailable]. Default: 24 hours.
	KeyMaxAge time.Duration
	// Logger receives failed fetches (level Warn) and keys that are skipped (level Debug). Default: none.
	Logger *slog.Logger
	// Now is the clock. Default: time.Now.
	Now func() time.Time
}

// IssuerConfig is a further issuer. Its fields mean what those of Config do.
type IssuerConfig struct {
	// Issuer is the exact iss claim, or one with a placeholder; no two issuers share one.
	Issuer string
	// Audience is this service's name at the issuer.
	Audience string
	// AudienceClaim is the claim that must equal Audience.
	AudienceClaim string
	// Algorithms are those the issuer signs with.
	Algorithms []string
	// Secret is a key source: a symmetric key.
	Secret []byte
	// PublicKeys is a key source: public keys by kid.
	PublicKeys map[string]crypto.PublicKey
	// PEM is a key source: PUBLIC KEY blocks.
	PEM []byte
	// JWKS is a key source: a JWK set as JSON.
	JWKS []byte
	// JWKSURL is a key source: the address of a JWK set.
	JWKSURL string
	// Discover is a key source: the JWK set named by the issuer's discovery document.
	Discover bool
	// Keyfunc is a key source: a function of golang-jwt's.
	Keyfunc jwt.Keyfunc
	// TokenTypes are the accepted typ headers.
	TokenTypes []string
	// AuthorizedParties are the accepted azp claims.
	AuthorizedParties []string
	// Scopes are those a token must grant.
	Scopes []string
}

// CacheConfig bounds the cache of verified tokens. The cache holds identities only, nothing about tenants or
// rights.
type CacheConfig struct {
	// Disabled verifies every token on every request.
	Disabled bool
	// Entries is how many tokens are cached at most. Default: 32,768.
	Entries int
	// Bytes is how much memory the entries may take, as estimated from their size. Default: 64 MiB. The cache
	// has up to 64 parts of 256 KiB or more; what is larger than a part is not kept.
	Bytes int
	// MaxAge is how long an entry is used, at most a minute, which is the default. An entry ends earlier with
	// its token and with its key.
	MaxAge time.Duration
}

// first returns the rules of the issuer that the Config itself describes.
func (c *Config) first() IssuerConfig {
	return IssuerConfig{
		Issuer: c.Issuer, Audience: c.Audience, AudienceClaim: c.AudienceClaim, Algorithms: c.Algorithms,
		Secret: c.Secret, PublicKeys: c.PublicKeys, PEM: c.PEM, JWKS: c.JWKS,
		JWKSURL: c.JWKSURL, Discover: c.Discover, Keyfunc: c.Keyfunc,
		TokenTypes: c.TokenTypes, AuthorizedParties: c.AuthorizedParties, Scopes: c.Scopes,
	}
}

// defaultIssueLeeway is the leeway for nbf and iat if Config.Leeway is zero.
const defaultIssueLeeway = 30 * time.Second

// expiryLeeway returns how long after its exp a token is accepted.
func (c *Config) expiryLeeway() time.Duration { return max(0, c.Leeway) }

// issueLeeway returns how long before its nbf and iat a token is accepted.
func (c *Config) issueLeeway() time.Duration {
	if c.Leeway == 0 {
		return defaultIssueLeeway
	}
	return max(0, c.Leeway)
}
