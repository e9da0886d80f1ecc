package heartbeat_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/heartbeat"
)

var errLost = errors.New("lost")

// start starts a lease of a minute, renewed every 15 s and lost after 40 s.
func start(ctx context.Context, renew func(context.Context) error) (context.Context, func() bool) {
	return heartbeat.Start(ctx, heartbeat.Lease{Since: time.Now(), Interval: 15 * time.Second,
		Patience: 40 * time.Second, Lost: errLost, Renew: renew})
}

func TestStart_keepsTheLeaseWhileItIsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		renewals := 0
		held, stop := start(t.Context(), func(context.Context) error { renewals++; return nil })
		time.Sleep(time.Hour + time.Second)
		if held.Err() != nil {
			t.Errorf("lost: %v", context.Cause(held))
		}
		if stop() {
			t.Error("stop reports a lost lease")
		}
		if renewals != 240 { // read after stop, which waits for the renewals
			t.Errorf("%d renewals in an hour; want 240", renewals)
		}
		if !errors.Is(context.Cause(held), context.Canceled) {
			t.Errorf("cause %v after stop", context.Cause(held))
		}
	})
}

func TestStart_losesTheLeaseWhenTheHostDatabaseIsSilent(t *testing.T) {
	for name, renew := range map[string]func(context.Context) error{
		"every renewal fails": func(context.Context) error { return errors.New("no connection") },
		"every renewal hangs": func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				held, stop := start(t.Context(), renew)
				<-held.Done()
				if after := time.Since(began); after != 40*time.Second {
					t.Errorf("lost after %v; want 40s", after)
				}
				if !stop() || !errors.Is(context.Cause(held), errLost) {
					t.Errorf("cause %v; want %v", context.Cause(held), errLost)
				}
			})
		})
	}
}

func TestStart_losesTheLeaseAtOnceToAnotherProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		held, stop := start(t.Context(), func(context.Context) error { return hostdb.ErrConflict })
		<-held.Done()
		if after := time.Since(began); after != 15*time.Second || !stop() {
			t.Errorf("lost after %v; want it at the first renewal", after)
		}
	})
}

func TestStart_countsPatienceFromTheBeginningOfTheLastRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		renewals := 0
		held, stop := start(t.Context(), func(ctx context.Context) error {
			if renewals++; renewals > 1 {
				return errors.New("no connection")
			}
			time.Sleep(10 * time.Second)
			return ctx.Err()
		})
		<-held.Done()
		if after := time.Since(began); after != 55*time.Second || !stop() {
			t.Errorf("lost after %v; want 40s after the renewal that began at 15s", after)
		}
	})
}
