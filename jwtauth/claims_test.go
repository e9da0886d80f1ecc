package jwtauth

import (
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tenantdb/tenantdb"
)

// TestClaims_claimAttacks signs each payload with the right key.
func TestClaims_claimAttacks(t *testing.T) {
	t.Parallel()
	a, s := newFixture(t, "HS256", nil)
	now := testNow.Unix()
	for name, test := range map[string]struct {
		changes map[string]any
		reason  error
	}{
		"exp missing":         {map[string]any{"exp": nil}, jwt.ErrTokenRequiredClaimMissing},
		"exp now":             {map[string]any{"exp": now}, jwt.ErrTokenExpired},
		"exp a second ago":    {map[string]any{"exp": now - 1}, jwt.ErrTokenExpired},
		"exp 0":               {map[string]any{"exp": 0}, jwt.ErrTokenExpired},
		"exp negative":        {map[string]any{"exp": -1}, errClaims},
		"exp a string":        {map[string]any{"exp": "4102444800"}, errClaims},
		"exp 1e300":           {map[string]any{"exp": json.Number("1e300")}, errClaims},
		"exp 1e999":           {map[string]any{"exp": json.Number("1e999")}, errClaims},
		"exp 9.3e18":          {map[string]any{"exp": json.Number("9.3e18")}, errClaims},
		"exp past year 9999":  {map[string]any{"exp": 253402300800}, errClaims},
		"exp true":            {map[string]any{"exp": true}, errClaims},
		"exp an array":        {map[string]any{"exp": []int{4102444800}}, errClaims},
		"exp an object":       {map[string]any{"exp": map[string]any{}}, errClaims},
		"nbf in 31 seconds":   {map[string]any{"nbf": now + 31}, jwt.ErrTokenNotValidYet},
		"nbf a string":        {map[string]any{"nbf": "0"}, errClaims},
		"nbf 1e300":           {map[string]any{"nbf": json.Number("1e300")}, errClaims},
		"nbf -1e300":          {map[string]any{"nbf": json.Number("-1e300")}, errClaims},
		"nbf 9.3e18":          {map[string]any{"nbf": json.Number("9.3e18")}, errClaims},
		"iat in 31 seconds":   {map[string]any{"iat": now + 31}, jwt.ErrTokenUsedBeforeIssued},
		"iat a string":        {map[string]any{"iat": "0"}, errClaims},
		"iss missing":         {map[string]any{"iss": nil}, errIssuer},
		"iss empty":           {map[string]any{"iss": ""}, errIssuer},
		"iss another":         {map[string]any{"iss": "https://issuer.example.evil"}, errIssuer},
		"iss with a slash":    {map[string]any{"iss": testIssuer + "/"}, errIssuer},
		"iss in capitals":     {map[string]any{"iss": strings.ToUpper(testIssuer)}, errIssuer},
		"iss an array":        {map[string]any{"iss": []string{testIssuer}}, errIssuer},
		"iss a number":        {map[string]any{"iss": 1}, errIssuer},
		"aud missing":         {map[string]any{"aud": nil}, jwt.ErrTokenRequiredClaimMissing},
		"aud empty":           {map[string]any{"aud": ""}, jwt.ErrTokenRequiredClaimMissing},
		"aud an empty array":  {map[string]any{"aud": []string{}}, jwt.ErrTokenRequiredClaimMissing},
		"aud another":         {map[string]any{"aud": "another"}, jwt.ErrTokenInvalidAudience},
		"aud a prefix":        {map[string]any{"aud": testAudience[:5]}, jwt.ErrTokenInvalidAudience},
		"aud others":          {map[string]any{"aud": []string{"a", "b"}}, jwt.ErrTokenInvalidAudience},
		"aud with a number":   {map[string]any{"aud": []any{testAudience, 1}}, errClaims},
		"aud an object":       {map[string]any{"aud": map[string]any{testAudience: true}}, errClaims},
		"aud a nested array":  {map[string]any{"aud": []any{[]any{testAudience}}}, errClaims},
		"sub missing":         {map[string]any{"sub": nil}, errClaims},
		"sub empty":           {map[string]any{"sub": ""}, errClaims},
		"sub a number":        {map[string]any{"sub": 1}, errClaims},
		"sub true":            {map[string]any{"sub": true}, errClaims},
		"sub an array":        {map[string]any{"sub": []string{"user-1"}}, errClaims},
		"sub with NUL":        {map[string]any{"sub": "user\x001"}, errClaims},
		"sub by folding only": {map[string]any{"sub": nil, "\u017fub": "admin"}, errClaims},
		"sub in capitals":     {map[string]any{"sub": nil, "SUB": "admin"}, errClaims},
		"sub and folded":      {map[string]any{"\u017fub": "admin"}, errClaims},
		"exp and Exp":         {map[string]any{"Exp": 1}, errClaims},
		"tenant in two cases": {map[string]any{"TENANT_ID": "other"}, errClaims},
	} {
		refuses(t, a, name, s.token(t, test.changes), test.reason)
	}
}

// TestClaims_payloadAttacks are payloads that no encoder would write.
func TestClaims_payloadAttacks(t *testing.T) {
	t.Parallel()
	a, s := newFixture(t, "HS256", nil)
	good := strings.TrimSuffix(jsonText(t, claims(nil)), "}")
	for name, payload := range map[string]string{
		"null": `null`, "array": `[]`, "string": `"claims"`, "number": `1`, "empty object": `{}`,
		"white space": ` `,
		"sub twice":   good + `,"sub":"admin"}`, "sub twice, escaped": good + `,"\u0073ub":"admin"}`,
		"exp twice":       good + `,"exp":4102444800}`,
		"own claim twice": good + `,"tenant_id":"other"}`, "nested twice": good + `,"x":{"a":1,"a":2}}`,
		"text behind": good + `}{}`,
		"not UTF-8":   good + `,"x":"` + "\xff" + `"}`, "NaN": good + `,"x":NaN}`, "comma": good + `,}`,
		"byte order mark": "\ufeff" + good + "}",
		"deep":            good + `,"x":` + strings.Repeat(`[`, 500) + strings.Repeat(`]`, 500) + "}",
	} {
		token := s.raw(t, `{"alg":"HS256","kid":"key-1"}`, payload)
		refuses(t, a, name, token, tenantdb.ErrInvalidCredential)
	}
	if _, err := a.Verify(t.Context(), s.raw(t, `{"alg":"HS256","kid":"key-1"}`, good+"}")); err != nil {
		t.Errorf("the payload that all these begin with is refused: %v", err)
	}
}

func TestClaims_identity(t *testing.T) {
	t.Parallel()
	a, s := newFixture(t, "HS256", nil)
	token := s.token(t, map[string]any{
		"aud": []string{"other", testAudience}, "sub": "Ünïcode 日本", "exp": json.Number("1800000060.75"),
		"n":     json.Number("12345678901234567890"),
		"roles": []string{"a", "b"}, "Nested": map[string]any{"K": nil}, "nbf": nil, "iat": nil,
	})
	identity, err := a.Authenticate(request(token))
	if err != nil {
		t.Fatal(err)
	}
	want := tenantdb.Identity{
		Issuer: testIssuer, Subject: "Ünïcode 日本", ExpiresAt: time.Unix(1_800_000_060, 0).UTC(),
		Claims: map[string]any{
			"iss": testIssuer, "sub": "Ünïcode 日本", "aud": []any{"other", testAudience},
			"exp": json.Number("1800000060.75"),
			"n":   json.Number("12345678901234567890"), "roles": []any{"a", "b"},
			"Nested": map[string]any{"K": nil}, "tenant_id": "acme",
		},
	}
	if got := (tenantdb.Identity{Issuer: identity.Issuer, Subject: identity.Subject,
		ExpiresAt: identity.ExpiresAt, Claims: identity.Claims}); !reflect.DeepEqual(got, want) {
		t.Errorf("%#v\nwant %#v", identity, want)
	}
	if tenant, ok := identity.Claim("tenant_id"); !ok || tenant != "acme" {
		t.Errorf("tenant_id: %q, %t", tenant, ok)
	}
}

func TestClaims_leeway(t *testing.T) {
	t.Parallel()
	now := testNow.Unix()
	for _, test := range []struct {
		leeway  time.Duration
		changes map[string]any
		reason  error
	}{
		{0, map[string]any{"exp": now + 1}, nil},
		{0, map[string]any{"exp": now}, jwt.ErrTokenExpired},
		{0, map[string]any{"nbf": now + 30, "iat": now + 30}, nil}, // the issuer's clock is ahead
		{0, map[string]any{"nbf": now + 31}, jwt.ErrTokenNotValidYet},
		{0, map[string]any{"iat": now + 31}, jwt.ErrTokenUsedBeforeIssued},
		{-1, map[string]any{"nbf": now, "iat": now}, nil},
		{-1, map[string]any{"nbf": now + 1}, jwt.ErrTokenNotValidYet},
		{-1, map[string]any{"iat": now + 1}, jwt.ErrTokenUsedBeforeIssued},
		{-1, map[string]any{"exp": now}, jwt.ErrTokenExpired},
		{time.Second, map[string]any{"nbf": now + 1, "iat": now + 1}, nil},
		{time.Second, map[string]any{"iat": now + 2}, jwt.ErrTokenUsedBeforeIssued},
		{time.Minute, map[string]any{"exp": now - 59}, nil},
		{time.Minute, map[string]any{"exp": now - 60}, jwt.ErrTokenExpired},
		{time.Minute, map[string]any{"nbf": now + 60, "iat": now + 60}, nil},
		{time.Minute, map[string]any{"nbf": now + 61}, jwt.ErrTokenNotValidYet},
		{time.Minute, map[string]any{"iat": now + 61}, jwt.ErrTokenUsedBeforeIssued},
	} {
		a, s := newFixture(t, "HS256", func(c *Config) { c.Leeway = test.leeway })
		for range 2 { // from the cache, too
			if _, err := a.Verify(t.Context(), s.token(t, test.changes)); !errors.Is(err, test.reason) {
				t.Errorf("leeway %v, %v: %v, want %v", test.leeway, test.changes, err, test.reason)
			}
		}
	}
}

// TestClaims_audienceClaim: tokens without aud name the service in another claim, if the configuration says
// so.
func TestClaims_audienceClaim(t *testing.T) {
	t.Parallel()
	for _, claim := range []string{"client_id", "azp", "cid"} {
		a, s := newFixture(t, "HS256", func(c *Config) { c.AudienceClaim = claim })
		for name, test := range map[string]struct {
			changes map[string]any
			reason  error
		}{
			"that claim": {map[string]any{"aud": nil, claim: testAudience}, nil},
			"that claim and aud": {map[string]any{"aud": []string{"x", testAudience},
				claim: testAudience}, nil},
			"another client": {map[string]any{"aud": nil, claim: "other"},
				jwt.ErrTokenInvalidAudience},
			"in another case": {map[string]any{"aud": nil, claim: strings.ToUpper(testAudience)},
				jwt.ErrTokenInvalidAudience},
			"no claim":  {map[string]any{"aud": nil}, jwt.ErrTokenRequiredClaimMissing},
			"aud alone": {nil, jwt.ErrTokenRequiredClaimMissing},
			"null": {map[string]any{"aud": nil, claim: json.RawMessage("null")},
				jwt.ErrTokenRequiredClaimMissing},
			"an array": {map[string]any{"aud": nil, claim: []string{testAudience}},
				errClaims},
			"meant for another by aud": {map[string]any{"aud": "other", claim: testAudience},
				jwt.ErrTokenInvalidAudience},
			"aud null": {map[string]any{"aud": json.RawMessage("null"), claim: testAudience},
				errClaims},
			"aud an object": {map[string]any{"aud": map[string]any{}, claim: testAudience},
				errClaims},
		} {
			if test.reason == nil {
				verifies(t, a, claim+": "+name, s.token(t, test.changes), nil)
			} else {
				refuses(t, a, claim+": "+name, s.token(t, test.changes), test.reason)
			}
		}
	}
}

func TestClaims_optionalChecks(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change  func(*Config)
		changes map[string]any
		reason  error
	}{
		"azp right": {func(c *Config) { c.AuthorizedParties = []string{"web", "app"} },
			map[string]any{"azp": "app"}, nil},
		"azp another": {func(c *Config) { c.AuthorizedParties = []string{"web"} },
			map[string]any{"azp": "app"}, errParty},
		"azp missing": {func(c *Config) { c.AuthorizedParties = []string{"web"} }, nil, errParty},
		"azp a list": {func(c *Config) { c.AuthorizedParties = []string{"web"} },
			map[string]any{"azp": []string{"web"}}, errParty},
		"azp unasked": {func(*Config) {}, map[string]any{"azp": 1}, nil},
		"scope granted": {func(c *Config) { c.Scopes = []string{"read", "write"} },
			map[string]any{"scope": "write  other read"}, nil},
		"scope half granted": {func(c *Config) { c.Scopes = []string{"read", "write"} },
			map[string]any{"scope": "read"}, errScope},
		"scope a prefix": {func(c *Config) { c.Scopes = []string{"read"} },
			map[string]any{"scope": "readonly"}, errScope},
		"scope missing": {func(c *Config) { c.Scopes = []string{"read"} }, nil, errScope},
		"scope in scp": {func(c *Config) { c.Scopes = []string{"read", "write"} },
			map[string]any{"scp": []string{"read", "write"}}, nil},
		"scope not strings": {func(c *Config) { c.Scopes = []string{"read"} },
			map[string]any{"scp": []any{"read", 1}}, errScope},
		"type wanted":     {func(c *Config) { c.TokenTypes = []string{"JWT"} }, nil, nil},
		"type not wanted": {func(c *Config) { c.TokenTypes = []string{"at+jwt"} }, nil, errType},
		"type in full":    {func(c *Config) { c.TokenTypes = []string{"application/jwt", "x"} }, nil, nil},
	} {
		a, s := newFixture(t, "HS256", test.change)
		_, err := a.Verify(t.Context(), s.token(t, test.changes))
		if !errors.Is(err, test.reason) {
			t.Errorf("%s: %v, want %v", name, err, test.reason)
		}
	}
	a, s := newFixture(t, "HS256", func(c *Config) { c.TokenTypes = []string{"at+jwt"} })
	refuses(t, a, "no type where one is wanted", s.raw(t, `{"alg":"HS256"}`, jsonText(t, claims(nil))),
		errType)
}

// FuzzClaims signs arbitrary payloads: what is accepted must satisfy every rule by the standard decoder's
// reading, too.
func FuzzClaims(f *testing.F) {
	a, s := newFixture(f, "HS256", func(c *Config) { c.Cache.Disabled = true })
	good := jsonText(f, claims(nil))
	for _, seed := range []string{good, `{}`, `null`, strings.Replace(good, "sub", "SUB", 1),
		strings.Replace(good, "1800003600", "1e300", 1),
		strings.Replace(good, `"aud":"`, `"aud":["x"],"a":"`, 1)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, payload string) {
		if len(payload) > 8<<10 {
			t.Skip("longer than a token may be")
		}
		identity, err := a.Verify(t.Context(), s.raw(t, `{"alg":"HS256"}`, payload))
		if err != nil {
			if identity != nil || !errors.Is(err, tenantdb.ErrInvalidCredential) {
				t.Fatalf("%q: %v, %v", payload, identity, err)
			}
			return
		}
		// A struct is what a lenient reader decodes into, regardless of case: it must see the same claims.
		var lenient struct {
			Iss, Sub      string
			Aud           jwt.ClaimStrings
			Exp, Nbf, Iat float64
		}
		if err := json.Unmarshal([]byte(payload), &lenient); err != nil {
			t.Fatalf("%q: %v", payload, err)
		}
		now := float64(testNow.Unix())
		switch {
		case lenient.Iss != testIssuer, lenient.Iss != identity.Issuer, lenient.Sub != identity.Subject,
			lenient.Sub == "",
			!slices.Contains(lenient.Aud, testAudience), lenient.Exp <= now, lenient.Nbf >= now+1,
			lenient.Iat >= now+1,
			identity.ExpiresAt.Unix() != int64(lenient.Exp):
			t.Fatalf("%q is accepted as %+v", payload, identity)
		}
	})
}
