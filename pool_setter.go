package tenantdb

import "bytes"

// callsSetter reports whether a statement's text names a function that changes the session it runs in: one that takes an advisory lock
// beyond the transaction, in any case, quoted or with its schema, or set_config unless it says for this transaction. Where the text
// leaves that open, as with a parameter, it does. It allocates nothing, and looks at what surrounds each underscore.
func callsSetter(text []byte) bool {
	for i := 0; ; i++ {
		at := bytes.IndexByte(text[i:], '_')
		if at < 0 {
			return false
		}
		i += at
		if around(text, i, "advisory", "lock") || around(text, i, "set", "config") && !isLocalConfig(text[i+len("_config"):]) {
			return true
		}
	}
}

// around reports whether two words stand before and after a place.
func around(text []byte, at int, before, after string) bool {
	return at >= len(before) && len(text)-at > len(after) &&
		bytes.EqualFold(text[at-len(before):at], []byte(before)) && bytes.EqualFold(text[at+1:at+1+len(after)], []byte(after))
}

// isLocalConfig reports whether what follows set_config is plainly a list of arguments of which the last is true: its effect ends with the
// transaction, or at once outside any.
func isLocalConfig(text []byte) bool {
	text = bytes.TrimPrefix(bytes.TrimSpace(text), []byte{'"'})
	if text = bytes.TrimSpace(text); len(text) == 0 || text[0] != '(' {
		return false
	}
	depth, last, quoted := 0, 0, false
	for i, c := range text {
		switch {
		case c == '\'':
			quoted = !quoted // a doubled one ends and begins at once
		case c == '\\' || c == '$' && i+1 < len(text) && (text[i+1] < '0' || text[i+1] > '9') || !quoted && (c == '-' || c == '/'):
			return false // other ways to quote, or a comment perhaps
		case quoted:
		case c == '(':
			depth++
		case c == ',' && depth == 1:
			last = i
		case c == ')':
			if depth--; depth == 0 {
				return bytes.EqualFold(bytes.TrimSpace(text[last+1:i]), []byte("true"))
			}
		}
	}
	return false
}
