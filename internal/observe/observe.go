// Package observe calls the functions of the program's observers, whose panics must break nothing.
package observe

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync/atomic"

	"github.com/tenantdb/tenantdb/internal/printable"
)

// Panics recovers the panics of an observer and logs the first.
type Panics struct {
	// Logger gets the line. If it is nil, the default at the time of the panic does.
	Logger *slog.Logger
	logged atomic.Bool
}

const (
	maxText  = 1000
	maxStack = 8 << 10
)

// recovered is deferred around each call.
func (p *Panics) recovered() {
	value := recover()
	if value == nil || p.logged.Swap(true) {
		return
	}
	defer func() { _ = recover() }() // the program's logger may panic too
	logger := p.Logger
	if logger == nil {
		logger = slog.Default()
	}
	stack := debug.Stack()
	logger.Error("an observer panicked; its further panics aren't logged",
		slog.String("panic", printable.Text(fmt.Sprint(value), maxText)),
		slog.String("stack", string(stack[:min(len(stack), maxStack)])))
}

// Start calls a function for the start of something, if there is one. It returns the context for the end: ctx
// if the function has none or panics.
func Start[I any](p *Panics, f func(context.Context, I) context.Context, ctx context.Context, info I) (
	observed context.Context) {
	observed = ctx
	if f == nil {
		return observed
	}
	defer p.recovered()
	if returned := f(ctx, info); returned != nil {
		observed = returned
	}
	return observed
}

// Tell calls a function, if there is one.
func Tell[I any](p *Panics, f func(context.Context, I), ctx context.Context, info I) {
	if f == nil {
		return
	}
	defer p.recovered()
	f(ctx, info)
}
