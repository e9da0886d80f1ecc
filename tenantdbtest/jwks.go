package tenantdbtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tenantdb/tenantdb/jwtauth"
)

// keySet is what an issuer has whose keys are published.
type keySet struct {
	server *httptest.Server

	mu   sync.Mutex // guards keys
	keys []signingKey
}

// signingKey is a private key with the name by which its tokens refer to it.
type signingKey struct {
	id      string
	private *ecdsa.PrivateKey
}

// NewJWKSIssuer returns an issuer that signs with ES256, and publishes its keys on a server of its own as an
// identity provider does: the JWK set at /jwks.json, and a discovery document. [Issuer.Rotate] and
// [Issuer.Retire] change the keys. The server is closed when the test ends.
//
// Give it to [Options.Issuer], so that the kit's requests have its tokens.
func NewJWKSIssuer(t testing.TB) *Issuer {
	t.Helper()
	set := new(keySet)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /jwks.json", set.serveKeys)
	mux.HandleFunc("GET /.well-known/openid-configuration", set.serveDiscovery)
	set.server = httptest.NewServer(mux)
	t.Cleanup(set.server.Close)
	issuer := &Issuer{name: set.server.URL, set: set, now: time.Now}
	issuer.Rotate()
	return issuer
}

// Rotate makes a new key, with which tokens are signed from then on. The former keys stay published, so
// tokens that they signed are still accepted. It panics if the issuer has no published keys, as that of
// [NewIssuer].
func (i *Issuer) Rotate() {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic("tenantdbtest: Rotate: " + err.Error())
	}
	set := i.published("Rotate")
	set.mu.Lock()
	defer set.mu.Unlock()
	set.keys = append(set.keys, signingKey{rand.Text(), private})
}

// Retire stops to publish all keys but the newest. An authenticator goes on accepting tokens that the others
// signed until it fetches the set again ([jwtauth.Config.KeyRefresh]). It panics as Rotate does.
func (i *Issuer) Retire() {
	set := i.published("Retire")
	set.mu.Lock()
	defer set.mu.Unlock()
	set.keys = set.keys[len(set.keys)-1:]
}

// published returns the issuer's published keys.
func (i *Issuer) published(caller string) *keySet {
	if i.set == nil {
		panic("tenantdbtest: " + caller + ": this issuer has one secret; make it with NewJWKSIssuer")
	}
	return i.set
}

// config returns the configuration of an authenticator that fetches the keys.
func (s *keySet) config() jwtauth.Config {
	return jwtauth.Config{Issuer: s.server.URL, Audience: Audience, Algorithms: []string{"ES256"},
		JWKSURL: s.server.URL + "/jwks.json", HTTPClient: s.server.Client()}
}

// sign signs a token with the newest key.
func (s *keySet) sign(claims jwt.MapClaims) (string, error) {
	s.mu.Lock()
	newest := s.keys[len(s.keys)-1]
	s.mu.Unlock()
	token := jwt.NewWithClaims(jwt.SigningMethodES256, claims)
	token.Header["kid"] = newest.id
	return token.SignedString(newest.private)
}

// serveKeys answers with the JWK set (RFC 7517, section 5).
func (s *keySet) serveKeys(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := []map[string]string{}
	for _, key := range s.keys {
		point, err := key.private.PublicKey.Bytes() // 4, x and y
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		all = append(all, map[string]string{"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig",
			"kid": key.id, "x": base64.RawURLEncoding.EncodeToString(point[1:33]),
			"y": base64.RawURLEncoding.EncodeToString(point[33:])})
	}
	writeJSON(w, map[string]any{"keys": all})
}

// serveDiscovery answers with the discovery document (OpenID Connect Discovery 1.0, section 4.2).
func (s *keySet) serveDiscovery(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, map[string]any{"issuer": s.server.URL, "jwks_uri": s.server.URL + "/jwks.json"})
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the client may have gone
}
