package tenantdb_test

import (
	"context"
	"database/sql"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
)

// tenantScopes are contexts of a product with two tenants.
type tenantScopes struct {
	own, again, detached  context.Context // acme's
	moved                 context.Context // acme's, in its database's next generation
	other                 context.Context // globex's
	nested                context.Context // globex's, entered within acme's
	signedIn, anonymous   context.Context // without a tenant
	mw                    *tenantdb.Middleware
	acmeTenant, globexRow *hostdb.TenantCatalog
}

// scopesOf returns contexts that live as long as the test.
func scopesOf(t *testing.T, w *world) tenantScopes {
	ann := w.user("ann")
	s := tenantScopes{
		acmeTenant: w.tenant("acme", ann), globexRow: w.tenant("globex", ann), mw: w.middleware(w.config()),
	}
	enter := func(ctx context.Context, tenant *hostdb.TenantCatalog) context.Context {
		inner, leave, err := s.mw.Enter(ctx, tenant.ID)
		must(t, err)
		t.Cleanup(leave)
		return inner
	}
	s.own, s.again, s.other = enter(t.Context(), s.acmeTenant), enter(t.Context(), s.acmeTenant),
		enter(t.Context(), s.globexRow)
	s.nested = enter(s.own, s.globexRow)
	scope, _ := tenantdb.FromContext(s.own)
	var done func()
	s.detached, done = scope.Detach()
	t.Cleanup(done)
	s.signedIn = duringRequest(t, s.mw.Authenticated, request("ann", ""))
	s.anonymous = duringRequest(t, func(next http.Handler) http.Handler {
		return s.mw.HandlerWith(tenantdb.Rules{AllowAnonymous: true}, next)
	}, request("", ""))
	w.pool.Retire(s.acmeTenant.ID)
	s.moved = enter(t.Context(), s.acmeTenant)
	return s
}

// duringRequest returns the context of a request whose handler returns when the test ends.
func duringRequest(t *testing.T, guard func(http.Handler) http.Handler, r *http.Request) context.Context {
	began, end, ended := make(chan context.Context, 1), make(chan struct{}), make(chan int)
	h := guard(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		began <- r.Context()
		<-end
	}))
	go func() { ended <- do(h, r).Code }()
	t.Cleanup(func() {
		close(end)
		<-ended
	})
	select {
	case ctx := <-began:
		return ctx
	case status := <-ended:
		close(ended)
		t.Fatalf("refused: %d", status)
		return nil
	}
}

// sqlUses are the ways in which a context reaches a tenant's database through database/sql. Each prepares
// what it needs in its own scope and returns a function that uses it with a context.
var sqlUses = map[string]func(t *testing.T, own context.Context, db *sql.DB) func(context.Context) error{
	"DB.Ping": func(_ *testing.T, _ context.Context, db *sql.DB) func(context.Context) error {
		return db.PingContext
	},
	"DB.Exec": func(_ *testing.T, _ context.Context, db *sql.DB) func(context.Context) error {
		return execOf(db)
	},
	"DB.Query": func(_ *testing.T, _ context.Context, db *sql.DB) func(context.Context) error {
		return queryOf(db)
	},
	"DB.BeginTx": func(_ *testing.T, _ context.Context, db *sql.DB) func(context.Context) error {
		return func(ctx context.Context) error {
			tx, err := db.BeginTx(ctx, nil)
			if err == nil {
				return tx.Rollback()
			}
			return err
		}
	},
	"DB.Conn": func(_ *testing.T, _ context.Context, db *sql.DB) func(context.Context) error {
		return func(ctx context.Context) error {
			conn, err := db.Conn(ctx)
			if err == nil {
				return conn.Close()
			}
			return err
		}
	},
	"DB.Prepare": func(_ *testing.T, _ context.Context, db *sql.DB) func(context.Context) error {
		return prepareOf(db)
	},
	"Stmt.Exec": func(t *testing.T, own context.Context, db *sql.DB) func(context.Context) error {
		return stmtExec(prepared(t, own, db, "UPDATE me SET name = name"))
	},
	"Stmt.Query": func(t *testing.T, own context.Context, db *sql.DB) func(context.Context) error {
		return stmtQuery(prepared(t, own, db, "SELECT name FROM me"))
	},
	"Conn.Ping": func(t *testing.T, own context.Context, db *sql.DB) func(context.Context) error {
		return connOf(t, own, db).PingContext
	},
	"Conn.Exec": func(t *testing.T, own context.Context, db *sql.DB) func(context.Context) error {
		return execOf(connOf(t, own, db))
	},
	"Conn.Query": func(t *testing.T, own context.Context, db *sql.DB) func(context.Context) error {
		return queryOf(connOf(t, own, db))
	},
	"Conn.Prepare": func(t *testing.T, own context.Context, db *sql.DB) func(context.Context) error {
		return prepareOf(connOf(t, own, db))
	},
	"Conn.BeginTx": func(t *testing.T, own context.Context, db *sql.DB) func(context.Context) error {
		conn := connOf(t, own, db)
		return func(ctx context.Context) error {
			tx, err := conn.BeginTx(ctx, nil)
			if err == nil {
				return tx.Rollback()
			}
			return err
		}
	},
	"a Stmt of a Conn": func(t *testing.T, own context.Context, db *sql.DB) func(context.Context) error {
		return stmtQuery(prepared(t, own, connOf(t, own, db), "SELECT name FROM me"))
	},
	"Tx.Exec": func(t *testing.T, own context.Context, db *sql.DB) func(context.Context) error {
		return execOf(txOf(t, own, db))
	},
	"Tx.Query": func(t *testing.T, own context.Context, db *sql.DB) func(context.Context) error {
		return queryOf(txOf(t, own, db))
	},
	"Tx.Prepare": func(t *testing.T, own context.Context, db *sql.DB) func(context.Context) error {
		return prepareOf(txOf(t, own, db))
	},
	"a Stmt of a Tx": func(t *testing.T, own context.Context, db *sql.DB) func(context.Context) error {
		return stmtExec(prepared(t, own, txOf(t, own, db), "UPDATE me SET name = name"))
	},
	"Tx.Stmt": func(t *testing.T, own context.Context, db *sql.DB) func(context.Context) error {
		stmt := prepared(t, own, db, "SELECT name FROM me")
		tx := txOf(t, own, db)
		return func(ctx context.Context) error { return stmtQuery(tx.StmtContext(ctx, stmt))(ctx) }
	},
}

// refusesOthers checks that a use serves the scopes of its own tenant, before and after it has refused those
// of others.
func refusesOthers(t *testing.T, s tenantScopes, use func(context.Context) error) {
	t.Helper()
	served := func() {
		t.Helper()
		for name, ctx := range map[string]context.Context{
			"its own scope": s.own, "another of its tenant": s.again,
			"a detached one": s.detached, "one of the next generation": s.moved, "no scope": t.Context(),
		} {
			if err := use(ctx); err != nil {
				t.Errorf("with the context of %s: %v", name, err)
			}
		}
	}
	served()
	for name, ctx := range map[string]context.Context{
		"another tenant's scope": s.other, "another tenant's within its own": s.nested,
		"a scope without a tenant": s.signedIn, "a visitor": s.anonymous,
	} {
		err := use(ctx)
		if !errors.Is(err, tenantdb.ErrWrongTenant) || tenantdb.StatusCode(err) != 500 ||
			!strings.Contains(err.Error(),
				"call tenantdb.DB(r.Context()), or ReadDB or PG, in each request instead of "+
					"keeping its result") {
			t.Errorf("with the context of %s: %v", name, err)
		}
	}
	served()
}

func TestDB_refusesTheContextOfAnotherTenant(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		s := scopesOf(t, w)
		for name, prepare := range sqlUses {
			t.Run(name, func(t *testing.T) {
				refusesOthers(t, s, prepare(t, s.own, tenantdb.DB(s.own)))
			})
		}
		t.Run("ReadDB", func(t *testing.T) {
			refusesOthers(t, s, queryOf(tenantdb.ReadDB(s.own)))
		})
		t.Run("Cached statements", func(t *testing.T) {
			stmt, err := tenantdb.Cached(s.own, "names", func(*tenantdb.Scope) (*sql.Stmt, func(), error) {
				stmt, err := tenantdb.DB(s.own).PrepareContext(s.own, "SELECT name FROM me")
				return stmt, func() { _ = stmt.Close() }, err
			})
			must(t, err)
			refusesOthers(t, s, stmtQuery(stmt))
		})
	})
}

// TestDB_keptHandleServesNoOtherTenant makes the usual mistake: a handle of the first request is kept.
func TestDB_keptHandleServesNoOtherTenant(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		w.tenant("acme", w.user("ann"))
		w.tenant("globex", w.user("bob"))
		cfg := w.config()
		var log strings.Builder
		cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
		var db *sql.DB
		h := w.middleware(cfg).Handler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if db == nil {
				db = tenantdb.DB(r.Context())
			}
			var name string
			if err := db.QueryRowContext(r.Context(), "SELECT name FROM me").Scan(&name); err != nil {
				tenantdb.WriteError(rw, r, err)
				return
			}
			_, _ = io.WriteString(rw, name)
		}))
		for range 2 {
			if rec := do(h, request("ann", "acme")); rec.Code != 200 || rec.Body.String() != "acme" {
				t.Errorf("ann: %d %s", rec.Code, rec.Body)
			}
			log.Reset()
			rec := do(h, request("bob", "globex"))
			if rec.Code != 500 || code(t, rec) != "internal" || strings.Contains(rec.Body.String(), "acme") {
				t.Errorf("bob: %d %s", rec.Code, rec.Body)
			}
			if !strings.Contains(log.String(), "call tenantdb.DB(r.Context())") {
				t.Errorf("the log doesn't say what to do: %s", &log)
			}
		}
	})
}

func TestPool_RequireScope_refusesQueriesWithoutARequest(t *testing.T) {
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) {
			w := newWorld(t, engine, tenantdb.PoolConfig{RequireScope: true})
			s := scopesOf(t, w)
			uses := map[string]func(context.Context) error{
				"DB": execOf(tenantdb.DB(s.own)), "ReadDB": queryOf(tenantdb.ReadDB(s.own)),
			}
			if engine == "postgres" {
				uses["PG"] = pgxQueries(tenantdb.PG(s.own))
			}
			for name, use := range uses {
				must(t, use(s.own))
				if err := use(s.other); !errors.Is(err, tenantdb.ErrWrongTenant) {
					t.Errorf("%s with another tenant's context = %v", name, err)
				}
				if err := use(t.Context()); !errors.Is(err, tenantdb.ErrNoScope) ||
					tenantdb.StatusCode(err) != 500 ||
					!strings.Contains(err.Error(), "give it the request's context") {
					t.Errorf("%s without a scope = %v", name, err)
				}
				must(t, use(s.own))
			}
			lease, err := w.pool.Lease(s.acmeTenant)
			must(t, err)
			defer lease.Release()
			must(t, queryOf(lease.DB())(t.Context()))
		})
	}
}
