package main

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/alecthomas/kong"
)

// givenFlags returns the flags of the command line and their values, as text.
func givenFlags(parsed *kong.Context) map[string]string {
	given := make(map[string]string)
	for _, p := range parsed.Path {
		if p.Flag != nil && !p.Resolved {
			given[p.Flag.Name] = fmt.Sprint(parsed.FlagValue(p.Flag))
		}
	}
	return given
}

// command returns a command line for a shell: the words, and the flags of this command line that choose the
// databases, and the named ones.
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

// plainWord matches words that a shell needn't see quoted.
var plainWord = regexp.MustCompile(`^[-_=./:,@%+a-zA-Z0-9]+$`)

// quote quotes a word for a POSIX shell.
func quote(word string) string {
	if plainWord.MatchString(word) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
