package tenantdb_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenantdb/tenantdb"
)

// txState is what a transaction says of itself.
const txState = "SELECT current_setting('transaction_isolation') || ', ' || current_setting('transaction_read_only') || ', ' || " +
	"current_setting('transaction_deferrable') || ', ' || current_setting('work_mem')"

func TestTransactionsBeginWithTheirOptionsAndLeaveNone(t *testing.T) {
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
		refuses bool // writes
	}{
		"pgx, none":         {native(pgx.TxOptions{}), plain, false},
		"pgx, isolation":    {native(pgx.TxOptions{IsoLevel: pgx.RepeatableRead}), "repeatable read, off, off" + mem, false},
		"pgx, read only":    {native(pgx.TxOptions{AccessMode: pgx.ReadOnly}), "read committed, on, off" + mem, true},
		"pgx, deferrable":   {native(pgx.TxOptions{IsoLevel: pgx.Serializable, AccessMode: pgx.ReadOnly, DeferrableMode: pgx.Deferrable}), "serializable, on, on" + mem, true},
		"pgx, BeginQuery":   {native(pgx.TxOptions{BeginQuery: "BEGIN ISOLATION LEVEL SERIALIZABLE; SET LOCAL work_mem = '1MB'"}), "serializable, off, off, 1MB", false},
		"sql, none":         {standard(nil), plain, false},
		"sql, isolation":    {standard(&sql.TxOptions{Isolation: sql.LevelSerializable}), "serializable, off, off" + mem, false},
		"sql, read only":    {standard(&sql.TxOptions{ReadOnly: true}), "read committed, on, off" + mem, true},
		"sql, all of these": {standard(&sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}), "repeatable read, on, off" + mem, true},
	} {
		t.Run(name, func(t *testing.T) {
			state, err := test.run()
			var pgErr *pgconn.PgError
			if refused := errors.As(err, &pgErr) && pgErr.Code == "25006"; state != test.want || refused != test.refuses || err != nil && !refused {
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
	if _, err := tenantdb.PG(ctx).BeginTx(ctx, pgx.TxOptions{BeginQuery: "BEGIN; SELECT nonsense"}); err == nil {
		t.Error("a BeginQuery that fails began something")
	}
	if ask[int](t, ctx, "SELECT count(*) FROM me WHERE name = 'x'") != 0 {
		t.Error("a write outlived its transaction")
	}
	if pid(t, ctx) == server {
		t.Error("the connection of the BeginQuery that failed, in its transaction still, serves again")
	}
}

func TestNotificationsReachWhoListensAndNobodyAfterThem(t *testing.T) {
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
	_, err = pg.Exec(ctx, "NOTIFY ears, 'unheard'") // on its way when the listener leaves
	must(t, err)
	c.Release()
	var held []*tenantdb.Conn
	for range 2 { // all that there are
		next, err := pg.Acquire(ctx)
		must(t, err)
		held = append(held, next)
	}
	_, err = held[0].Conn().Exec(ctx, "NOTIFY ears, 'late'")
	must(t, err)
	for _, next := range held {
		var channels int
		must(t, next.Conn().QueryRow(ctx, "SELECT count(*) FROM pg_listening_channels()").Scan(&channels)) // what it was sent comes first
		if heard, err := next.Conn().WaitForNotification(gone); channels != 0 || err == nil {
			t.Errorf("the next one listens to %d channels and hears %+v", channels, heard)
		}
		next.Release()
	}
}
