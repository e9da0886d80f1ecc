package checkout

import (
	"context"
	"time"
)

// limited is the context of a statement that has a limit.
type limited struct {
	context.Context
	cancel context.CancelFunc
}

// WithLimit returns a context that ends with the time that a statement may take, unless ctx ends sooner. Zero
// is no limit. [EndLimit] releases it.
func WithLimit(ctx context.Context, limit time.Duration) context.Context {
	if limit == 0 {
		return ctx
	}
	if sooner, ok := ctx.Deadline(); ok && time.Until(sooner) <= limit {
		return ctx
	}
	bounded, cancel := context.WithTimeout(ctx, limit)
	return &limited{bounded, cancel}
}

// EndLimit releases what WithLimit returned.
func EndLimit(ctx context.Context) {
	if l, ok := ctx.(*limited); ok {
		l.cancel()
	}
}

// ended is a context that has ended from the start.
type ended struct {
	context.Context
	err error
}

// Ended returns a context that has ended from the start, with an error of its own.
func Ended(ctx context.Context, err error) context.Context { return ended{ctx, err} }

// closed is the Done channel of each ended context.
var closed = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// Done implements context.Context.
func (ended) Done() <-chan struct{} { return closed }

// Err implements context.Context.
func (e ended) Err() error { return e.err }
