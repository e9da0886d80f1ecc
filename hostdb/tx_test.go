package hostdb_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

func TestRetry_pausesLongerAndEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, calls := time.Now(), 0
		err := hostdb.Retry(t.Context(), func() error { calls++; return hostdb.Collision() })
		if calls != hostdb.Attempts || !errors.Is(err, hostdb.ErrUnavailable) {
			t.Errorf("%d calls, %v", calls, err)
		}
		if took := time.Since(began); took < 500*time.Millisecond || took > 2*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

func TestRetry_endsWithSuccessOtherErrorsAndTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		other, calls := errors.New("other"), 0
		for _, end := range []error{nil, other} {
			calls = 0
			err := hostdb.Retry(t.Context(), func() error {
				if calls++; calls < 3 {
					return hostdb.Collision()
				}
				return end
			})
			if calls != 3 || err != end {
				t.Errorf("%d calls, %v", calls, err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		calls = 0
		err := hostdb.Retry(ctx, func() error { calls++; cancel(); return hostdb.Collision() })
		if calls != 1 || !errors.Is(err, context.Canceled) || errors.Is(err, hostdb.ErrUnavailable) {
			t.Errorf("%d calls, %v", calls, err)
		}
		ctx, cancel = context.WithCancel(t.Context())
		mine := errors.New("mine")
		err = hostdb.Retry(ctx, func() error {
			cancel()
			return fmt.Errorf("%w: %w", mine,
				hostdb.Collision())
		})
		if !errors.Is(err, mine) || !errors.Is(err, context.Canceled) {
			t.Errorf("error = %v, want the function's and context.Canceled", err)
		}
	})
}

// Serializable transactions refuse write skew. InTx retries the loser until each has seen the other.
func TestDB_InTx_retriesSerializationFailures(t *testing.T) {
	db := open(t, hostdb.Config{URL: hostdb.Secret(postgresURL(t) + "&default_transaction_isolation=" +
		url.PathEscape("serializable"))})
	tenant := newTenant(t, db)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 5 {
				err := db.InTx(context.Background(), func(tx *hostdb.Tx) error {
					row, err := tx.Tenants.Get(context.Background(), tenant.ID)
					if err != nil {
						return err
					}
					row.SchemaVersion++
					return tx.Tenants.Update(context.Background(), row)
				})
				if err != nil && !errors.Is(err, hostdb.ErrUnavailable) {
					t.Error(err)
				} else if err != nil {
					t.Log("ten attempts collided")
				}
			}
		})
	}
	wg.Wait()
	got, err := db.Tenants.Get(t.Context(), tenant.ID)
	must(t, err)
	logs, err := db.AuditLogs.ListForTarget(t.Context(), tenant.ID)
	must(t, err)
	if got.SchemaVersion != int64(len(logs)-1) || got.SchemaVersion < 8 {
		t.Errorf("version %d after %d audited updates", got.SchemaVersion, len(logs)-1)
	}
}

func TestDB_InTx_retriesDeadlocks(t *testing.T) {
	db := open(t, hostdb.Config{URL: hostdb.Secret(postgresURL(t) + "&deadlock_timeout=10ms")})
	a, b := newTenant(t, db), newTenant(t, db)
	var wg, met sync.WaitGroup
	met.Add(2)
	for _, order := range [][]string{{a.ID, b.ID}, {b.ID, a.ID}} {
		first := true
		wg.Go(func() {
			err := db.InTx(context.Background(), func(tx *hostdb.Tx) error {
				if _, err := tx.Tenants.Lock(context.Background(), order[0]); err != nil {
					return err
				}
				if first { // both hold one lock before they request the other
					first = false
					met.Done()
					met.Wait()
				}
				_, err := tx.Tenants.Lock(context.Background(), order[1])
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestDB_InTx_letsConcurrentWritersThrough(t *testing.T) {
	onBoth(t, func(t *testing.T, db *hostdb.DB) {
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 10 {
					id := hostdb.NewID()
					if err := db.Users.Insert(context.Background(),
						&hostdb.GlobalUser{ID: id, Email: id}); err != nil {
						t.Error(err)
						return
					}
					// Reads see this process's commits.
					if _, err := db.Users.Get(context.Background(), id); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
	})
}

func TestDB_InTx_twoHandlesOnOneFileWriteInTurn(t *testing.T) {
	place := fileURL(t)
	var wg sync.WaitGroup
	for _, db := range []*hostdb.DB{open(t, hostdb.Config{URL: hostdb.Secret(place)}),
		open(t, hostdb.Config{URL: hostdb.Secret(place)})} {
		for range 4 {
			wg.Go(func() {
				for range 10 {
					if err := db.Users.Insert(context.Background(),
						&hostdb.GlobalUser{Email: hostdb.NewID()}); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	wg.Wait()
}

func TestTx_isRolledBackByACancel(t *testing.T) {
	onBoth(t, func(t *testing.T, db *hostdb.DB) {
		ctx, cancel := context.WithCancel(t.Context())
		err := db.InTx(ctx, func(tx *hostdb.Tx) error {
			must(t, tx.Users.Insert(ctx, &hostdb.GlobalUser{Email: "a"}))
			cancel()
			return nil
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error = %v, want context.Canceled", err)
		}
		if users, err := db.Users.List(t.Context()); err != nil || len(users) != 0 {
			t.Errorf("%d users, %v", len(users), err)
		}
	})
}

func TestTx_reportsThatItHasEnded(t *testing.T) {
	onBoth(t, func(t *testing.T, db *hostdb.DB) {
		tx, err := db.Begin(t.Context())
		must(t, err)
		must(t, tx.Commit())
		for _, err := range []error{tx.Commit(),
			tx.Users.Insert(t.Context(), &hostdb.GlobalUser{Email: "a"})} {
			if err == nil || !strings.Contains(err.Error(), "ended") {
				t.Errorf("error = %v", err)
			}
		}
	})
}

func TestTx_InTx_undoesOnlyItsOwn(t *testing.T) {
	onBoth(t, func(t *testing.T, db *hostdb.DB) {
		ctx, undo := t.Context(), errors.New("undo")
		add := func(tx *hostdb.Tx,
			email string) {
			must(t, tx.Users.Insert(ctx, &hostdb.GlobalUser{Email: email}))
		}
		must(t, db.InTx(ctx, func(tx *hostdb.Tx) error {
			add(tx, "1")
			return tx.InTx(ctx, func(tx *hostdb.Tx) error {
				add(tx, "2")
				for i, end := range []error{nil, undo} {
					err := tx.InTx(ctx, func(
						tx *hostdb.Tx) error {
						add(tx, string(rune('a'+i)))
						return end
					})
					if err != end {
						t.Errorf("error = %v, want %v", err, end)
					}
				}
				func() {
					defer func() { _ = recover() }()
					_ = tx.InTx(ctx, func(tx *hostdb.Tx) error { add(tx, "p"); panic("x") })
				}()
				return nil
			})
		}))
		var emails []string
		for u, err := range db.Users.All(ctx) {
			must(t, err)
			emails = append(emails, u.Email)
		}
		if strings.Join(emails, " ") != "1 2 a" {
			t.Errorf("users = %v", emails)
		}
	})
}

func TestTx_InTx_undoesOnlyItsOwnAtItsContextsEnd(t *testing.T) {
	onBoth(t, func(t *testing.T, db *hostdb.DB) {
		ctx, mine := t.Context(), errors.New("mine")
		add := func(tx *hostdb.Tx,
			email string) error {
			return tx.Users.Insert(ctx, &hostdb.GlobalUser{Email: email})
		}
		must(t, db.InTx(ctx, func(tx *hostdb.Tx) error {
			must(t, add(tx, "outer 1"))
			for _, end := range []error{nil, mine} {
				short, cancel := context.WithCancel(ctx)
				err := tx.InTx(short, func(tx *hostdb.Tx) error {
					must(t, add(tx, "nested"))
					cancel()
					if err := tx.Users.Insert(short, &hostdb.GlobalUser{Email: "late"}); err == nil {
						t.Error("a statement ran on an ended context")
					}
					return end
				})
				want := end
				if want == nil {
					want = context.Canceled
				}
				if !errors.Is(err, want) {
					t.Errorf("error = %v, want %v", err, want)
				}
				err = tx.InTx(short, func(
					*hostdb.Tx) error {
					t.Error("ran on an ended context")
					return nil
				})
				if !errors.Is(err, context.Canceled) {
					t.Errorf("error = %v, want context.Canceled", err)
				}
			}
			return add(tx, "outer 2")
		}))
		var emails []string
		for u, err := range db.Users.All(ctx) {
			must(t, err)
			emails = append(emails, u.Email)
		}
		if got := strings.Join(emails, ", "); got != "outer 1, outer 2" {
			t.Errorf("users = %s", got)
		}
	})
}

func TestTx_InTx_releasesAnUndoneSavepoint(t *testing.T) {
	onBoth(t, func(t *testing.T, db *hostdb.DB) {
		tx, err := db.Begin(t.Context())
		must(t, err)
		defer func() { must(t, tx.Rollback()) }()
		undo := errors.New("undo")
		if err := tx.InTx(t.Context(), func(*hostdb.Tx) error { return undo }); err != undo {
			t.Errorf("error = %v, want %v", err, undo)
		}
		if _, err := tx.Bare().Exec("RELEASE SAVEPOINT hostdb_0"); err == nil {
			t.Error("the savepoint is still there")
		}
	})
}
