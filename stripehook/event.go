package stripehook

import (
	"errors"
	"strings"

	"github.com/tenantdb/tenantdb/hostdb"
)

// The types of the events that are applied.
const (
	checkoutCompleted   = "checkout.session.completed"
	checkoutPaid        = "checkout.session.async_payment_succeeded"
	checkoutUnpaid      = "checkout.session.async_payment_failed"
	subscriptionCreated = "customer.subscription.created"
	subscriptionUpdated = "customer.subscription.updated"
	subscriptionPaused  = "customer.subscription.paused"
	subscriptionResumed = "customer.subscription.resumed"
	subscriptionDeleted = "customer.subscription.deleted"
	invoiceSucceeded    = "invoice.payment_succeeded"
	invoiceFailed       = "invoice.payment_failed"
)

// errMalformed is why an event that Stripe has signed can't be applied, now or later.
var errMalformed = errors.New("a member that is needed is missing or malformed")

// event is what Stripe delivers (docs.stripe.com/api/events/object).
type event struct {
	id      string
	kind    string
	account string // the connected account, "" for one's own
	live    bool
	created int64  // seconds since 1970
	object  object // data.object
	before  object // data.previous_attributes; nil where the event has none
	body    []byte
}

// parseEvent reads the envelope.
func parseEvent(body []byte) (*event, error) {
	o, err := parseObject(body)
	if err != nil {
		return nil, err
	}
	e := &event{id: o.text("id", maxID), kind: o.text("type", maxID), account: o.text("account", maxID),
		live:   o.truth("livemode"),
		object: o.at("data", "object"), before: o.at("data", "previous_attributes"), body: body}
	if !validName(e.id) || !validName(e.kind) {
		return nil, errJSON
	}
	e.created, _ = o.number("created")
	return e, nil
}

// validName reports whether an id or a type is safe to log.
func validName(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' &&
			c != '.' && c != '-' {
			return false
		}
	}
	return s != ""
}

// known reports whether events of this type are applied.
func (e *event) known() bool {
	switch e.kind {
	case checkoutCompleted, checkoutPaid, checkoutUnpaid, subscriptionCreated, subscriptionUpdated,
		subscriptionPaused,
		subscriptionResumed, subscriptionDeleted, invoiceSucceeded, invoiceFailed:
		return true
	}
	return false
}

// change is what an event says, in our terms.
type change struct {
	stripeSub string // the subscription that it is about; "": none
	tenant    string // the id of the tenant that it names; "": none
	customer  string
	user      string   // the id of the user that its metadata names
	email     string   // of who paid
	checkout  bool     // a Checkout session
	link      bool     // made by a payment link: whoever paid chose the tenant and the address
	state     *state   // the subscription, as it was then
	payment   *payment // a payment that is no subscription's
	invoice   *invoice
}

// payment is a one-time payment.
type payment struct {
	session string
	status  string
	cents   int64
	product string
}

// invoice is an invoice that was paid, or whose payment failed.
type invoice struct {
	id    string
	cents int64
	late  bool // it is a renewal's, and its payment failed
}

// change reads what the event is about. Errors: errMalformed.
func (e *event) change() (*change, error) {
	if e.created == 0 || e.created > maxSeconds {
		return nil, errMalformed
	}
	var c *change
	var err error
	switch {
	case strings.HasPrefix(e.kind, "checkout."):
		c, err = readSession(e.object)
	case strings.HasPrefix(e.kind, "invoice."):
		c = readInvoice(e.object)
		c.invoice.late = e.kind == invoiceFailed && renews(e.object)
	default:
		c, err = readSubscription(e.object, e.kind == subscriptionDeleted)
	}
	if err != nil {
		return nil, err
	}
	c.customer = e.object.reference("customer")
	if c.stripeSub != "" && !validName(c.stripeSub) {
		return nil, errMalformed
	}
	return c, nil
}

// readSession reads a Checkout session (docs.stripe.com/api/checkout/sessions/object).
func readSession(o object) (*change, error) {
	c := &change{stripeSub: o.reference("subscription"), tenant: tenantOf(o),
		user: idIn(o.at("metadata"), "user_id"), checkout: true,
		link: o.reference("payment_link") != "", email: o.at("customer_details").text("email", maxEmail)}
	if c.email == "" {
		c.email = o.text("customer_email", maxEmail)
	}
	if o.text("mode", maxID) != "payment" {
		return c, nil
	}
	c.stripeSub = ""
	c.payment = &payment{session: o.text("id", maxID), status: word(o, "payment_status"),
		cents:   o.cents("amount_total"),
		product: o.at("metadata").text("product_name", maxText)}
	if c.payment.session == "" {
		return nil, errMalformed
	}
	return c, nil
}

// readInvoice reads an invoice. Before API version 2025-03-31 it names its subscription itself, since then
// its parent does (docs.stripe.com/changelog/basil/2025-03-31/adds-new-parent-field-to-invoicing-objects).
func readInvoice(o object) *change {
	c := &change{stripeSub: o.reference("subscription"),
		invoice: &invoice{id: o.text("id", maxID), cents: o.cents("amount_due")}}
	if c.stripeSub == "" {
		c.stripeSub = o.at("parent", "subscription_details").reference("subscription")
	}
	return c
}

// renews reports whether an invoice continues a subscription, which is past due if the payment fails. After a
// failed payment of the first invoice a subscription is incomplete, and a manual invoice changes nothing
// (docs.stripe.com/api/invoices/object, billing_reason).
func renews(o object) bool {
	reason := o.text("billing_reason", maxID)
	return reason != "subscription_create" && reason != "manual"
}

// readSubscription reads a subscription.
func readSubscription(o object, deleted bool) (*change, error) {
	c := &change{stripeSub: o.text("id", maxID), tenant: tenantOf(o), user: idIn(o.at("metadata"), "user_id"),
		state: readState(o, deleted)}
	if c.stripeSub == "" {
		return nil, errMalformed
	}
	return c, nil
}

// tenantOf returns the id of the tenant that an object names in its metadata, or as the client reference of a
// Checkout session.
func tenantOf(o object) string {
	if id := idIn(o.at("metadata"), "tenant_id"); id != "" {
		return id
	}
	return idIn(o, "client_reference_id")
}

// idIn returns a member that is a valid id of the host database, or "".
func idIn(o object, name string) string {
	if id := o.text(name, maxID); hostdb.ValidID(id) {
		return id
	}
	return ""
}
