package hostdb_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// SQLite has one connection to write on, and the transaction has it.
func TestDB_InTx_writePastTheTransactionEnds(t *testing.T) {
	for name, write := range map[string]func(*hostdb.DB) error{
		"insert": func(db *hostdb.DB) error {
			return db.Users.Insert(context.Background(), &hostdb.GlobalUser{Email: "b"})
		},
		"one statement": func(db *hostdb.DB) error {
			return db.WebhookEvents.Insert(context.Background(),
				&hostdb.StripeWebhookEvent{EventID: "e", EventType: "x"})
		},
		"claim": func(db *hostdb.DB) error {
			_, err := db.Jobs.Claim(context.Background(), "w", nil, time.Minute)
			return err
		},
		"transaction": func(db *hostdb.DB) error {
			return db.InTx(context.Background(), func(*hostdb.Tx) error { return nil })
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				db := memory()
				defer db.Close()
				// It sweeps, so that the next Claim doesn't.
				_, err := db.Jobs.Claim(context.Background(), "w", nil, time.Minute)
				if !errors.Is(err, hostdb.ErrNotFound) {
					t.Fatal(err)
				}
				began := time.Now()
				err = db.InTx(context.Background(), func(tx *hostdb.Tx) error {
					must(t, tx.Users.Insert(context.Background(), &hostdb.GlobalUser{Email: "a"}))
					err := write(db)
					if !errors.Is(err, hostdb.ErrUnavailable) || errors.Is(err, context.Canceled) ||
						!strings.Contains(err.Error(), "its Tx") {
						t.Errorf("error = %v, want ErrUnavailable with a hint", err)
					}
					return nil
				})
				must(t, err) // the transaction itself goes on
				if took := time.Since(began); took != 5*time.Second {
					t.Errorf("waited %v, want 5 s", took)
				}
				must(t, writeAgain(db))
			})
		})
	}
}

// writeAgain checks that the connection is free.
func writeAgain(db *hostdb.DB) error {
	return db.Users.Insert(context.Background(), &hostdb.GlobalUser{Email: "c"})
}

func TestDB_writeThatWaitsEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := memory()
		defer db.Close()
		must(t, db.InTx(t.Context(), func(*hostdb.Tx) error {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			began := time.Now()
			err := db.Users.RecordLogin(ctx, hostdb.NewID())
			if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
				t.Errorf("error = %v after %v", err, time.Since(began))
			}
			return nil
		}))
	})
}
