// Package printable makes texts from outside fit for a log.
package printable

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Text returns a text for a log: at most max bytes of it, and nothing that a terminal or a reader takes
// for more than a character. A run of spaces and line ends is one space; other control and format characters,
// such as those that turn the direction of writing, are shown by their number, as <U+202E>; bytes that aren't
// UTF-8 as the replacement character. Quotes and backslashes stay: slog's handlers escape them where they
// must.
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

// isPrintable reports whether a text is printable as it is.
func isPrintable(text string) bool {
	for i, c := range text {
		if !strconv.IsPrint(c) || c == utf8.RuneError && !strings.HasPrefix(text[i:], "\uFFFD") {
			return false
		}
	}
	return true
}

// Clip cuts a text to max bytes, at a character's start.
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
