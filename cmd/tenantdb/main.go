// Command tenantdb is the operator's tool. It manages tenants, users and subscriptions, migrates all
// databases, and shows jobs, webhooks and the audit log. See docs/cli.md, or tenantdb --help.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	os.Exit(run(ctx, os.Args[1:], environment{
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv, now: time.Now,
		terminal: isTerminal(os.Stderr), poll: time.Second,
	}))
}

// environment is a command's access to the outside.
type environment struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string
	now            func() time.Time
	terminal       bool          // stderr is a terminal: progress may rewrite its line
	poll           time.Duration // the poll interval of commands that follow something
}

// isTerminal reports whether a file is a character device. A redirection isn't one.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
