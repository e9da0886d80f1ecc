// Package strictjson decodes JSON that others sign or act on. It accepts a part of what encoding/json accepts
// and decodes that part alike. What two programs could read differently is an error (I-JSON, RFC 7493,
// sections 2.1 and 2.3).
package strictjson

import (
	"encoding/json"
	"errors"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// The errors of Decode. Their texts quote nothing of the input.
var (
	ErrSyntax    = errors.New("not a JSON object")
	ErrDuplicate = errors.New("a member's name stands twice in an object")
	ErrDepth     = errors.New("objects and arrays nested too deep")
	ErrSize      = errors.New("too many values")
)

// MaxDepth bounds how deep objects and arrays may nest. The claims, keys and events that we read nest about
// ten deep.
const MaxDepth = 32

// What a decoded value takes at most beside the text: its place in a slice or map that grew, and its box. A
// map has room for eight members from the start.
const (
	bytesPerValue  = 96
	bytesPerObject = 320
)

// Options change what Decode accepts.
type Options struct {
	// MaxSize bounds the estimated bytes that the values take beside the text. Zero means no bound.
	MaxSize int
	// LoneSurrogates accepts an escaped half of a surrogate pair and decodes it as U+FFFD, as encoding/json
	// does.
	LoneSurrogates bool
}

// Decode decodes a JSON object into maps, slices, strings, json.Numbers, bools and nils. It also estimates
// their size in bytes, without the text.
//
// Invalid UTF-8, a name that stands twice in an object, and nesting below MaxDepth are errors. Names keep
// their case. Strings share the memory of text.
func Decode(text string, o Options) (members map[string]any, size int, err error) {
	if !utf8.ValidString(text) {
		return nil, 0, ErrSyntax
	}
	d := decoder{text: text, options: o}
	d.space()
	if d.peek() != '{' {
		return nil, 0, ErrSyntax
	}
	members, err = d.object()
	if err != nil {
		return nil, 0, err
	}
	d.space()
	if d.at != len(text) {
		return nil, 0, ErrSyntax
	}
	return members, d.size, nil
}

// decoder is a position in a JSON text.
type decoder struct {
	options Options
	text    string
	at      int
	depth   int
	size    int
}

// peek returns the byte at the position. At the end it returns 0, which JSON has only inside strings.
func (d *decoder) peek() byte {
	if d.at < len(d.text) {
		return d.text[d.at]
	}
	return 0
}

// take steps over c if it is next.
func (d *decoder) take(c byte) bool {
	if d.peek() != c || d.at == len(d.text) {
		return false
	}
	d.at++
	return true
}

// space steps over white space.
func (d *decoder) space() {
	for d.at < len(d.text) {
		switch d.text[d.at] {
		case ' ', '\t', '\n', '\r':
			d.at++
		default:
			return
		}
	}
}

func (d *decoder) value() (any, error) {
	if d.size += bytesPerValue; d.options.MaxSize > 0 && d.size > d.options.MaxSize {
		return nil, ErrSize
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

func (d *decoder) literal() (any, error) {
	for _, literal := range []struct {
		word  string
		value any
	}{{"true", true}, {"false", false}, {"null", nil}} {
		if strings.HasPrefix(d.text[d.at:], literal.word) {
			d.at += len(literal.word)
			return literal.value, nil
		}
	}
	return nil, ErrSyntax
}

func (d *decoder) object() (map[string]any, error) {
	if d.depth++; d.depth > MaxDepth {
		return nil, ErrDepth
	}
	d.size += bytesPerObject
	members := make(map[string]any)
	err := d.list('}', func() error { return d.member(members) })
	d.depth--
	return members, err
}

func (d *decoder) array() ([]any, error) {
	if d.depth++; d.depth > MaxDepth {
		return nil, ErrDepth
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

// list reads an opening bracket, elements with commas between them, and the closing bracket.
func (d *decoder) list(closing byte, element func() error) error {
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
			return ErrSyntax
		}
	}
}

// member reads one name and its value.
func (d *decoder) member(members map[string]any) error {
	if d.peek() != '"' {
		return ErrSyntax
	}
	name, err := d.string()
	if err != nil {
		return err
	}
	if _, twice := members[name]; twice {
		return ErrDuplicate
	}
	d.space()
	if !d.take(':') {
		return ErrSyntax
	}
	d.space()
	members[name], err = d.value()
	return err
}

// number reads a number (RFC 8259, section 6).
func (d *decoder) number() (json.Number, error) {
	start := d.at
	d.take('-')
	if !d.take('0') && !d.digits() {
		return "", ErrSyntax
	}
	if d.take('.') && !d.digits() {
		return "", ErrSyntax
	}
	if d.take('e') || d.take('E') {
		if !d.take('+') {
			d.take('-')
		}
		if !d.digits() {
			return "", ErrSyntax
		}
	}
	return json.Number(d.text[start:d.at]), nil
}

// digits steps over digits and reports whether there were any.
func (d *decoder) digits() bool {
	start := d.at
	for isDigit(d.peek()) {
		d.at++
	}
	return d.at > start
}

func isDigit(c byte) bool {
	return '0' <= c && c <= '9'
}

// string reads a string. Without escapes the result is a part of the text.
func (d *decoder) string() (string, error) {
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
			return "", ErrSyntax
		}
		d.at++
	}
	return "", ErrSyntax
}

// escapedString reads a string that begins with head from its first escape on.
func (d *decoder) escapedString(head string) (string, error) {
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
				return "", ErrSyntax
			}
			b.WriteRune(r)
		case c < ' ':
			return "", ErrSyntax
		default:
			b.WriteByte(c)
			d.at++
		}
	}
	return "", ErrSyntax
}

// escape reads one escape, or the two that make a surrogate pair.
func (d *decoder) escape() (rune, bool) {
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

func (d *decoder) unicodeEscape() (rune, bool) {
	r, ok := d.hex()
	if !ok || !utf16.IsSurrogate(r) {
		return r, ok
	}
	after := d.at
	if d.take('\\') && d.peek() == 'u' {
		low, ok := d.hex()
		if pair := utf16.DecodeRune(r, low); ok && pair != utf8.RuneError {
			return pair, true
		}
	}
	d.at = after
	return utf8.RuneError, d.options.LoneSurrogates
}

// hex reads the letter u and four hexadecimal digits.
func (d *decoder) hex() (r rune, ok bool) {
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
