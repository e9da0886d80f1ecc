package fleet

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"time"

	"github.com/pressly/goose/v3/database"

	"github.com/tenantdb/tenantdb/internal/sqlstate"
)

// lockRetry says how a migration on PostgreSQL waits for locks. With the zero value the server's lock_timeout
// applies.
type lockRetry struct {
	timeout time.Duration // lock_timeout of one attempt
	retries int
}

// minLockPause is the least time between two attempts. Transactions that waited behind the migration run
// then.
const minLockPause = 100 * time.Millisecond

// applier applies migrations to a database, or undoes them. On SQLite db has one connection.
type applier struct {
	db     *sql.DB
	sqlite bool
	down   bool
	locks  lockRetry
}

// apply applies a migration. Everybody who needs a lock after the migration waits behind it. So in a
// transaction on PostgreSQL the migration gives up after the lock timeout, lets them go first, and tries
// again.
func (a applier) apply(ctx, startCtx context.Context, m *migration) error {
	part := &m.up
	if a.down {
		part = &m.down
	}
	pause := max(a.locks.timeout, minLockPause)
	for try := 0; ; try++ {
		err := a.attempt(ctx, m, part)
		if err == nil || part.noTx || part.onDB != nil ||
			!repeatable(err) {
			return err
		}
		if try == a.locks.retries {
			return fmt.Errorf("%w (tries: %d)", err, try+1)
		}
		select {
		case <-time.After(pause + rand.N(pause)):
		case <-startCtx.Done():
			return errInterrupted
		case <-ctx.Done():
			return err
		}
	}
}

// repeatable reports whether a migration's transaction may succeed if it is tried again.
func repeatable(err error) bool {
	code := sqlstate.Of(err)
	return code == sqlstate.LockNotAvailable || code == sqlstate.DeadlockDetected
}

// attempt tries once to apply a migration.
func (a applier) attempt(ctx context.Context, m *migration, part *section) error {
	err := a.run(ctx, m, part)
	if !a.sqlite {
		return err
	}
	// The migration itself may have switched foreign keys off, and others use the connection later.
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), rereadTimeout)
	defer cancel()
	if onErr := setForeignKeys(late, a.db, true); onErr != nil {
		err = errors.Join(err, fmt.Errorf("%s: %w", m.name, onErr))
	}
	return err
}

// run takes a connection and runs a section on it.
func (a applier) run(ctx context.Context, m *migration, part *section) error {
	if part.onDB != nil {
		if err := m.call(func() error { return part.onDB(ctx, a.db) }); err != nil {
			return err
		}
		return record(ctx, a.db, m.version, a.down)
	}
	var conn *sql.Conn
	err := retryBusy(ctx, func() (err error) {
		conn, err = a.db.Conn(ctx)
		return err
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	keysOff := false
	if a.sqlite {
		if keysOff, err = part.needsKeysOff(ctx, conn); err == nil && keysOff {
			err = setForeignKeys(ctx, conn, false)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	if part.noTx {
		return a.noTx(ctx, conn, m, part, keysOff)
	}
	return a.inTx(ctx, conn, m, part, keysOff)
}

// inTx applies a migration in a transaction.
func (a applier) inTx(ctx context.Context, conn *sql.Conn, m *migration, part *section, keysOff bool) error {
	var tx *sql.Tx
	err := retryBusy(ctx, func() (err error) {
		tx, err = conn.BeginTx(ctx, nil)
		return err
	})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if !a.sqlite && a.locks.timeout > 0 {
		timeout := fmt.Sprintf("SET LOCAL lock_timeout = %d", a.locks.timeout.Milliseconds())
		if _, err := tx.ExecContext(ctx, timeout); err != nil {
			return err
		}
	}
	err = checkKeys(ctx, tx, keysOff, func() error {
		if part.inTx != nil {
			return m.call(func() error { return part.inTx(ctx, tx) })
		}
		return m.exec(ctx, tx, part)
	})
	if err != nil {
		return m.explain(err, "nothing was changed")
	}
	if err := record(ctx, tx, m.version, a.down); err != nil {
		return err
	}
	return tx.Commit()
}

// noTx applies a migration without a transaction, statement by statement.
func (a applier) noTx(ctx context.Context, conn *sql.Conn, m *migration, part *section, keysOff bool) error {
	if err := checkKeys(ctx, conn, keysOff, func() error { return m.exec(ctx, conn, part) }); err != nil {
		return m.explain(err, "the migration has no transaction: what it did stays, "+
			"and it counts as not applied")
	}
	return record(ctx, conn, m.version, a.down)
}

// exec runs a section's statements. Its error names the file and the line.
func (m *migration) exec(ctx context.Context, on database.DBTxConn, part *section) error {
	for _, s := range part.statements {
		if _, err := on.ExecContext(ctx, s.text); err != nil {
			return fmt.Errorf("%s:%d: %w", m.name, s.line, err)
		}
	}
	return nil
}

// call calls a Go migration's function. A panic becomes an error.
func (m *migration) call(do func() error) (err error) {
	defer func() {
		if panicked := recover(); panicked != nil {
			err = fmt.Errorf("panic: %v\n%s", panicked, debug.Stack())
		}
		if err != nil {
			err = fmt.Errorf("%s: %w", m.name, err)
		}
	}()
	return do()
}

// explain adds to a violation of foreign keys what state the database is in.
func (m *migration) explain(err error, state string) error {
	if errors.Is(err, errViolation) {
		return fmt.Errorf("%s: %w; %s", m.name, err, state)
	}
	return err
}
