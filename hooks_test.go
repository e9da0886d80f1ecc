package tenantdb_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
)

// onServer returns a tenant with a database of its own on the shared server. No fleet knows it.
func onServer(t testing.TB) *hostdb.TenantCatalog {
	return &hostdb.TenantCatalog{ID: hostdb.NewID(), DBURL: hostdb.Secret(pgtest.Database(t))}
}

// pgOf returns a tenant's database until the test ends.
func pgOf(t *testing.T, pool *tenantdb.Pool, tenant *hostdb.TenantCatalog) *tenantdb.PGX {
	t.Helper()
	lease, err := pool.Lease(tenant)
	must(t, err)
	t.Cleanup(lease.Release)
	return lease.PG()
}

// valueOf returns the single value of a query.
func valueOf[T any](t *testing.T, pg *tenantdb.PGX, query string, args ...any) (v T) {
	t.Helper()
	must(t, pg.QueryRow(t.Context(), query, args...).Scan(&v))
	return v
}

// refusedBy checks that an error is the refusal of a tenant whose hook failed, and says why.
func refusedBy(t *testing.T, err error, hook, why string) {
	t.Helper()
	if err == nil || !errors.Is(err, tenantdb.ErrTenantUnavailable) || errors.Is(err, context.Canceled) ||
		tenantdb.StatusCode(err) != 503 ||
		!strings.Contains(err.Error(), "PoolConfig."+hook) || !strings.Contains(err.Error(), why) {
		t.Errorf("%v, want the refusal by PoolConfig.%s because of %q", err, hook, why)
	}
}

// TestAfterConnect_registersTypesOfEachDatabase: an enum has another OID in each database. pgx can't send or
// read an array of it before it is registered.
func TestAfterConnect_registersTypesOfEachDatabase(t *testing.T) {
	var oids sync.Map
	pool := faultPool(t, tenantdb.PoolConfig{
		AfterConnect: func(ctx context.Context, tenantID string, conn *pgx.Conn) error {
			types, err := conn.LoadTypes(ctx, []string{"mood", "_mood"})
			if err != nil {
				return err
			}
			oids.Store(tenantID, types[0].OID)
			conn.TypeMap().RegisterTypes(types)
			return nil
		},
	})
	seen := make(map[any]bool)
	for range 3 {
		tenant := onServer(t)
		conn, err := pgx.Connect(t.Context(), tenant.DBURL.Reveal())
		must(t, err)
		_, err = conn.Exec(t.Context(),
			"CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TABLE it (moods mood[])")
		must(t, err)
		must(t, conn.Close(t.Context()))
		pg := pgOf(t, pool, tenant)
		for range 2 { // the second time after a reset
			want := []string{"ok", "sad"}
			got := valueOf[[]string](t, pg, "INSERT INTO it VALUES ($1) RETURNING moods", want)
			n, err := pg.CopyFrom(t.Context(), pgx.Identifier{"it"}, []string{"moods"},
				pgx.CopyFromRows([][]any{{want}}))
			if err != nil || n != 1 || fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("read %v, copied %d, %v", got, n, err)
			}
			_, err = pg.Exec(t.Context(), "SET work_mem = '3MB'")
			must(t, err)
		}
		oid, _ := oids.Load(tenant.ID)
		if oid != valueOf[uint32](t, pg, "SELECT 'mood'::regtype::oid") || seen[oid] {
			t.Errorf("OID %v, of %v", oid, seen)
		}
		seen[oid] = true
	}
}

// TestAfterConnect_stateHoldsForEachBorrower lets borrowers change the session in many ways. The next one
// finds it as the hook sets it.
func TestAfterConnect_stateHoldsForEachBorrower(t *testing.T) {
	var on atomic.Bool
	setMark := "SELECT set_config('x.mark', $1, false)"
	ctx := oneConn(t, tenantdb.PoolConfig{
		AfterConnect: func(ctx context.Context, _ string, conn *pgx.Conn) error {
			if !on.Load() { // while the tenant is provisioned, its role is no member yet
				return nil
			}
			_, err := conn.Exec(ctx, "SET search_path = pg_temp, public; SET work_mem = '7MB'; "+
				"SET ROLE pg_read_all_data")
			if err == nil {
				_, err = conn.Exec(ctx, setMark, "hook")
			}
			return err
		},
	})
	on.Store(true)
	state := func() (s string) {
		t.Helper()
		must(t, tenantdb.PG(ctx).QueryRow(ctx, sessionState).Scan(&s))
		return s
	}
	renew := func() {
		t.Helper()
		_, err := tenantdb.PG(ctx).Exec(ctx, "LISTEN ears") // such a connection is closed
		must(t, err)
	}
	renew()
	fresh := state()
	for _, part := range []string{"x.mark=hook", "user pg_read_all_data", "work_mem=7168"} {
		if !strings.Contains(fresh, part) {
			t.Fatalf("a new session lacks %s:\n%s", part, fresh)
		}
	}
	changes := append([]string{
		"RESET ALL", "SET ROLE none", "SET search_path = public", "SET work_mem TO DEFAULT",
		"RESET SESSION AUTHORIZATION", "SET SESSION AUTHORIZATION DEFAULT; RESET ALL", "RESET search_path",
		"BEGIN; RESET ALL; COMMIT", "SELECT set_config('role', 'none', false)",
	}, sessionChanges...)
	random := rand.New(rand.NewPCG(1, 2))
	for round := range 120 {
		var sent []string
		for step := range 1 + random.IntN(3) {
			i := random.IntN(len(changes))
			if step == 0 {
				i = round % len(changes)
			}
			text, how := spellAll(changes[i], byte(random.IntN(8))), random.IntN(len(sendings))
			sendings[how](ctx, text)
			sent = append(sent, fmt.Sprintf("%d: %s", how, text))
		}
		if got := state(); got != fresh {
			t.Errorf("after %s:\n%s\nfresh:\n%s", strings.Join(sent, " | "), difference(got, fresh),
				difference(fresh, got))
		}
		if round%5 == 0 {
			renew()
		}
	}
	for range 2 { // the hook's own statement with another value, prepared and run again
		_, err := tenantdb.PG(ctx).Exec(ctx, setMark, "left")
		must(t, err)
		if got := state(); got != fresh {
			t.Errorf("after the hook's own statement: %s", difference(got, fresh))
		}
	}
}

// TestAfterConnect_stateHoldsForOtherUsers: a superuser may become anybody.
func TestAfterConnect_stateHoldsForOtherUsers(t *testing.T) {
	pool := faultPool(t, tenantdb.PoolConfig{MaxConns: 1, ResetAlways: true,
		AfterConnect: func(ctx context.Context, _ string, conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, "SET SESSION AUTHORIZATION pg_monitor; SET search_path = hooked")
			return err
		},
	})
	pg := pgOf(t, pool, onServer(t))
	for _, text := range []string{"SELECT 1", "RESET ALL", "SET SESSION AUTHORIZATION DEFAULT",
		"RESET SESSION AUTHORIZATION", "RESET SESSION AUTHORIZATION; SET ROLE pg_read_all_data",
		"DISCARD ALL"} {
		_, err := pg.Exec(t.Context(), text)
		must(t, err)
		got := valueOf[string](t, pg, "SELECT session_user || current_user || current_setting('search_path')")
		if got != "pg_monitorpg_monitorhooked" {
			t.Errorf("after %s: %s", text, got)
		}
	}
}

// TestHooks_failureIsItsTenants: hooks that fail, panic or hang. The tenant is refused within ConnectTimeout.
// Others are served meanwhile and afterwards, with the whole budget. Nothing is left on the server.
func TestHooks_failureIsItsTenants(t *testing.T) {
	const timeout = 2 * time.Second
	for fault, c := range map[string]struct {
		why string
		do  func(ctx context.Context, repaired <-chan struct{}) error
	}{
		"error": {"sealed", func(context.Context, <-chan struct{}) error {
			return errors.New("the vault is sealed")
		}},
		"canceled": {"canceled", func(context.Context, <-chan struct{}) error { return context.Canceled }},
		"overdue": {"deadline", func(context.Context, <-chan struct{}) error {
			return &net.OpError{Op: "dial", Err: context.DeadlineExceeded}
		}},
		"panic": {"panicked", func(context.Context, <-chan struct{}) error { panic("no vault") }},
		"exit":  {"goroutine", func(context.Context, <-chan struct{}) error { runtime.Goexit(); return nil }},
		"hang until the context ends": {"", func(ctx context.Context, _ <-chan struct{}) error {
			<-ctx.Done()
			return ctx.Err()
		}},
		"hang": {"in time", func(_ context.Context, repaired <-chan struct{}) error {
			<-repaired
			return nil
		}},
	} {
		for _, hook := range []string{"BeforeConnect", "AfterConnect"} {
			t.Run(hook+" "+fault, func(t *testing.T) {
				bad, good := onServer(t), onServer(t)
				var broken atomic.Bool
				broken.Store(true)
				repaired := make(chan struct{})
				do := func(ctx context.Context, tenantID string) error {
					if tenantID != bad.ID || !broken.Load() {
						return nil
					}
					return c.do(ctx, repaired)
				}
				cfg := tenantdb.PoolConfig{MaxConns: 2, MaxConnsPerTenant: 2, ConnectTimeout: timeout}
				if hook == "BeforeConnect" {
					cfg.BeforeConnect = func(ctx context.Context, id string, _ *pgx.ConnConfig) error {
						return do(ctx, id)
					}
				} else {
					cfg.AfterConnect = func(ctx context.Context, id string, _ *pgx.Conn) error {
						return do(ctx, id)
					}
				}
				pool := faultPool(t, cfg)
				pg := pgOf(t, pool, good)
				must(t, query(t.Context(), pool, good))
				before := runtime.NumGoroutine()
				refused := make(chan error)
				began := time.Now()
				go func() { refused <- query(context.Background(), pool, bad) }()
				var err error
				for waiting := true; waiting; {
					must(t, query(t.Context(), pool, good))
					select {
					case err = <-refused:
						waiting = false
					default:
					}
				}
				refusedBy(t, err, hook, c.why)
				if took := time.Since(began); took > timeout+2*time.Second {
					t.Errorf("it took %v", took)
				}
				refusedBy(t, query(t.Context(), pool, bad), hook, "")
				// One failure more than opens a server's breaker.
				for fault == "overdue" && pool.Stats().Servers[0].OpenFailures < 6 {
					refusedBy(t, query(t.Context(), pool, bad), hook, "")
				}
				if breaker := pool.Stats().Servers[0].Breaker; breaker != "closed" {
					t.Errorf("the server's breaker is %s", breaker)
				}
				for range 2 { // all places are free
					conn, err := pg.Acquire(t.Context())
					must(t, err)
					defer conn.Release()
				}
				u, err := url.Parse(bad.DBURL.Reveal())
				must(t, err)
				watch := pgOf(t, faultPool(t, tenantdb.PoolConfig{}), good)
				if n := valueOf[int](t, watch, "SELECT count(*) FROM pg_stat_activity WHERE datname = $1",
					strings.TrimPrefix(u.Path, "/")); n != 0 {
					t.Errorf("%d connections are left", n)
				}
				broken.Store(false)
				close(repaired)
				eventually(t, func() bool { return runtime.NumGoroutine() <= before+20 })
			})
		}
	}
}

// TestHooks_hungCallsOfATenantAreFew: a tenant whose hook hangs is tried again, and its hook isn't called.
// Once the hook has returned, the tenant is served.
func TestHooks_hungCallsOfATenantAreFew(t *testing.T) {
	var calls atomic.Int32
	repaired := make(chan struct{})
	pool := faultPool(t, tenantdb.PoolConfig{ConnectTimeout: 100 * time.Millisecond,
		BeforeConnect: func(context.Context, string, *pgx.ConnConfig) error {
			calls.Add(1)
			<-repaired
			return nil
		},
	})
	tenant := onServer(t)
	eventually(t, func() bool {
		err := query(t.Context(), pool, tenant)
		return err != nil && strings.Contains(err.Error(), "an earlier call")
	})
	if n := calls.Load(); n != 1 {
		t.Errorf("%d calls", n)
	}
	close(repaired)
	eventually(t, func() bool { return query(t.Context(), pool, tenant) == nil })
}

// TestAfterConnect_hungQueryIsEnded: the hook doesn't heed its context, and the server is at work for it.
func TestAfterConnect_hungQueryIsEnded(t *testing.T) {
	ended := make(chan error, 1)
	pool := faultPool(t, tenantdb.PoolConfig{ConnectTimeout: time.Second,
		AfterConnect: func(_ context.Context, _ string, conn *pgx.Conn) error {
			_, err := conn.Exec(context.Background(), "SELECT pg_sleep(60)")
			ended <- err
			return err
		},
	})
	refusedBy(t, query(t.Context(), pool, onServer(t)), "AfterConnect", "in time")
	if <-ended == nil {
		t.Error("the query went on")
	}
	must(t, query(t.Context(), faultPool(t, tenantdb.PoolConfig{}), onServer(t)))
}

// TestAfterConnect_isCalledAgainOnlyAfterAReset: what the hook itself sets needs none.
func TestAfterConnect_isCalledAgainOnlyAfterAReset(t *testing.T) {
	var calls atomic.Int32
	pool := faultPool(t, tenantdb.PoolConfig{
		AfterConnect: func(ctx context.Context, _ string, conn *pgx.Conn) error {
			calls.Add(1)
			_, err := conn.Exec(ctx, "SELECT set_config('x.mark', $1, false)", "hook")
			return err
		},
	})
	pg := pgOf(t, pool, onServer(t))
	for _, step := range []struct {
		text  string
		calls int32
	}{{"SELECT 1", 1}, {"SELECT 1", 1}, {"SET x.mark = 'left'", 2}, {"SELECT 1", 2}, {"RESET x.mark", 3}} {
		if _, err := pg.Exec(t.Context(), step.text); err != nil || calls.Load() != step.calls {
			t.Errorf("after %s: %d calls, want %d; %v", step.text, calls.Load(), step.calls, err)
		}
	}
}

// TestAfterConnect_findsTheTypesOfANewTenant: the hook finds none in a database that hasn't been migrated,
// and the tenant's first request has them.
func TestAfterConnect_findsTheTypesOfANewTenant(t *testing.T) {
	w := newWorld(t, "postgres", tenantdb.PoolConfig{
		AfterConnect: func(ctx context.Context, _ string, conn *pgx.Conn) error {
			types, err := conn.LoadTypes(ctx, []string{"_me"})
			var refused *pgconn.PgError
			if errors.As(err, &refused) && refused.Code == "42704" {
				return nil
			}
			conn.TypeMap().RegisterTypes(types)
			return err
		},
	})
	acme := w.tenant("acme", w.user("ann"))
	got := valueOf[[]struct{ Name string }](t, pgOf(t, w.pool, acme), "SELECT array_agg(me) FROM me")
	if len(got) != 1 || got[0].Name != "acme" {
		t.Error(got)
	}
}

// TestAfterConnect_hungInAResetClosesTheConnection.
func TestAfterConnect_hungInAResetClosesTheConnection(t *testing.T) {
	var calls atomic.Int32
	repaired := make(chan struct{})
	pool := faultPool(t, tenantdb.PoolConfig{MaxConns: 1, ConnectTimeout: time.Second,
		AfterConnect: func(context.Context, string, *pgx.Conn) error {
			if calls.Add(1) == 2 {
				<-repaired
			}
			return nil
		},
	})
	bad, good := onServer(t), onServer(t)
	pg := pgOf(t, pool, bad)
	_, err := pg.Exec(t.Context(), "SET work_mem = '3MB'")
	must(t, err)
	must(t, query(t.Context(), pool, good))
	_, err = pg.Exec(t.Context(), "SELECT 1")
	refusedBy(t, err, "AfterConnect", "an earlier call")
	close(repaired)
	eventually(t, func() bool { return query(t.Context(), pool, bad) == nil })
}

// TestAfterConnect_leavesTheConnectionReady refuses a hook that doesn't.
func TestAfterConnect_leavesTheConnectionReady(t *testing.T) {
	for name, hook := range map[string]func(context.Context, *pgx.Conn) error{
		"a transaction": func(ctx context.Context, conn *pgx.Conn) error {
			_, err := conn.Begin(ctx)
			return err
		},
		"rows": func(ctx context.Context, conn *pgx.Conn) error {
			_, err := conn.Query(ctx, "SELECT 1")
			return err
		},
		"nothing": func(ctx context.Context, conn *pgx.Conn) error { return conn.Close(ctx) },
	} {
		t.Run(name, func(t *testing.T) {
			pool := faultPool(t, tenantdb.PoolConfig{
				AfterConnect: func(ctx context.Context, _ string, conn *pgx.Conn) error {
					return hook(ctx, conn)
				},
			})
			refusedBy(t, query(t.Context(), pool, onServer(t)), "AfterConnect", "left a transaction open")
		})
	}
}

// TestBeforeConnect_mayNotLeadElsewhere.
func TestBeforeConnect_mayNotLeadElsewhere(t *testing.T) {
	other, err := pgx.ParseConfig(pgtest.Database(t))
	must(t, err)
	tenant := onServer(t)
	for field, change := range map[string]func(*pgx.ConnConfig){
		"Host":      func(c *pgx.ConnConfig) { c.Host = "localhost" },
		"Port":      func(c *pgx.ConnConfig) { c.Port++ },
		"Database":  func(c *pgx.ConnConfig) { c.Database = other.Database },
		"Database:": func(c *pgx.ConnConfig) { *c = *other },
		`RuntimeParams["database"]`: func(c *pgx.ConnConfig) {
			c.RuntimeParams["database"] = other.Database
		},
		"Fallbacks": func(c *pgx.ConnConfig) {
			c.Fallbacks = append(c.Fallbacks, &pgconn.FallbackConfig{Host: "localhost", Port: c.Port})
		},
		"BuildFrontend": func(c *pgx.ConnConfig) {
			c.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
				return pgproto3.NewFrontend(r, w)
			}
		},
		"BuildContextWatcherHandler": func(c *pgx.ConnConfig) {
			c.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler { return nil }
		},
		"AfterNetConnect": func(c *pgx.ConnConfig) {
			c.AfterNetConnect = func(_ context.Context, _ *pgconn.Config, n net.Conn) (net.Conn, error) {
				return n, nil
			}
		},
		"PoolConfig.AfterConnect": func(c *pgx.ConnConfig) {
			c.Config.AfterConnect = func(context.Context, *pgconn.PgConn) error { return nil }
		},
		"OnPgError": func(c *pgx.ConnConfig) { c.OnPgError = nil },
	} {
		pool := faultPool(t, tenantdb.PoolConfig{
			BeforeConnect: func(_ context.Context, _ string, c *pgx.ConnConfig) error {
				change(c)
				return nil
			},
		})
		err := query(t.Context(), pool, tenant)
		refusedBy(t, err, "BeforeConnect", strings.TrimSuffix(field, ":"))
		if err != nil && other.Password != "" && strings.Contains(err.Error(), other.Password) {
			t.Errorf("the error shows a password: %v", err)
		}
	}
}

// TestBeforeConnect_userIsNotTheDatabase: a db_url without a database names that of its user, whom the hook
// may change.
func TestBeforeConnect_userIsNotTheDatabase(t *testing.T) {
	tenant := onServer(t)
	u, err := url.Parse(tenant.DBURL.Reveal())
	must(t, err)
	user := role(t, "SUPERUSER PASSWORD 'first'")
	database := u.User.Username()
	u.Path = ""
	tenant.DBURL = hostdb.Secret(u.String())
	pool := faultPool(t, tenantdb.PoolConfig{
		BeforeConnect: func(_ context.Context, _ string, c *pgx.ConnConfig) error {
			c.User, c.Password = user, "first"
			return nil
		},
	})
	lease, err := pool.Lease(tenant)
	must(t, err)
	defer lease.Release()
	var who, where string
	err = lease.PG().QueryRow(t.Context(), "SELECT current_user, current_database()").Scan(&who, &where)
	if err != nil && !strings.Contains(err.Error(), `database "`+database+`" does not exist`) ||
		err == nil && (who != user || where != database) {
		t.Errorf("%s in %s, %v", who, where, err)
	}
}

// TestBeforeConnect_setsWhatAConnectionHas: its changes count for each of several hosts, and it is called
// once for an attempt at all of them.
func TestBeforeConnect_setsWhatAConnectionHas(t *testing.T) {
	for name, hosts := range map[string]func(string) string{
		"one host": func(host string) string { return host },
		"several":  func(host string) string { return "127.0.0.1:1," + host },
	} {
		t.Run(name, func(t *testing.T) {
			tenant := onServer(t)
			u, err := url.Parse(tenant.DBURL.Reveal())
			must(t, err)
			u.Host = hosts(u.Host)
			tenant.DBURL = hostdb.Secret(u.String())
			var kept atomic.Pointer[pgx.ConnConfig]
			var calls, dials atomic.Int32
			pool := faultPool(t, tenantdb.PoolConfig{
				BeforeConnect: func(ctx context.Context, tenantID string, c *pgx.ConnConfig) error {
					calls.Add(1)
					kept.Store(c)
					if _, bounded := ctx.Deadline(); !bounded || tenantID != tenant.ID {
						return errors.New("no deadline, or another tenant")
					}
					c.RuntimeParams["work_mem"] = "7MB"
					dial := c.DialFunc
					c.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
						dials.Add(1)
						return dial(ctx, network, address)
					}
					return nil
				},
			})
			pg := pgOf(t, pool, tenant)
			must(t, pg.QueryRow(t.Context(), "SELECT 1").Scan(new(int)))
			kept.Load().RuntimeParams["work_mem"] = "9MB"
			for range 2 {
				if got := valueOf[string](t, pg, "SHOW work_mem"); got != "7MB" {
					t.Error(got)
				}
				_, err = pg.Exec(t.Context(), "SET work_mem = '3MB'")
				must(t, err)
			}
			if calls.Load() != 1 || dials.Load() < 1 {
				t.Errorf("%d calls, %d dials", calls.Load(), dials.Load())
			}
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			if _, err := pg.Exec(ctx, "SELECT pg_sleep(60)"); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("a cancelled query: %v", err)
			}
			if calls.Load() != 1 || dials.Load() < 2 {
				t.Errorf("after a cancellation %d calls, %d dials", calls.Load(), dials.Load())
			}
		})
	}
}

// TestBeforeConnect_setsTLS: with TLS required, a server without TLS is refused.
func TestBeforeConnect_setsTLS(t *testing.T) {
	pool := faultPool(t, tenantdb.PoolConfig{
		BeforeConnect: func(_ context.Context, _ string, c *pgx.ConnConfig) error {
			c.TLSConfig, c.Fallbacks = &tls.Config{ServerName: c.Host, MinVersion: tls.VersionTLS12}, nil
			return nil
		},
	})
	if err := query(t.Context(), pool, onServer(t)); err == nil || !strings.Contains(err.Error(), "tls") {
		t.Error(err)
	}
}

// TestBeforeConnect_rotatesThePassword: each new connection signs in with the password of the day.
func TestBeforeConnect_rotatesThePassword(t *testing.T) {
	user := role(t, "SUPERUSER PASSWORD 'first'")
	tenant := onServer(t)
	tenant.DBURL = as(t, tenant.DBURL, user, "")
	var password atomic.Value
	password.Store("first")
	pool := faultPool(t, tenantdb.PoolConfig{
		BeforeConnect: func(_ context.Context, _ string, c *pgx.ConnConfig) error {
			c.Password = password.Load().(string)
			return nil
		},
	})
	must(t, query(t.Context(), pool, tenant))
	admin(t, "ALTER ROLE "+user+" PASSWORD 'second'")
	must(t, query(t.Context(), pool, tenant)) // on the connection that is open
	must(t, pool.Drain(t.Context(), tenant.ID))
	err := query(t.Context(), pool, tenant)
	if err == nil || strings.Contains(err.Error(), "first") || strings.Contains(err.Error(), "second") {
		t.Errorf("with the former password: %v", err)
	}
	password.Store("second")
	eventually(t, func() bool { return query(t.Context(), pool, tenant) == nil })
}

// TestApplicationName_namesProductAndTenant.
func TestApplicationName_namesProductAndTenant(t *testing.T) {
	tenant := onServer(t)
	name := func(product string, tenant *hostdb.TenantCatalog) string {
		pool := faultPool(t, tenantdb.PoolConfig{ApplicationName: product})
		pg := pgOf(t, pool, tenant)
		_, err := pg.Exec(t.Context(), "SET application_name = 'left'")
		must(t, err)
		return valueOf[string](t, pg, "SHOW application_name")
	}
	for product, want := range map[string]string{
		"":                      "tenantdb.test/",
		"notes":                 "notes/",
		strings.Repeat("n", 30): strings.Repeat("n", 30) + "/",
	} {
		if got := name(product, tenant); got != want+tenant.ID {
			t.Errorf("%q: %s", product, got)
		}
	}
	odd := *tenant
	odd.ID = "zero\x00" + strings.Repeat("é", 50)
	if got := name("notes", &odd); len(got) > 63 || !strings.HasPrefix(got, "n/zero?") {
		t.Errorf("%q", got)
	}
	u, err := url.Parse(tenant.DBURL.Reveal())
	must(t, err)
	query := u.Query()
	query.Set("application_name", "itsown")
	u.RawQuery = query.Encode()
	odd = hostdb.TenantCatalog{ID: tenant.ID, DBURL: hostdb.Secret(u.String())}
	if got := name("notes", &odd); got != "itsown" {
		t.Errorf("the db_url's name became %s", got)
	}
	for _, bad := range []string{strings.Repeat("n", 31), "nötes", "a\nb"} {
		_, err := tenantdb.NewPool(tenantdb.PoolConfig{ApplicationName: bad})
		if err == nil || !strings.Contains(err.Error(), "PoolConfig.ApplicationName") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestPooler_afterConnect registers types, and may not set a session that others share.
func TestPooler_afterConnect(t *testing.T) {
	for text, fails := range map[string]bool{
		"SELECT 1": false, "SET work_mem = '7MB'": true, "SET ROLE none": true,
		"SELECT set_config('work_mem', '7MB', false)": true, "DO $$ BEGIN SET work_mem = '7MB'; END $$": true,
	} {
		for _, low := range []bool{false, true} {
			var on atomic.Bool
			hook := func(ctx context.Context, _ string, conn *pgx.Conn) error {
				if !on.Load() {
					return nil
				}
				if low { // past the guard, to the server
					return conn.PgConn().Exec(ctx, text).Close()
				}
				types, err := conn.LoadTypes(ctx, []string{"_int4"})
				if err == nil {
					conn.TypeMap().RegisterTypes(types)
					_, err = conn.Exec(ctx, text)
				}
				return err
			}
			_, ctx := throughPooler(t, tenantdb.PoolConfig{AfterConnect: hook})
			on.Store(true)
			_, err := tenantdb.PG(ctx).Exec(ctx, "SELECT 1")
			if fails {
				refusedBy(t, err, "AfterConnect", "PoolConfig.SessionPooler")
			} else if err != nil {
				t.Error(err)
			}
		}
	}
}

// TestPooler_afterConnectSetsASessionOfItsOwn.
func TestPooler_afterConnectSetsASessionOfItsOwn(t *testing.T) {
	m := poolModes["sessions"]
	m.cfg.AfterConnect = func(ctx context.Context, _ string, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "SET work_mem = '7MB'")
		return err
	}
	_, ctx := throughPooler(t, m.cfg, m.settings...)
	for range 2 {
		if got := ask[string](t, ctx, "SHOW work_mem"); got != "7MB" {
			t.Error(got)
		}
		_, err := tenantdb.PG(ctx).Exec(ctx, "RESET ALL")
		must(t, err)
	}
}

// tracer records what pgx tells it, with a value from the caller's context.
type tracer struct {
	mu     sync.Mutex
	events []string
}

type traced struct{}

func (t *tracer) add(ctx context.Context, what string, err error) context.Context {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.events = append(t.events, fmt.Sprint(what, " ", ctx.Value(traced{}), " ", err != nil))
	return context.WithValue(ctx, traced{}, fmt.Sprint(ctx.Value(traced{}), "+"))
}

func (t *tracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryStartData,
) context.Context {
	return t.add(ctx, "query "+d.SQL, nil)
}
func (t *tracer) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryEndData) {
	t.add(ctx, "end", d.Err)
}
func (t *tracer) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData,
) context.Context {
	return t.add(ctx, "batch", nil)
}
func (t *tracer) TraceBatchQuery(ctx context.Context, _ *pgx.Conn, d pgx.TraceBatchQueryData) {
	t.add(ctx, "in batch "+d.SQL, d.Err)
}
func (t *tracer) TraceBatchEnd(ctx context.Context, _ *pgx.Conn, d pgx.TraceBatchEndData) {
	t.add(ctx, "end of batch", d.Err)
}
func (t *tracer) TraceCopyFromStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceCopyFromStartData,
) context.Context {
	return t.add(ctx, "copy", nil)
}
func (t *tracer) TraceCopyFromEnd(ctx context.Context, _ *pgx.Conn, d pgx.TraceCopyFromEndData) {
	t.add(ctx, "end of copy", d.Err)
}
func (t *tracer) TracePrepareStart(ctx context.Context, _ *pgx.Conn, d pgx.TracePrepareStartData,
) context.Context {
	return t.add(ctx, "prepare "+d.SQL, nil)
}
func (t *tracer) TracePrepareEnd(ctx context.Context, _ *pgx.Conn, d pgx.TracePrepareEndData) {
	t.add(ctx, "prepared", d.Err)
}
func (t *tracer) TraceConnectStart(ctx context.Context, _ pgx.TraceConnectStartData) context.Context {
	return t.add(ctx, "connect", nil)
}
func (t *tracer) TraceConnectEnd(ctx context.Context, d pgx.TraceConnectEndData) {
	t.add(ctx, "connected", d.Err)
}

// take returns what was recorded and forgets it.
func (t *tracer) take() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := strings.Join(t.events, ", ")
	t.events = nil
	return all
}

// TestBeforeConnect_tracerIsToldInTheCallersContext of everything, and the guard refuses what it did before.
func TestBeforeConnect_tracerIsToldInTheCallersContext(t *testing.T) {
	told := new(tracer)
	w := newWorld(t, "postgres", tenantdb.PoolConfig{MaxConns: 2, QueryTimeout: 10 * time.Second,
		BeforeConnect: func(_ context.Context, _ string, c *pgx.ConnConfig) error {
			c.Tracer = told
			return nil
		},
	})
	acme, other := w.tenant("acme", w.user("ann")), w.tenant("other", w.user("bob"))
	mw := w.middleware(w.config())
	enter := func(tenant *hostdb.TenantCatalog) context.Context {
		ctx, leave, err := mw.Enter(context.WithValue(t.Context(), traced{}, tenant.Slug), tenant.ID)
		must(t, err)
		t.Cleanup(leave)
		return ctx
	}
	ctx, foreign := enter(acme), enter(other)
	pg := tenantdb.PG(ctx)
	_, err := pg.Exec(ctx, "SELECT 0")
	must(t, err)
	if got := told.take(); !strings.Contains(got, "connect <nil>") ||
		!strings.Contains(got, "connected <nil>+ false") {
		t.Errorf("connecting: %s", got)
	}
	var n int
	must(t, pg.QueryRow(ctx, "SELECT 1").Scan(&n))
	batch := new(pgx.Batch)
	batch.Queue("SELECT 2")
	must(t, pg.SendBatch(ctx, batch).Close())
	_, err = pg.CopyFrom(ctx, pgx.Identifier{"me"}, []string{"name"}, pgx.CopyFromRows([][]any{{"x"}}))
	must(t, err)
	must(t, tenantdb.DB(ctx).QueryRowContext(ctx, "SELECT 3").Scan(&n))
	want := "query SELECT 1 acme false, prepare SELECT 1 acme+ false, prepared acme++ false, " +
		"end acme+ false, batch acme false, in batch SELECT 2 acme+ false, end of batch acme+ false, " +
		"copy acme false, prepare select \"name\" from \"me\" acme+ false, prepared acme++ false, " +
		"end of copy acme+ false, query SELECT 3 acme false, prepare SELECT 3 acme+ false, " +
		"prepared acme++ false, end acme+ false"
	if got := told.take(); got != want {
		t.Errorf("told:\n%s\nwant:\n%s", got, want)
	}
	conn, err := pg.Acquire(ctx)
	must(t, err)
	defer conn.Release()
	_, err = conn.Conn().Exec(foreign, "SELECT 4")
	var misuse string
	if err != nil {
		misuse = err.Error()
	}
	_, err = conn.Conn().CopyFrom(foreign, pgx.Identifier{"me"}, []string{"name"},
		pgx.CopyFromRows([][]any{{"x"}}))
	if err == nil || conn.Conn().SendBatch(foreign, batch).Close() == nil ||
		!strings.Contains(misuse, "tenant") {
		t.Errorf("another tenant's context is accepted: %q, %v", misuse, err)
	}
	if _, err := conn.Conn().Prepare(foreign, "by_name", "SELECT 5"); err == nil {
		t.Error("another tenant's context prepares a statement")
	}
	refused := "query SELECT 4 other false, end other+ true, copy other"
	if got := told.take(); !strings.HasPrefix(got, refused) {
		t.Errorf("of what was refused: %s", got)
	}
	var state pgtype.Text
	must(t, conn.Conn().QueryRow(ctx, "SELECT string_agg(name, '') FROM me").Scan(&state))
	if state.String != "acmex" {
		t.Errorf("rows: %s", state.String)
	}
}
