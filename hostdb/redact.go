package hostdb

import (
	"bytes"
	"encoding/json"
	"io"
	"slices"
	"strings"
)

// decodeJSON parses a JSON object or array. It keeps numbers as they are written.
func decodeJSON(text string) (any, bool) {
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var value any
	if d.Decode(&value) != nil {
		return nil, false
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, false
	}
	return value, true
}

// encodeJSON is the inverse of decodeJSON.
func encodeJSON(value any) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if e.Encode(value) != nil { // decoded values can always be encoded
		return ""
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// anyString reports whether wanted returns true for a string in a JSON value, including members' names.
func anyString(value any, wanted func(string) bool) bool {
	switch v := value.(type) {
	case string:
		return wanted(v)
	case []any:
		return slices.ContainsFunc(v, func(item any) bool { return anyString(item, wanted) })
	case map[string]any:
		for name, item := range v {
			if wanted(name) || anyString(item, wanted) {
				return true
			}
		}
	}
	return false
}

// mapStrings replaces every string in a JSON value, including members' names.
func mapStrings(value any, replace func(string) string) any {
	switch v := value.(type) {
	case string:
		return replace(v)
	case []any:
		for i := range v {
			v[i] = mapStrings(v[i], replace)
		}
	case map[string]any:
		replaced := make(map[string]any, len(v))
		for name, item := range v {
			replaced[replace(name)] = mapStrings(item, replace)
		}
		return replaced
	}
	return value
}

// The members that redaction keeps of a Stripe event: those from which a subscription's state is read, and
// those that identify the event. Everything else is removed, known or not: names, addresses, cards,
// descriptions, a product's own metadata.
var (
	keptTexts = wordSet("id object type api_version account mode status payment_status subscription " +
		"invoice payment_link client_reference_id tenant_id plan_tier plan_type product_name price plan " +
		"product nickname currency interval billing_reason behavior")
	keptObjects = wordSet("data object previous_attributes items lines price plan product recurring " +
		"metadata parent subscription subscription_details pricing price_details pause_collection period")
)

// wordSet returns the words of a text.
func wordSet(text string) map[string]bool {
	set := map[string]bool{}
	for word := range strings.FieldsSeq(text) {
		set[word] = true
	}
	return set
}

// redactEvent removes from a Stripe event what concerns a person. The event keeps its id, type and time and
// can be replayed, but no longer names a customer.
func (p *person) redactEvent(payload string) string {
	event, _ := decodeJSON(payload)
	members, ok := event.(map[string]any)
	if !ok {
		return "{}"
	}
	p.redactObject(members)
	return encodeJSON(members)
}

// redactObject removes the members that aren't kept.
func (p *person) redactObject(members map[string]any) {
	for name, value := range members {
		if !p.redactMember(name, value) {
			delete(members, name)
		}
	}
}

// redactMember reports whether a member is kept, and redacts its value.
func (p *person) redactMember(name string, value any) bool {
	switch v := value.(type) {
	case string:
		return keptTexts[name] && !p.mentions(v)
	case map[string]any:
		p.redactObject(v)
		return keptObjects[name]
	case []any:
		for _, item := range v {
			object, ok := item.(map[string]any)
			if !ok {
				return false
			}
			p.redactObject(object)
		}
		return keptObjects[name]
	}
	return !p.mentions(name)
}
