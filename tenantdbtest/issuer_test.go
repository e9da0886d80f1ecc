package tenantdbtest_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/jwtauth"
	"github.com/tenantdb/tenantdb/stripehook"
	"github.com/tenantdb/tenantdb/tenantdbtest"
)

func TestJWKSIssuer_rotatesItsKeys(t *testing.T) {
	issuer := tenantdbtest.NewJWKSIssuer(t)
	k := tenantdbtest.New(t, tenantdbtest.Options{Migrations: notes, Issuer: issuer})
	h, acme := newRouter(k.Middleware), k.Tenant("acme")
	ask := func() *http.Request { return k.Request(k.Owner(acme), acme, "GET", "/notes", nil) }
	first := ask()
	answers(t, k, h, first, http.StatusOK)
	issuer.Rotate()
	answers(t, k, h, ask(), http.StatusOK)
	answers(t, k, h, first, http.StatusOK)
	issuer.Retire()
	k.Clock.Advance(20 * time.Minute) // beyond Config.KeyRefresh
	answers(t, k, h, ask(), http.StatusOK)
	issuer.Rotate() // the next token has the set fetched
	answers(t, k, h, ask(), http.StatusOK)
	answers(t, k, h, first, http.StatusUnauthorized)

	other := tenantdbtest.NewJWKSIssuer(t)
	r := ask()
	r.Header.Set("Authorization", "Bearer "+other.Token("owner-of-acme", time.Hour, map[string]any{
		"iss": issuer.Config().Issuer,
	}))
	answers(t, k, h, r, http.StatusUnauthorized)
}

func TestJWKSIssuer_canBeDiscovered(t *testing.T) {
	issuer := tenantdbtest.NewJWKSIssuer(t)
	cfg := issuer.Config()
	cfg.JWKSURL, cfg.Discover = "", true
	k := tenantdbtest.New(t, tenantdbtest.Options{Migrations: notes, Issuer: issuer,
		Config: func(c *tenantdb.Config) {
			auth, err := jwtauth.New(cfg)
			must(t, err)
			c.Authenticator = auth
		}})
	acme := k.Tenant("acme")
	must(t, add(k.Context(k.Owner(acme), acme), "buy milk"))
}

func TestIssuer_withASecretCantRotate(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("it rotated")
		}
	}()
	tenantdbtest.NewIssuer().Rotate()
}

func TestKit_stripeEventsAreAccepted(t *testing.T) {
	k := tenantdbtest.New(t, tenantdbtest.Options{Migrations: notes})
	k.Clock.Advance(-1000 * time.Hour) // the signature's time is the clock's
	hook, err := stripehook.New(k.Host, stripehook.Config{
		Secrets: []string{tenantdbtest.StripeSecret}, Now: k.Clock.Now,
	})
	must(t, err)
	acme := k.Tenant("acme")
	event := func() *http.Request {
		return k.StripeEvent("customer.subscription.updated", map[string]any{
			"id": "sub_1", "object": "subscription", "status": "past_due", "customer": "cus_1",
			"metadata": map[string]any{"tenant_id": acme.ID},
			"items":    map[string]any{"object": "list", "data": []any{}},
		})
	}
	answers(t, k, hook, event(), http.StatusOK)
	s := must2(k.Host.Subscriptions.ByStripeSubID(t.Context(), "sub_1"))
	if s.TenantID != acme.ID || s.Status != hostdb.SubscriptionPastDue {
		t.Errorf("subscription = %+v", s)
	}
	forged := event()
	forged.Header.Set("Stripe-Signature", tenantdbtest.SignStripe("whsec_x", []byte("{}"), k.Clock.Now()))
	answers(t, k, hook, forged, http.StatusBadRequest)
}
