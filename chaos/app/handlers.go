package app

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
)

// service is the product.
type service struct {
	mw      *tenantdb.Middleware
	host    *hostdb.DB
	began   time.Time
	leaving atomic.Bool
	clock   *clock
}

// Answer is a handler's answer: the tenant into which the middleware let the caller, and the tenant whose
// database it was.
type Answer struct {
	Scope, Data string
	Generation  int
}

// query does a handler's work, and fills in whose database it was.
type query func(ctx context.Context, r *http.Request, w http.ResponseWriter, a *Answer) error

func (s *service) handler() http.Handler {
	behind := http.NewServeMux()
	behind.HandleFunc("GET /me", answer(http.StatusOK, me))
	behind.HandleFunc("GET /conn", answer(http.StatusOK, conn))
	behind.HandleFunc("GET /wide", answer(http.StatusOK, wide))
	behind.HandleFunc("POST /write", answer(http.StatusCreated, write))
	behind.HandleFunc("GET /slow", answer(http.StatusOK, slow))
	behind.HandleFunc("GET /tx", answer(http.StatusOK, held))
	behind.HandleFunc("GET /stream", stream)
	outside := http.NewServeMux()
	outside.HandleFunc("GET /readyz", s.ready)
	outside.HandleFunc("GET /debug/state", s.state)
	outside.HandleFunc("POST /debug/clock", s.clock.step)
	outside.Handle("/", s.mw.Handler(behind))
	return outside
}

// ready tells the balancer whether to send requests here.
func (s *service) ready(w http.ResponseWriter, _ *http.Request) {
	if s.leaving.Load() {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
}

// answer makes a handler from a query.
func answer(status int, do query) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		scope, _ := tenantdb.FromContext(r.Context())
		a := Answer{Scope: scope.Tenant.Slug}
		if err := do(r.Context(), r, w, &a); err != nil {
			fail(w, r, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(a)
	}
}

// fail answers as the library does, with the cause in a header.
func fail(w http.ResponseWriter, r *http.Request, err error) {
	cause := fmt.Sprintf("%T: %v", err, err)
	w.Header().Set(CauseHeader, strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' {
			return '?'
		}
		return c
	}, cause[:min(len(cause), 500)]))
	tenantdb.WriteError(w, r, err)
}

// whose reads the row that says whose database it is.
func whose(ctx context.Context, db interface {
	QueryRowContext(context.Context, string, ...any) *sql.Row
}, a *Answer) error {
	return db.QueryRowContext(ctx, "SELECT slug, generation FROM me").Scan(&a.Data, &a.Generation)
}

func me(ctx context.Context, _ *http.Request, _ http.ResponseWriter, a *Answer) error {
	return whose(ctx, tenantdb.ReadDB(ctx), a)
}

// conn measures the wait for a connection and the wait for a statement separately.
func conn(ctx context.Context, _ *http.Request, w http.ResponseWriter, a *Answer) error {
	began := time.Now()
	c, err := tenantdb.DB(ctx).Conn(ctx)
	w.Header().Set(AcquireHeader, time.Since(began).String())
	if err != nil {
		return err
	}
	defer c.Close()
	began = time.Now()
	err = whose(ctx, c, a)
	w.Header().Set(StatementHeader, time.Since(began).String())
	return err
}

// wide asks for columns that a migration changes.
func wide(ctx context.Context, _ *http.Request, _ http.ResponseWriter, a *Answer) error {
	rows, err := tenantdb.DB(ctx).QueryContext(ctx, "SELECT * FROM wide WHERE id >= $1", 0)
	if err != nil {
		return err
	}
	for rows.Next() {
	}
	return cmp.Or(rows.Err(), rows.Close(), whose(ctx, tenantdb.DB(ctx), a))
}

// write adds a row with an id that the caller chose. It answers 201 only after the commit.
func write(ctx context.Context, r *http.Request, _ http.ResponseWriter, a *Answer) error {
	tx, err := tenantdb.DB(ctx).BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := whose(ctx, tx, a); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, "INSERT INTO log (id, tenant) VALUES ($1, $2)", r.URL.Query().Get("id"),
		a.Scope); err != nil {
		return err
	}
	return tx.Commit()
}

// slow keeps PostgreSQL busy for a while.
func slow(ctx context.Context, r *http.Request, _ http.ResponseWriter, a *Answer) error {
	return tenantdb.DB(ctx).QueryRowContext(ctx, "SELECT slug FROM me, pg_sleep($1)",
		number(r, "ms")/1000).Scan(&a.Data)
}

// held keeps a transaction open without running a statement.
func held(ctx context.Context, r *http.Request, _ http.ResponseWriter, a *Answer) error {
	tx, err := tenantdb.DB(ctx).BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := whose(ctx, tx, a); err != nil {
		return err
	}
	select {
	case <-time.After(time.Duration(number(r, "ms") * float64(time.Millisecond))):
	case <-ctx.Done():
		return ctx.Err()
	}
	return tx.Commit()
}

// stream sends rows as they come, so that a slow client occupies a connection.
func stream(w http.ResponseWriter, r *http.Request) {
	rows, err := tenantdb.DB(r.Context()).QueryContext(r.Context(),
		"SELECT repeat('x', 8000) FROM generate_series(1, $1)", int(number(r, "rows")))
	if err != nil {
		fail(w, r, err)
		return
	}
	defer rows.Close()
	for rows.Next() {
		var row string
		if rows.Scan(&row) != nil {
			return
		}
		if _, err := io.WriteString(w, row); err != nil {
			return
		}
	}
}

// number reads a parameter. The default is 1000.
func number(r *http.Request, name string) float64 {
	n, err := strconv.ParseFloat(r.URL.Query().Get(name), 64)
	if err != nil {
		return 1000
	}
	return n
}
