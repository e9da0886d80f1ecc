package jwtauth_test

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/jwtauth"
)

// noon is the time of the examples.
func noon() time.Time { return time.Date(2030, time.January, 1, 12, 0, 0, 0, time.UTC) }

// sign makes a token as an identity provider would. Products make none themselves, but in development.
func sign(method jwt.SigningMethod, key any, kid string, claims jwt.MapClaims) string {
	token := jwt.NewWithClaims(method, claims)
	if kid != "" {
		token.Header["kid"] = kid
	}
	text, err := token.SignedString(key)
	if err != nil {
		panic(err)
	}
	return text
}

// get is a request with a token.
func get(token string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/notes", nil)
	r.Header.Set("Authorization", "Bearer "+token)
	return r
}

func ExampleNew() {
	secret := []byte("at least thirty-two random bytes!")
	auth, err := jwtauth.New(jwtauth.Config{
		Issuer:     "https://login.example.com",
		Audience:   "notes",
		Algorithms: []string{"HS256"},
		Secret:     secret,
		Now:        noon,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	token := sign(jwt.SigningMethodHS256, secret, "", jwt.MapClaims{
		"iss": "https://login.example.com", "aud": "notes", "sub": "ada", "exp": noon().Add(time.Hour).Unix(),
		"tenant": "acme",
	})
	identity, err := auth.Authenticate(get(token))
	if err != nil {
		fmt.Println(err)
		return
	}
	tenant, _ := identity.Claim("tenant")
	fmt.Println(identity.Subject, "of", tenant, "until", identity.ExpiresAt.Format(time.TimeOnly))
	// Output: ada of acme until 13:00:00
}

// A configuration that is not safe is refused, with the field and the mend.
func ExampleNew_weak() {
	_, err := jwtauth.New(jwtauth.Config{Issuer: "https://login.example.com", Audience: "notes",
		Algorithms: []string{"HS256"}, Secret: []byte("hunter2")})
	fmt.Println(err)
	_, err = jwtauth.New(jwtauth.Config{Issuer: "https://login.example.com", Audience: "notes",
		Algorithms: []string{"RS256"}, JWKSURL: "http://login.example.com/keys"})
	fmt.Println(err)
	// Output:
	// jwtauth: Config.Secret: 7 bytes are too short: HS256 needs 32 (RFC 7518, section 3.2)
	// jwtauth: Config.JWKSURL: http is for loopback hosts only: use https
}

// An identity provider's keys come from its JWK set, which its discovery document names. Here it is a server
// on loopback; in production Issuer is all there is to say.
func ExampleNew_discovery() {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		panic(err)
	}
	provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		issuer := "http://" + r.Host
		if r.URL.Path == "/.well-known/openid-configuration" {
			json.NewEncoder(w).Encode(map[string]string{"issuer": issuer, "jwks_uri": issuer + "/keys"})
			return
		}
		fmt.Fprintf(w, `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"2030","x":%q}]}`,
			base64.RawURLEncoding.EncodeToString(public))
	}))
	defer provider.Close()
	auth, err := jwtauth.New(jwtauth.Config{Issuer: provider.URL, Audience: "notes",
		Algorithms: []string{"EdDSA"}, Discover: true, Now: noon})
	if err != nil {
		fmt.Println(err)
		return
	}
	token := sign(jwt.SigningMethodEdDSA, private, "2030",
		jwt.MapClaims{"iss": provider.URL, "aud": "notes", "sub": "ada", "exp": noon().Add(time.Hour).Unix()})
	identity, err := auth.Authenticate(get(token))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(identity.Subject)
	// Output: ada
}

// Several issuers stand side by side, each with rules of its own: customers sign in by the identity provider,
// and the nightly jobs have tokens of our own making. No key of one counts for the other.
func ExampleConfig_others() {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		panic(err)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		panic(err)
	}
	secret := []byte("at least thirty-two random bytes!")
	auth, err := jwtauth.New(jwtauth.Config{
		Issuer: "https://login.example.com", Audience: "notes", Algorithms: []string{"EdDSA"},
		PEM: pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}),
		Others: []jwtauth.IssuerConfig{
			{Issuer: "jobs", Audience: "notes", Algorithms: []string{"HS256"}, Secret: secret,
				Scopes: []string{"export"}},
		},
		Now: noon,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	claims := jwt.MapClaims{"iss": "https://login.example.com", "aud": "notes", "sub": "ada",
		"exp": noon().Add(time.Hour).Unix()}
	job := jwt.MapClaims{"iss": "jobs", "aud": "notes", "sub": "nightly", "scope": "export",
		"exp": noon().Add(time.Hour).Unix()}
	for _, token := range []string{
		sign(jwt.SigningMethodEdDSA, private, "", claims),
		sign(jwt.SigningMethodHS256, secret, "", job),
		sign(jwt.SigningMethodHS256, secret, "", claims), // a job that would like to be ada
	} {
		identity, err := auth.Authenticate(get(token))
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Println(identity.Subject, "of", identity.Issuer)
	}
	fmt.Println(auth.Issuers()) // several: tenantdb.New wants a Config.UserKey
	// Output:
	// ada of https://login.example.com
	// nightly of jobs
	// tenantdb: the credential is not valid: the issuer does not sign with this algorithm
	// [https://login.example.com jobs]
}

// A token lasts as long as it says, unless somebody is asked on every request whether it still may.
func ExampleConfig_revoked() {
	signedOut := map[any]bool{"session-2": true}
	secret := []byte("at least thirty-two random bytes!")
	auth, err := jwtauth.New(jwtauth.Config{
		Issuer: "https://login.example.com", Audience: "notes", Algorithms: []string{"HS256"}, Secret: secret,
		Now: noon,
		Revoked: func(_ context.Context, identity tenantdb.Identity) error {
			if signedOut[identity.Claims["sid"]] {
				return errors.New("signed out")
			}
			return nil
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, session := range []string{"session-1", "session-2"} {
		token := sign(jwt.SigningMethodHS256, secret, "", jwt.MapClaims{
			"iss": "https://login.example.com", "aud": "notes", "sub": "ada", "sid": session,
			"exp": noon().Add(time.Hour).Unix(),
		})
		_, err := auth.Authenticate(get(token))
		fmt.Println(session, tenantdb.StatusCode(err))
	}
	// Output:
	// session-1 200
	// session-2 401
}

// The reasons of golang-jwt are kept, so that a client can be told to refresh its token.
func ExampleAuthenticator_Verify() {
	secret := []byte("at least thirty-two random bytes!")
	auth, err := jwtauth.New(jwtauth.Config{Issuer: "jobs", Audience: "notes", Algorithms: []string{"HS256"},
		Secret: secret, Now: noon})
	if err != nil {
		fmt.Println(err)
		return
	}
	token := sign(jwt.SigningMethodHS256, secret, "",
		jwt.MapClaims{"iss": "jobs", "aud": "notes", "sub": "nightly", "exp": noon().Unix()})
	_, err = auth.Verify(context.Background(), token)
	fmt.Println(errors.Is(err, jwt.ErrTokenExpired), err)
	// Output: true tenantdb: the credential is not valid: token is expired
}

// Access tokens of Amazon Cognito have no aud claim. Their client_id names the app client.
func ExampleConfig_audienceClaim() {
	secret := []byte("at least thirty-two random bytes!") // Cognito's own are RS256, with JWKSURL or Discover
	auth, err := jwtauth.New(jwtauth.Config{
		Issuer:        "https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_example",
		Audience:      "3n4b5urk1ft4fl3mg5e62d9ado",
		AudienceClaim: "client_id",
		Algorithms:    []string{"HS256"},
		Secret:        secret,
		Now:           noon,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, client := range []string{"3n4b5urk1ft4fl3mg5e62d9ado", "another-client"} {
		_, err := auth.Authenticate(get(sign(jwt.SigningMethodHS256, secret, "", jwt.MapClaims{
			"iss": "https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_example",
			"sub": "ada", "client_id": client, "token_use": "access", "exp": noon().Add(time.Hour).Unix(),
		})))
		fmt.Println(client, err == nil)
	}
	// Output:
	// 3n4b5urk1ft4fl3mg5e62d9ado true
	// another-client false
}

// Microsoft writes the directory's id (tid) into iss. An app for several directories accepts each of them,
// and decides by Config.UserKey which person a token stands for.
func ExampleConfig_issuerWithPlaceholder() {
	auth, err := jwtauth.New(jwtauth.Config{
		Issuer:     "https://login.microsoftonline.com/{tid}/v2.0",
		Audience:   "6731de76-14a6-49ae-97bc-6eba6914391e",
		Algorithms: []string{"RS256"},
		JWKSURL:    "https://login.microsoftonline.com/common/discovery/v2.0/keys",
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(auth.Issuers())

	// The directory's id is the last segment but one of Identity.Issuer, and oid names the person in it.
	userKey := func(id tenantdb.Identity) (tenantdb.UserKey, error) {
		tid, _ := id.Claim("tid")
		oid, ok := id.Claim("oid")
		if !ok {
			return tenantdb.UserKey{}, errors.New("the token has no oid")
		}
		return tenantdb.UserKey{OAuthID: "microsoft_" + tid + "_" + oid}, nil
	}
	key, err := userKey(tenantdb.Identity{Claims: map[string]any{"tid": "t1", "oid": "o1"}})
	fmt.Println(key.OAuthID, err)
	// Output:
	// [https://login.microsoftonline.com/{tid}/v2.0]
	// microsoft_t1_o1 <nil>
}
