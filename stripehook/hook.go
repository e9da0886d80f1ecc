// Package stripehook receives Stripe's webhooks and keeps the host database's subscriptions up to date, so
// that a tenant's next request depends on what the tenant pays for now.
//
// Stripe delivers an event at least once, in any order, for days. Each event is applied in one transaction
// that also records its id (core_stripe_webhook_events). So an event that is delivered twice is applied once,
// and after a crash the next delivery applies it. A subscription's row shows the last of its events, in
// whatever order they came. An older event is recorded as skipped_out_of_order. Events of one second are
// ordered by the status that they say was there before (previous_attributes), otherwise by (status, id). A
// canceled subscription stays canceled.
//
// Invoices are written to the audit log. If the payment of a renewal fails, an active subscription becomes
// past_due until a later event says otherwise. With a [Fetcher] an invoice fetches the subscription instead.
//
// A subscription's plan is the one that has its price ([hostdb.PricingPlan]). A price that left a plan still
// counts as that plan's. If no plan has the price, the subscription's metadata names the plan as plan_tier or
// plan_type. Otherwise the row keeps its plan.
//
// A subscription belongs to the tenant that its metadata names as tenant_id, or that the Checkout session
// which began it names in its metadata or as client_reference_id. The client reference of a payment link is
// part of its address, so whoever pays may write any tenant's id there. They pay for that tenant and gain
// nothing, and do not count as one of its members. An event about a subscription or a tenant that does not
// exist yet is parked, and applied as soon as it exists. Set metadata.tenant_id on subscriptions too
// (subscription_data.metadata of the session), so that no event waits for another.
//
// Events are kept with their payloads, which hold customers' names and addresses, so that they can be
// inspected and replayed. They are not removed automatically: call hostdb.DB.WebhookEvents.Prune daily, with
// an age of [hostdb.WebhookRetention] (30 days) or more. It deletes events that were processed or skipped.
// Parked and failed events stay until they are applied or deleted by hand.
//
// Subscribe the endpoint to checkout.session.completed, .async_payment_succeeded and .async_payment_failed,
// customer.subscription.created, .updated, .paused, .resumed and .deleted, invoice.payment_succeeded and
// invoice.payment_failed. Other types are answered 200 and ignored.
package stripehook

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/observe"
)

// hook is the endpoint.
type hook struct {
	cfg    *Config // behind a pointer, since fmt may print what a pointer leads to without asking Format
	bodies bodies
	ledger
	panics observe.Panics
}

// Answers besides the statuses of events.
const (
	duplicate = "duplicate" // it has been dealt with
	ignored   = "ignored"   // it isn't for us
)

// longest bounds the work on one delivery. Stripe waits about that long for the answer.
const longest = 20 * time.Second

// New returns the endpoint, a handler for POST requests of any path, or an error if the configuration is not
// valid. Mount it outside the middleware: Stripe's only credential is its signature. Until the host database
// is closed, the endpoint also listens to its changes to apply parked events.
//
// It answers 200 if an event was applied, is parked, is for another program, or can never be applied (it is
// recorded as failed). It answers 400 or 413 to what Stripe did not send, and 503 if the next delivery may
// succeed. The body is a word or a short sentence.
//
// Anybody may send requests to it. A body may have 1 MiB and take 10 seconds. All bodies in progress may have
// 32 MiB together: beyond that a delivery is answered 503 with Retry-After, and Stripe repeats it. The time
// for a request's header is the server's to bound: set [http.Server.ReadHeaderTimeout].
func New(host *hostdb.DB, cfg Config) (http.Handler, error) {
	if host == nil {
		return nil, errors.New("stripehook: New: give the host database")
	}
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("stripehook: Config.%w", err)
	}
	cfg.setDefaults()
	h := &hook{cfg: &cfg, ledger: ledger{host: host, fetcher: cfg.Fetcher,
		denyPaused: cfg.DenyPaused, parkedFor: cfg.ParkedFor, logger: cfg.Logger}}
	h.panics.Logger = cfg.Logger
	go h.follow()
	return h, nil
}

// Format implements [fmt.Formatter]. It writes no secret, whatever the verb.
func (h *hook) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "stripehook.New(%v)", h.cfg)
}

// ServeHTTP implements http.Handler.
func (h *hook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		answer(w, http.StatusMethodNotAllowed, "POST only")
		return
	}
	began := time.Now()
	e, release, err := h.receive(w, r)
	defer release()
	if err != nil {
		h.delivered(r.Context(), nil, ResultRefused, began)
		h.cfg.Logger.DebugContext(r.Context(), "webhook refused", "cause", err.Error())
		refuse(w, err)
		return
	}
	if !h.meant(e) || !e.known() || !h.cfg.accepts(e) {
		h.cfg.Logger.DebugContext(r.Context(), "webhook ignored", "event", e.id, "type", e.kind)
		h.delivered(r.Context(), e, ignored, began)
		answer(w, http.StatusOK, ignored)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), longest)
	defer cancel()
	status, err := h.deliver(ctx, e, false)
	if redeliver(status, err) {
		h.delivered(ctx, e, ResultRetry, began)
		answer(w, http.StatusServiceUnavailable, "try again")
		return
	}
	h.delivered(ctx, e, status, began)
	answer(w, http.StatusOK, status)
}

// redeliver asks Stripe to retry only if this event was not applied or is still parked, not because another
// one failed.
func redeliver(status string, err error) bool {
	return err != nil && (status == "" || status == hostdb.WebhookParked)
}

// refuse answers a request that is not a delivery, or that can't be processed now.
func refuse(w http.ResponseWriter, err error) {
	code := http.StatusBadRequest
	switch err {
	case errBodyLong:
		code = http.StatusRequestEntityTooLarge
	case errBodyRoom:
		code = http.StatusServiceUnavailable
		w.Header().Set("Retry-After", "10")
	}
	if err == errBodyLong || err == errBodyRoom || err == errBodyEarly {
		w.Header().Set("Connection", "close") // or the server would read the rest before it answers
	}
	answer(w, code, err.Error())
}

// answer writes a response of one line, which holds nothing of the request.
func answer(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_, _ = io.WriteString(w, text+"\n")
}

// receive returns the event of a request, or why the request is refused. The header is checked before the
// body is read. release returns the event's memory.
func (h *hook) receive(w http.ResponseWriter, r *http.Request) (e *event, release func(), err error) {
	release = func() {}
	headers := r.Header["Stripe-Signature"]
	if len(headers) != 1 {
		return nil, release, errHeader
	}
	signed, err := parseSignature(headers[0])
	if err != nil {
		return nil, release, err
	}
	if err := signed.checkTime(h.cfg.Now(), h.cfg.Tolerance); err != nil {
		return nil, release, err
	}
	body, release, err := h.bodies.read(w, r)
	if err != nil {
		return nil, release, err
	}
	if err := signed.check(h.cfg.Secrets, body); err != nil {
		return nil, release, err
	}
	e, err = parseEvent(body)
	return e, release, err
}

// meant reports whether an event has the configured account and mode.
func (h *hook) meant(e *event) bool {
	return e.account == h.cfg.Account && (h.cfg.Mode == "" || e.live == (h.cfg.Mode == Live))
}
