package tenantdbtest_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/jwtauth"
	"github.com/tenantdb/tenantdb/tenantdbtest"
)

func TestIssuer_tokensAreAcceptedByItsOwnAuthenticatorOnly(t *testing.T) {
	mine, other := tenantdbtest.NewIssuer(), tenantdbtest.NewIssuer()
	auth, err := jwtauth.New(mine.Config())
	if err != nil {
		t.Fatal(err)
	}
	ask := func(token string) (*tenantdb.Identity, error) {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Authorization", "Bearer "+token)
		return auth.Authenticate(r)
	}
	id, err := ask(mine.Token("ann", time.Hour, map[string]any{"tenant": "acme"}))
	if err != nil || id.Subject != "ann" || id.Issuer != tenantdbtest.IssuerName {
		t.Fatalf("identity = %+v, %v", id, err)
	}
	if tenant, _ := id.Claim("tenant"); tenant != "acme" {
		t.Errorf("claim = %q", tenant)
	}
	for name, token := range map[string]string{
		"another issuer's": other.Token("ann", time.Hour, nil),
		"an expired one":   mine.Token("ann", -time.Hour, nil),
	} {
		if _, err := ask(token); !errors.Is(err, tenantdb.ErrInvalidCredential) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestIssuer_isPrintedWithoutItsSecret(t *testing.T) {
	issuer := tenantdbtest.NewIssuer()
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		if text := fmt.Sprintf(verb, issuer); text != "tenantdbtest.Issuer" {
			t.Errorf("%s prints %s", verb, text)
		}
	}
}

func ExampleIssuer() {
	issuer := tenantdbtest.NewIssuer()
	auth, err := jwtauth.New(issuer.Config())
	if err != nil {
		panic(err)
	}
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Authorization", "Bearer "+issuer.Token("ann", time.Hour, nil))
	id, err := auth.Authenticate(r)
	fmt.Println(id.Subject, err)
	// Output: ann <nil>
}
