package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"
)

// confirmation is the flag of commands that ask for confirmation.
type confirmation struct {
	Yes bool `short:"y" help:"Don't ask."`
}

// confirm asks the user to type a word, unless --yes was given.
func (s *session) confirm(ctx context.Context, c confirmation, word, what string) error {
	if c.Yes {
		return nil
	}
	fmt.Fprintf(s.env.stderr, "%s\nType %s to go on: ", what, clean(word))
	typed := make(chan string, 1)
	go func() { // the read can't be interrupted; on Ctrl-C the program ends meanwhile
		line, _ := bufio.NewReader(io.LimitReader(s.env.stdin, 1024)).ReadString('\n')
		typed <- strings.TrimSpace(line)
	}()
	select {
	case line := <-typed:
		if line == word {
			return nil
		}
		return fmt.Errorf("not confirmed, nothing was done; type %s, or pass --yes", word)
	case <-ctx.Done():
		return ctx.Err()
	}
}
