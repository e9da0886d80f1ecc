package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// completionCmd is tenantdb completion.
type completionCmd struct {
	Shell string `arg:"" enum:"bash, zsh, fish" help:"The shell: ${enum}."`
}

// Help is the long help.
func (*completionCmd) Help() string {
	return `It completes commands, flags and the words that a flag knows, and opens no database. Put the shell's line into its configuration;
that of fish is run once:

    source <(tenantdb completion bash)    # ~/.bashrc
    source <(tenantdb completion zsh)     # ~/.zshrc, after compinit
    tenantdb completion fish > ~/.config/fish/completions/tenantdb.fish`
}

// completionScripts have a shell ask tenantdb complete for what may come next. Where nothing is known, files
// are offered.
var completionScripts = map[string]string{
	"bash": `_tenantdb() {
    local IFS=$'\n'
    COMPREPLY=($("${COMP_WORDS[0]}" complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _tenantdb tenantdb
`,
	"zsh": `#compdef tenantdb
_tenantdb() {
    local -a found
    found=(${(f)"$("${words[1]}" complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)"})
    if (( ${#found} )); then compadd -a found; else _files; fi
}
if [[ ${funcstack[1]} == _tenantdb ]]; then _tenantdb "$@"; else compdef _tenantdb tenantdb; fi
`,
	"fish": `function __tenantdb_words
    set -l before (commandline -opc)
    set -l now (commandline -ct)
    set -l found ($before[1] complete -- $before[2..] "$now" 2>/dev/null)
    if set -q found[1]
        string join \n -- $found
    else
        __fish_complete_path "$now"
    end
end
complete -c tenantdb -f -a '(__tenantdb_words)'
`,
}

// Run runs the command.
func (c *completionCmd) Run(s *session) error {
	_, err := fmt.Fprint(s.env.stdout, completionScripts[c.Shell])
	return err
}

// completeCmd is tenantdb complete, which the scripts run.
type completeCmd struct {
	Words []string `arg:"" optional:"" help:"The words after the command's name, the last of which is to be completed."`
}

// Run runs the command.
func (c *completeCmd) Run(s *session, parser *kong.Kong) error {
	var failed error
	for _, word := range complete(parser.Model.Node, c.Words) {
		_, err := fmt.Fprintln(s.env.stdout, word)
		failed = errors.Join(failed, err)
	}
	return failed
}

// complete returns what the last word may become, sorted.
func complete(root *kong.Node, words []string) []string {
	if len(words) == 0 {
		words = []string{""}
	}
	at := place{node: root}
	for _, word := range words[:len(words)-1] {
		at.pass(word)
	}
	last, prefix := words[len(words)-1], ""
	name, value, joined := strings.Cut(last, "=")
	switch {
	case last == "=" && at.flag != nil: // bash has split --flag= into two words
		last = ""
	case joined && at.flag == nil && !at.literal && strings.HasPrefix(last, "--"):
		at.flag = at.find(name)
		last, prefix = value, name+"="
	}
	var found []string
	for _, candidate := range at.candidates(prefix != "", strings.HasPrefix(last, "-")) {
		if strings.HasPrefix(candidate, last) {
			found = append(found, prefix+candidate)
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// place is where in the grammar a command line has come to.
type place struct {
	node       *kong.Node
	flag       *kong.Flag // it waits for its value
	positional int        // how many arguments have been given
	literal    bool       // after --, nothing is a flag
}

// pass goes on over a word.
func (p *place) pass(word string) {
	switch {
	case p.flag != nil:
		if word != "=" {
			p.flag = nil
		}
	case !p.literal && word == "--":
		p.literal = true
	case !p.literal && strings.HasPrefix(word, "-"):
		if flag := p.find(word); flag != nil && !flag.IsBool() {
			p.flag = flag
		}
	default:
		for _, child := range p.node.Children {
			if p.positional == 0 && child.Name == word {
				p.node = child
				return
			}
		}
		p.positional++
	}
}

// flags are those of the node and of what is above it.
func (p *place) flags() (all []*kong.Flag) {
	for node := p.node; node != nil; node = node.Parent {
		all = append(all, node.Flags...)
	}
	return all
}

// find returns the flag that is written as the whole word, or nil.
func (p *place) find(word string) *kong.Flag {
	for _, flag := range p.flags() {
		if word == "--"+flag.Name || flag.Short != 0 && word == "-"+string(flag.Short) {
			return flag
		}
	}
	return nil
}

// candidates are the words that may stand here: a flag's values, flags, commands, or an argument's values.
func (p *place) candidates(value, hyphen bool) (words []string) {
	switch {
	case p.flag != nil:
		return enum(p.flag.Value)
	case value: // of a flag that isn't known
		return nil
	case hyphen && !p.literal:
		for _, flag := range p.flags() {
			words = append(words, "--"+flag.Name)
			if flag.Tag.Negatable != "" {
				words = append(words, "--no-"+flag.Name)
			}
		}
		return words
	case len(p.node.Children) == 0:
		if p.positional < len(p.node.Positional) {
			return enum(p.node.Positional[p.positional])
		}
		return nil
	case p.positional > 0: // after a word that is no command
		return nil
	}
	for _, child := range p.node.Children {
		if !child.Hidden {
			words = append(words, child.Name)
		}
	}
	return words
}

// enum are the words that a flag or an argument knows.
func enum(v *kong.Value) []string {
	if v.Enum == "" {
		return nil
	}
	return v.EnumSlice()
}
