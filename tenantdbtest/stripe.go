package tenantdbtest

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"
)

// StripeSecret is the signing secret of [Kit.StripeEvent], for [stripehook.Config.Secrets]. It is no secret.
const StripeSecret = "whsec_tenantdbtest"

// StripeEvent returns a signed delivery of an event as Stripe sends it, for the handler of [stripehook.New]
// with [StripeSecret] and the kit's clock. kind is the event's type, such as "customer.subscription.updated".
// object is its data.object; set metadata.tenant_id there to the id of the tenant that it is about. The event
// has a new id, and was created at the clock's time.
func (k *Kit) StripeEvent(kind string, object map[string]any) *http.Request {
	k.t.Helper()
	payload, err := json.Marshal(map[string]any{"id": "evt_" + rand.Text(), "object": "event", "type": kind,
		"created": k.Clock.Now().Unix(), "livemode": false, "data": map[string]any{"object": object}})
	if err != nil {
		k.t.Fatalf("tenantdbtest: StripeEvent: an object that JSON can't hold: %v", err)
	}
	r := httptest.NewRequest(http.MethodPost, "/stripe", bytes.NewReader(payload)).WithContext(k.t.Context())
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Stripe-Signature", SignStripe(StripeSecret, payload, k.Clock.Now()))
	return r
}

// SignStripe returns the header Stripe-Signature of a payload (docs.stripe.com/webhooks#verify-manually).
func SignStripe(secret string, payload []byte, at time.Time) string {
	mac := hmac.New(sha256.New, []byte(secret))
	fmt.Fprintf(mac, "%d.%s", at.Unix(), payload)
	return fmt.Sprintf("t=%d,v1=%s", at.Unix(), hex.EncodeToString(mac.Sum(nil)))
}
