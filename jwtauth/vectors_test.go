package jwtauth

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tenantdb/tenantdb"
)

// asymmetric are all algorithms with public keys.
var asymmetric = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512",
	"EdDSA"}

// readVectors decodes a file of external vectors into v. They lie beside the checkout, or where
// TENANTDB_VECTORS says.
func readVectors(t *testing.T, file string, v any) {
	t.Helper()
	folder := os.Getenv("TENANTDB_VECTORS")
	if folder == "" {
		folder = filepath.Join("..", "..", "shared", "vectors")
	}
	text, err := os.ReadFile(filepath.Join(folder, file))
	if errors.Is(err, os.ErrNotExist) && os.Getenv("CI") == "" {
		t.Skipf("no security vectors: %v; set TENANTDB_VECTORS to their folder", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, v); err != nil {
		t.Fatal(err)
	}
}

// request is a GET with the token as bearer. The header is set without validation, as the strangest tokens
// ask for.
func request(token string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header["Authorization"] = []string{"Bearer " + token}
	return r
}

// TestVectors_twinsHaveTheRightVerdict runs the wycheproof twins: 45 valid and 386 invalid. Of the 11
// contested ones all but one are refused, which is what their notes call right or leave to policy. The one is
// a modulus with the fingerprint of ROCA: which key generator an issuer uses is not ours to judge.
func TestVectors_twinsHaveTheRightVerdict(t *testing.T) {
	t.Parallel()
	var file struct {
		Tests []struct {
			ID, Comment, Alg, Token, Result, Contested string
			JWKS                                       json.RawMessage
		}
	}
	readVectors(t, "derived/wycheproof_claims_twins.json", &file)
	verdicts := make(map[string]int)
	for _, test := range file.Tests {
		a, err := New(Config{Issuer: "https://issuer.example", Audience: "tenantdb-test",
			Algorithms: []string{test.Alg}, JWKS: test.JWKS})
		for range 2 { // the second time a valid one comes from the cache
			var identity *tenantdb.Identity
			if a != nil {
				identity, err = a.Authenticate(request(test.Token))
			}
			accepted := err == nil
			if accepted && (identity.Subject != "user-1" || identity.Claims["tenant_id"] != "acme") {
				t.Errorf("%s: identity %v", test.ID, identity)
			}
			if !accepted && a != nil && !errors.Is(err, tenantdb.ErrInvalidCredential) {
				t.Errorf("%s: refused with %v, which is no 401", test.ID, err)
			}
			if want := test.ID == "jwk-7" || test.Result == "valid" &&
				test.Contested == ""; accepted != want {
				t.Errorf("%s (%s): accepted %t, want %t: %v", test.ID, test.Comment, accepted, want, err)
			}
		}
		if test.Contested != "" {
			test.Result = "contested"
		}
		verdicts[test.Result]++
	}
	if fmt.Sprint(verdicts) != "map[contested:11 invalid:386 valid:45]" {
		t.Errorf("the file has other vectors than it had: %v", verdicts)
	}
}

// TestVectors_RFCVectorsVerify checks the RFCs' own signatures. Their payloads lack what we require of
// claims, so the valid ones must get as far as that and no farther.
func TestVectors_RFCVectorsVerify(t *testing.T) {
	t.Parallel()
	type vector struct {
		ID, Alg, JWS, Result string
		JWK                  json.RawMessage
		PayloadIsJSONClaims  bool
		VerifyAtUnix         int64
	}
	var file struct{ Tests []vector }
	readVectors(t, "rfc/rfc_jws_vectors.json", &file)
	valid := 0
	for _, test := range file.Tests {
		if test.JWK == nil {
			test.JWK, test.Alg = json.RawMessage(`{"kty":"oct","k":"`+strings.Repeat("A", 43)+`"}`), "HS256"
		}
		jwks := fmt.Appendf(nil, `{"keys":[%s]}`, test.JWK)
		now := func() time.Time { return time.Unix(test.VerifyAtUnix, 0) }
		a, err := New(Config{Issuer: "joe", Audience: "us", Algorithms: []string{test.Alg}, JWKS: jwks,
			Now: now})
		if err != nil {
			t.Fatalf("%s: %v", test.ID, err)
		}
		_, err = a.Verify(t.Context(), test.JWS)
		if !errors.Is(err, tenantdb.ErrInvalidCredential) {
			t.Errorf("%s: %v, want a refusal", test.ID, err)
		}
		if test.Result != "valid" {
			continue
		}
		valid++
		if want := jwt.ErrTokenRequiredClaimMissing; test.PayloadIsJSONClaims && !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", test.ID, err, want)
		}
		if err := verifySignature(t, a.state.issuers["joe"], test.JWS); err != nil {
			t.Errorf("%s: %v", test.ID, err)
		}
	}
	if valid != 9 || len(file.Tests) != 12 {
		t.Errorf("%d of %d vectors are valid, want 9 of 12", valid, len(file.Tests))
	}
}

// verifySignature verifies a token whose payload need not be claims.
func verifySignature(t *testing.T, i *issuer, token string) error {
	t.Helper()
	h, err := parseHeader(token)
	if err != nil {
		return err
	}
	a := algorithms[h.algorithm]
	if !slices.Contains(i.algorithms, a) {
		return errAlgorithm
	}
	k, err := i.keys.find(t.Context(), &unverified{header: h, algorithm: a}, time.Now())
	if err != nil {
		return err
	}
	last := strings.LastIndexByte(token, '.')
	signature, err := jwt.NewParser().DecodeSegment(token[last+1:])
	if err != nil {
		return err
	}
	return a.method.Verify(token[:last], signature, k.material)
}

// TestVectors_foreignFormsAreRefused feeds encrypted tokens, and JWS whose payload is no claims object, to
// authenticators that have the very keys.
func TestVectors_foreignFormsAreRefused(t *testing.T) {
	t.Parallel()
	a, _ := newFixture(t, "ES256", nil)
	refuse := func(id, token string) {
		if _, err := a.Verify(t.Context(), token); !errors.Is(err, tenantdb.ErrInvalidCredential) {
			t.Errorf("%s: %v, want a refusal", id, err)
		}
	}
	n := 0
	for _, name := range []string{"json_web_encryption_test.json", "json_web_crypto_test.json",
		"json_web_signature_test.json"} {
		var file struct {
			TestGroups []struct {
				Public json.RawMessage
				Tests  []struct {
					TcID     int
					JWE, JWS any
				}
			}
		}
		readVectors(t, "wycheproof/"+name, &file)
		for _, group := range file.TestGroups {
			keyed, err := New(Config{Issuer: "i", Audience: "a", Algorithms: asymmetric,
				JWKS: fmt.Appendf(nil, `{"keys":[%s]}`, group.Public)})
			for _, test := range group.Tests {
				for _, token := range []any{test.JWE, test.JWS} {
					text, ok := token.(string)
					if !ok {
						continue
					}
					n++
					refuse(fmt.Sprint(name, " ", test.TcID), text)
					if err != nil {
						continue
					}
					if _, err := keyed.Verify(t.Context(), text); !errors.Is(err,
						tenantdb.ErrInvalidCredential) {
						t.Errorf("%s %d: %v, want a refusal", name, test.TcID, err)
					}
				}
			}
		}
	}
	if n < 139+34+401 {
		t.Errorf("only %d tokens were tried", n)
	}
}

// TestVectors_keyDocumentsHaveTheRightVerdict runs the corpus of google/jwt_verify_lib: which documents hold
// a usable key.
func TestVectors_keyDocumentsHaveTheRightVerdict(t *testing.T) {
	t.Parallel()
	var file struct {
		Tests []struct {
			Name, Type, JWKS, EnvoyStatus string
			Keys                          *int
		}
	}
	readVectors(t, "other/jwt_verify_lib_jwks.json", &file)
	seen := make(map[string]int)
	for _, d := range file.Tests {
		c := Config{Issuer: "i", Audience: "a", Algorithms: asymmetric, JWKS: []byte(d.JWKS)}
		if strings.Contains(d.JWKS, `"oct"`) {
			c.Algorithms = []string{"HS256", "HS384", "HS512"}
		}
		if d.Type == "PEM" {
			c.JWKS, c.PEM = nil, []byte(d.JWKS)
		}
		a, err := New(c)
		if want := d.EnvoyStatus == "Ok"; (err == nil) != want {
			t.Errorf("%s: usable %t, want %t: %v", d.Name, err == nil, want, err)
		}
		if err == nil && d.Type == "JWKS" && d.Keys != nil {
			if n := len(a.state.issuers["i"].keys.(staticKeys).set.keys); n != *d.Keys {
				t.Errorf("%s: %d usable keys, want %d", d.Name, n, *d.Keys)
			}
		}
		seen[d.Type+" "+fmt.Sprint(err == nil)]++
	}
	if fmt.Sprint(seen) != "map[JWKS false:38 JWKS true:12 PEM false:6 PEM true:6 X509-MAP false:6]" {
		t.Errorf("verdicts: %v", seen)
	}
}

// TestVectors_cookbookIsRefused: RFC 7520's and RFC 7797's examples sign prose, detached, unencoded and
// JSON-serialized payloads. Each is tried in every serialization with its own key.
func TestVectors_cookbookIsRefused(t *testing.T) {
	t.Parallel()
	files := map[string]int{
		"jws_4_1.rsa_v15_signature": 0, "jws_4_2.rsa-pss_signature": 0, "jws_4_3.ecdsa_signature": 0,
		"jws_4_4.hmac-sha2_integrity_protection":  0,
		"jws_4_5.signature_with_detached_content": 0, "jws_4_6.protecting_specific_header_fields": 0,
		"jws_4_7.protecting_content_only": 0,
		"jws_4_8.multiple_signatures":     0, "curve25519_jws": 0, "rfc7797_4.2.hmac-sha2_b64_false": 0,
		"rfc7797_hmac-sha2_b64_false":         0,
		"6.nesting_signatures_and_encryption": 0,
	}
	for name := range files {
		var document map[string]any
		readVectors(t, "rfc/jose-cookbook/"+name+".json", &document)
		var authenticators []*Authenticator
		walk(document, func(v map[string]any) {
			if v["kty"] == nil {
				return
			}
			delete(v, "d")
			for _, names := range [][]string{asymmetric, {"HS256"}} {
				a, err := New(Config{Issuer: "i", Audience: "a", Algorithms: names,
					JWKS: []byte(keySetOf(jsonText(t, v)))})
				if err == nil {
					authenticators = append(authenticators, a)
				}
			}
		})
		output, _ := document["output"].(map[string]any)
		for form, v := range output {
			token, ok := v.(string)
			if !ok {
				token = jsonText(t, v)
			}
			for _, a := range authenticators {
				files[name]++
				refuses(t, a, name+" "+form, token, tenantdb.ErrInvalidCredential)
			}
		}
	}
	for name, n := range files {
		if n == 0 && name != "6.nesting_signatures_and_encryption" &&
			name != "rfc7797_4.2.hmac-sha2_b64_false" {
			t.Errorf("%s: no token was tried", name)
		}
	}
}

// walk visits every object in a decoded JSON value.
func walk(v any, visit func(map[string]any)) {
	switch v := v.(type) {
	case map[string]any:
		visit(v)
		for _, element := range v {
			walk(element, visit)
		}
	case []any:
		for _, element := range v {
			walk(element, visit)
		}
	}
}
