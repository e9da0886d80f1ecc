package jwtauth

import (
	"bytes"
	"context"
	"crypto"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tenantdb/tenantdb"
)

// canary is a secret in whatever place: long enough for a key, and found again in every encoding.
const canary = "canary-0123456789-canary-0123456789-canary-0123456789-canary-012"

// traces are what the canary looks like in print.
func traces() []string {
	spaced := strings.Trim(fmt.Sprint([]byte(canary)), "[]")
	listed := strings.ReplaceAll(spaced, " ", ", ")
	return []string{
		"canary", base64.RawURLEncoding.EncodeToString([]byte(canary))[:20],
		base64.StdEncoding.EncodeToString([]byte(canary))[:20],
		hex.EncodeToString([]byte(canary))[:20], strings.ToUpper(hex.EncodeToString([]byte(canary)))[:20],
		spaced[:30], listed[:30], "0x63, 0x61, 0x6e",
	}
}

// printings are the forms in which a value gets into a log.
func printings(v any) map[string]string {
	forms := make(map[string]string)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		forms[verb] = fmt.Sprintf(verb, v)
	}
	text, err := json.Marshal(v)
	forms["JSON"] = fmt.Sprint(string(text), err)
	for name, handler := range map[string]func(*bytes.Buffer) slog.Handler{
		"slog text": func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
		"slog JSON": func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
	} {
		var b bytes.Buffer
		slog.New(handler(&b)).Info("printed", "value", v)
		forms[name] = b.String()
	}
	return forms
}

// keepsSecret fails the test if a printing of v shows the canary.
func keepsSecret(t *testing.T, what string, v any) {
	t.Helper()
	for form, text := range printings(v) {
		for _, trace := range traces() {
			if strings.Contains(text, trace) {
				t.Errorf("%s as %s shows %q: %.300s", what, form, trace, text)
			}
		}
	}
}

// TestSecrets_theTestSeesCanaries: a test that can't see one proves nothing.
func TestSecrets_theTestSeesCanaries(t *testing.T) {
	t.Parallel()
	for name, v := range map[string]any{"string": canary, "bytes": []byte(canary),
		"struct": struct{ Secret []byte }{[]byte(canary)}, "error": errors.New(canary)} {
		for form, text := range printings(v) {
			seen := false
			for _, trace := range traces() {
				seen = seen || strings.Contains(text, trace)
			}
			// Errors have no exported fields, and %d of text is a complaint that quotes it.
			if !seen && !(name == "error" && form == "JSON") {
				t.Errorf("a %s as %s hides the canary: %.200s", name, form, text)
			}
		}
	}
}

func TestSecrets_configurationKeepsSecrets(t *testing.T) {
	t.Parallel()
	other := IssuerConfig{
		Issuer: "other", Audience: "a", Algorithms: []string{"HS256"},
		JWKS: []byte(`{"keys":[{"kty":"oct","kid":"` + canary + `","k":"` + encode(canary) + `"}]}`),
	}
	c := testConfig("HS256")
	c.Secret, c.Others = []byte(canary), []IssuerConfig{other}
	a, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	everywhere := c
	everywhere.PEM, everywhere.JWKS, everywhere.JWKSURL = []byte(canary), other.JWKS,
		"https://issuer.example/?key="+canary
	everywhere.PublicKeys = map[string]crypto.PublicKey{canary: []byte(canary)}
	everywhere.Keyfunc = func(*jwt.Token) (any, error) { return nil, nil }
	everywhere.Revoked = func(context.Context, tenantdb.Identity) error { return nil }
	for name, v := range map[string]any{
		"Config": c, "*Config": &c, "a full Config": everywhere, "IssuerConfig": other,
		"*IssuerConfig": &other, "[]IssuerConfig": c.Others,
		"Authenticator": a, "Authenticator by value": *a, "a struct with all": struct {
			C Config
			A *Authenticator
			O []IssuerConfig
		}{everywhere, a, c.Others},
	} {
		keepsSecret(t, name, v)
	}
	for _, text := range []string{fmt.Sprint(c), fmt.Sprintf("%+v", &c), fmt.Sprint(other),
		printings(c)["JSON"], printings(other)["JSON"]} {
		if !strings.Contains(strings.ReplaceAll(text, `\"`, `"`), `issuer "`) ||
			!strings.Contains(text, "HS256") {
			t.Errorf("%s does not say whom it trusts", text)
		}
	}
}

// TestSecrets_constructorErrorsKeepSecrets puts the canary where a key or an address is wrong.
func TestSecrets_constructorErrorsKeepSecrets(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Config){
		"short secret":   func(c *Config) { c.Algorithms, c.Secret = []string{"HS512"}, []byte(canary)[:63] },
		"secret for RSA": func(c *Config) { c.Algorithms, c.Secret = []string{"RS256"}, []byte(canary) },
		"two sources":    func(c *Config) { c.Secret, c.PEM = []byte(canary), []byte(canary) },
		"PEM":            func(c *Config) { c.Algorithms, c.PEM = []string{"RS256"}, []byte(canary) },
		"PEM block": func(c *Config) {
			c.Algorithms, c.PEM = []string{"RS256"},
				[]byte("-----BEGIN PUBLIC KEY-----\n"+
					base64.StdEncoding.EncodeToString([]byte(canary))+"\n-----END PUBLIC KEY-----\n")
		},
		"JWKS text":   func(c *Config) { c.JWKS = []byte(canary) },
		"JWKS string": func(c *Config) { c.JWKS = []byte(`{"keys":"` + canary + `"}`) },
		"JWKS short": func(c *Config) {
			c.Algorithms, c.JWKS = []string{"HS512"},
				[]byte(`{"keys":[{"kty":"oct","kid":"`+canary+`","k":"`+encode(canary[:40])+`"}]}`)
		},
		"JWKS members": func(c *Config) {
			c.JWKS = []byte(`{"keys":[{"kty":"` + canary + `","use":"` + canary + `","alg":"` + canary +
				`"}]}`)
		},
		"JWKS for another": func(c *Config) {
			c.Algorithms, c.JWKS = []string{"ES256"},
				[]byte(`{"keys":[{"kty":"oct","k":"`+encode(canary)+`"}]}`)
		},
		"public key": func(c *Config) {
			c.Algorithms, c.PublicKeys = []string{"ES256"}, map[string]crypto.PublicKey{"k": []byte(canary)}
		},
		"address": func(c *Config) {
			c.Algorithms, c.JWKSURL = []string{"ES256"}, "https://user:"+canary+"@issuer.example/keys"
		},
		"address, plain": func(c *Config) {
			c.Algorithms, c.JWKSURL = []string{"ES256"},
				"http://issuer.example/keys?"+canary
		},
		"address, broken": func(c *Config) {
			c.Algorithms, c.JWKSURL = []string{"ES256"},
				"https://issuer.example/%zz"+canary
		},
		"address, unreadable": func(c *Config) { c.Algorithms, c.JWKSURL = []string{"ES256"}, canary },
	} {
		c := testConfig("HS256")
		change(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
		} else {
			keepsSecret(t, name, err)
		}
	}
}

// TestSecrets_refusalsKeepSecrets puts the canary in every place of a request.
func TestSecrets_refusalsKeepSecrets(t *testing.T) {
	t.Parallel()
	a, s := newFixture(t, "HS256", func(c *Config) {
		c.Cookie, c.Scopes = "session", []string{"read"}
		c.Revoked = func(context.Context, tenantdb.Identity) error { return errors.New(canary) }
	})
	good := claims(map[string]any{"scope": "read"})
	requests := map[string]*http.Request{"no token at all": request(canary),
		"three segments": request(canary + "." + canary + "." + canary)}
	for _, name := range []string{"alg", "kid", "typ", "crit", "jku", "x", canary} {
		h := map[string]any{"alg": "HS256", "kid": testKeyID}
		h[name] = canary
		requests["header "+name] = request(s.raw(t, jsonText(t, h), jsonText(t, good)))
	}
	for _, name := range []string{"iss", "aud", "exp", "nbf", "iat", "scope", "Sub"} {
		requests["claim "+name] = request(s.token(t, map[string]any{"scope": "read", name: canary}))
	}
	requests["payload"] = request(s.raw(t, `{"alg":"HS256"}`, canary))
	requests["revocation"] = request(s.token(t, map[string]any{"scope": "read", "sub": canary}))
	requests["scheme"] = request("")
	requests["scheme"].Header["Authorization"] = []string{canary + " " + canary}
	requests["two headers"] = request("")
	requests["two headers"].Header["Authorization"] = []string{"Bearer " + canary, canary}
	requests["cookie"] = httptest.NewRequest(http.MethodPost, "/"+canary+"?"+canary,
		strings.NewReader(canary))
	requests["cookie"].Header = http.Header{"Cookie": {"session=" + canary}, "Sec-Fetch-Site": {"cross-site"},
		"Origin": {"https://" + canary}}
	for name, r := range requests {
		if identity, err := a.Authenticate(r); err == nil {
			t.Errorf("%s: accepted as %v", name, identity)
		} else {
			keepsSecret(t, name, err)
		}
	}
}

// TestSecrets_fetchFailuresKeepSecrets puts the canary into the address, and into all that an issuer and a
// client can answer.
func TestSecrets_fetchFailuresKeepSecrets(t *testing.T) {
	t.Parallel()
	s := newSigner(t, "ES256")
	for name, handler := range map[string]http.HandlerFunc{
		"body": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, canary) },
		"status": func(w http.ResponseWriter,
			_ *http.Request) {
			http.Error(w, canary, http.StatusBadGateway)
		},
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://issuer.example/"+canary, http.StatusFound)
		},
		"keys": func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"keys":[{"kty":%q},{"kty":"EC","kid":%q,"crv":%q},{"kty":"oct","k":%q},%q]}`,
				canary, canary, canary, canary, canary)
		},
		"nothing": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		log := make(logLines, 10)
		server := newKeyServer(t, "")
		server.answer(handler)
		a := newRemoteFixture(t, server, func(c *Config) {
			c.JWKSURL = server.URL + "/" + canary + "?key=" + canary
			c.Logger = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		})
		_, err := a.Verify(t.Context(), s.token(t, nil))
		if !errors.Is(err, tenantdb.ErrAuthUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
		keepsSecret(t, name, err)
		want := []string{"level=WARN msg=\"jwtauth: keys not fetched\" issuer=" + testIssuer}
		if name == "keys" {
			want = append(want, "level=DEBUG msg=\"jwtauth: keys skipped\" "+
				"issuer="+testIssuer+" count=4 first=")
		}
		for _, part := range want {
			line := <-log
			keepsSecret(t, name+" in the log", line)
			if !strings.Contains(line, part) {
				t.Errorf("%s: the log has %s, want %s", name, line, part)
			}
		}
	}
}

// logLines is an io.Writer that passes on what it gets.
type logLines chan string

func (l logLines) Write(line []byte) (int, error) {
	l <- string(line)
	return len(line), nil
}
