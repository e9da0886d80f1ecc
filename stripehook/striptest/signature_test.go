package striptest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stripe/stripe-go/v84/webhook"
	"pgregory.net/rapid"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/stripehook"
)

const (
	secret    = "whsec_0123456789abcdef0123456789abcdef"
	tolerance = time.Hour // so long that no test takes it, whatever the machine
	body      = `{"id":"evt_1","type":"a.b","created":1}`
)

// TestMain has rapid make more headers than it would.
func TestMain(m *testing.M) {
	flag.Parse()
	if checks := flag.Lookup("rapid.checks"); checks.Value.String() == checks.DefValue {
		_ = flag.Set("rapid.checks", "2000")
	}
	os.Exit(m.Run())
}

// newHook makes an endpoint that knows the time.
func newHook(t *testing.T) http.Handler {
	host, err := hostdb.Open(t.Context(), "sqlite::memory:")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = host.Close() })
	hook, err := stripehook.New(host, stripehook.Config{Secrets: []string{secret}, Tolerance: tolerance})
	if err != nil {
		t.Fatal(err)
	}
	return hook
}

// ours reports whether the endpoint takes a body with this header.
func ours(hook http.Handler, body, header string) bool {
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
	r.Header["Stripe-Signature"] = []string{header}
	rec := httptest.NewRecorder()
	hook.ServeHTTP(rec, r)
	return rec.Code == http.StatusOK
}

// theirs reports whether Stripe's library does.
func theirs(body, header string) bool {
	return webhook.ValidatePayloadWithTolerance([]byte(body), header, secret, tolerance) == nil
}

// mac is a signature of scheme v1.
func mac(stamp, body, secret string) string {
	m := hmac.New(sha256.New, []byte(secret))
	m.Write([]byte(stamp + "." + body))
	return hex.EncodeToString(m.Sum(nil))
}

// What Stripe's library signs is taken, and what it refuses is refused.
func TestHook_takesWhatStripesLibrarySigns(t *testing.T) {
	hook := newHook(t)
	rapid.Check(t, func(rt *rapid.T) {
		text := fmt.Sprintf(`{"id":"evt_1","type":"a.b","note":%q}`,
			rapid.StringMatching(`[ -~é]{0,200}`).Draw(rt, "note"))
		signed := webhook.GenerateTestSignedPayload(&webhook.UnsignedPayload{Payload: []byte(text),
			Secret: secret, Timestamp: time.Now()})
		if !theirs(text, signed.Header) || !ours(hook, text, signed.Header) {
			rt.Fatalf("%s signed as %s: theirs %v, ours %v", text, signed.Header, theirs(text, signed.Header),
				ours(hook, text, signed.Header))
		}
		i := rapid.IntRange(0, len(text)-1).Draw(rt, "place")
		forged := text[:i] + string(text[i]^1) + text[i+1:]
		if theirs(forged, signed.Header) || ours(hook, forged, signed.Header) {
			rt.Fatalf("%s is taken as %s", forged, signed.Header)
		}
	})
}

// header is a header made of parts, and whether it is one of those that Stripe's library takes and we, on
// purpose, don't.
type header struct {
	text     string
	stricter bool
}

func drawHeader(rt *rapid.T) header {
	now := time.Now().Unix()
	stamps := rapid.SliceOfN(rapid.SampledFrom([]string{"now", "old", "past", "future", "zero", "plus",
		"word", "minus", "empty"}), 0, 2).Draw(rt, "times")
	if rapid.Bool().Draw(rt, "usual") {
		stamps = []string{"now"}
	}
	h := header{stricter: len(stamps) > 1}
	signed := fmt.Sprint(now)
	var parts []string
	for _, stamp := range stamps {
		written := map[string]string{"now": fmt.Sprint(now), "old": fmt.Sprint(now - 1000),
			"past": fmt.Sprint(now - 7200), "future": fmt.Sprint(now + 7200),
			"zero": fmt.Sprintf("0%d", now), "plus": fmt.Sprintf("+%d", now), "word": "now", "minus": "-5",
			"empty": ""}[stamp]
		h.stricter = h.stricter || stamp == "future" || stamp == "zero" || stamp == "plus"
		if stamp == "old" || stamp == "past" || stamp == "future" {
			signed = written
		}
		parts = append(parts, "t="+written)
	}
	for _, kind := range rapid.SliceOfN(rapid.SampledFrom([]string{"good", "good", "forged", "other", "upper",
		"short", "hex", "v0", "v2", "none", "two", "space"}), 0, 4).Draw(rt, "entries") {
		good := mac(signed, body, secret)
		parts = append(parts, map[string]string{"good": "v1=" + good, "forged": "v1=" +
			strings.Repeat("0", 64), "other": "v1=" + mac(signed, body, "whsec_other"),
			"upper": "v1=" + strings.ToUpper(good), "short": "v1=" + good[:62], "hex": "v1=" + good[:63] +
				"g", "v0": "v0=" + good, "v2": "v2=" + good,
			"none": "v1", "two": "v1=" + good + "=", "space": " v1=" + good}[kind])
	}
	parts = rapid.Permutation(parts).Draw(rt, "order")
	h.text = strings.Join(parts, ",")
	return h
}

// Whatever the header, we take nothing that Stripe's library refuses, and refuse what it takes only where
// that is on purpose.
func TestHook_judgesHeadersAsStripesLibraryDoes(t *testing.T) {
	hook := newHook(t)
	seen := map[string]int{}
	rapid.Check(t, func(rt *rapid.T) {
		h := drawHeader(rt)
		a, b := theirs(body, h.text), ours(hook, body, h.text)
		seen[fmt.Sprintf("theirs %v, ours %v", a, b)]++
		if b && !a || a && !b && !h.stricter {
			rt.Fatalf("%q: theirs %v, ours %v", h.text, a, b)
		}
	})
	t.Log(seen)
	if len(seen) < 3 {
		t.Errorf("only %v was seen", seen)
	}
}

// What Stripe's library takes, and we don't.
func TestHook_isStricterThanStripesLibrary(t *testing.T) {
	hook := newHook(t)
	now := time.Now().Unix()
	stamp := fmt.Sprint(now)
	good := "t=" + stamp + ",v1=" + mac(stamp, body, secret)
	future := fmt.Sprint(now + 7200)
	for name, h := range map[string]string{
		"two times":           "t=5," + good,
		"the future":          "t=" + future + ",v1=" + mac(future, body, secret),
		"a zero in front":     "t=0" + good[2:],
		"a plus sign":         "t=+" + good[2:],
		"a long header":       good + ",x=" + strings.Repeat("y", 5000),
		"too many signatures": good + strings.Repeat(",v1="+strings.Repeat("0", 64), 20),
	} {
		if !theirs(body, h) {
			t.Errorf("%s: Stripe's library refuses it too: this test compares nothing", name)
		}
		if ours(hook, body, h) {
			t.Errorf("%s is taken", name)
		}
	}
	if webhook.ValidatePayloadWithTolerance([]byte(body), "t="+stamp+",v1="+mac(stamp, body, ""), "",
		tolerance) != nil {
		t.Error("Stripe's library refuses the empty secret too: this test compares nothing")
	}
	if ours(hook, body, "t="+stamp+",v1="+mac(stamp, body, "")) {
		t.Error("the empty secret's signature is taken")
	}
}
