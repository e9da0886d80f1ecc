package hostdb

import (
	"cmp"
	"encoding/json"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// rule says which values a column allows. The zero rule allows any text of up to maxText bytes, and any
// number that isn't negative.
type rule struct {
	maxBytes   int               // 0: maxText
	required   bool              // "" is an error; otherwise it is NULL
	allowed    []string          // the only texts allowed
	valid      func(string) bool // reports whether a non-empty text is well formed
	least      int64             // the smallest number
	most       int64             // the largest number; 0: no limit
	zeroIsNull bool              // 0 is stored as NULL
	masked     bool              // audit rows mask the value
	personal   bool              // audit rows show the value until it is erased
}

const (
	maxText  = 512
	maxShort = 64
	maxEmail = 320 // RFC 3696 section 3: 64 for the local part, 255 for the domain
	maxJSON  = 64 << 10
	maxLong  = 4 << 10
)

var (
	anyText    = rule{least: -1 << 31, most: 1<<31 - 1}
	anyBool    = rule{}
	anyTime    = rule{}
	idRule     = rule{required: true, valid: ValidID}
	optionalID = rule{valid: ValidID}
	wordRule   = rule{required: true, valid: validWord}
	tierRule   = rule{required: true, maxBytes: maxShort}
	jsonRule   = rule{maxBytes: maxJSON, valid: validJSON, masked: true}
	centsRule  = rule{most: 1 << 53}
)

// validWord is the syntax of roles and of Stripe's statuses: a-z, 0-9 and "_", beginning with a letter, up
// to 32.
func validWord(s string) bool {
	if len(s) > 32 || s[0] < 'a' || s[0] > 'z' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return true
}

// validCurrency is the syntax of ISO 4217 codes as Stripe writes them: three lower-case letters.
func validCurrency(s string) bool {
	for i := range len(s) {
		if s[i] < 'a' || s[i] > 'z' {
			return false
		}
	}
	return len(s) == 3
}

func validJSON(s string) bool {
	return json.Valid([]byte(s))
}

// checkText validates a column's text.
func (r rule) checkText(field, s string) error {
	switch {
	case s == "" && r.required:
		return invalid(field, "is missing")
	case s == "":
		return nil
	case len(s) > cmp.Or(r.maxBytes, maxText):
		return invalid(field, "is too long")
	case !utf8.ValidString(s):
		return invalid(field, "is not valid UTF-8")
	case strings.ContainsRune(s, 0):
		return invalid(field, "holds a NUL")
	case r.allowed != nil && !slices.Contains(r.allowed, s):
		return invalid(field, "must be one of "+strings.Join(r.allowed, ", "))
	case r.valid != nil && !r.valid(s):
		return invalid(field, "is malformed")
	}
	return nil
}

// checkNumber validates a column's number.
func (r rule) checkNumber(field string, n int64) error {
	if n < r.least || (r.most != 0 && n > r.most) {
		return invalid(field, "is out of range")
	}
	return nil
}

// checkTime validates a column's time. The years 1 to 9999 are valid. The zero time isn't: it was forgotten.
func checkTime(field string, t time.Time) error {
	if year := t.UTC().Year(); t.IsZero() || year < 1 || year > 9999 {
		return invalid(field, "is out of range")
	}
	return nil
}
