package stripehook_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/stripehook"
)

func TestHook_aSignedEventIsTakenAndNothingElse(t *testing.T) {
	w := newWorld(t, sqliteURL(t))
	body := envelope("evt_1", "customer.subscription.created", noon.Unix(),
		subscription("sub_1", "active", fields{"metadata": fields{"tenant_id": w.tenant.ID}}))
	good := sign(body, secret, noon)
	stamp, mac, _ := strings.Cut(good, ",")
	zeros := "v1=" + strings.Repeat("0", 64)
	for name, c := range map[string]struct {
		header string
		body   string
		code   int
	}{
		"no header":                      {"", body, 400},
		"a forged signature":             {stamp + "," + zeros, body, 400},
		"another secret's":               {sign(body, "whsec_other", noon), body, 400},
		"the empty secret's":             {sign(body, "", noon), body, 400},
		"another body's":                 {good, body + " ", 400},
		"a truncated body":               {good, body[:len(body)-1], 400},
		"a truncated signature":          {good[:len(good)-2], body, 400},
		"another time's":                 {fmt.Sprintf("t=%d,%s", noon.Unix()+1, mac), body, 400},
		"two times":                      {good + "," + stamp, body, 400},
		"two times, the signed one last": {fmt.Sprintf("t=%d,%s", noon.Unix()+1, good), body, 400},
		"no time":                        {mac, body, 400},
		"no signature":                   {stamp, body, 400},
		"scheme v0 only":                 {strings.Replace(good, "v1=", "v0=", 1), body, 400},
		"scheme V1":                      {strings.Replace(good, "v1=", "V1=", 1), body, 400},
		"an entry without a value":       {good + ",", body, 400},
		"an entry with two values":       {good + ",v1=a=b", body, 400},
		"a space":                        {"t=" + strings.Replace(good[2:], ",", ", ", 1), body, 400},
		"a time with a sign":             {strings.Replace(good, "t=", "t=+", 1), body, 400},
		"a time with a zero in front":    {strings.Replace(good, "t=", "t=0", 1), body, 400},
		"a time that is none":            {"t=now," + mac, body, 400},
		"too many signatures":            {stamp + strings.Repeat(","+zeros, 16) + "," + mac, body, 400},
		"a long header":                  {good + ",x=" + strings.Repeat("y", 4<<10), body, 400},
		"signed too long ago":            {sign(body, secret, noon.Add(-301*time.Second)), body, 400},
		"signed in the future":           {sign(body, secret, noon.Add(301*time.Second)), body, 400},
		"oversized": {sign(strings.Repeat(" ", 1<<20)+body, secret, noon),
			strings.Repeat(" ", 1<<20) + body, 413},
		"signed, not JSON":      {sign("{", secret, noon), "{", 400},
		"signed, empty":         {sign("", secret, noon), "", 400},
		"signed, an array":      {sign("[]", secret, noon), "[]", 400},
		"signed, without an id": {sign(`{"type":"a.b"}`, secret, noon), `{"type":"a.b"}`, 400},
		"signed, with an id that is none": {sign(`{"id":"a b","type":"a.b"}`, secret, noon),
			`{"id":"a b","type":"a.b"}`, 400},
		"signed, with two ids": {sign(`{"id":"a","id":"b","type":"a.b"}`, secret, noon),
			`{"id":"a","id":"b","type":"a.b"}`, 400},
		"signed, an unknown type": {sign(`{"id":"evt_x","type":"a.b"}`, secret, noon),
			`{"id":"evt_x","type":"a.b"}`, 200},
		"signed just within the tolerance": {sign(body, secret, noon.Add(-300*time.Second)), body, 200},
	} {
		if rec := post(w.hook, c.body, c.header); rec.Code != c.code {
			t.Errorf("%s: answered %d %s, want %d", name, rec.Code, rec.Body, c.code)
		}
	}
	if events, err := w.host.WebhookEvents.List(t.Context()); err != nil || len(events) != 1 ||
		events[0].EventID != "evt_1" {
		t.Errorf("recorded: %v, %v; want evt_1 alone", events, err)
	}
	for name, header := range map[string]string{
		"as it is":          good,
		"from a fast clock": sign(body, secret, noon.Add(300*time.Second)),
		"among others":      stamp + ",v0=ff,v2=ff," + zeros + ",v1=short," + mac + "," + zeros,
	} {
		if rec := post(w.hook, body, header); rec.Code != 200 || rec.Body.String() != "duplicate\n" {
			t.Errorf("%s: answered %d %s", name, rec.Code, rec.Body)
		}
	}
}

func TestHook_otherMethodsAndSeveralHeadersAreRefused(t *testing.T) {
	w := newWorld(t, sqliteURL(t))
	rec := httptest.NewRecorder()
	w.hook.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/", nil))
	if rec.Code != http.StatusMethodNotAllowed || rec.Header().Get("Allow") != "POST" {
		t.Errorf("GET: %d %v", rec.Code, rec.Header())
	}
	body := `{"id":"evt_1","type":"a.b"}`
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
	r.Header["Stripe-Signature"] = []string{sign(body, secret, noon), sign(body, secret, noon)}
	rec = httptest.NewRecorder()
	w.hook.ServeHTTP(rec, r)
	if rec.Code != http.StatusBadRequest {
		t.Errorf("two headers: %d", rec.Code)
	}
	r = httptest.NewRequest(http.MethodPost, "/", io.MultiReader(strings.NewReader("{"), brokenReader{}))
	r.Header.Set("Stripe-Signature", sign("{", secret, noon))
	rec = httptest.NewRecorder()
	w.hook.ServeHTTP(rec, r)
	if rec.Code != http.StatusBadRequest {
		t.Errorf("a body that breaks off: %d", rec.Code)
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestHook_anySecretOfARotationIsGood(t *testing.T) {
	w := newWorld(t, sqliteURL(t))
	hook := w.newHook(stripehook.Config{Secrets: []string{"whsec_new", "whsec_old"}})
	body := `{"id":"evt_1","type":"a.b"}`
	for s, code := range map[string]int{"whsec_new": 200, "whsec_old": 200, "whsec_ancient": 400,
		"whsec_newwhsec_old": 400} {
		if rec := post(hook, body, sign(body, s, noon)); rec.Code != code {
			t.Errorf("signed with %s: %d, want %d", s, rec.Code, code)
		}
	}
}

func TestNew_refusesAConfigurationThatIsNotSafe(t *testing.T) {
	w := newWorld(t, sqliteURL(t))
	good := []string{secret}
	for name, cfg := range map[string]stripehook.Config{
		"Secrets": {}, "Secrets ": {Secrets: []string{}}, "Secrets  ": {Secrets: []string{secret, ""}},
		"Secrets   ":  {Secrets: []string{secret + "\n"}},
		"Secrets    ": {Secrets: strings.Split(strings.Repeat("a ", 8)+"a", " ")},
		"Tolerance":   {Secrets: good, Tolerance: -1}, "Mode": {Secrets: good, Mode: "prod"},
	} {
		if _, err := stripehook.New(w.host, cfg); err == nil ||
			!strings.Contains(err.Error(), "Config."+strings.TrimSpace(name)+":") {
			t.Errorf("%s: %v", name, err)
		} else if strings.Contains(err.Error(), secret) {
			t.Errorf("%s: the error holds the secret", name)
		}
	}
	if _, err := stripehook.New(nil, stripehook.Config{Secrets: good}); err == nil {
		t.Error("no host database is accepted")
	}
	cfg := stripehook.Config{Secrets: good, Mode: stripehook.Live}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d"} {
		for _, value := range []any{cfg, &cfg, w.hook} {
			if text := fmt.Sprintf(verb, value); strings.Contains(text, "0123456789abcdef") ||
				strings.Contains(text, "whsec") {
				t.Errorf("%s of %T shows the secret: %s", verb, value, text)
			}
		}
	}
}

func TestHook_eventsOfOthersAreAnsweredAndForgotten(t *testing.T) {
	w := newWorld(t, sqliteURL(t))
	body := func(id string, live bool, account string) string {
		e := envelope(id, "customer.subscription.created", noon.Unix(),
			subscription("sub_"+id, "active", fields{"metadata": fields{"tenant_id": w.tenant.ID}}))
		e = strings.Replace(e, `"livemode":false`, fmt.Sprintf(`"livemode":%t`, live), 1)
		if account != "" {
			e = fmt.Sprintf(`{"account":%q,`, account) + e[1:]
		}
		return e
	}
	for i, c := range []struct {
		cfg     stripehook.Config
		live    bool
		account string
		want    string
	}{
		{stripehook.Config{}, true, "", "processed"}, {stripehook.Config{}, false, "", "processed"},
		{stripehook.Config{}, true, "acct_1", "ignored"},
		{stripehook.Config{Mode: stripehook.Live}, true, "", "processed"},
		{stripehook.Config{Mode: stripehook.Live}, false, "", "ignored"},
		{stripehook.Config{Mode: stripehook.Test}, true, "", "ignored"},
		{stripehook.Config{Mode: stripehook.Test}, false, "", "processed"},
		{stripehook.Config{Account: "acct_1"}, true, "acct_1", "processed"},
		{stripehook.Config{Account: "acct_1"}, true, "acct_2", "ignored"},
		{stripehook.Config{Account: "acct_1"}, true, "", "ignored"},
	} {
		e := body(fmt.Sprintf("evt_%d", i), c.live, c.account)
		if rec := post(w.newHook(c.cfg), e, sign(e, secret, noon)); rec.Code != 200 ||
			strings.TrimSpace(rec.Body.String()) != c.want {
			t.Errorf("%d: answered %d %s, want %s", i, rec.Code, rec.Body, c.want)
		}
		if _, err := w.host.Subscriptions.ByStripeSubID(t.Context(),
			fmt.Sprintf("sub_evt_%d", i)); (err == nil) != (c.want == "processed") {
			t.Errorf("%d: the subscription: %v", i, err)
		}
	}
}

// A failure that passes is answered 503, and the next delivery does the work.
func TestHook_aHostDatabaseThatIsDownIsARetry(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		body := envelope("evt_1", "customer.subscription.created", noon.Unix(),
			subscription("sub_1", "active", fields{"metadata": fields{"tenant_id": w.tenant.ID}}))
		must(t, w.host.Close())
		if rec := post(w.hook, body, sign(body, secret, noon)); rec.Code != http.StatusServiceUnavailable ||
			rec.Body.String() != "try again\n" {
			t.Errorf("answered %d %s", rec.Code, rec.Body)
		}
	})
}

// Nothing of a payload, and no secret, is in an answer, a log, an error or an event's reason.
func TestHook_nothingOfAPayloadIsTold(t *testing.T) {
	w := newWorld(t, sqliteURL(t))
	logger, out := logged()
	w.hook = w.newHook(stripehook.Config{Logger: logger,
		Fetcher: fetcher(func(context.Context, string) ([]byte, error) {
			return nil, errors.New("canary from Stripe")
		})})
	answers := ""
	for i, object := range []fields{
		subscription("sub_canary", "canary",
			fields{"metadata": fields{"tenant_id": w.tenant.ID, "note": "canary"}}),
		subscription("sub_canary", "canary", fields{"customer": "canary"}),
		session("sub_canary", "canary", fields{"customer_email": "canary@example.com"}),
		invoiceOf("sub canary", nil),
		{"id": "canary", "mode": "payment", "payment_status": "canary",
			"metadata": fields{"tenant_id": "canary"}},
		{"id": nil, "status": "canary"},
	} {
		for _, kind := range []string{"customer.subscription.updated", "invoice.payment_failed",
			"checkout.session.completed"} {
			e := envelope(fmt.Sprintf("evt_%d_%s", i, kind[:3]), kind, noon.Unix(), object)
			answers += post(w.hook, e, sign(e, secret, noon)).Body.String()
			answers += post(w.hook, e+"x", sign(e+"x", secret, noon)).Body.String()
			answers += post(w.hook, e, "t=1,v1=canary").Body.String()
		}
	}
	events, err := w.host.WebhookEvents.List(t.Context())
	must(t, err)
	reasons := ""
	for _, e := range events {
		reasons += e.Reason
		if _, err := stripehook.Replay(t.Context(), w.host, e.EventID); err != nil {
			reasons += err.Error()
		}
	}
	seen := map[string]int{}
	for _, e := range events {
		seen[e.Status]++
	}
	if seen[hostdb.WebhookFailed] == 0 || seen[hostdb.WebhookParked] == 0 ||
		!strings.Contains(answers, "try again") {
		t.Errorf("the test saw %v and %s", seen, answers)
	}
	for what, text := range map[string]string{"log": out.String(), "answers": answers, "reasons": reasons} {
		if text == "" || strings.Contains(text, "canary") || strings.Contains(text, "whsec") ||
			strings.Contains(text, w.tenant.ID) {
			t.Errorf("%s: %s", what, text)
		}
	}
}
