package repo

import (
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

// generatedCode marks a file that a generator writes (see go help generate).
var generatedCode = regexp.MustCompile(`(?m)^// Code generated .* DO NOT EDIT\.$`)

// TestSource_linesHaveAtMost110Columns keeps two files side by side on a screen. A tab counts as 4 columns.
func TestSource_linesHaveAtMost110Columns(t *testing.T) {
	const most = 110
	for _, file := range files(t, ".go") {
		text, n := read(t, file), 0
		if generatedCode.MatchString(text) {
			continue
		}
		for line := range strings.Lines(text) {
			n++
			width := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")) + 3*strings.Count(line, "\t")
			if width > most {
				t.Errorf("%s:%d has %d columns", file, n, width)
			}
		}
	}
}
