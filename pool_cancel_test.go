package tenantdb_test

import (
	"context"
	"database/sql"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
)

// endless is a query that ends by its context only.
var endless = map[string]string{
	"postgres": "SELECT pg_sleep(60)",
	"sqlite":   "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) SELECT count(*) FROM n",
}

// sleepers are the ways to run a statement on PostgreSQL, each on one that ends by its context.
var sleepers = map[string]func(context.Context, *tenantdb.PGX) error{
	"PGX.Exec": func(ctx context.Context, p *tenantdb.PGX) error {
		_, err := p.Exec(ctx, endless["postgres"])
		return err
	},
	"PGX.Query": func(ctx context.Context, p *tenantdb.PGX) error {
		rows, err := p.Query(ctx, endless["postgres"])
		if err == nil {
			rows.Next()
			err = rows.Err()
		}
		return err
	},
	"PGX.QueryRow": func(ctx context.Context, p *tenantdb.PGX) error {
		return p.QueryRow(ctx, endless["postgres"]).Scan(new(string))
	},
	"PGX.SendBatch": func(ctx context.Context, p *tenantdb.PGX) error {
		batch := new(pgx.Batch)
		batch.Queue(endless["postgres"])
		return p.SendBatch(ctx, batch).Close()
	},
	"PGX.Begin": func(ctx context.Context, p *tenantdb.PGX) error {
		return pgx.BeginFunc(ctx, p, func(tx pgx.Tx) error { _, err := tx.Exec(ctx, endless["postgres"]); return err })
	},
	"a savepoint": func(ctx context.Context, p *tenantdb.PGX) error {
		return pgx.BeginFunc(ctx, p, func(tx pgx.Tx) error {
			return pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error { return tx.QueryRow(ctx, endless["postgres"]).Scan(new(string)) })
		})
	},
}

// TestACallersEndIsItsContextsError, not the word of the server that it was told to cancel the query, however
// the query was sent.
func TestACallersEndIsItsContextsError(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		acme := w.tenant("acme", w.user("ann"))
		ctx, leave, err := w.middleware(w.config()).Enter(t.Context(), acme.ID)
		must(t, err)
		defer leave()
		text := endless[w.engine]
		ways := map[string]func(context.Context) error{
			"Exec": func(ctx context.Context) error { _, err := tenantdb.DB(ctx).ExecContext(ctx, text); return err },
			"QueryRow": func(ctx context.Context) error {
				return tenantdb.DB(ctx).QueryRowContext(ctx, text).Scan(new(any))
			},
			"a statement": func(ctx context.Context) error {
				stmt, err := tenantdb.DB(ctx).PrepareContext(context.WithoutCancel(ctx), text)
				must(t, err)
				defer stmt.Close()
				return stmt.QueryRowContext(ctx).Scan(new(any))
			},
			"a transaction": func(ctx context.Context) error {
				tx, err := tenantdb.DB(ctx).BeginTx(ctx, nil)
				if err != nil {
					return err
				}
				defer func() { _ = tx.Rollback() }()
				return tx.QueryRowContext(ctx, text).Scan(new(any))
			},
		}
		if w.engine == "postgres" {
			for name, sleep := range sleepers {
				ways[name] = func(ctx context.Context) error { return sleep(ctx, tenantdb.PG(ctx)) }
			}
		}
		for name, way := range ways {
			canceled, cancel := context.WithCancel(ctx)
			time.AfterFunc(50*time.Millisecond, cancel)
			if err := way(canceled); !errors.Is(err, context.Canceled) {
				t.Errorf("%s, cancelled: %v", name, err)
			}
			late, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
			if err := way(late); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s, too late: %v", name, err)
			}
			cancel()
		}
	})
}

// TestAQueryThatItsClientLeftIsNoTrouble in the log, and what ends it is told from the server's own limits.
func TestAQueryThatItsClientLeftIsNoTrouble(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		w.tenant("acme", w.user("ann"))
		var log lines
		cfg := w.config()
		cfg.Logger = log.logger()
		began := make(chan struct{}, 1)
		h := w.middleware(cfg).Handler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			began <- struct{}{}
			tenantdb.WriteError(rw, r, tenantdb.DB(r.Context()).QueryRowContext(r.Context(), endless[w.engine]).Scan(new(any)))
		}))
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			<-began
			time.AfterFunc(20*time.Millisecond, cancel)
		}()
		rec := do(h, request("ann", "acme").WithContext(ctx))
		if got := log.take(t); len(got) != 1 || got[0]["level"] != "DEBUG" || rec.Header().Get("Retry-After") != "" {
			t.Errorf("%d, logged %v", rec.Code, got)
		}
		slow, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if rec := do(h, request("ann", "acme").WithContext(slow)); rec.Code != 503 || code(t, rec) != "tenant_unavailable" {
			t.Errorf("too late: %d %s", rec.Code, rec.Body)
		}
	})
}

// TestWhatPassesIsWorthAnotherTry, and what costs the same again isn't.
func TestWhatPassesIsWorthAnotherTry(t *testing.T) {
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
			_, err := tenantdb.PG(r.Context()).Exec(r.Context(), of.statement, pgx.QueryExecModeSimpleProtocol)
			tenantdb.WriteError(rw, r, err)
		}))
		rec := do(h, request("ann", "acme"))
		if rec.Code != of.status || code(t, rec) != of.code || (rec.Header().Get("Retry-After") != "") != of.retry {
			t.Errorf("%s: %d %s, Retry-After %q", name, rec.Code, rec.Body, rec.Header().Get("Retry-After"))
		}
	}
}

// TestWaitingForANotificationEndsWithItsContext, and the connection goes on.
func TestWaitingForANotificationEndsWithItsContext(t *testing.T) {
	w := newWorld(t, "postgres", tenantdb.PoolConfig{})
	acme := w.tenant("acme", w.user("ann"))
	ctx, leave, err := w.middleware(w.config()).Enter(t.Context(), acme.ID)
	must(t, err)
	defer leave()
	conn, err := tenantdb.PG(ctx).Acquire(ctx)
	must(t, err)
	defer conn.Release()
	_, err = conn.Conn().Exec(ctx, "LISTEN news")
	must(t, err)
	for range 5 { // each took two seconds
		short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		began := time.Now()
		_, err = conn.Conn().WaitForNotification(short)
		if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || took > 1500*time.Millisecond {
			t.Errorf("%v after %v", err, took)
		}
		cancel()
	}
	_, err = tenantdb.PG(ctx).Exec(ctx, "NOTIFY news, 'rain'")
	must(t, err)
	if n, err := conn.Conn().WaitForNotification(ctx); err != nil || n.Payload != "rain" {
		t.Errorf("%v, %v", n, err)
	}
}

// TestAServerThatHasBecomeAStandbyIsLeft: the connection reached it by a name that leads to the new primary
// by now.
func TestAServerThatHasBecomeAStandbyIsLeft(t *testing.T) {
	w := newWorld(t, "postgres", tenantdb.PoolConfig{})
	acme := w.tenant("acme", w.user("ann"))
	old := pgtest.Start(t)
	w.moveTo(acme, old, "")
	conn, err := pgx.Connect(t.Context(), old.URL("postgres"))
	must(t, err)
	var dir string
	must(t, conn.QueryRow(t.Context(), "SHOW data_directory").Scan(&dir))
	must(t, conn.Close(t.Context()))
	old.Stop()
	must(t, os.WriteFile(filepath.Join(dir, "standby.signal"), nil, 0o644))
	must(t, old.Start())
	process := 0
	h := w.middleware(w.config()).Handler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		must(t, tenantdb.DB(r.Context()).QueryRowContext(r.Context(), "SELECT pg_backend_pid()").Scan(&process))
		var err error
		if r.URL.Query().Has("tx") {
			err = insideTx(r.Context(), "INSERT INTO me VALUES ('x')")
		} else {
			_, err = tenantdb.PG(r.Context()).Exec(r.Context(), "INSERT INTO me VALUES ('x')")
		}
		tenantdb.WriteError(rw, r, err)
	}))
	seen := make(map[int]bool)
	for i := range 4 {
		r := request("ann", "acme")
		if i%2 == 1 {
			r.URL.RawQuery = "tx"
		}
		if rec := do(h, r); rec.Code != 503 || code(t, rec) != "tenant_unavailable" || seen[process] {
			t.Errorf("%d %s; connection met before: %v", rec.Code, rec.Body, seen[process])
		}
		seen[process] = true
	}
}

// insideTx runs a statement in a transaction of its own.
func insideTx(ctx context.Context, statement string) error {
	tx, err := tenantdb.DB(ctx).BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	_, err = tx.ExecContext(ctx, statement)
	return err
}

// TestWhatDriversSayOfAnEndIsKnown: a socket that was closed, and a transaction that database/sql ended with
// its context.
func TestWhatDriversSayOfAnEndIsKnown(t *testing.T) {
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
		{t.Context(), sql.ErrTxDone, "internal"}, // a mistake of the handler's
		{past, sql.ErrTxDone, "tenant_unavailable"},
		{gone, sql.ErrTxDone, "internal"},
		{past, &pgconn.PgError{Code: "57014"}, "tenant_unavailable"}, // by pgx's own connection
		{gone, &pgconn.PgError{Code: "57014"}, "internal"},
		{t.Context(), hostdb.ErrNotFound, "internal"},
	} {
		for name, write := range map[string]func(http.ResponseWriter, *http.Request, error){"WriteError": tenantdb.WriteError,
			"WriteProblem": tenantdb.WriteProblem} {
			rec := do(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { write(rw, r, of.err) }),
				request("", "").WithContext(of.ctx))
			if got := code(t, rec); got != of.code {
				t.Errorf("%s of %v with a context that ended by %v: %s, want %s", name, of.err, of.ctx.Err(), got, of.code)
			}
		}
	}
}
