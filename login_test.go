package tenantdb_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"reflect"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
)

func TestFirstLogin_createsTheUserOnce(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		cfg := w.config()
		calls := make(chan struct{}, 100)
		cfg.FirstLogin = func(ctx context.Context, id *tenantdb.Identity) error {
			calls <- struct{}{}
			return w.host.Users.Insert(ctx, &hostdb.GlobalUser{
				OAuthID: id.Subject, Email: id.Subject + "@example.com",
			})
		}
		h := w.middleware(cfg).Authenticated(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if s, _ := tenantdb.FromContext(r.Context()); s.User == nil || s.User.OAuthID != "newcomer" {
				t.Errorf("user = %v", s.User)
			}
		}))
		together(100, func(i int) {
			for range i * 200 {
				runtime.Gosched() // spread them, so that some arrive when the first call ends
			}
			if rec := do(h, request("newcomer", "")); rec.Code != 200 {
				t.Errorf("status = %d %s", rec.Code, rec.Body)
			}
		})
		for range 200 { // and one after the other
			mustServe(t, h, request("newcomer", ""))
		}
		if len(calls) != 1 {
			t.Errorf("the hook was called %d times", len(calls))
		}
		users, err := w.host.Users.List(t.Context())
		must(t, err)
		if len(users) != 1 {
			t.Errorf("%d users", len(users))
		}
	})
}

func TestFirstLogin_conflictWithAnotherUserIsForbidden(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		w.user("ann")
		cfg := w.config()
		// with somebody else's address
		cfg.FirstLogin = func(ctx context.Context, id *tenantdb.Identity) error {
			return w.host.Users.Insert(ctx, &hostdb.GlobalUser{OAuthID: id.Subject, Email: "ann@example.com"})
		}
		h := w.middleware(cfg).Authenticated(emptyHandler)
		if rec := do(h, request("newcomer", "")); rec.Code != 403 || code(t, rec) != "forbidden" ||
			rec.Header().Get("Retry-After") != "" {
			t.Errorf("%d %s", rec.Code, rec.Body) // the next attempt would meet the same conflict
		}
	})
}

func TestFirstLogin_mayRefuse(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	cfg := w.config()
	cfg.FirstLogin = func(context.Context, *tenantdb.Identity) error { return tenantdb.ErrForbidden }
	h := w.middleware(cfg).Authenticated(emptyHandler)
	if rec := do(h, request("newcomer", "")); rec.Code != 403 || code(t, rec) != "forbidden" {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
}

func TestFirstLogin_failureRefuses(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	w.tenant("acme", w.user("ann"))
	for name, hook := range map[string]func(context.Context, *tenantdb.Identity) error{
		"error": func(context.Context, *tenantdb.Identity) error { return errors.New("no") },
		"panic": func(context.Context, *tenantdb.Identity) error { panic("no") },
	} {
		cfg := w.config()
		cfg.FirstLogin = hook
		h := w.middleware(cfg).Handler(http.HandlerFunc(whoami))
		if rec := do(h, request("newcomer", "acme")); rec.Code != 503 {
			t.Errorf("%s: %d", name, rec.Code)
		}
		if rec := do(h, request("ann", "acme")); rec.Code != 200 {
			t.Errorf("%s: ann: %d", name, rec.Code)
		}
	}
}

func TestFirstLogin_panicIsLoggedWithItsStack(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	var log lines
	cfg := w.config()
	cfg.Logger = log.logger()
	cfg.FirstLogin = func(context.Context, *tenantdb.Identity) error { panic("out of luck") }
	mw := w.middleware(cfg)
	if rec := do(mw.Authenticated(http.NotFoundHandler()), request("newcomer", "")); rec.Code != 503 {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
	eventually(t, func() bool {
		for _, line := range log.take(t) {
			stack, _ := line["stack"].(string)
			if line["panic"] == "out of luck" && line["subject"] == "newcomer" &&
				strings.Contains(stack, "TestFirstLogin_panic") {
				return true
			}
		}
		return false
	})
}

func TestFirstLogin_mayCallTheMiddleware(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		acme := w.tenant("acme", w.user("ann"))
		var mw *tenantdb.Middleware
		var called atomic.Int32
		cfg := w.config()
		cfg.Logger, cfg.Cache.LoadTimeout = slog.New(slog.DiscardHandler), 300*time.Millisecond
		cfg.FirstLogin = func(ctx context.Context, id *tenantdb.Identity) error {
			called.Add(1)
			if _, found := tenantdb.FromContext(ctx); found {
				t.Error("the hook has a scope")
			}
			if _, leave, err := mw.Enter(context.Background(), acme.ID); err != nil {
				t.Error(err)
			} else {
				leave()
			}
			// A request as the user who is being created waits for itself, and gets an answer.
			if rec := do(mw.Authenticated(http.NotFoundHandler()), request(id.Subject, "")); rec.Code != 503 {
				t.Errorf("the request inside: %d %s", rec.Code, rec.Body)
			}
			return w.host.Users.Insert(context.Background(), &hostdb.GlobalUser{
				OAuthID: id.Subject, Email: "n@example.com",
			})
		}
		mw = w.middleware(cfg)
		h := mw.Authenticated(emptyHandler)
		do(h, request("newcomer", ""))
		eventually(t, func() bool { return do(h, request("newcomer", "")).Code == 200 })
		if called.Load() == 0 {
			t.Error("FirstLogin was not called")
		}
	})
}

// TestFirstLogin_getsAnIdentityOfItsOwn overwrites the identity in the hook while requests with the same
// identity are decided.
func TestFirstLogin_getsAnIdentityOfItsOwn(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		cfg := w.config()
		cfg.Authenticator = newKeeper("newcomer")
		cfg.FirstLogin = func(ctx context.Context, id *tenantdb.Identity) error {
			user := &hostdb.GlobalUser{OAuthID: id.Subject, Email: "newcomer@example.com"}
			scrawl(reflect.ValueOf(id))
			return w.host.Users.Insert(ctx, user)
		}
		h := w.middleware(cfg).Authenticated(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			s, _ := tenantdb.FromContext(r.Context())
			if name, _ := s.Identity.Claim("name"); name != "newcomer" || s.User == nil {
				rw.WriteHeader(http.StatusTeapot)
			}
		}))
		r := request("", "")
		r.Header.Set("X-Subject", "newcomer")
		together(8, func(int) {
			if rec := do(h, r); rec.Code != 200 {
				t.Errorf("%d %s", rec.Code, rec.Body)
			}
		})
	})
}
