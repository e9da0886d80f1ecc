package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestCompletion_offersCommandsFlagsAndValues(t *testing.T) {
	o := &operator{t: t, env: map[string]string{}, secret: "\x00"}
	for _, test := range []struct {
		typed []string
		want  string // all completions; "" is none
		has   string // or some of them
	}{
		{typed: []string{"ten"}, want: "tenant"},
		{typed: []string{"tenant", "s"}, want: "show suspend"},
		{typed: []string{"tenant", "bogus", ""}},
		{typed: []string{"bogus", ""}},
		{typed: []string{"tenant", "list", "--st"}, want: "--status"},
		{typed: []string{"tenant", "list", "--"}, has: "--output"},
		{typed: []string{"tenant", "list", "--status", "s"}, want: "suspended"},
		{typed: []string{"tenant", "list", "--status=s"}, want: "--status=suspended"},
		{typed: []string{"tenant", "list", "--status", "=", "s"}, want: "suspended"}, // as bash splits words
		{typed: []string{"tenant", "list", "--status", "="}, has: "active"},
		{typed: []string{"tenant", "list", "-o", ""}, want: "json table"},
		{typed: []string{"tenant", "list", "-ojs"}},
		{typed: []string{"-o", "json", "plan", "sh"}, want: "show"},
		{typed: []string{"--output=json", "plan", "sh"}, want: "show"},
		{typed: []string{"--output", "=", "json", "plan", "sh"}, want: "show"},
		{typed: []string{"plan", "update", "pro", "--no-a"}, want: "--no-active"},
		{typed: []string{"tenant", "maintenance", "acme", "o"}, want: "off on"},
		{typed: []string{"tenant", "maintenance", "o"}},
		{typed: []string{"tenant", "maintenance", "acme", "on", ""}},
		{typed: []string{"tenant", "create", "--migrations", ""}}, // a directory, which the shell completes
		{typed: []string{"tenant", "suspend", "--", "--"}},
		{typed: []string{"completion", ""}, want: "bash fish zsh"},
		{typed: []string{"comp"}, want: "completion"},
		{typed: []string{""}, has: "doctor"},
		{typed: nil, has: "doctor"},
	} {
		out := o.ok(append([]string{"complete", "--"}, test.typed...)...)
		got := strings.Fields(out)
		if test.has != "" && !slices.Contains(got, test.has) ||
			test.has == "" && strings.Join(got, " ") != test.want {
			t.Errorf("%q: %q; want %q%q", test.typed, got, test.want, test.has)
		}
	}
	o.fails(1, "bash", "completion", "tcsh")
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if out := o.ok("completion", shell); !strings.Contains(out, "complete --") {
			t.Errorf("%s: %s", shell, out)
		}
	}
	if out := o.ok("--help"); strings.Contains(out, "  complete ") {
		t.Errorf("the shells' own command is in the help: %s", out)
	}
}

// Bash runs the script, and the script runs this test as the command.
func TestCompletion_worksInBash(t *testing.T) {
	o := &operator{t: t, env: map[string]string{}, secret: "\x00"}
	dir := t.TempDir()
	self, err := os.Executable()
	must(t, err)
	script := filepath.Join(dir, "tenantdb.bash")
	must(t, os.WriteFile(script, []byte(o.ok("completion", "bash")), 0o600))
	command := filepath.Join(dir, "tenantdb")
	must(t, os.WriteFile(command, []byte("#!/bin/sh\n"+asCommand+"=1 exec "+quote(self)+" \"$@\"\n"), 0o700))
	for typed, want := range map[string]string{"tenant s": "show suspend",
		"tenant list --status = s": "suspended", "tenant list --status s": "suspended"} {
		words := append([]string{command}, strings.Fields(typed)...)
		line := `. "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _tenantdb; ` +
			`echo "${COMPREPLY[*]}"; complete -p tenantdb`
		out, err := exec.Command("bash", append([]string{"-c", line, "bash", script},
			words...)...).CombinedOutput()
		if err != nil || !strings.HasPrefix(string(out), want+"\n") ||
			!strings.Contains(string(out), "-F _tenantdb") {
			t.Errorf("%s: %v, %q; want %q", typed, err, out, want)
		}
	}
}
