package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// TestManual_equalsHelp compares docs/cli.md with the grammar. TENANTDB_WRITE_DOCS=1 writes it.
func TestManual_equalsHelp(t *testing.T) {
	const file = "../../docs/cli.md"
	want := manual(t)
	if os.Getenv("TENANTDB_WRITE_DOCS") == "1" {
		must(t, os.WriteFile(file, []byte(want), 0o644))
	}
	got, err := os.ReadFile(file)
	must(t, err)
	if string(got) != want {
		t.Error("docs/cli.md is not what the help says; write it with: TENANTDB_WRITE_DOCS=1 go test " +
			"./cmd/tenantdb -run Manual")
	}
}

func manual(t *testing.T) string {
	var b strings.Builder
	all := leaves(t)
	root := all[0]
	for root.Parent != nil {
		root = root.Parent
	}
	b.WriteString("# tenantdb, the operator's command\n\n" +
		"Install it with Go:\n\n    go install github.com/tenantdb/tenantdb/cmd/tenantdb@latest\n\n" +
		"In a checkout of the repository, `go run ./cmd/tenantdb` is the same. `tenantdb --version`\n" +
		"prints the version. `tenantdb completion bash` (or `zsh`, or `fish`) prints a script with which\n" +
		"the shell completes commands, flags and their values.\n\n" +
		"This page is generated from the command's help, which `tenantdb --help` and\n" +
		"`tenantdb COMMAND --help` print.\n\n" +
		description + "\n\n## Flags of every command\n\n")
	describeFlags(&b, root.Flags)
	for _, node := range all {
		fmt.Fprintf(&b, "\n## tenantdb %s\n\n%s\n", words(node), node.Help)
		if node.Detail != "" {
			fmt.Fprintf(&b, "\n%s\n", node.Detail)
		}
		fmt.Fprintf(&b, "\n    tenantdb %s\n", usage(node))
		if len(node.Positional)+len(node.Flags) > 0 {
			b.WriteString("\n")
		}
		for _, argument := range node.Positional {
			fmt.Fprintf(&b, "- `%s`: %s\n", argument.Summary(), argument.Help)
		}
		describeFlags(&b, node.Flags)
	}
	return b.String()
}

// usage returns a command's usage line, with flags that exclude each other as alternatives.
func usage(node *kong.Node) string {
	line := strings.TrimSuffix(node.Summary(), " [flags]")
	groups := make(map[string][]string)
	for _, flag := range node.Flags {
		if flag.Required {
			for _, group := range flag.Xor {
				groups[group] = append(groups[group], flag.Summary())
			}
		}
	}
	for _, flags := range groups {
		line = strings.Replace(line, strings.Join(flags, " "), "("+strings.Join(flags, " | ")+")", 1)
	}
	return line
}

func describeFlags(b *strings.Builder, flags []*kong.Flag) {
	for _, flag := range flags {
		name := flag.String()
		if flag.Tag.Negatable != "" {
			name = strings.Replace(name, "--", "--[no-]", 1)
		}
		fmt.Fprintf(b, "- `%s`: %s", name, flag.Help)
		for _, variable := range flag.Envs {
			fmt.Fprintf(b, " (`%s`)", variable)
		}
		b.WriteString("\n")
	}
}
