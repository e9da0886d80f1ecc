package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// TestTheManualSaysWhatTheHelpSays compares docs/cli.md with the grammar. TENANTDB_WRITE_DOCS=1 writes it.
func TestTheManualSaysWhatTheHelpSays(t *testing.T) {
	const file = "../../docs/cli.md"
	want := manual(t)
	if os.Getenv("TENANTDB_WRITE_DOCS") == "1" {
		must(t, os.WriteFile(file, []byte(want), 0o644))
	}
	got, err := os.ReadFile(file)
	must(t, err)
	if string(got) != want {
		t.Error("docs/cli.md is not what the help says; write it with: TENANTDB_WRITE_DOCS=1 go test ./cmd/tenantdb -run Manual")
	}
}

func manual(t *testing.T) string {
	var b strings.Builder
	all := leaves(t)
	root := all[0]
	for root.Parent != nil {
		root = root.Parent
	}
	b.WriteString("# tenantdb, the operator's command\n\nThis page is made from the command's own help: `go run ./cmd/tenantdb --help`.\n\n" +
		description + "\n\n## Flags of every command\n\n")
	describeFlags(&b, root.Flags)
	for _, node := range all {
		fmt.Fprintf(&b, "\n## tenantdb %s\n\n%s\n", words(node), node.Help)
		if node.Detail != "" {
			fmt.Fprintf(&b, "\n%s\n", node.Detail)
		}
		fmt.Fprintf(&b, "\n    tenantdb %s\n", strings.TrimSuffix(node.Summary(), " [flags]"))
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

func describeFlags(b *strings.Builder, flags []*kong.Flag) {
	for _, flag := range flags {
		fmt.Fprintf(b, "- `%s`: %s", flag, flag.Help)
		for _, variable := range flag.Envs {
			fmt.Fprintf(b, " (`%s`)", variable)
		}
		b.WriteString("\n")
	}
}
