package tenantdb_test

import (
	"context"
	"database/sql"
	"errors"
	"net/url"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenantdb/tenantdb"
	"github.com/tenantdb/tenantdb/internal/pgtest"
)

// TestPGX_deadConnectionDoesNotExtendTheWait waits for a connection whose network hangs, and then for
// another.
func TestPGX_deadConnectionDoesNotExtendTheWait(t *testing.T) {
	w := newWorld(t, "postgres", tenantdb.PoolConfig{MaxConns: 1, AcquireTimeout: 3 * time.Second})
	acme := w.tenant("acme", w.user("ann"))
	base, err := url.Parse(pgtest.Shared(t).URL("postgres"))
	must(t, err)
	p := newProxy(t, base.Host)
	w.moveTo(acme, pgtest.Shared(t), p.listener.Addr().String())
	ctx, leave, err := w.middleware(w.config()).Enter(t.Context(), acme.ID)
	must(t, err)
	defer leave()
	conn, err := tenantdb.PG(ctx).Acquire(ctx)
	must(t, err)
	p.hang()
	began := time.Now()
	time.AfterFunc(2*time.Second, conn.Release)
	_, err = tenantdb.PG(ctx).Exec(t.Context(), "SELECT 1")
	if waited := time.Since(began); !errors.Is(err, tenantdb.ErrTenantUnavailable) || waited > 4*time.Second {
		t.Errorf("AcquireTimeout is 3 s; after %v: %v", waited, err)
	}
	p.mend()
}

func TestPGX_runsWhatPgxOffers(t *testing.T) {
	w := newWorld(t, "postgres", tenantdb.PoolConfig{MaxConns: 4, AcquireTimeout: 2 * time.Second})
	acme := w.tenant("acme", w.user("ann"))
	ctx, leave, err := w.middleware(w.config()).Enter(t.Context(), acme.ID)
	must(t, err)
	defer leave()
	pg := tenantdb.PG(ctx)
	for range 30 { // a leaked connection would be missing before the end
		var name string
		must(t, pg.QueryRow(ctx, "SELECT name FROM me").Scan(&name))
		_, err := pg.Exec(ctx, "CREATE TABLE IF NOT EXISTS bulk (n int)")
		must(t, err)
		n, err := pg.CopyFrom(ctx, pgx.Identifier{"bulk"}, []string{"n"}, pgx.CopyFromRows([][]any{{1}, {2}}))
		if err != nil || n != 2 {
			t.Fatalf("CopyFrom = %d, %v", n, err)
		}
		rows, err := pg.Query(ctx, "SELECT n FROM bulk")
		must(t, err)
		_, err = pgx.CollectRows(rows, pgx.RowTo[int])
		must(t, err)
		rows, err = pg.Query(ctx, "SELECT n FROM bulk")
		must(t, err)
		rows.Close() // unread
		rows, err = pg.Query(ctx, "SELECT nonsense FROM bulk")
		if err == nil {
			rows.Close()
			err = rows.Err()
		}
		if err == nil {
			t.Fatal("a query of a column that isn't there succeeded")
		}
		if err := pg.QueryRow(ctx, "SELECT n FROM bulk WHERE n = 3").Scan(&n); !errors.Is(err,
			pgx.ErrNoRows) {
			t.Fatalf("no row = %v", err)
		}
		batch := &pgx.Batch{}
		batch.Queue("DELETE FROM bulk")
		must(t, pg.SendBatch(ctx, batch).Close())
		tx, err := pg.Begin(ctx)
		must(t, err)
		_, err = tx.Exec(ctx, "INSERT INTO bulk VALUES (1)")
		must(t, err)
		must(t, tx.Rollback(ctx))
		if err := tx.Rollback(ctx); !errors.Is(err, pgx.ErrTxClosed) {
			t.Fatalf("a second rollback = %v", err)
		}
		c, err := pg.Acquire(ctx)
		must(t, err)
		must(t, c.Conn().Ping(ctx))
		c.Release()
		c.Release() // a second call does nothing
	}
	if lease, err := w.pool.Lease(acme); err != nil || lease.DB() != lease.ReadDB() {
		t.Errorf("ReadDB on PostgreSQL isn't DB: %v", err)
	} else {
		lease.Release()
	}
}

// txState is a query for the properties of a transaction.
const txState = `SELECT current_setting('transaction_isolation') || ', ' ||
	current_setting('transaction_read_only') || ', ' ||
	current_setting('transaction_deferrable') || ', ' || current_setting('work_mem')`

func TestPGX_transactionsApplyTheirOptionsAndLeaveNone(t *testing.T) {
	ctx := oneConn(t, tenantdb.PoolConfig{})
	plain, server := ask[string](t, ctx, txState), pid(t, ctx)
	mem := ", " + ask[string](t, ctx, "SELECT current_setting('work_mem')")
	native := func(o pgx.TxOptions) func() (string, error) {
		return func() (state string, err error) {
			tx, err := tenantdb.PG(ctx).BeginTx(ctx, o)
			must(t, err)
			must(t, tx.QueryRow(ctx, txState).Scan(&state))
			_, err = tx.Exec(ctx, "INSERT INTO me VALUES ('x')")
			return state, errors.Join(err, tx.Rollback(ctx))
		}
	}
	standard := func(o *sql.TxOptions) func() (string, error) {
		return func() (state string, err error) {
			tx, err := tenantdb.DB(ctx).BeginTx(ctx, o)
			must(t, err)
			must(t, tx.QueryRowContext(ctx, txState).Scan(&state))
			_, err = tx.ExecContext(ctx, "INSERT INTO me VALUES ('x')")
			return state, errors.Join(err, tx.Rollback())
		}
	}
	for name, test := range map[string]struct {
		run     func() (string, error)
		want    string
		refuses bool // refuses writes
	}{
		"pgx, none": {native(pgx.TxOptions{}), plain, false},
		"pgx, isolation": {
			native(pgx.TxOptions{IsoLevel: pgx.RepeatableRead}), "repeatable read, off, off" + mem, false,
		},
		"pgx, read only": {
			native(pgx.TxOptions{AccessMode: pgx.ReadOnly}), "read committed, on, off" + mem, true,
		},
		"pgx, deferrable": {
			native(pgx.TxOptions{IsoLevel: pgx.Serializable, AccessMode: pgx.ReadOnly,
				DeferrableMode: pgx.Deferrable}), "serializable, on, on" + mem, true,
		},
		"pgx, BeginQuery": {native(pgx.TxOptions{
			BeginQuery: "BEGIN ISOLATION LEVEL SERIALIZABLE; SET LOCAL work_mem = '1MB'",
		}), "serializable, off, off, 1MB", false},
		"sql, none": {standard(nil), plain, false},
		"sql, isolation": {
			standard(&sql.TxOptions{Isolation: sql.LevelSerializable}), "serializable, off, off" + mem, false,
		},
		"sql, read only": {
			standard(&sql.TxOptions{ReadOnly: true}), "read committed, on, off" + mem, true,
		},
		"sql, all of these": {
			standard(&sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}),
			"repeatable read, on, off" + mem, true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			state, err := test.run()
			var pgErr *pgconn.PgError
			if refused := errors.As(err, &pgErr) && pgErr.Code == "25006"; state != test.want ||
				refused != test.refuses || err != nil && !refused {
				t.Errorf("%s, a write: %v; want %s", state, err, test.want)
			}
			if after := ask[string](t, ctx, txState); after != plain {
				t.Errorf("the next one finds %s", after)
			}
		})
	}
	if _, err := tenantdb.DB(ctx).BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelLinearizable}); err == nil {
		t.Error("a level that PostgreSQL doesn't know was accepted")
	}
	if _, err := tenantdb.PG(ctx).BeginTx(ctx, pgx.TxOptions{
		BeginQuery: "BEGIN; SELECT nonsense",
	}); err == nil {
		t.Error("a BeginQuery that fails began something")
	}
	if ask[int](t, ctx, "SELECT count(*) FROM me WHERE name = 'x'") != 0 {
		t.Error("a write outlived its transaction")
	}
	if pid(t, ctx) == server {
		t.Error("the connection of the BeginQuery that failed, in its transaction still, serves again")
	}
}

func TestPGX_notificationsReachTheListenerAlone(t *testing.T) {
	w := newWorld(t, "postgres", tenantdb.PoolConfig{MaxConns: 2, MaxConnsPerTenant: 2})
	ctx, leave, err := w.middleware(w.config()).Enter(t.Context(), w.tenant("acme", w.user("ann")).ID)
	must(t, err)
	defer leave()
	gone, cancel := context.WithCancel(ctx)
	cancel()
	pg := tenantdb.PG(ctx)
	c, err := pg.Acquire(ctx)
	must(t, err)
	_, err = c.Conn().Exec(ctx, "LISTEN ears")
	must(t, err)
	for _, word := range []string{"one", "two"} {
		_, err = tenantdb.DB(ctx).ExecContext(ctx, "SELECT pg_notify('ears', $1)", word)
		must(t, err)
		heard, err := c.Conn().WaitForNotification(ctx)
		if err != nil || heard.Channel != "ears" || heard.Payload != word {
			t.Fatalf("heard %+v, %v; want %q", heard, err, word)
		}
	}
	_, err = pg.Exec(ctx, "NOTIFY ears, 'unheard'") // under way when the listener leaves
	must(t, err)
	c.Release()
	var held []*tenantdb.Conn
	for range 2 { // all connections
		next, err := pg.Acquire(ctx)
		must(t, err)
		held = append(held, next)
	}
	_, err = held[0].Conn().Exec(ctx, "NOTIFY ears, 'late'")
	must(t, err)
	for _, next := range held {
		var channels int
		// pending notifications arrive first
		must(t, next.Conn().QueryRow(ctx, "SELECT count(*) FROM pg_listening_channels()").Scan(&channels))
		if heard, err := next.Conn().WaitForNotification(gone); channels != 0 || err == nil {
			t.Errorf("the next one listens to %d channels and hears %+v", channels, heard)
		}
		next.Release()
	}
}

// sleepers are the ways to run a statement on PostgreSQL, each with a query that only its context ends.
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
		return pgx.BeginFunc(ctx, p, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, endless["postgres"])
			return err
		})
	},
	"a savepoint": func(ctx context.Context, p *tenantdb.PGX) error {
		return pgx.BeginFunc(ctx, p, func(tx pgx.Tx) error {
			return pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
				return tx.QueryRow(ctx, endless["postgres"]).Scan(new(string))
			})
		})
	},
}

// TestDB_cancelledQueryReturnsTheContextsError: a query that was cancelled returns the error of its context,
// not the server's, in every way to send it.
func TestDB_cancelledQueryReturnsTheContextsError(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		acme := w.tenant("acme", w.user("ann"))
		ctx, leave, err := w.middleware(w.config()).Enter(t.Context(), acme.ID)
		must(t, err)
		defer leave()
		text := endless[w.engine]
		ways := map[string]func(context.Context) error{
			"Exec": func(ctx context.Context) error {
				_, err := tenantdb.DB(ctx).ExecContext(ctx, text)
				return err
			},
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

// TestPGX_waitForANotificationEndsWithItsContext also checks that the connection remains usable.
func TestPGX_waitForANotificationEndsWithItsContext(t *testing.T) {
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
	for range 5 { // each must end soon
		short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		began := time.Now()
		_, err = conn.Conn().WaitForNotification(short)
		if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) ||
			took > 1500*time.Millisecond {
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
