package observe

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
)

// panicky is a handler that panics.
type panicky struct{ slog.Handler }

func (panicky) Handle(context.Context, slog.Record) error { panic("the logger's") }

func TestPanics_areRecoveredAndTheFirstIsLogged(t *testing.T) {
	var log bytes.Buffer
	p := &Panics{Logger: slog.New(slog.NewTextHandler(&log, nil))}
	type key struct{}
	ctx := context.WithValue(t.Context(), key{}, 1)
	if got := Start(p, func(context.Context, int) context.Context { panic("first") }, ctx, 1); got != ctx {
		t.Error("the context is lost")
	}
	if got := Start(p, func(context.Context, int) context.Context { return nil }, ctx, 1); got != ctx {
		t.Error("a nil context replaces the caller's")
	}
	Tell(p, func(context.Context, int) { panic("second") }, ctx, 1)
	Tell[int](p, nil, ctx, 1)
	if got := log.String(); !strings.Contains(got, "panic=first") || strings.Contains(got, "second") ||
		!strings.Contains(got, "observe_test.go") || strings.Count(got, "level=ERROR") != 1 {
		t.Errorf("logged %s", got)
	}
	loud := &Panics{Logger: slog.New(panicky{slog.DiscardHandler})}
	Tell(loud, func(context.Context, int) { panic("third") }, ctx, 1)
}
