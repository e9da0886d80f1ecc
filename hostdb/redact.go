package hostdb

import (
	"bytes"
	"encoding/json"
	"io"
	"slices"
	"strings"
)

// decode reads a JSON object or array, numbers as they are written.
func decode(text string) (any, bool) {
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

// encode writes what decode has read.
func encode(value any) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if e.Encode(value) != nil { // what was decoded can be encoded
		return ""
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// some reports whether a text of a JSON value, a member's name included, is one that is looked for.
func some(value any, wanted func(string) bool) bool {
	switch v := value.(type) {
	case string:
		return wanted(v)
	case []any:
		return slices.ContainsFunc(v, func(item any) bool { return some(item, wanted) })
	case map[string]any:
		for name, item := range v {
			if wanted(name) || some(item, wanted) {
				return true
			}
		}
	}
	return false
}

// mapTexts returns a JSON value with every text, and every member's name, replaced.
func mapTexts(value any, replace func(string) string) any {
	switch v := value.(type) {
	case string:
		return replace(v)
	case []any:
		for i := range v {
			v[i] = mapTexts(v[i], replace)
		}
	case map[string]any:
		replaced := make(map[string]any, len(v))
		for name, item := range v {
			replaced[replace(name)] = mapTexts(item, replace)
		}
		return replaced
	}
	return value
}

// What is kept of a Stripe event in which a person was named: what a subscription's state is read from, and
// what tells the event from others. Everything else goes, known or not: names, addresses, cards,
// descriptions, a product's own metadata.
var (
	keptTexts = words("id object type api_version account mode status payment_status subscription invoice " +
		"payment_link " + "client_reference_id tenant_id plan_tier plan_type product_name price plan " +
		"product nickname currency interval billing_reason behavior")
	keptObjects = words("data object previous_attributes items lines price plan product recurring metadata " +
		"parent subscription " + "subscription_details pricing price_details pause_collection period")
)

// words is the set of the words of a text.
func words(text string) map[string]bool {
	set := map[string]bool{}
	for word := range strings.FieldsSeq(text) {
		set[word] = true
	}
	return set
}

// redactEvent returns a Stripe event without what concerns a person. It has the same id, type and time, and
// can be replayed; it names no customer any more.
func (p *person) redactEvent(payload string) string {
	event, _ := decode(payload)
	members, ok := event.(map[string]any)
	if !ok {
		return "{}"
	}
	p.keep(members)
	return encode(members)
}

// keep removes from an object all that isn't kept.
func (p *person) keep(members map[string]any) {
	for name, value := range members {
		if !p.kept(name, value) {
			delete(members, name)
		}
	}
}

// kept reports whether a member is kept, and removes from it what isn't.
func (p *person) kept(name string, value any) bool {
	switch v := value.(type) {
	case string:
		return keptTexts[name] && !p.meant(v)
	case map[string]any:
		p.keep(v)
		return keptObjects[name]
	case []any:
		for _, item := range v {
			object, ok := item.(map[string]any)
			if !ok {
				return false
			}
			p.keep(object)
		}
		return keptObjects[name]
	}
	return !p.meant(name)
}
