package repo

import (
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// generatedCode marks a file that a generator writes (see go help generate).
var generatedCode = regexp.MustCompile(`(?m)^// Code generated .* DO NOT EDIT\.$`)

// wide are folders with wider lines from before this test. Take a folder out when its lines are wrapped, and
// add none.
var wide = []string{".", "internal/checkout", "internal/printable", "internal/refusal"}

// TestSource_linesHaveAtMost110Columns keeps two files side by side on a screen. A tab counts as 4 columns.
func TestSource_linesHaveAtMost110Columns(t *testing.T) {
	const most = 110
	for _, file := range files(t, ".go") {
		text, n := read(t, file), 0
		if generatedCode.MatchString(text) || slices.Contains(wide, path.Dir(file)) {
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
