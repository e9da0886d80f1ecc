package main

import (
	"fmt"
	"strings"

	"github.com/alecthomas/kong"
)

// givenFlags are the flags that stood on the command line, as text.
func givenFlags(parsed *kong.Context) map[string]string {
	given := make(map[string]string)
	for _, p := range parsed.Path {
		if p.Flag != nil && !p.Resolved {
			given[p.Flag.Name] = fmt.Sprint(parsed.FlagValue(p.Flag))
		}
	}
	return given
}

// command is the command line that does something with the same databases as this one: the words, and those
// of the global and the named flags that were given to this one. It can be pasted into a shell.
func (s *session) command(flags []string, words ...string) string {
	line := append([]string{"tenantdb"}, words...)
	for _, name := range append([]string{"host", "tenants-dir", "max-conns", "actor"}, flags...) {
		if value, ok := s.given[name]; ok {
			line = append(line, "--"+name+"="+value)
		}
	}
	for i, word := range line {
		line[i] = quote(word)
	}
	return strings.Join(line, " ")
}

// quote writes a word as a POSIX shell reads it.
func quote(word string) string {
	harmless := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_=./:,@%+", r)
	}
	if word != "" && strings.IndexFunc(word, func(r rune) bool { return !harmless(r) }) < 0 {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
