// Package stripehook receives Stripe's webhooks and keeps the host database's subscriptions as Stripe has
// them, so that the next request of a tenant is judged by what they pay for now.
//
// Stripe delivers an event at least once, in any order, for days. Each is applied in one transaction that
// also records its id (core_stripe_webhook_events): twice delivered, it is applied once; a crash undoes both,
// and the next delivery does the work. Of the events about one subscription the last one is what its row
// shows, in whatever order they came; an older one is recorded as skipped_out_of_order. Events of one second
// are ordered by what they say of the status before (previous_attributes), else by (status, id). A
// subscription that is canceled stays so.
//
// Invoices are written to the audit log. Where the payment of a renewal fails, a subscription that is active
// stands as past_due until a later event about it says otherwise. With a Fetcher invoices have the
// subscription fetched instead.
//
// The plan is that of the prices on the price list (hostdb.PricingPlan), where a price that left a plan still
// counts as that plan's; else what the subscription's metadata names as plan_tier or plan_type. Where neither
// tells, the row keeps the plan that it has.
//
// A subscription belongs to the tenant whose id its metadata holds as tenant_id, or the metadata or
// client_reference_id of the Checkout session that began it. Behind a payment link the client reference is
// part of the address and whoever pays may write any tenant's id there: they pay for that tenant and gain
// nothing, and are not taken for one of its members. An event about a subscription or a tenant that isn't
// there yet is parked, and applied as soon as it is. Set metadata.tenant_id on subscriptions too
// (subscription_data.metadata of the session): then no event waits for another.
//
// The events are kept, each with its payload, which holds customers' names and addresses, so that they can be
// looked at and replayed. Nothing removes them by itself: have hostdb.DB.WebhookEvents.Prune called daily,
// with an age of hostdb.WebhookRetention (30 days) or more. It deletes what has been processed or skipped;
// what is parked or has failed stays until it is applied, or deleted by hand.
//
// Subscribe the endpoint to checkout.session.completed, .async_payment_succeeded and .async_payment_failed,
// customer.subscription.created, .updated, .paused, .resumed and .deleted, invoice.payment_succeeded and
// invoice.payment_failed. Other types are answered 200 and forgotten.
package stripehook

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// hook is the endpoint.
type hook struct {
	cfg    *Config // behind a pointer, since fmt may print what a pointer leads to without asking Format
	bodies bodies
	ledger
}

// Answers beside the statuses of events.
const (
	duplicate = "duplicate" // it has been dealt with
	ignored   = "ignored"   // it isn't for us
)

// longest bounds the work on one delivery; Stripe waits about that long for the answer.
const longest = 20 * time.Second

// New checks the configuration and makes the endpoint, for POST requests of any path. It stands outside the
// middleware: Stripe signs what it sends, and has no other credential. Until the host database is closed, the
// endpoint also listens to its changes, to apply what was parked.
//
// It answers 200 to what has been dealt with, is parked, isn't for it, or can never be applied (recorded as
// failed); 400 and 413 to what Stripe didn't send; 503 where the next delivery may succeed. The body is a
// word or a short sentence.
//
// Anybody may send requests to it. A body may have 1 MiB and take 10 seconds, and all that are under way take
// at most 32 MiB together: beyond that a delivery is answered 503 with Retry-After, and Stripe repeats it.
// How long a request's header may take is for the server: set http.Server.ReadHeaderTimeout.
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
	go h.follow()
	return h, nil
}

// Format implements fmt.Formatter: whatever the verb, it writes no secret.
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
	e, release, err := h.receive(w, r)
	defer release()
	if err != nil {
		h.cfg.Logger.DebugContext(r.Context(), "webhook refused", "cause", err.Error())
		refuse(w, err)
		return
	}
	if !h.meant(e) || !e.known() || !h.cfg.accepts(e) {
		h.cfg.Logger.DebugContext(r.Context(), "webhook ignored", "event", e.id, "type", e.kind)
		answer(w, http.StatusOK, ignored)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), longest)
	defer cancel()
	status, err := h.deliver(ctx, e, false)
	if redeliver(status, err) {
		answer(w, http.StatusServiceUnavailable, "try again")
		return
	}
	answer(w, http.StatusOK, status)
}

// redeliver reports whether Stripe is asked to deliver an event again: for its own sake, not for that of
// others, which may fail for good.
func redeliver(status string, err error) bool {
	return err != nil && (status == "" || status == hostdb.WebhookParked)
}

// refuse answers what isn't a delivery, or can't be taken now.
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

// receive returns the event that a request carries, or why it is refused. What a header alone can tell is
// asked before the body is read. The returned function gives back the event's memory.
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

// meant reports whether an event is of the account and the mode that are configured.
func (h *hook) meant(e *event) bool {
	return e.account == h.cfg.Account && (h.cfg.Mode == "" || e.live == (h.cfg.Mode == Live))
}
