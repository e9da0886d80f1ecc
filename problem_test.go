package tenantdb_test

import (
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
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
)

func TestStatusCode_ofEachError(t *testing.T) {
	for err, want := range map[error]int{
		nil: 200, tenantdb.ErrNoCredential: 401, tenantdb.ErrInvalidCredential: 401,
		tenantdb.ErrSeveralCredentials: 400, tenantdb.ErrCrossOrigin: 403,
		tenantdb.ErrAuthUnavailable: 503, tenantdb.ErrNoTenant: 400, tenantdb.ErrInvalidTenant: 400,
		tenantdb.ErrTenantConflict: 403,
		tenantdb.ErrNotMember:      403, tenantdb.ErrTenantSuspended: 403,
		tenantdb.ErrSubscriptionInactive: 402, tenantdb.ErrForbidden: 403,
		tenantdb.ErrTenantUnavailable: 503, tenantdb.ErrBusy: 503, tenantdb.ErrTryAgain: 503,
		tenantdb.ErrHostUnavailable: 503, errors.New("else"): 500,
	} {
		if got := tenantdb.StatusCode(err); got != want {
			t.Errorf("StatusCode(%v) = %d; want %d", err, got, want)
		}
		if wrapped := fmt.Errorf("reading notes: %w", err); err != nil &&
			tenantdb.StatusCode(wrapped) != want {
			t.Errorf("StatusCode(%v) = %d; want %d", wrapped, tenantdb.StatusCode(wrapped), want)
		}
	}
}

func TestWriteError_withoutAScopeAnswersInTheSameForm(t *testing.T) {
	for err, want := range map[error]string{
		tenantdb.ErrBusy: "busy", errors.New("pq: secret detail"): "internal", nil: "internal",
		context.DeadlineExceeded:       "tenant_unavailable",
		&pgconn.PgError{Code: "57P01"}: "tenant_unavailable", &pgconn.PgError{Code: "57014"}: "internal",
		&pgconn.PgError{Code: "53300"}:                     "busy",
		&pgconn.PgError{Code: "23505"}:                     "internal",
		&net.OpError{Op: "read", Err: errors.New("reset")}: "tenant_unavailable",
	} {
		rec := httptest.NewRecorder()
		tenantdb.WriteError(rec, httptest.NewRequest("GET", "/", nil), err)
		if got := code(t, rec); got != want || strings.Contains(rec.Body.String(), "secret") {
			t.Errorf("%v: %s", err, rec.Body)
		}
	}
}

func TestError_isALogValue(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	acme, eve := w.tenant("acme", w.user("ann")), w.user("eve")
	var log lines
	cfg := w.config()
	cfg.ErrorHandler = func(_ http.ResponseWriter, _ *http.Request, err error) {
		log.logger().Info("mine", "err", err)
	}
	cfg.Logger = slog.New(slog.DiscardHandler)
	do(w.middleware(cfg).Handler(http.NotFoundHandler()), request("eve", "acme"))
	got := log.take(t)
	want := fields{
		"code": "not_member", "reason": "no_membership", "tenant_id": acme.ID, "tenant_slug": "acme",
		"user_id": eve.ID,
		"cause":   "tenantdb: not a member of this tenant: the user has no membership of it",
	}
	if len(got) != 1 || fmt.Sprint(got[0]["err"]) != fmt.Sprint(want) {
		t.Errorf("logged %v", got)
	}
}

func TestWriteError_outsideAScopeUsesTheDefaultLogger(t *testing.T) {
	var log lines
	before := slog.Default()
	slog.SetDefault(log.logger())
	defer slog.SetDefault(before)
	tenantdb.WriteError(httptest.NewRecorder(), request("", ""), errors.New("disk on fire"))
	if got := log.take(t); len(got) != 1 || got[0]["level"] != "ERROR" || got[0]["cause"] != "disk on fire" {
		t.Errorf("logged %v", got)
	}
}

// TestWriteProblem_doesNotParseALongAcceptHeader limits what an unauthenticated request makes the middleware
// read.
func TestWriteProblem_doesNotParseALongAcceptHeader(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	cfg := w.config()
	cfg.Redirects.Login, cfg.Logger = "/login", slog.New(slog.DiscardHandler)
	h := w.middleware(cfg).Handler(http.NotFoundHandler())
	for name, accept := range map[string][]string{
		"one":  {strings.Repeat("a/b;c=d,", 130_000) + "text/html"},
		"many": strings.Split(strings.Repeat("a/b|", 100_000)+"text/html", "|"),
	} {
		r := request("", "acme")
		r.Header["Accept"] = accept
		if n := testing.AllocsPerRun(1, func() { do(h, r) }); n > 200 {
			t.Errorf("%s: %v allocations", name, n)
		}
		if rec := do(h, r); rec.Code != 401 {
			t.Errorf("%s: %d", name, rec.Code)
		}
	}
}

// TestWriteError_logsAnAbandonedQueryAtDebug also checks that a query which its deadline ended is told from
// one that the server's own limits ended.
func TestWriteError_logsAnAbandonedQueryAtDebug(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		w.tenant("acme", w.user("ann"))
		var log lines
		cfg := w.config()
		cfg.Logger = log.logger()
		began := make(chan struct{}, 1)
		h := w.middleware(cfg).Handler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			began <- struct{}{}
			tenantdb.WriteError(rw, r, tenantdb.DB(r.Context()).QueryRowContext(r.Context(),
				endless[w.engine]).Scan(new(any)))
		}))
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			<-began
			time.AfterFunc(20*time.Millisecond, cancel)
		}()
		rec := do(h, request("ann", "acme").WithContext(ctx))
		if got := log.take(t); len(got) != 1 || got[0]["level"] != "DEBUG" ||
			rec.Header().Get("Retry-After") != "" {
			t.Errorf("%d, logged %v", rec.Code, got)
		}
		slow, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if rec := do(h, request("ann", "acme").WithContext(slow)); rec.Code != 503 ||
			code(t, rec) != "tenant_unavailable" {
			t.Errorf("too late: %d %s", rec.Code, rec.Body)
		}
	})
}

// TestWriteError_asksForARetryWhereItHelps asks for none where the statement would fail again.
func TestWriteError_asksForARetryWhereItHelps(t *testing.T) {
	w := newWorld(t, "postgres", tenantdb.PoolConfig{})
	w.tenant("acme", w.user("ann"))
	for name, of := range map[string]struct {
		statement, code string
		status          int
		retry           bool
	}{
		"serialization": {"DO $$ BEGIN RAISE SQLSTATE '40001'; END $$", "try_again", 503, true},
		"deadlock":      {"DO $$ BEGIN RAISE SQLSTATE '40P01'; END $$", "try_again", 503, true},
		"lock timeout":  {"DO $$ BEGIN RAISE SQLSTATE '55P03'; END $$", "try_again", 503, true},
		"timeout":       {"SET LOCAL statement_timeout = 50; SELECT pg_sleep(60)", "internal", 500, false},
		"read-only":     {"SET TRANSACTION READ ONLY; CREATE TABLE n (i int)", "internal", 500, false},
	} {
		h := w.middleware(w.config()).Handler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			_, err := tenantdb.PG(r.Context()).Exec(r.Context(), of.statement,
				pgx.QueryExecModeSimpleProtocol)
			tenantdb.WriteError(rw, r, err)
		}))
		rec := do(h, request("ann", "acme"))
		if rec.Code != of.status || code(t, rec) != of.code ||
			(rec.Header().Get("Retry-After") != "") != of.retry {
			t.Errorf("%s: %d %s, Retry-After %q", name, rec.Code, rec.Body, rec.Header().Get("Retry-After"))
		}
	}
}

// TestWriteError_knowsHowDriversReportAnEnd covers a closed socket, and a transaction that database/sql ended
// with its context.
func TestWriteError_knowsHowDriversReportAnEnd(t *testing.T) {
	past, cancel := context.WithDeadline(t.Context(), time.Now())
	defer cancel()
	gone, leave := context.WithCancel(t.Context())
	leave()
	for _, of := range []struct {
		ctx  context.Context
		err  error
		code string
	}{
		{t.Context(), net.ErrClosed, "tenant_unavailable"},
		{t.Context(), sql.ErrTxDone, "internal"}, // the handler's mistake
		{past, sql.ErrTxDone, "tenant_unavailable"},
		{gone, sql.ErrTxDone, "internal"},
		{past, &pgconn.PgError{Code: "57014"}, "tenant_unavailable"}, // from pgx's own connection
		{gone, &pgconn.PgError{Code: "57014"}, "internal"},
		{t.Context(), hostdb.ErrNotFound, "internal"},
	} {
		for name, write := range map[string]func(http.ResponseWriter, *http.Request,
			error){"WriteError": tenantdb.WriteError,
			"WriteProblem": tenantdb.WriteProblem} {
			rec := do(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				write(rw, r, of.err)
			}),
				request("", "").WithContext(of.ctx))
			if got := code(t, rec); got != of.code {
				t.Errorf("%s of %v with a context that ended by %v: %s, want %s", name, of.err, of.ctx.Err(),
					got, of.code)
			}
		}
	}
}
