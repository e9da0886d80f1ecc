package jwtauth

import (
	"encoding/json"
	"errors"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// What decodeObject refuses. The texts quote nothing of the input.
var (
	errJSONSyntax    = errors.New("not a JSON object")
	errJSONDuplicate = errors.New("a member's name stands twice in an object")
	errJSONDepth     = errors.New("objects and arrays nested too deep")
	errJSONSize      = errors.New("too many values")
)

// maxDepth bounds how deep objects and arrays may nest: far beyond what claims or keys need, far below what
// hurts.
const maxDepth = 32

// maxDecodedBytes bounds what the values of one text take beside it, by the estimate below: the sender need
// not be who it says. A token's whole length in strings of a dozen bytes stays within it.
const maxDecodedBytes = 128 << 10

// What a decoded value takes at most beside the text: its place in a slice or map that grew, and its box. A
// map has room for eight members from the start.
const (
	bytesPerValue  = 96
	bytesPerObject = 320
)

// decodeObject decodes a JSON object into maps, slices, strings, json.Numbers, bools and nils, and estimates
// their size in bytes, the text not counted.
//
// It accepts a part of what encoding/json accepts, and decodes that part alike: a name that stands twice in
// an object, text that is not UTF-8, half a surrogate pair (I-JSON, RFC 7493, sections 2.1 and 2.3) and deep
// nesting are errors here. Names keep their case. Strings share the memory of text.
func decodeObject(text string) (members map[string]any, size int, err error) {
	if !utf8.ValidString(text) {
		return nil, 0, errJSONSyntax
	}
	d := jsonDecoder{text: text}
	d.space()
	if d.peek() != '{' {
		return nil, 0, errJSONSyntax
	}
	members, err = d.object()
	if err != nil {
		return nil, 0, err
	}
	d.space()
	if d.at != len(text) {
		return nil, 0, errJSONSyntax
	}
	return members, d.size, nil
}

// jsonDecoder is a position in a JSON text.
type jsonDecoder struct {
	text  string
	at    int
	depth int
	size  int
}

// peek returns the byte at the position; 0, which no JSON text holds outside a string, at the end.
func (d *jsonDecoder) peek() byte {
	if d.at < len(d.text) {
		return d.text[d.at]
	}
	return 0
}

// take steps over c if it comes next.
func (d *jsonDecoder) take(c byte) bool {
	if d.peek() != c || d.at == len(d.text) {
		return false
	}
	d.at++
	return true
}

// space steps over white space.
func (d *jsonDecoder) space() {
	for d.at < len(d.text) {
		switch d.text[d.at] {
		case ' ', '\t', '\n', '\r':
			d.at++
		default:
			return
		}
	}
}

func (d *jsonDecoder) value() (any, error) {
	if d.size += bytesPerValue; d.size > maxDecodedBytes {
		return nil, errJSONSize
	}
	switch c := d.peek(); {
	case c == '"':
		return d.string()
	case c == '{':
		return d.object()
	case c == '[':
		return d.array()
	case c == '-' || isDigit(c):
		return d.number()
	default:
		return d.literal()
	}
}

func (d *jsonDecoder) literal() (any, error) {
	for _, literal := range []struct {
		word  string
		value any
	}{{"true", true}, {"false", false}, {"null", nil}} {
		if strings.HasPrefix(d.text[d.at:], literal.word) {
			d.at += len(literal.word)
			return literal.value, nil
		}
	}
	return nil, errJSONSyntax
}

func (d *jsonDecoder) object() (map[string]any, error) {
	if d.depth++; d.depth > maxDepth {
		return nil, errJSONDepth
	}
	d.size += bytesPerObject
	members := make(map[string]any)
	err := d.list('}', func() error { return d.member(members) })
	d.depth--
	return members, err
}

func (d *jsonDecoder) array() ([]any, error) {
	if d.depth++; d.depth > maxDepth {
		return nil, errJSONDepth
	}
	elements := []any{}
	err := d.list(']', func() error {
		v, err := d.value()
		elements = append(elements, v)
		return err
	})
	d.depth--
	return elements, err
}

// list steps over an opening bracket, what element reads between commas, and the closing bracket.
func (d *jsonDecoder) list(closing byte, element func() error) error {
	d.at++
	d.space()
	if d.take(closing) {
		return nil
	}
	for {
		d.space()
		if err := element(); err != nil {
			return err
		}
		d.space()
		if d.take(closing) {
			return nil
		}
		if !d.take(',') {
			return errJSONSyntax
		}
	}
}

// member reads one name and its value.
func (d *jsonDecoder) member(members map[string]any) error {
	if d.peek() != '"' {
		return errJSONSyntax
	}
	name, err := d.string()
	if err != nil {
		return err
	}
	if _, twice := members[name]; twice {
		return errJSONDuplicate
	}
	d.space()
	if !d.take(':') {
		return errJSONSyntax
	}
	d.space()
	members[name], err = d.value()
	return err
}

// number reads a number as it is written (RFC 8259, section 6).
func (d *jsonDecoder) number() (json.Number, error) {
	start := d.at
	d.take('-')
	if !d.take('0') && !d.digits() {
		return "", errJSONSyntax
	}
	if d.take('.') && !d.digits() {
		return "", errJSONSyntax
	}
	if d.take('e') || d.take('E') {
		if !d.take('+') {
			d.take('-')
		}
		if !d.digits() {
			return "", errJSONSyntax
		}
	}
	return json.Number(d.text[start:d.at]), nil
}

// digits steps over digits and reports whether there was one.
func (d *jsonDecoder) digits() bool {
	start := d.at
	for isDigit(d.peek()) {
		d.at++
	}
	return d.at > start
}

func isDigit(c byte) bool {
	return '0' <= c && c <= '9'
}

// string reads a string; without escapes it is a part of the text.
func (d *jsonDecoder) string() (string, error) {
	d.at++
	start := d.at
	for d.at < len(d.text) {
		switch c := d.text[d.at]; {
		case c == '"':
			d.at++
			return d.text[start : d.at-1], nil
		case c == '\\':
			return d.escapedString(d.text[start:d.at])
		case c < ' ':
			return "", errJSONSyntax
		}
		d.at++
	}
	return "", errJSONSyntax
}

// escapedString reads on from the first escape in a string that begins with head.
func (d *jsonDecoder) escapedString(head string) (string, error) {
	var b strings.Builder
	b.WriteString(head)
	for d.at < len(d.text) {
		switch c := d.text[d.at]; {
		case c == '"':
			d.at++
			return b.String(), nil
		case c == '\\':
			r, ok := d.escape()
			if !ok {
				return "", errJSONSyntax
			}
			b.WriteRune(r)
		case c < ' ':
			return "", errJSONSyntax
		default:
			b.WriteByte(c)
			d.at++
		}
	}
	return "", errJSONSyntax
}

// escape reads one escape, or the two that make a surrogate pair.
func (d *jsonDecoder) escape() (rune, bool) {
	d.at++
	c := d.peek()
	if c == 'u' {
		return d.unicodeEscape()
	}
	const letters, meanings = `"\/bfnrt`, "\"\\/\b\f\n\r\t"
	i := strings.IndexByte(letters, c)
	if i < 0 {
		return 0, false
	}
	d.at++
	return rune(meanings[i]), true
}

func (d *jsonDecoder) unicodeEscape() (rune, bool) {
	r, ok := d.hex()
	if !ok || !utf16.IsSurrogate(r) {
		return r, ok
	}
	if !d.take('\\') || d.peek() != 'u' {
		return 0, false
	}
	low, ok := d.hex()
	r = utf16.DecodeRune(r, low)
	return r, ok && r != utf8.RuneError
}

// hex reads the letter u and four hexadecimal digits.
func (d *jsonDecoder) hex() (r rune, ok bool) {
	if len(d.text)-d.at < 5 {
		return 0, false
	}
	for _, c := range []byte(d.text[d.at+1 : d.at+5]) {
		switch {
		case isDigit(c):
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	d.at += 5
	return r, true
}

// ambiguousCase reports whether two names of an object differ in case only, or one differs in case only from
// a registered name. Decoders that ignore case, as encoding/json does for structs, would take the one for the
// other.
func ambiguousCase(members map[string]any, registered []string) bool {
	var folds map[string]bool
	for name := range members {
		fold, same := foldCase(name)
		if same {
			continue
		}
		if _, lower := members[fold]; lower || folds[fold] {
			return true
		}
		for _, r := range registered {
			if fold == r {
				return true
			}
		}
		if folds == nil {
			folds = make(map[string]bool)
		}
		folds[fold] = true
	}
	return false
}

// foldCase returns the one spelling of all names that are equal but for case, in Unicode's simple folding:
// lower case where it is ASCII, so that the Kelvin sign and the long s fold to k and s. It reports whether
// that is how s is spelt already.
func foldCase(s string) (fold string, same bool) {
	plain := true
	for i := 0; i < len(s) && plain; i++ {
		plain = s[i] < utf8.RuneSelf && (s[i] < 'A' || s[i] > 'Z')
	}
	if plain {
		return s, true
	}
	fold = strings.Map(func(r rune) rune {
		least := r
		for next := unicode.SimpleFold(r); next != r; next = unicode.SimpleFold(next) {
			least = min(least, next)
		}
		if 'A' <= least && least <= 'Z' {
			least += 'a' - 'A'
		}
		return least
	}, s)
	return fold, fold == s
}
