package hostdb

import (
	"bytes"
	"encoding/json"
	"io"
	"slices"
	"strings"
)

// decodeJSON reads a JSON object or array, numbers as they are written.
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

// encodeJSON writes what decode has read.
func encodeJSON(value any) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if e.Encode(value) != nil { // what was decoded can be encoded
		return ""
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// anyString reports whether a text of a JSON value, a member's name included, is one that is looked for.
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

// mapStrings returns a JSON value with every text, and every member's name, replaced.
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

// What is kept of a Stripe event in which a person was named: what a subscription's state is read from, and
// what tells the event from others. Everything else goes, known or not: names, addresses, cards,
// descriptions, a product's own metadata.
var (
	keptTexts = wordSet("id object type api_version account mode status payment_status subscription " +
		"invoice payment_link client_reference_id tenant_id plan_tier plan_type product_name price plan product " +
		"nickname currency interval billing_reason behavior")
	keptObjects = wordSet("data object previous_attributes items lines price plan product recurring " +
		"metadata parent subscription subscription_details pricing price_details pause_collection period")
)

// wordSet is the set of the words of a text.
func wordSet(text string) map[string]bool {
	set := map[string]bool{}
	for word := range strings.FieldsSeq(text) {
		set[word] = true
	}
	return set
}

// redactEvent returns a Stripe event without what concerns a person. It has the same id, type and time, and
// can be replayed; it names no customer any more.
func (p *person) redactEvent(payload string) string {
	event, _ := decodeJSON(payload)
	members, ok := event.(map[string]any)
	if !ok {
		return "{}"
	}
	p.redactObject(members)
	return encodeJSON(members)
}

// redactObject removes from an object all that isn't kept.
func (p *person) redactObject(members map[string]any) {
	for name, value := range members {
		if !p.redactMember(name, value) {
			delete(members, name)
		}
	}
}

// redactMember reports whether a member is kept, and removes from it what isn't.
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
