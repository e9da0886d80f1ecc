// Package hook calls the product's own functions. They may fail, panic, end their goroutine, or never return.
package hook

import (
	"context"
	"errors"
	"fmt"
)

// Error is the failure of a hook. It has the text of the reason and doesn't wrap the reason: a deadline or a
// cancellation of the hook's own must not count as one of the server or of the request.
type Error struct {
	Hook   string // the field of the configuration
	Reason string
	// Left says that the hook was left running.
	Left bool
}

// Error implements error.
func (e *Error) Error() string { return e.Hook + ": " + e.Reason }

// WasLeft reports whether an error says that a hook was left running.
func WasLeft(err error) bool {
	var failed *Error
	return errors.As(err, &failed) && failed.Left
}

// Run calls a function on a goroutine of its own, and waits until it returns. So [runtime.Goexit] in it
// doesn't end the caller's goroutine. After Goexit the error is exited. After a panic it has the value.
func Run(exited error, f func() error) error {
	done := make(chan error)
	start(exited, "panic: %v", f, func(err error) { done <- err })
	return <-done
}

// start calls a function on a goroutine of its own, and then done with its error. That is exited after
// [runtime.Goexit]. After a panic the format panicked gets the value.
func start(exited error, panicked string, f func() error, done func(error)) {
	go func() {
		err := exited
		defer func() {
			if r := recover(); r != nil {
				err = fmt.Errorf(panicked, r)
			}
			done(err)
		}()
		err = f()
	}()
}

// Call calls a hook on a goroutine of its own, and waits until it returns or ctx ends. In the latter case the
// hook is left running, and late is called once it has returned. Every error is an [*Error].
func Call(ctx context.Context, name string, hook func() error, late func()) error {
	done, left := make(chan error), make(chan struct{})
	start(errors.New("it ended its goroutine"), "it panicked: %v", hook, func(err error) {
		select {
		case done <- err:
		case <-left:
			late()
		}
	})
	select {
	case err := <-done:
		if err != nil {
			return &Error{Hook: name, Reason: err.Error()}
		}
		return nil
	case <-ctx.Done():
		close(left)
		return &Error{Hook: name, Reason: "it did not return in time: " + ctx.Err().Error(), Left: true}
	}
}
