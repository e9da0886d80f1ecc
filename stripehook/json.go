package stripehook

import (
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/tenantdb/tenantdb/internal/strictjson"
)

// errJSON is the reason why a body can't be read. It repeats nothing of the body.
var errJSON = errors.New("the body is not the JSON object that Stripe sends")

const (
	maxBody    = 1 << 20
	maxID      = 255          // Stripe's ids are at most that long (docs.stripe.com/upgrades)
	maxText    = 512          // what a column of the host database takes
	maxWord    = 64           // what a plan's id takes
	maxEmail   = 320          // RFC 3696 section 3
	maxCents   = 1 << 50      // far above any amount, and a hundred of them can be added up
	maxSeconds = 253402300799 // the end of the year 9999
)

// object is a JSON object. Members are found by their exact name. A member of another type counts as absent:
// Stripe sends ids where it may send whole objects, and null for nothing.
type object map[string]any

// parseObject reads an object of at most maxBody bytes. See [strictjson.Decode] for what it refuses.
func parseObject(body []byte) (object, error) {
	if len(body) > maxBody {
		return nil, errJSON
	}
	members, _, err := strictjson.Decode(string(body), strictjson.Options{LoneSurrogates: true})
	if err != nil {
		return nil, errJSON
	}
	return members, nil
}

// at follows a path of objects. It returns nil if the path ends early.
func (o object) at(path ...string) object {
	for _, name := range path {
		o, _ = o[name].(map[string]any)
	}
	return o
}

// text returns a string of at most max bytes that a column can hold, or "".
func (o object) text(name string, max int) string {
	s, _ := o[name].(string)
	if len(s) > max || strings.ContainsRune(s, 0) {
		return ""
	}
	return s
}

// reference returns the id of another object. The member is the id or, if it was expanded, the object.
func (o object) reference(name string) string {
	if expanded := o.at(name); expanded != nil {
		return expanded.text("id", maxID)
	}
	return o.text(name, maxID)
}

// number returns an integer that is not negative. ok is false if there is none.
func (o object) number(name string) (n int64, ok bool) {
	digits, _ := o[name].(json.Number)
	n, err := digits.Int64()
	return n, err == nil && n >= 0
}

// cents returns an amount. It returns 0 if there is none, or if it is absurd.
func (o object) cents(name string) int64 {
	if n, ok := o.number(name); ok && n <= maxCents {
		return n
	}
	return 0
}

// time returns a time that is given in seconds since 1970, or nil.
func (o object) time(name string) *time.Time {
	n, ok := o.number(name)
	if !ok || n == 0 || n > maxSeconds {
		return nil
	}
	t := time.Unix(n, 0).UTC()
	return &t
}

// truth returns a boolean, or false if there is none.
func (o object) truth(name string) bool {
	b, _ := o[name].(bool)
	return b
}

// objects returns the first 100 objects of one of Stripe's lists, {"data": [...]}.
func (o object) objects(name string) []object {
	elements, _ := o.at(name)["data"].([]any)
	var found []object
	for _, element := range elements[:min(len(elements), 100)] {
		if member, ok := element.(map[string]any); ok {
			found = append(found, member)
		}
	}
	return found
}
