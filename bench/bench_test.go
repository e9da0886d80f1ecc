package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == serveArgument {
		if err := serveAsChild(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestScenarios_runAtTinySize runs each scenario once. What it measures at this size means nothing.
func TestScenarios_runAtTinySize(t *testing.T) {
	b := &Bench{ctx: t.Context(), scale: tiny}
	defer b.end()
	for _, s := range scenarios {
		t.Run(s.Name, func(t *testing.T) {
			err := runOne(b, s, io.Discard)
			if errors.Is(err, exec.ErrNotFound) {
				t.Skip(err)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
}
