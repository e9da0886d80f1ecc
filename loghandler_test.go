package tenantdb_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"testing"
	"testing/slogtest"

	"github.com/tenantdb/tenantdb"
)

// requestIDKey is the key under which the tests keep a request's id.
type requestIDKey struct{}

// requestID returns the id that a test has put into a context.
func requestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

func TestLogHandler_addsIDsAtTheTopLevelOnce(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	ann := w.user("ann")
	acme := w.tenant("acme", ann)
	ids := map[string]any{"tenant_id": acme.ID, "user_id": ann.ID, "request_id": "r1"}
	var out bytes.Buffer
	logger := slog.New(tenantdb.NewLogHandler(slog.NewJSONHandler(&out, nil),
		tenantdb.LogHandlerOptions{RequestID: requestID}))
	for name, test := range map[string]struct {
		log  func(context.Context)
		want map[string]any
	}{
		"plain": {func(ctx context.Context) { logger.InfoContext(ctx, "x", "n", 1) },
			map[string]any{"n": 1.0, "tenant_id": acme.ID, "user_id": ann.ID, "request_id": "r1"}},
		"in a group": {func(ctx context.Context) {
			logger.With("a", 1).WithGroup("g").With("b", 2).InfoContext(ctx, "x", "tenant_id", "mine")
		}, map[string]any{"a": 1.0, "g": map[string]any{"b": 2.0, "tenant_id": "mine"},
			"tenant_id": acme.ID, "user_id": ann.ID, "request_id": "r1"}},
		"given by the line": {func(ctx context.Context) {
			logger.InfoContext(ctx, "x", "tenant_id", "mine")
		}, map[string]any{"tenant_id": "mine", "user_id": ann.ID, "request_id": "r1"}},
		"given by the logger": {func(ctx context.Context) {
			logger.With("user_id", "mine").WithGroup("g").InfoContext(ctx, "x", "n", 1)
		}, map[string]any{"user_id": "mine", "tenant_id": acme.ID, "request_id": "r1",
			"g": map[string]any{"n": 1.0}}},
		"without a tenant": {func(context.Context) {
			logger.InfoContext(t.Context(), "x")
		}, map[string]any{}},
	} {
		t.Run(name, func(t *testing.T) {
			r := request("ann", "acme")
			r = r.WithContext(context.WithValue(r.Context(), requestIDKey{}, "r1"))
			letIn(t, w.middleware(w.config()).Handler, r, func(_ http.ResponseWriter, r *http.Request) {
				out.Reset()
				test.log(r.Context())
			})
			var got map[string]any
			must(t, json.Unmarshal(out.Bytes(), &got))
			for _, key := range []string{"time", "level", "msg"} {
				delete(got, key)
			}
			have, _ := json.Marshal(got)
			want, _ := json.Marshal(test.want)
			if !bytes.Equal(have, want) {
				t.Errorf("got %s; want %s", have, want)
			}
			for key := range ids {
				n := bytes.Count(out.Bytes(), []byte(`"`+key+`"`))
				if n > 2 || n > 1 && name != "in a group" {
					t.Errorf("%s is there %d times: %s", key, n, &out)
				}
			}
		})
	}
}

func TestLogHandler_keepsTheRulesOfSlog(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	w.tenant("acme", w.user("ann"))
	var out bytes.Buffer
	slogtest.Run(t, func(t *testing.T) slog.Handler {
		out.Reset()
		return tenantdb.NewLogHandler(slog.NewJSONHandler(&out, nil),
			tenantdb.LogHandlerOptions{RequestID: func(context.Context) string { return "r1" }})
	}, func(t *testing.T) map[string]any {
		var line map[string]any
		must(t, json.Unmarshal(out.Bytes(), &line))
		return line
	})
}

func TestLogHandler_costsNoAllocationWithoutATenant(t *testing.T) {
	h := tenantdb.NewLogHandler(slog.DiscardHandler, tenantdb.LogHandlerOptions{})
	line := slog.Record{Message: "x"}
	ctx := t.Context()
	if n := testing.AllocsPerRun(100, func() { _ = h.Handle(ctx, line) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
