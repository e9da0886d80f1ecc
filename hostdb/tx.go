package hostdb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// Tx is a transaction. It is not safe for concurrent use. After the database has refused a statement, every
// further call and Commit fail with that error. A nested [Tx.InTx] limits the failure to itself.
type Tx struct {
	Tables
	db      *DB
	ctx     context.Context // of Begin; its end rolls the transaction back
	sql     *sql.Tx
	failed  error
	depth   int                // nested InTx calls in progress
	owned   bool               // InTx ends the transaction
	changed bool               // the transaction has written what Changes delivers
	end     context.CancelFunc // releases the transaction's context
}

// longestWait is how long a write waits for SQLite's only write connection if nobody else gets it meanwhile.
const longestWait = 5 * time.Second

// Begin starts a transaction. The caller ends it with Commit or Rollback; the end of ctx rolls it back.
// PostgreSQL uses the server's default isolation level. SQLite takes the write lock at once; if another
// transaction of this DB holds it for 5 s, the error is ErrUnavailable. Errors: ErrUnavailable.
func (db *DB) Begin(ctx context.Context) (*Tx, error) {
	if err := db.usable(); err != nil {
		return nil, err
	}
	begun, end, err := db.begin(ctx)
	if err != nil {
		end()
		return nil, translate(ctx, err, asReported)
	}
	tx := &Tx{db: db, ctx: ctx, sql: begun, end: end}
	tx.Tables = tablesOn(session{db: db, tx: tx})
	return tx, nil
}

// begin begins the driver's transaction. end releases its context. SQLite has one write connection, so a
// transaction's function that writes past its Tx would wait for itself for ever.
func (db *DB) begin(ctx context.Context) (begun *sql.Tx, end context.CancelFunc, err error) {
	bounded, end := context.WithCancel(ctx)
	if db.engine == postgres {
		begun, err = db.write.BeginTx(bounded, nil)
		return begun, end, err
	}
	settled := db.cancelWhenStalled(end)
	if begun, err = db.write.BeginTx(bounded, nil); err == nil {
		db.writeGrants.Add(1)
	}
	if !settled() || ctx.Err() != nil {
		return begun, end, err
	}
	if err == nil {
		_ = begun.Rollback()
	}
	return nil, end, &failure{kind: ErrUnavailable,
		text: "another transaction holds SQLite's write lock; inside InTx write through its Tx, and keep " +
			"transactions short"}
}

// cancelWhenStalled calls end once nobody has got the write connection for longestWait. A long queue that
// moves is waited for. The returned function stops that and reports whether end was called.
func (db *DB) cancelWhenStalled(end func()) (settled func() (late bool)) {
	var mu sync.Mutex // guards the variables below
	var timer *time.Timer
	over, late, seen := false, false, db.writeGrants.Load()
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(longestWait, func() {
		mu.Lock()
		defer mu.Unlock()
		turns := db.writeGrants.Load()
		switch {
		case over:
		case turns != seen:
			seen = turns
			timer.Reset(longestWait)
		default:
			late = true
			end()
		}
	})
	return func() bool {
		mu.Lock()
		defer mu.Unlock()
		over = true
		timer.Stop()
		return late
	}
}

// Commit makes the transaction's writes permanent. Errors: what failed the transaction before;
// ErrUnavailable, after which it is unknown whether it was committed.
func (tx *Tx) Commit() error {
	if tx.owned {
		return &failure{text: "InTx commits this transaction; return from its function"}
	}
	return tx.commit()
}

func (tx *Tx) commit() error {
	defer tx.end()
	if tx.failed != nil {
		_ = tx.sql.Rollback()
		return tx.failed
	}
	if err := tx.sql.Commit(); err != nil {
		_ = tx.sql.Rollback()
		return translate(tx.ctx, err, asReported)
	}
	if tx.changed {
		tx.db.Wake()
	}
	return nil
}

// Rollback undoes the transaction. After Commit or Rollback it does nothing.
func (tx *Tx) Rollback() error {
	if tx.owned {
		return &failure{text: "InTx ends this transaction; return an error from its function"}
	}
	defer tx.end()
	if err := tx.sql.Rollback(); err != nil && !errors.Is(err, sql.ErrTxDone) {
		return translate(context.Background(), err, asReported)
	}
	return nil
}

// fail records the first error of a statement.
func (tx *Tx) fail(err error) {
	if tx.failed == nil {
		tx.failed = err
	}
}

// InTx runs fn in a transaction. It commits if fn returns nil. If fn returns an error, it rolls back and
// returns that error; if fn panics, it rolls back and panics. A transaction that collides with another one
// (serialization failure, deadlock, SQLite busy) is retried up to 10 times with increasing pauses, so fn may
// run more than once. After that the error is ErrUnavailable.
func (db *DB) InTx(ctx context.Context, fn func(*Tx) error) error {
	return retry(ctx, func() error { return db.runOnce(ctx, fn) })
}

// runOnce runs fn in one transaction.
func (db *DB) runOnce(ctx context.Context, fn func(*Tx) error) error {
	tx, err := db.Begin(ctx)
	if err != nil {
		return err
	}
	tx.owned = true
	defer tx.end()
	defer func() { _ = tx.sql.Rollback() }() // does nothing after Commit
	if err := fn(tx); err != nil {
		return err
	}
	return tx.commit()
}

// InTx runs fn in a savepoint of the transaction. If fn returns an error or panics, only what fn did is
// undone, and the transaction can go on.
func (tx *Tx) InTx(ctx context.Context, fn func(*Tx) error) (err error) {
	if tx.failed != nil {
		return tx.failed
	}
	if err := ctx.Err(); err != nil { // a statement that isn't sent would fail the whole transaction
		return translate(ctx, err, asReported)
	}
	name := fmt.Sprintf("hostdb_%d", tx.depth)
	s := session{db: tx.db, tx: tx}
	if _, err := s.exec(ctx, "SAVEPOINT "+name, nil, asReported); err != nil {
		return err
	}
	owned := tx.owned
	tx.depth++
	tx.owned = true
	kept := false
	defer func() {
		tx.depth--
		tx.owned = owned
		if !kept {
			tx.rollbackTo(name)
		}
	}()
	if err := fn(tx); err != nil {
		return err
	}
	if tx.failed != nil {
		return tx.failed
	}
	_, err = s.exec(ctx, "RELEASE SAVEPOINT "+name, nil, asReported)
	kept = err == nil
	return err
}

// rollbackTo undoes what followed a savepoint and releases it. If that fails, the transaction has failed. It
// uses the transaction's context, because the nested one may have ended.
func (tx *Tx) rollbackTo(savepoint string) {
	ctx, cancel := context.WithTimeout(tx.ctx, longestUndo)
	defer cancel()
	failed := tx.failed
	for _, statement := range []string{"ROLLBACK TO SAVEPOINT ", "RELEASE SAVEPOINT "} {
		if _, err := tx.sql.ExecContext(ctx, statement+savepoint); err != nil {
			tx.fail(translate(ctx, err, asReported))
			return
		}
	}
	if !retryable(failed) { // a serialization failure or a deadlock ends the whole transaction
		tx.failed = nil
	}
}

const (
	attempts     = 10
	firstPause   = 2 * time.Millisecond
	longestPause = 250 * time.Millisecond
	longestUndo  = 5 * time.Second
)

// retry calls fn again while it collides with other transactions, after jittered, doubling pauses. If ctx
// ends meanwhile, fn's own error for the collision is kept beside it.
func retry(ctx context.Context, fn func() error) error {
	pause := firstPause
	for attempt := 1; ; attempt++ {
		err := fn()
		if !retryable(err) || attempt == attempts {
			return err
		}
		select {
		case <-time.After(pause/2 + rand.N(pause)):
		case <-ctx.Done():
			over := contextError(ctx)
			if _, bare := err.(*failure); bare {
				return over
			}
			return errors.Join(over, err)
		}
		pause = min(2*pause, longestPause)
	}
}
