package tenantdb_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
)

func TestBrowsersAreSentToTheLoginAndBillingPages(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	acme := w.tenant("acme", w.user("ann"))
	setTier("pro")(w, acme)
	cfg := w.config()
	cfg.Redirects = tenantdb.Redirects{Login: "/login", Billing: "/billing"}
	h := w.middleware(cfg).Handler(http.HandlerFunc(whoami))
	const browser = "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"
	for _, test := range []struct {
		name, user, tenant, accept string
		htmx                       bool
		status                     int
		header, target             string
	}{
		{"signed out", "", "acme", browser, false, 303, "Location", "/login"},
		{"lapsed", "ann", "acme", browser, false, 303, "Location", "/billing"},
		{"signed out, HTMX", "", "acme", "*/*", true, 200, "Hx-Redirect", "/login"},
		{"lapsed, HTMX", "ann", "acme", "*/*", true, 200, "Hx-Redirect", "/billing"},
		{"a program", "", "acme", "application/json", false, 401, "Location", ""},
		{"a program that takes anything", "", "acme", "*/*", false, 401, "Location", ""},
		{"html refused", "", "acme", "text/html;q=0, application/json", false, 401, "Location", ""},
		{"no such page for this", "ann", "nobody", browser, false, 403, "Location", ""},
	} {
		r := request(test.user, test.tenant)
		r.Header.Set("Accept", test.accept)
		if test.htmx {
			r.Header.Set("HX-Request", "true")
		}
		rec := do(h, r)
		if rec.Code != test.status || rec.Header().Get(test.header) != test.target || rec.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %d %v", test.name, rec.Code, rec.Header())
		}
	}
}

func TestErrorHandlerReceivesCodeTenantAndCause(t *testing.T) {
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
	if rec.Code != 403 || !errors.As(got, &e) || e.Code != "not_member" || e.TenantID != "acme" || !errors.Is(got, tenantdb.ErrNotMember) {
		t.Errorf("%d, %#v", rec.Code, got)
	}
}

func TestStatusCodes(t *testing.T) {
	for err, want := range map[error]int{
		nil: 200, tenantdb.ErrNoCredential: 401, tenantdb.ErrInvalidCredential: 401, tenantdb.ErrSeveralCredentials: 400, tenantdb.ErrCrossOrigin: 403,
		tenantdb.ErrAuthUnavailable: 503, tenantdb.ErrNoTenant: 400, tenantdb.ErrInvalidTenant: 400, tenantdb.ErrTenantConflict: 403,
		tenantdb.ErrNotMember: 403, tenantdb.ErrTenantSuspended: 403, tenantdb.ErrSubscriptionInactive: 402, tenantdb.ErrForbidden: 403,
		tenantdb.ErrTenantUnavailable: 503, tenantdb.ErrBusy: 503, tenantdb.ErrTryAgain: 503, tenantdb.ErrHostUnavailable: 503, errors.New("else"): 500,
	} {
		if got := tenantdb.StatusCode(err); got != want {
			t.Errorf("StatusCode(%v) = %d; want %d", err, got, want)
		}
		if wrapped := fmt.Errorf("reading notes: %w", err); err != nil && tenantdb.StatusCode(wrapped) != want {
			t.Errorf("StatusCode(%v) = %d; want %d", wrapped, tenantdb.StatusCode(wrapped), want)
		}
	}
}

func TestWriteErrorWithoutAScopeAnswersInTheSameForm(t *testing.T) {
	for err, want := range map[error]string{
		tenantdb.ErrBusy: "busy", errors.New("pq: secret detail"): "internal", nil: "internal", context.DeadlineExceeded: "tenant_unavailable",
		&pgconn.PgError{Code: "57P01"}: "tenant_unavailable", &pgconn.PgError{Code: "57014"}: "internal", &pgconn.PgError{Code: "53300"}: "busy",
		&pgconn.PgError{Code: "23505"}: "internal", &net.OpError{Op: "read", Err: errors.New("reset")}: "tenant_unavailable",
	} {
		rec := httptest.NewRecorder()
		tenantdb.WriteError(rec, httptest.NewRequest("GET", "/", nil), err)
		if got := code(t, rec); got != want || strings.Contains(rec.Body.String(), "secret") {
			t.Errorf("%v: %s", err, rec.Body)
		}
	}
}

func TestASQLiteFileLockedByAnotherProgramIsBusy(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	acme := w.tenant("acme", w.user("ann"))
	other, err := sql.Open("sqlite", "file:"+w.sqliteFile(acme)+"?_txlock=immediate")
	must(t, err)
	defer other.Close()
	tx, err := other.BeginTx(t.Context(), nil)
	must(t, err)
	defer func() { _ = tx.Rollback() }()
	h := w.middleware(w.config()).Handler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, err := tenantdb.DB(r.Context()).ExecContext(r.Context(), "PRAGMA busy_timeout = 0")
		must(t, err)
		_, err = tenantdb.DB(r.Context()).ExecContext(r.Context(), "DELETE FROM me")
		tenantdb.WriteError(rw, r, err)
	}))
	if rec := do(h, request("ann", "acme")); rec.Code != 503 || code(t, rec) != "busy" {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
}

// TestNoSecretIsPrinted plants secrets wherever one can be, and looks for them in logs, answers and every
// printed form.
func TestNoSecretIsPrinted(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		const canary = "c4nary"
		acme := w.tenant("acme", w.user("ann"))
		var log bytes.Buffer
		cfg := w.config()
		cfg.Logger = slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		mw := w.middleware(cfg)
		h := mw.Handler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			s, _ := tenantdb.FromContext(r.Context())
			for _, form := range []string{"%v", "%+v", "%#v", "%s"} {
				for _, v := range []any{s, *s.Tenant, mw, w.pool, w.host, r.Context()} {
					fmt.Fprintf(&log, form+"\n", v)
				}
			}
			whoami(rw, r)
		}))
		var answers []string
		for _, url := range []string{
			"postgres://user:" + canary + "@127.0.0.1:1/gone?sslmode=disable",
			"postgres://user:" + canary + "@127.0.0.1:notaport/x",
			"postgres://user:" + canary + "@127.0.0.1:1/x?sslmode=" + canary,
			"mysql://" + canary + "@h/x",
			canary,
		} {
			setURL(url)(w, acme)
			eventually(t, func() bool {
				rec := do(h, request("ann", "acme"))
				answers = append(answers, rec.Body.String())
				return rec.Code == 503
			})
		}
		r := request("ann", canary+"!")
		r.Header.Set("Authorization", "Bearer "+canary)
		answers = append(answers, do(h, r).Body.String())
		if log.Len() == 0 {
			t.Fatal("nothing was logged")
		}
		for _, text := range append(answers, log.String()) {
			if i := strings.Index(text, canary); i >= 0 {
				t.Fatalf("the secret shows: …%s…", text[max(0, i-200):min(len(text), i+100)])
			}
		}
		_ = hostdb.Secret(canary)
	})
}
