package pgdb

import "bytes"

// callsSetter reports whether a statement's text may change the session that it runs in without a command tag
// that says so. It looks for three names, in any case, quoted or with a schema:
//
//   - a function that takes an advisory lock beyond the transaction,
//   - set_config, unless its third argument is literally true, which means for this transaction,
//   - the view pg_settings, whose rule for UPDATE calls set_config.
//
// An identifier with Unicode escapes (U&"…") can spell any of them, so each one counts. Where the text leaves
// the matter open, as with a parameter, callsSetter reports true: that costs a reset and nothing else. It
// allocates nothing.
func callsSetter(text []byte) bool {
	for rest := text; ; {
		at := bytes.IndexByte(rest, '_')
		if at < 0 {
			return hasEscapedIdentifier(text)
		}
		i := len(text) - len(rest) + at
		rest = rest[at+1:]
		if isAround(text, i, "advisory", "lock") || isAround(text, i, "pg", "settings") ||
			isAround(text, i, "set", "config") && !isLocalConfig(text[i+len("_config"):]) {
			return true
		}
	}
}

// hasEscapedIdentifier reports whether a text holds U&", which begins an identifier with Unicode escapes
// (PostgreSQL documentation, "Identifiers and Key Words").
func hasEscapedIdentifier(text []byte) bool {
	for {
		at := bytes.Index(text, []byte(`&"`))
		if at < 0 {
			return false
		}
		if at > 0 && (text[at-1] == 'U' || text[at-1] == 'u') {
			return true
		}
		text = text[at+2:]
	}
}

// isAround reports whether two words stand before and after a place.
func isAround(text []byte, at int, before, after string) bool {
	return at >= len(before) && len(text)-at > len(after) &&
		bytes.EqualFold(text[at-len(before):at], []byte(before)) &&
		bytes.EqualFold(text[at+1:at+1+len(after)], []byte(after))
}

// isLocalConfig reports whether what follows set_config is plainly a list of arguments of which the last is
// true. Its effect ends with the transaction then, or at once outside any.
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
		case c == '\\' || c == '$' && !isParameter(text[i:]) || !quoted && (c == '-' || c == '/'):
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

// isParameter reports whether a dollar sign begins a parameter, such as $1, rather than a quoted text. At the
// end of a text it begins neither.
func isParameter(text []byte) bool {
	return len(text) < 2 || text[1] >= '0' && text[1] <= '9'
}
