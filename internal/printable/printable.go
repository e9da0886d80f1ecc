// Package printable makes untrusted texts safe to log.
package printable

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Text returns at most max bytes of a text, for a log. Nothing in the result makes a terminal or a reader see
// more than characters. A run of spaces and line breaks becomes one space. Other control and format
// characters, such as those that change the direction of writing, become their number, such as <U+202E>.
// Bytes that aren't UTF-8 become the replacement character. Quotes and backslashes stay, since slog's
// handlers escape them.
func Text(text string, max int) string {
	text = Clip(text, max)
	if isPrintable(text) {
		return text
	}
	var b strings.Builder
	space := false
	for _, c := range text {
		switch {
		case c == ' ' || '\t' <= c && c <= '\r':
			if !space {
				b.WriteByte(' ')
			}
			space = true
			continue
		case strconv.IsPrint(c):
			b.WriteRune(c)
		default:
			fmt.Fprintf(&b, "<U+%04X>", c)
		}
		space = false
	}
	return b.String()
}

// isPrintable reports whether Text needn't change a text.
func isPrintable(text string) bool {
	for i, c := range text {
		if !strconv.IsPrint(c) || c == utf8.RuneError && !strings.HasPrefix(text[i:], "\uFFFD") {
			return false
		}
	}
	return true
}

// Clip returns a text of at most max bytes. If it shortens the text, the result ends with an ellipsis.
func Clip(text string, max int) string {
	if len(text) <= max {
		return text
	}
	const mark = "…"
	end := max - len(mark)
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + mark
}
