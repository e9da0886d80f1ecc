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
