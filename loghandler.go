package tenantdb

import (
	"context"
	"log/slog"
	"slices"
)

// LogHandlerOptions are the options of [NewLogHandler].
type LogHandlerOptions struct {
	// RequestID returns the id of the request that a context belongs to, or "". The router or another
	// middleware has put it there. If it is nil, lines have no request_id.
	RequestID func(context.Context) string
}

// NewLogHandler returns a handler that adds to each line whose context belongs to a request in a tenant:
// tenant_id, user_id and, with [LogHandlerOptions.RequestID], request_id. These are the names that
// [Config.Logger] gets. A line that has one of these attributes already keeps its own.
//
//	lines := slog.NewJSONHandler(os.Stderr, nil)
//	logger := slog.New(tenantdb.NewLogHandler(lines, tenantdb.LogHandlerOptions{}))
//	logger.InfoContext(r.Context(), "note saved") // with tenant_id and user_id
//
// The attributes are at the top level, whatever group the logger has.
func NewLogHandler(next slog.Handler, opts LogHandlerOptions) slog.Handler {
	return &logHandler{base: next, next: next, opts: opts}
}

// logHandler is the handler of NewLogHandler.
type logHandler struct {
	base  slog.Handler // before the first group
	next  slog.Handler
	opts  LogHandlerOptions
	given []string                          // the names that WithAttrs gave at the top level
	steps []func(slog.Handler) slog.Handler // lead from base to next
}

// Enabled implements [slog.Handler].
func (h *logHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.next.Enabled(ctx, level)
}

// Handle implements [slog.Handler].
func (h *logHandler) Handle(ctx context.Context, line slog.Record) error {
	attrs := h.attrs(ctx, line)
	switch {
	case len(attrs) == 0:
		return h.next.Handle(ctx, line)
	case len(h.steps) == 0:
		line = line.Clone()
		line.AddAttrs(attrs...)
		return h.next.Handle(ctx, line)
	}
	next := h.base.WithAttrs(attrs)
	for _, step := range h.steps {
		next = step(next)
	}
	return next.Handle(ctx, line)
}

// attrs returns what the context tells and the line doesn't have.
func (h *logHandler) attrs(ctx context.Context, line slog.Record) []slog.Attr {
	var attrs []slog.Attr
	add := func(name, value string) {
		if value != "" && !h.has(line, name) {
			attrs = append(attrs, slog.String(name, value))
		}
	}
	if c, ok := scopeOf(ctx); ok && c.access != nil {
		add("tenant_id", c.tenantID())
		if c.access.User != nil {
			add("user_id", c.access.User.ID)
		}
	}
	if h.opts.RequestID != nil {
		add("request_id", h.opts.RequestID(ctx))
	}
	return attrs
}

// has reports whether a line has an attribute at the top level.
func (h *logHandler) has(line slog.Record, name string) bool {
	if slices.Contains(h.given, name) {
		return true
	}
	found := false
	if len(h.steps) == 0 {
		line.Attrs(func(a slog.Attr) bool {
			found = a.Key == name
			return !found
		})
	}
	return found
}

// WithAttrs implements [slog.Handler].
func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	if len(attrs) == 0 {
		return h
	}
	with := *h
	with.next = h.next.WithAttrs(attrs)
	if len(h.steps) > 0 {
		with.steps = append(slices.Clip(h.steps),
			func(next slog.Handler) slog.Handler { return next.WithAttrs(attrs) })
		return &with
	}
	with.base, with.given = with.next, slices.Clip(h.given)
	for _, attr := range attrs {
		with.given = append(with.given, attr.Key)
	}
	return &with
}

// WithGroup implements [slog.Handler].
func (h *logHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	with := *h
	with.next = h.next.WithGroup(name)
	with.steps = append(slices.Clip(h.steps),
		func(next slog.Handler) slog.Handler { return next.WithGroup(name) })
	return &with
}
