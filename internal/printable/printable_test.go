package printable

import (
	"strings"
	"testing"
)

func TestText_escapesWhatATerminalMightObey(t *testing.T) {
	for text, want := range map[string]string{
		"":                             "",
		`say "no" to C:\temp`:          `say "no" to C:\temp`,
		"naïve 日本 �":                   "naïve 日本 �",
		"a\r\n\t b":                    "a b",
		"\x00":                         "<U+0000>",
		"\xff":                         "�",
		"\u00a0\u2028\ufeff\U000e0001": "<U+00A0><U+2028><U+FEFF><U+E0001>",
		strings.Repeat("é", 60):        strings.Repeat("é", 48) + "…",
	} {
		if got := Text(text, 100); got != want {
			t.Errorf("%q is shown as %q; want %q", text, got, want)
		}
	}
}
