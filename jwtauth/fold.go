package jwtauth

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

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
