package jwtauth

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// ambiguousCase reports whether two names of an object differ in case only, or a name differs in case only
// from a registered one. Decoders that ignore case, as encoding/json does for structs, would confuse them.
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

// foldCase returns one spelling for all names that are equal under Unicode's simple folding. ASCII is in
// lower case, so the Kelvin sign and the long s become k and s. same reports whether s has that spelling.
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
