package tenantdb_test

import (
	"context"
	"database/sql"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
)

// tenantScopes are contexts of a product with two tenants.
type tenantScopes struct {
	own, again, detached  context.Context // acme's
	moved                 context.Context // acme's, of its database's next generation
	other                 context.Context // globex's
	nested                context.Context // globex's, within acme's
	signedIn, anonymous   context.Context // without a tenant
	mw                    *tenantdb.Middleware
	acmeTenant, globexRow *hostdb.TenantCatalog
}

// scopesOf returns contexts that live as long as the test.
func scopesOf(t *testing.T, w *world) tenantScopes {
	ann := w.user("ann")
	s := tenantScopes{acmeTenant: w.tenant("acme", ann), globexRow: w.tenant("globex", ann), mw: w.middleware(w.config())}
	enter := func(ctx context.Context, tenant *hostdb.TenantCatalog) context.Context {
		inner, leave, err := s.mw.Enter(ctx, tenant.ID)
		must(t, err)
		t.Cleanup(leave)
		return inner
	}
	s.own, s.again, s.other = enter(t.Context(), s.acmeTenant), enter(t.Context(), s.acmeTenant), enter(t.Context(), s.globexRow)
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

// sqlUses are the ways by which a context reaches a tenant's database through database/sql. Each prepares
// what it needs in its own scope and returns what uses it with a context.
var sqlUses = map[string]func(t *testing.T, own context.Context, db *sql.DB) func(context.Context) error{
	"DB.Ping": func(_ *testing.T, _ context.Context, db *sql.DB) func(context.Context) error { return db.PingContext },
	"DB.Exec": func(_ *testing.T, _ context.Context, db *sql.DB) func(context.Context) error {
		return execOf(db)
	},
	"DB.Query": func(_ *testing.T, _ context.Context, db *sql.DB) func(context.Context) error { return queryOf(db) },
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
	"DB.Prepare": func(_ *testing.T, _ context.Context, db *sql.DB) func(context.Context) error { return prepareOf(db) },
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

// user is what *sql.DB, *sql.Conn and *sql.Tx have in common.
type user interface {
	ExecContext(context.Context, string, ...any) (sql.Result, error)
	QueryContext(context.Context, string, ...any) (*sql.Rows, error)
	PrepareContext(context.Context, string) (*sql.Stmt, error)
}

func execOf(u user) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := u.ExecContext(ctx, "UPDATE me SET name = name")
		return err
	}
}

func queryOf(u user) func(context.Context) error {
	return func(ctx context.Context) error { return readAll(u.QueryContext(ctx, "SELECT name FROM me")) }
}

func prepareOf(u user) func(context.Context) error {
	return func(ctx context.Context) error {
		stmt, err := u.PrepareContext(ctx, "SELECT 1")
		if err == nil {
			return stmt.Close()
		}
		return err
	}
}

func prepared(t *testing.T, own context.Context, u user, query string) *sql.Stmt {
	stmt, err := u.PrepareContext(own, query)
	must(t, err)
	t.Cleanup(func() { must(t, stmt.Close()) })
	return stmt
}

func stmtExec(stmt *sql.Stmt) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := stmt.ExecContext(ctx)
		return err
	}
}

func stmtQuery(stmt *sql.Stmt) func(context.Context) error {
	return func(ctx context.Context) error { return readAll(stmt.QueryContext(ctx)) }
}

func connOf(t *testing.T, own context.Context, db *sql.DB) *sql.Conn {
	conn, err := db.Conn(own)
	must(t, err)
	t.Cleanup(func() { must(t, conn.Close()) })
	return conn
}

func txOf(t *testing.T, own context.Context, db *sql.DB) *sql.Tx {
	tx, err := db.BeginTx(own, nil)
	must(t, err)
	t.Cleanup(func() { must(t, tx.Rollback()) })
	return tx
}

func readAll(rows *sql.Rows, err error) error {
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return err
		}
		if name != "acme" && name != "1" {
			return errors.New("read " + name)
		}
	}
	return rows.Err()
}

// refusesOthers checks that a use serves the tenant's own scopes before and after it has refused those of
// others.
func refusesOthers(t *testing.T, s tenantScopes, use func(context.Context) error) {
	t.Helper()
	served := func() {
		t.Helper()
		for name, ctx := range map[string]context.Context{"its own scope": s.own, "another of its tenant": s.again,
			"a detached one": s.detached, "one of the next generation": s.moved, "no scope": t.Context()} {
			if err := use(ctx); err != nil {
				t.Errorf("with the context of %s: %v", name, err)
			}
		}
	}
	served()
	for name, ctx := range map[string]context.Context{"another tenant's scope": s.other, "another tenant's within its own": s.nested,
		"a scope without a tenant": s.signedIn, "a visitor": s.anonymous} {
		err := use(ctx)
		if !errors.Is(err, tenantdb.ErrWrongTenant) || tenantdb.StatusCode(err) != 500 ||
			!strings.Contains(err.Error(), "call tenantdb.DB(r.Context()), or ReadDB or PG, in each request instead of keeping its result") {
			t.Errorf("with the context of %s: %v", name, err)
		}
	}
	served()
}

func TestAHandleRefusesTheContextOfAnotherTenant(t *testing.T) {
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

// pgxUses are those through PGX.
var pgxUses = map[string]func(t *testing.T, own context.Context, pg *tenantdb.PGX) func(context.Context) error{
	"PGX": func(_ *testing.T, _ context.Context, pg *tenantdb.PGX) func(context.Context) error {
		return all(func(ctx context.Context) error {
			c, err := pg.Acquire(ctx)
			if err == nil {
				c.Release()
			}
			return err
		}, func(ctx context.Context) error {
			tx, err := pg.Begin(ctx)
			if err == nil {
				return tx.Rollback(ctx)
			}
			return err
		}, pgxQueries(pg))
	},
	"Conn": func(t *testing.T, own context.Context, pg *tenantdb.PGX) func(context.Context) error {
		c, err := pg.Acquire(own)
		must(t, err)
		t.Cleanup(c.Release)
		return all(pgxQueries(c.Conn()), func(ctx context.Context) error {
			_, err := c.Conn().Prepare(ctx, "", "SELECT 1")
			return err
		})
	},
	"Tx": func(t *testing.T, own context.Context, pg *tenantdb.PGX) func(context.Context) error {
		tx, err := pg.Begin(own)
		must(t, err)
		t.Cleanup(func() { must(t, tx.Rollback(own)) })
		return all(pgxQueries(tx), func(ctx context.Context) error {
			_, err := tx.Prepare(ctx, "", "SELECT 1")
			return err
		}, func(ctx context.Context) error {
			nested, err := tx.Begin(ctx)
			if err == nil {
				return nested.Commit(ctx)
			}
			return err
		}, func(ctx context.Context) error {
			objects := tx.LargeObjects()
			_, err := objects.Create(ctx, 0)
			return err
		})
	},
	"a transaction in another": func(t *testing.T, own context.Context, pg *tenantdb.PGX) func(context.Context) error {
		tx, err := pg.Begin(own)
		must(t, err)
		t.Cleanup(func() { must(t, tx.Rollback(own)) })
		nested, err := tx.Begin(own)
		must(t, err)
		return pgxQueries(nested)
	},
	"sql.Conn.Raw": func(t *testing.T, own context.Context, pg *tenantdb.PGX) func(context.Context) error {
		conn := connOf(t, own, tenantdb.DB(own))
		return func(ctx context.Context) error {
			return conn.Raw(func(driverConn any) error {
				return pgxQueries(driverConn.(interface{ Conn() *pgx.Conn }).Conn())(ctx)
			})
		}
	},
}

// pgxQueries uses what a PGX, a connection and a transaction have in common.
func pgxQueries(q interface {
	Exec(context.Context, string, ...any) (pgconn.CommandTag, error)
	Query(context.Context, string, ...any) (pgx.Rows, error)
	QueryRow(context.Context, string, ...any) pgx.Row
	SendBatch(context.Context, *pgx.Batch) pgx.BatchResults
	CopyFrom(context.Context, pgx.Identifier, []string, pgx.CopyFromSource) (int64, error)
}) func(context.Context) error {
	return all(func(ctx context.Context) error {
		_, err := q.Exec(ctx, "UPDATE me SET name = name")
		return err
	}, func(ctx context.Context) error {
		rows, err := q.Query(ctx, "SELECT name FROM me")
		if err == nil {
			rows.Close()
			err = rows.Err()
		}
		return err
	}, func(ctx context.Context) error {
		var name string
		return q.QueryRow(ctx, "SELECT name FROM me").Scan(&name)
	}, func(ctx context.Context) error {
		batch := new(pgx.Batch)
		batch.Queue("SELECT 1")
		batch.Queue("SELECT 2")
		return q.SendBatch(ctx, batch).Close()
	}, func(ctx context.Context) error {
		_, err := q.CopyFrom(ctx, pgx.Identifier{"me"}, []string{"name"}, pgx.CopyFromRows(nil))
		return err
	})
}

// all does several things with a context, which must all fail for the same reason, or none.
func all(uses ...func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		var first error
		for i, use := range uses {
			err := use(ctx)
			if i == 0 {
				first = err
			} else if errors.Is(err, tenantdb.ErrWrongTenant) != errors.Is(first, tenantdb.ErrWrongTenant) || (err == nil) != (first == nil) {
				return errors.New("the uses differ: " + errors.Join(first, errors.New("and"), err).Error())
			}
		}
		return first
	}
}

func TestPGXRefusesTheContextOfAnotherTenant(t *testing.T) {
	w := newWorld(t, "postgres", tenantdb.PoolConfig{})
	s := scopesOf(t, w)
	for name, prepare := range pgxUses {
		t.Run(name, func(t *testing.T) {
			refusesOthers(t, s, prepare(t, s.own, tenantdb.PG(s.own)))
		})
	}
	tx, err := tenantdb.PG(s.own).Begin(s.own)
	must(t, err)
	_, err = tx.Exec(s.own, "UPDATE me SET name = 'changed'")
	must(t, err)
	if err := tx.Commit(s.other); !errors.Is(err, tenantdb.ErrWrongTenant) {
		t.Errorf("a commit with another tenant's context = %v", err)
	}
	if name := ask[string](t, s.own, "SELECT name FROM me"); name != "acme" {
		t.Errorf("it was committed: %s", name)
	}
}

// TestAHandleThatIsKeptAnswersNoOtherTenant is the usual mistake: a handle is kept from the first request.
func TestAHandleThatIsKeptAnswersNoOtherTenant(t *testing.T) {
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

// TestALeaseServesAnyContext, as that of a sign-up which provisions a tenant, or of an operator's request.
func TestALeaseServesAnyContext(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		s := scopesOf(t, w)
		lease, err := w.pool.Lease(s.acmeTenant)
		must(t, err)
		defer lease.Release()
		session := lease.Session()
		for _, ctx := range []context.Context{s.own, s.other, s.signedIn, s.anonymous, t.Context()} {
			for _, db := range []*sql.DB{lease.DB(), lease.ReadDB(), session} {
				must(t, readAll(db.QueryContext(ctx, "SELECT name FROM me")))
			}
			must(t, session.Close())
			session = lease.Session()
			if pg := lease.PG(); pg != nil {
				must(t, pgxQueries(pg)(ctx))
			}
		}
		must(t, session.Close())
	})
}

func TestRequireScopeRefusesQueriesWithoutARequest(t *testing.T) {
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) {
			w := newWorld(t, engine, tenantdb.PoolConfig{RequireScope: true})
			s := scopesOf(t, w)
			uses := map[string]func(context.Context) error{"DB": execOf(tenantdb.DB(s.own)), "ReadDB": queryOf(tenantdb.ReadDB(s.own))}
			if engine == "postgres" {
				uses["PG"] = pgxQueries(tenantdb.PG(s.own))
			}
			for name, use := range uses {
				must(t, use(s.own))
				if err := use(s.other); !errors.Is(err, tenantdb.ErrWrongTenant) {
					t.Errorf("%s with another tenant's context = %v", name, err)
				}
				if err := use(t.Context()); !errors.Is(err, tenantdb.ErrNoScope) || tenantdb.StatusCode(err) != 500 ||
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

func TestAPoolServesOneHostDatabase(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		w.middleware(w.config())
		w.middleware(w.config()) // of the same
		again, err := hostdb.Open(t.Context(), w.host.URI())
		must(t, err)
		defer again.Close()
		other, err := hostdb.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "other.db"))
		must(t, err)
		defer other.Close()
		cfg := w.config()
		cfg.Host = again
		w.middleware(cfg)
		cfg.Host = other
		if mw, err := tenantdb.New(cfg); err == nil || !strings.Contains(err.Error(), "make a Pool for each host database") {
			t.Errorf("New for another host database on the pool = %v, %v", mw, err)
		}
		cfg.Pool = nil
		w.middleware(cfg)
	})
	memory := func() *hostdb.DB {
		db, err := hostdb.Open(t.Context(), "sqlite::memory:")
		must(t, err)
		t.Cleanup(func() { _ = db.Close() })
		return db
	}
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	cfg := w.config()
	cfg.Pool, cfg.Host = nil, memory()
	pool, err := tenantdb.NewPool(tenantdb.PoolConfig{})
	must(t, err)
	cfg.Pool = pool
	w.middleware(cfg)
	cfg.Host = memory()
	if mw, err := tenantdb.New(cfg); err == nil {
		t.Errorf("New for another host database in memory = %v", mw)
	}
}

// TestTwoPoolsOfOneHostShareTheirTenants, as where each Middleware makes a Pool of its own, and those of two
// hosts don't, though one began as a copy of the other.
func TestTwoPoolsOfOneHostShareTheirTenants(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	acme := w.tenant("acme", w.user("ann"))
	first := w.middleware(w.config())
	enter := func(host *hostdb.DB) context.Context {
		pool, err := tenantdb.NewPool(tenantdb.PoolConfig{SQLiteDir: t.TempDir()})
		must(t, err)
		t.Cleanup(func() { _ = pool.Close(context.Background()) })
		cfg := w.config()
		cfg.Host, cfg.Pool = host, pool
		ctx, leave, err := w.middleware(cfg).Enter(t.Context(), acme.ID)
		must(t, err)
		t.Cleanup(leave)
		return ctx
	}
	ctx, leave, err := first.Enter(t.Context(), acme.ID)
	must(t, err)
	defer leave()
	use := queryOf(tenantdb.DB(ctx))
	must(t, use(enter(w.host)))
	copied, err := hostdb.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "copy.db"))
	must(t, err)
	defer copied.Close()
	row := *acme
	must(t, copied.Tenants.Insert(t.Context(), &row))
	if err := use(enter(copied)); !errors.Is(err, tenantdb.ErrWrongTenant) {
		t.Errorf("with the context of a copy's tenant of the same id: %v", err)
	}
}
