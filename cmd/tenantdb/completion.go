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
	return `It completes commands, flags and the values of flags, and opens no database. For bash and zsh, add
the line to the shell's configuration. For fish, run it once:

    source <(tenantdb completion bash)    # ~/.bashrc
    source <(tenantdb completion zsh)     # ~/.zshrc, after compinit
    tenantdb completion fish > ~/.config/fish/completions/tenantdb.fish`
}

// completionScripts make shells call tenantdb complete. Without completions they offer files.
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

// completeCmd is tenantdb complete, which the completion scripts run.
type completeCmd struct {
	Words []string `arg:"" optional:"" help:"The words after the command's name; the last is completed."`
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

// complete returns the completions of the last word, sorted.
func complete(root *kong.Node, words []string) []string {
	if len(words) == 0 {
		words = []string{""}
	}
	at := place{node: root}
	for _, word := range words[:len(words)-1] {
		at.advance(word)
	}
	last, prefix := words[len(words)-1], ""
	name, value, joined := strings.Cut(last, "=")
	switch {
	case last == "=" && at.flag != nil: // bash splits --flag= into two words
		last = ""
	case joined && at.flag == nil && !at.literal && strings.HasPrefix(last, "--"):
		at.flag = at.flagNamed(name)
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

// place is a position in the grammar, after some words.
type place struct {
	node       *kong.Node
	flag       *kong.Flag // its value comes next
	positional int        // how many arguments came before
	literal    bool       // after --, nothing is a flag
}

// advance moves the place past a word.
func (p *place) advance(word string) {
	switch {
	case p.flag != nil:
		if word != "=" {
			p.flag = nil
		}
	case !p.literal && word == "--":
		p.literal = true
	case !p.literal && strings.HasPrefix(word, "-"):
		if flag := p.flagNamed(word); flag != nil && !flag.IsBool() {
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

// flags returns the flags of the node and its parents.
func (p *place) flags() (all []*kong.Flag) {
	for node := p.node; node != nil; node = node.Parent {
		all = append(all, node.Flags...)
	}
	return all
}

// flagNamed returns the flag that a word names, or nil.
func (p *place) flagNamed(word string) *kong.Flag {
	for _, flag := range p.flags() {
		if word == "--"+flag.Name || flag.Short != 0 && word == "-"+string(flag.Short) {
			return flag
		}
	}
	return nil
}

// candidates returns the words that may stand here: a flag's values, flags, commands, or an argument's
// values.
func (p *place) candidates(value, hyphen bool) (words []string) {
	switch {
	case p.flag != nil:
		return enum(p.flag.Value)
	case value: // the value of an unknown flag
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
	case p.positional > 0: // after an unknown command
		return nil
	}
	for _, child := range p.node.Children {
		if !child.Hidden {
			words = append(words, child.Name)
		}
	}
	return words
}

// enum returns the known values of a flag or an argument.
func enum(v *kong.Value) []string {
	if v.Enum == "" {
		return nil
	}
	return v.EnumSlice()
}
