package tenantdb_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
)

// An invitation creates the user's row before the identity provider has named the user. The first sign-in
// finds the row by the e-mail address, which the provider must have verified, and records the subject in it.
func ExampleConfig_firstLogin() {
	s := openShop()
	defer s.close()
	ctx := context.Background()
	invited := &hostdb.GlobalUser{Email: "zoe@example.com"}
	check(s.host.Users.Insert(ctx, invited))
	check(s.host.Memberships.Insert(ctx, &hostdb.Membership{
		UserID: invited.ID, TenantID: s.acme.ID, Role: hostdb.RoleMember, IsActive: true,
	}))

	s.config.FirstLogin = func(ctx context.Context, id *tenantdb.Identity) error {
		email, _ := id.Claim("email")
		if verified, _ := id.Claims["email_verified"].(bool); !verified || email == "" {
			return fmt.Errorf("%w: the address is not verified", tenantdb.ErrForbidden)
		}
		user, err := s.host.Users.ByEmail(ctx, email)
		switch {
		case errors.Is(err, hostdb.ErrNotFound):
			return s.host.Users.Insert(ctx, &hostdb.GlobalUser{OAuthID: id.Subject, Email: email})
		case err != nil:
			return err
		case user.OAuthID != "": // it belongs to another subject
			return fmt.Errorf("%w: the address is another user's", tenantdb.ErrForbidden)
		}
		user.OAuthID = id.Subject
		return s.host.Users.Update(ctx, user)
	}
	mw, err := tenantdb.New(s.config)
	check(err)
	defer mw.Close(ctx)
	h := mw.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scope, _ := tenantdb.FromContext(r.Context())
		fmt.Fprintln(w, "welcome,", scope.User.Email)
	}))
	for _, claims := range []map[string]any{
		{"email": "zoe@example.com"}, {"email": "zoe@example.com", "email_verified": true},
	} {
		r := httptest.NewRequest(http.MethodGet, "http://app.example.com/", nil)
		r.Header.Set("Authorization", "Bearer "+s.issuer.Token("subject-of-zoe", time.Hour, claims))
		r.Header.Set("X-Tenant", "acme")
		answer(h, r)
	}
	// Output:
	// 403 forbidden: not allowed
	// 200 welcome, zoe@example.com
}

// An ErrorHandler that only counts leaves the answer to WriteProblem.
func ExampleWriteProblem() {
	s := openShop()
	defer s.close()
	refused := map[string]int{}
	s.config.ErrorHandler = func(w http.ResponseWriter, r *http.Request, err error) {
		if e := (*tenantdb.Error)(nil); errors.As(err, &e) {
			refused[e.Code]++
		}
		tenantdb.WriteProblem(w, r, err)
	}
	mw, err := tenantdb.New(s.config)
	check(err)
	defer mw.Close(context.Background())
	s.get(mw.Handler(http.NotFoundHandler()), "joe", "globex")
	fmt.Println(refused)
	// Output:
	// 403 not_member: not a member of this tenant
	// map[not_member:1]
}
