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

// Tx is a transaction, for one goroutine at a time. Once the database refused a statement, every further call
// and Commit fail with that error; a nested InTx confines the failure to itself.
type Tx struct {
	Tables
	db      *DB
	ctx     context.Context // Begin's, whose end rolls the transaction back
	sql     *sql.Tx
	failed  error
	depth   int                // nested InTx calls under way
	owned   bool               // InTx ends it
	changed bool               // it has written what Changes delivers
	end     context.CancelFunc // frees its context
}

// longestWait is how long a write waits for the one connection that SQLite writes on while nobody else gets
// it either.
const longestWait = 5 * time.Second

// Begin starts a transaction. End it with Commit or Rollback; the end of ctx rolls it back. PostgreSQL: at
// the server's default isolation level. SQLite: with the write lock from the start; where another transaction
// of this DB holds it for 5 s: ErrUnavailable. Errors: ErrUnavailable.
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

// begin begins the driver's transaction, whose context end frees. SQLite has one connection to write on: a
// transaction's function that writes past the transaction would wait for itself.
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
		text: "another transaction holds SQLite's write lock; within InTx write through its Tx, and keep " +
			"transactions short"}
}

// cancelWhenStalled calls end when nobody has had a turn to write for longestWait; a long line that moves on
// is waited for. The function that it returns ends that, and reports whether end was called.
func (db *DB) cancelWhenStalled(end func()) (settled func() (late bool)) {
	var mu sync.Mutex // guards what follows
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

// Commit makes the transaction's writes permanent. Errors: what failed it before; ErrUnavailable, after which
// it is unknown whether the transaction took place.
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

// fail remembers the first error that the database answered with.
func (tx *Tx) fail(err error) {
	if tx.failed == nil {
		tx.failed = err
	}
}

// InTx runs fn in a transaction: commits when fn returns nil, rolls back when it returns an error, which is
// returned as it is, and rolls back when it panics, which goes on as a panic. A transaction that collides
// with another one (serialization failure, deadlock, SQLite busy) is run again, fn included, up to 10 times
// with growing pauses: fn must bear that. After that: ErrUnavailable.
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
	defer func() { _ = tx.sql.Rollback() }() // does nothing after the commit
	if err := fn(tx); err != nil {
		return err
	}
	return tx.commit()
}

// InTx runs fn in a savepoint of the transaction: what fn did is undone when it returns an error or panics,
// and the transaction can go on.
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

// rollbackTo returns to a savepoint and ends it. Where that fails, so has the transaction. Its context is the
// transaction's: the end of the nested one's may be why it is undone.
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

// retry runs fn again while it collides with other transactions, with jittered, doubling pauses. What fn
// itself makes of a collision is in its error also when ctx ends first.
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
