package tenantdb_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"testing"

	"github.com/tenantdb/tenantdb"
)

func TestErrorHandler_receivesCodeTenantAndCause(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	w.tenant("acme", w.user("ann"))
	w.user("eve")
	cfg := w.config()
	var got error
	cfg.ErrorHandler = func(rw http.ResponseWriter, _ *http.Request, err error) {
		got = err
		rw.WriteHeader(tenantdb.StatusCode(err))
	}
	rec := do(w.middleware(cfg).Handler(http.HandlerFunc(whoami)), request("eve", "acme"))
	var e *tenantdb.Error
	if rec.Code != 403 || !errors.As(got, &e) || e.Code != "not_member" || e.TenantID != "acme" ||
		!errors.Is(got, tenantdb.ErrNotMember) {
		t.Errorf("%d, %#v", rec.Code, got)
	}
}

// TestErrorHandler_mayDelegate has the handler call back in every possible way. None may call the handler
// again.
func TestErrorHandler_mayDelegate(t *testing.T) {
	var mw *tenantdb.Middleware
	ways := map[string]func(http.ResponseWriter, *http.Request, error){
		"WriteProblem": tenantdb.WriteProblem,
		"WriteError":   tenantdb.WriteError,
		"mw.WriteError": func(w http.ResponseWriter, r *http.Request, err error) {
			mw.WriteError(w, r, err)
		},
		"mw.WriteError of another error": func(w http.ResponseWriter, r *http.Request, err error) {
			mw.WriteError(w, r, fmt.Errorf("the page failed: %s", err))
		},
		"mw.WriteError without the context": func(w http.ResponseWriter, r *http.Request, err error) {
			mw.WriteError(w, r.WithContext(context.Background()), fmt.Errorf("again: %w", err))
		},
		"mw.WriteError of another error without the context": func(w http.ResponseWriter, r *http.Request,
			err error) {
			mw.WriteError(w, r.Clone(context.Background()), errors.New("the page failed"))
		},
		"another goroutine": func(w http.ResponseWriter, r *http.Request, err error) {
			var running sync.WaitGroup
			running.Go(func() { mw.WriteError(w, r, err) })
			running.Wait()
		},
		"a guarded page": func(w http.ResponseWriter, r *http.Request, err error) {
			r.Header.Set(header, "nowhere")
			mw.Handler(http.NotFoundHandler()).ServeHTTP(w, r)
		},
		"a guard": func(w http.ResponseWriter, r *http.Request, err error) {
			tenantdb.RequireRole("root")(http.NotFoundHandler()).ServeHTTP(w, r)
		},
	}
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	w.tenant("acme", w.user("ann"))
	for name, delegate := range ways {
		calls := 0
		cfg := w.config()
		cfg.Logger = slog.New(slog.DiscardHandler)
		cfg.ErrorHandler = func(rw http.ResponseWriter, r *http.Request, err error) {
			if calls++; calls < 5 { // a fault ends the test, not the process
				delegate(rw, r, err)
			}
		}
		mw = w.middleware(cfg)
		h := mw.Handler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			tenantdb.WriteError(rw, r, tenantdb.ErrBusy)
		}))
		for _, user := range []string{"ann", "nobody", ""} {
			calls = 0
			rec := do(h, request(user, "acme"))
			if code(t, rec); calls != 1 || len(rec.Header()["Vary"]) > 1 {
				t.Errorf("%s by %q: %d calls, answered %d, Vary %q", name, user, calls, rec.Code,
					rec.Header()["Vary"])
			}
		}
	}
}

func TestErrorHandler_delegatedErrorIsLoggedOnce(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	var log lines
	before := slog.Default()
	slog.SetDefault(log.logger())
	defer slog.SetDefault(before)
	var mw *tenantdb.Middleware
	type handler = func(http.ResponseWriter, *http.Request, error)
	for name, delegate := range map[string]handler{
		"WriteError":    tenantdb.WriteError,
		"mw.WriteError": func(w http.ResponseWriter, r *http.Request, err error) { mw.WriteError(w, r, err) },
	} {
		cfg := w.config()
		cfg.Logger, cfg.ErrorHandler = nil, delegate
		mw = w.middleware(cfg)
		do(mw.Handler(http.NotFoundHandler()), request("", "acme"))
		if got := log.take(t); len(got) != 1 {
			t.Errorf("%s: logged %v", name, got)
		}
	}
}
