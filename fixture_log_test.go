package tenantdb_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"testing"
)

// lines collects what is logged as JSON.
type lines struct {
	mu  sync.Mutex
	out bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.Write(p)
}

// logger returns a logger of every level that writes to l.
func (l *lines) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// take returns the lines so far without their time, and forgets them.
func (l *lines) take(t *testing.T) []map[string]any {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []map[string]any
	for line := range strings.Lines(l.out.String()) {
		var fields map[string]any
		must(t, json.Unmarshal([]byte(line), &fields))
		delete(fields, "time")
		all = append(all, fields)
	}
	l.out.Reset()
	return all
}

// fields is a line of the log.
type fields = map[string]any

// with returns the fields of both maps.
func with(a, b fields) fields {
	c := maps.Clone(a)
	maps.Copy(c, b)
	return c
}

// handlerFunc is a slog handler.
type handlerFunc func(context.Context, slog.Record)

func (f handlerFunc) Enabled(context.Context, slog.Level) bool { return true }

func (f handlerFunc) Handle(ctx context.Context, r slog.Record) error {
	f(ctx, r)
	return nil
}

func (f handlerFunc) WithAttrs([]slog.Attr) slog.Handler { return f }

func (f handlerFunc) WithGroup(string) slog.Handler { return f }
