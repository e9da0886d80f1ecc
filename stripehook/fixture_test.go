package stripehook_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
	"github.com/tenantdb/tenantdb/stripehook"
)

func TestMain(m *testing.M) {
	if url := os.Getenv(crashVariable); url != "" {
		crash(url)
		os.Exit(1) // it is killed before it comes here
	}
	os.Exit(pgtest.Run(m))
}

const secret = "whsec_0123456789abcdef0123456789abcdef"

// noon is the time of the tests' clock.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// onBoth runs a test on both engines.
func onBoth(t *testing.T, test func(t *testing.T, w *world)) {
	for name, url := range map[string]func(testing.TB) string{"sqlite": sqliteURL, "postgres": postgresURL} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, newWorld(t, url(t)))
		})
	}
}

func sqliteURL(t testing.TB) string {
	return "sqlite:" + filepath.Join(t.TempDir(), "host.db")
}

func postgresURL(t testing.TB) string {
	return pgtest.Clone(t, "stripehook", func(url string) error {
		db, err := hostdb.Open(context.Background(), url)
		if err != nil {
			return err
		}
		return db.Close()
	})
}

// world is a host database with a tenant, its owner and a price list, and an endpoint.
type world struct {
	t      testing.TB
	host   *hostdb.DB
	hook   http.Handler
	tenant *hostdb.TenantCatalog
	owner  *hostdb.GlobalUser
}

func newWorld(t testing.TB, url string) *world {
	t.Helper()
	host, err := hostdb.Open(context.Background(), url)
	must(t, err)
	t.Cleanup(func() { _ = host.Close() })
	w := &world{t: t, host: host}
	must(t, host.Plans.Insert(t.Context(), &hostdb.PricingPlan{ID: "pro", Name: "Pro",
		StripePriceMonthly: "price_pro", TierLevel: 1}))
	must(t, host.Plans.Insert(t.Context(), &hostdb.PricingPlan{ID: "max", Name: "Max",
		StripePriceYearly: "price_max", TierLevel: 2}))
	w.tenant, w.owner = w.customer()
	w.hook = w.newHook(stripehook.Config{})
	return w
}

// newHook makes an endpoint with the tests' secret and clock.
func (w *world) newHook(cfg stripehook.Config) http.Handler {
	w.t.Helper()
	if cfg.Secrets == nil {
		cfg.Secrets = []string{secret}
	}
	if cfg.Now == nil {
		cfg.Now = func() time.Time { return noon }
	}
	hook, err := stripehook.New(w.host, cfg)
	must(w.t, err)
	return hook
}

// customer makes a tenant and its owner.
func (w *world) customer() (*hostdb.TenantCatalog, *hostdb.GlobalUser) {
	w.t.Helper()
	id := hostdb.NewID()
	tenant := &hostdb.TenantCatalog{ID: id, Name: "Acme", IsActive: true, PlanTier: "pro"}
	must(w.t, w.host.Tenants.Insert(w.t.Context(), tenant))
	return tenant, w.member(tenant, hostdb.RoleOwner)
}

// member makes a user who is a member of a tenant.
func (w *world) member(tenant *hostdb.TenantCatalog, role string) *hostdb.GlobalUser {
	w.t.Helper()
	user := &hostdb.GlobalUser{Email: hostdb.NewID() + "@example.com"}
	must(w.t, w.host.Users.Insert(w.t.Context(), user))
	must(w.t, w.host.Memberships.Insert(w.t.Context(),
		&hostdb.Membership{UserID: user.ID, TenantID: tenant.ID, Role: role, IsActive: true}))
	return user
}

// fields are the members of a JSON object.
type fields = map[string]any

// envelope is an event as Stripe sends it.
func envelope(id, kind string, created int64, object fields) string {
	text, err := json.Marshal(fields{"id": id, "object": "event", "type": kind, "created": created,
		"livemode":    false,
		"api_version": "2025-03-31.basil", "data": fields{"object": object}})
	if err != nil {
		panic(err)
	}
	return string(text)
}

// subscription is a subscription object of the newer shape: the period is on the items.
func subscription(id, status string, more fields) fields {
	o := fields{"id": id, "object": "subscription", "status": status, "customer": "cus_" + id,
		"cancel_at_period_end": false, "metadata": fields{},
		"items": fields{"object": "list", "data": []any{fields{"id": "si_1", "quantity": 2,
			"current_period_end": noon.AddDate(0, 1, 0).Unix(),
			"price": fields{"id": "price_pro", "unit_amount": 1500,
				"nickname": "Pro monthly"}}}}}
	for name, value := range more {
		o[name] = value
	}
	return o
}

// invoiceOf is an invoice object of the newer shape: its parent names the subscription.
func invoiceOf(sub string, more fields) fields {
	o := fields{"id": "in_1", "object": "invoice", "customer": "cus_" + sub, "amount_due": 3000,
		"status": "paid",
		"parent": fields{"type": "subscription_details", "subscription_details": fields{"subscription": sub}}}
	for name, value := range more {
		o[name] = value
	}
	return o
}

// session is a Checkout session that began a subscription.
func session(sub, tenant string, more fields) fields {
	o := fields{"id": "cs_" + sub, "object": "checkout.session", "mode": "subscription", "subscription": sub,
		"customer":            "cus_" + sub,
		"client_reference_id": tenant, "payment_status": "paid", "metadata": fields{}}
	for name, value := range more {
		o[name] = value
	}
	return o
}

// sign returns the header of a body signed at a time.
func sign(body, secret string, at time.Time) string {
	mac := hmac.New(sha256.New, []byte(secret))
	fmt.Fprintf(mac, "%d.%s", at.Unix(), body)
	return fmt.Sprintf("t=%d,v1=%s", at.Unix(), hex.EncodeToString(mac.Sum(nil)))
}

// send delivers an event that is signed now.
func send(to http.Handler, event, secret string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, "/webhooks/stripe", strings.NewReader(event))
	r.Header.Set("Stripe-Signature", sign(event, secret, time.Now()))
	rec := httptest.NewRecorder()
	to.ServeHTTP(rec, r)
	return rec
}

// post delivers a body to an endpoint with a header.
func post(hook http.Handler, body, header string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, "/stripe", strings.NewReader(body))
	if header != "" {
		r.Header.Set("Stripe-Signature", header)
	}
	rec := httptest.NewRecorder()
	hook.ServeHTTP(rec, r)
	return rec
}

// deliver posts a signed event, which must be answered with a status and a word.
func (w *world) deliver(body string, want string) {
	w.t.Helper()
	rec := post(w.hook, body, sign(body, secret, noon))
	if got := strings.TrimSpace(rec.Body.String()); rec.Code != http.StatusOK || got != want {
		w.t.Fatalf("answered %d %q, want 200 %q", rec.Code, got, want)
	}
}

// row is the subscription that Stripe knows by this id.
func (w *world) row(sub string) *hostdb.Subscription {
	w.t.Helper()
	row, err := w.host.Subscriptions.ByStripeSubID(w.t.Context(), sub)
	must(w.t, err)
	return row
}

// event is the record of an event.
func (w *world) event(id string) *hostdb.StripeWebhookEvent {
	w.t.Helper()
	row, err := w.host.WebhookEvents.ByEventID(w.t.Context(), id)
	must(w.t, err)
	return row
}

// eventually waits until a condition holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); !holds(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// logged is a logger and what it wrote.
func logged() (*slog.Logger, *bytes.Buffer) {
	var out bytes.Buffer
	return slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})), &out
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
