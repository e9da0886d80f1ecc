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
)

// lockPatience says how a migration on PostgreSQL waits for a lock that somebody else holds. Zero: as the
// server says.
type lockPatience struct {
	timeout time.Duration // for one try
	retries int
}

// leastLockPause is how long a migration lets others go first, at least.
const leastLockPause = 100 * time.Millisecond

// The conditions of PostgreSQL by which a migration's transaction may be tried again.
const (
	pgLockNotAvailable = "55P03"
	pgDeadlock         = "40P01"
)

// applier applies migrations to a database, or takes them back. Where the database is SQLite, db has one
// connection.
type applier struct {
	db     *sql.DB
	sqlite bool
	down   bool
	locks  lockPatience
}

// apply applies a migration. In a transaction on PostgreSQL it waits for a lock a while, since everybody
// after it waits too, lets them go first, and tries again.
func (a applier) apply(ctx, soft context.Context, m *migration) error {
	part := &m.up
	if a.down {
		part = &m.down
	}
	pause := max(a.locks.timeout, leastLockPause)
	for try := 0; ; try++ {
		err := a.once(ctx, m, part)
		if err == nil || part.bare || part.onDB != nil || !isPG(err, pgLockNotAvailable) && !isPG(err, pgDeadlock) {
			return err
		}
		if try == a.locks.retries {
			return fmt.Errorf("%w (tries: %d)", err, try+1)
		}
		select {
		case <-time.After(pause + rand.N(pause)):
		case <-soft.Done():
			return errInterrupted
		case <-ctx.Done():
			return err
		}
	}
}

// once tries to apply a migration.
func (a applier) once(ctx context.Context, m *migration, part *section) error {
	err := a.work(ctx, m, part)
	if !a.sqlite {
		return err
	}
	// Also what the migration's own text has switched off: the connection goes to others later.
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), rereadPatience)
	defer cancel()
	if restoring := setForeignKeys(late, a.db, true); restoring != nil {
		err = errors.Join(err, fmt.Errorf("%s: %w", m.name, restoring))
	}
	return err
}

// work takes a connection and does what the section says.
func (a applier) work(ctx context.Context, m *migration, part *section) error {
	if part.onDB != nil {
		return a.onDB(ctx, m, part)
	}
	var conn *sql.Conn
	err := patiently(ctx, func() (err error) {
		conn, err = a.db.Conn(ctx)
		return err
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	unkeyed := false
	if a.sqlite {
		if unkeyed, err = part.dropsParents(ctx, conn); err == nil && unkeyed {
			err = setForeignKeys(ctx, conn, false)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	if part.bare {
		return a.bare(ctx, conn, m, part, unkeyed)
	}
	return a.inTx(ctx, conn, m, part, unkeyed)
}

// inTx applies a migration in a transaction.
func (a applier) inTx(ctx context.Context, conn *sql.Conn, m *migration, part *section, unkeyed bool) error {
	var tx *sql.Tx
	err := patiently(ctx, func() (err error) {
		tx, err = conn.BeginTx(ctx, nil)
		return err
	})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if !a.sqlite && a.locks.timeout > 0 {
		if _, err := tx.ExecContext(ctx, fmt.Sprintf("SET LOCAL lock_timeout = %d", a.locks.timeout.Milliseconds())); err != nil {
			return err
		}
	}
	err = checked(ctx, tx, unkeyed, func() error {
		if part.inTx != nil {
			return m.called(func() error { return part.inTx(ctx, tx) })
		}
		return m.exec(ctx, tx, part)
	})
	if err != nil {
		return m.failed(err, "nothing was changed")
	}
	if err := note(ctx, tx, m.version, a.down); err != nil {
		return err
	}
	return tx.Commit()
}

// bare applies a migration's statements one by one.
func (a applier) bare(ctx context.Context, conn *sql.Conn, m *migration, part *section, unkeyed bool) error {
	if err := checked(ctx, conn, unkeyed, func() error { return m.exec(ctx, conn, part) }); err != nil {
		return m.failed(err, "the migration has no transaction: what it did stays, and it counts as not applied")
	}
	return note(ctx, conn, m.version, a.down)
}

// onDB has a Go migration work without a transaction.
func (a applier) onDB(ctx context.Context, m *migration, part *section) error {
	if err := m.called(func() error { return part.onDB(ctx, a.db) }); err != nil {
		return err
	}
	return note(ctx, a.db, m.version, a.down)
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

// called calls a Go migration's function, which may panic.
func (m *migration) called(do func() error) (err error) {
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

// failed says what a violation of foreign keys has left.
func (m *migration) failed(err error, left string) error {
	if errors.Is(err, errViolation) {
		return fmt.Errorf("%s: %w; %s", m.name, err, left)
	}
	return err
}
