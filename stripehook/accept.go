package stripehook

import "slices"

// Event describes an event for [Config.Accept]. Every field but ID and Type may be empty.
type Event struct {
	// ID is Stripe's id of the event ("evt_…").
	ID string
	// Type is the event's type, such as "customer.subscription.updated".
	Type string
	// Customer is the id of Stripe's customer ("cus_…").
	Customer string
	// Subscription is the id of the subscription that the event is about ("sub_…").
	Subscription string
	// Prices and Products are the ids of what is subscribed to or invoiced ("price_…", "prod_…"). They are
	// empty for Checkout sessions.
	Prices, Products []string
	// Metadata is the metadata of the subscription or the session. An invoice has its subscription's.
	Metadata map[string]string
}

// accepts asks Config.Accept about an event.
func (c *Config) accepts(e *event) (accepted bool) {
	if c.Accept == nil {
		return true
	}
	defer func() {
		if recover() != nil {
			accepted = true
		}
	}()
	return c.Accept(e.summary())
}

// summary returns the event as Accept gets it.
func (e *event) summary() Event {
	o := e.object
	s := Event{ID: e.id, Type: e.kind, Customer: o.reference("customer"), Metadata: texts(o.at("metadata"))}
	if c, err := e.change(); err == nil {
		s.Subscription = c.stripeSub
	}
	for _, parent := range []object{o.at("subscription_details"), o.at("parent", "subscription_details")} {
		for name, text := range texts(parent.at("metadata")) {
			s.Metadata[name] = text
		}
	}
	for _, item := range append(o.objects("items"), o.objects("lines")...) {
		s.addItem(item)
	}
	return s
}

// addItem adds the price and the product of a subscription's item or an invoice's line
// (docs.stripe.com/api/invoice-line-item).
func (s *Event) addItem(item object) {
	details := item.at("pricing", "price_details")
	for _, price := range []string{item.reference("price"), item.reference("plan"),
		details.reference("price")} {
		if price != "" && !slices.Contains(s.Prices, price) {
			s.Prices = append(s.Prices, price)
		}
	}
	for _, product := range []string{item.at("price").reference("product"),
		item.at("plan").reference("product"), details.reference("product")} {
		if product != "" && !slices.Contains(s.Products, product) {
			s.Products = append(s.Products, product)
		}
	}
}

// texts returns the members of an object that are strings.
func texts(o object) map[string]string {
	m := map[string]string{}
	for name := range o {
		if text := o.text(name, maxText); text != "" {
			m[name] = text
		}
	}
	return m
}
