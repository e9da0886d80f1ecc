package tenantdb_test

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb"
)

// TestBuildsThatWaitForEachOtherEnd has what Cached builds ask Cached again: for its own key, and two for
// each other's.
func TestBuildsThatWaitForEachOtherEnd(t *testing.T) {
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) {
			w := newWorld(t, engine, tenantdb.PoolConfig{AcquireTimeout: 200 * time.Millisecond})
			w.tenant("acme", w.user("ann"))
			h := w.middleware(w.config()).Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				ctx := context.WithoutCancel(r.Context()) // nobody's patience ends it
				nothing := func(*tenantdb.Scope) (int, func(), error) { return 1, nil, nil }
				_, err := tenantdb.Cached(ctx, "own", func(*tenantdb.Scope) (int, func(), error) {
					v, err := tenantdb.Cached(ctx, "own", nothing)
					return v, nil, err
				})
				if !errors.Is(err, tenantdb.ErrBusy) {
					t.Errorf("its own key: %v", err)
				}
				var both, building sync.WaitGroup
				building.Add(2)
				failed := make(chan error, 2)
				for _, keys := range [][2]string{{"a", "b"}, {"b", "a"}} {
					both.Go(func() {
						_, err := tenantdb.Cached(ctx, keys[0], func(*tenantdb.Scope) (int, func(), error) {
							building.Done()
							building.Wait()
							v, err := tenantdb.Cached(ctx, keys[1], nothing)
							return v, nil, err
						})
						failed <- err
					})
				}
				both.Wait()
				if first, second := <-failed, <-failed; !errors.Is(errors.Join(first, second), tenantdb.ErrBusy) {
					t.Errorf("each other's: %v, %v", first, second)
				}
				if v, err := tenantdb.Cached(ctx, "own", nothing); v != 1 || err != nil {
					t.Errorf("afterwards: %v, %v", v, err)
				}
			}))
			if rec := do(h, request("ann", "acme")); rec.Code != 200 {
				t.Errorf("%d %s", rec.Code, rec.Body)
			}
		})
	}
}

// TestACloserMayCallBack has what closes a cached value ask for it: it gets an error, and the database
// closes.
func TestACloserMayCallBack(t *testing.T) {
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) {
			w := newWorld(t, engine, tenantdb.PoolConfig{AcquireTimeout: 100 * time.Millisecond})
			acme := w.tenant("acme", w.user("ann"))
			closed := make(chan error, 1)
			do(w.middleware(w.config()).Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				ctx := context.WithoutCancel(r.Context())
				nothing := func(*tenantdb.Scope) (int, func(), error) { return 1, nil, nil }
				_, err := tenantdb.Cached(ctx, "key", func(*tenantdb.Scope) (int, func(), error) {
					return 1, func() {
						err := errors.New("it panicked")
						defer func() { closed <- err }()
						_, err = tenantdb.Cached(ctx, "key", nothing)
					}, nil
				})
				must(t, err)
			})), request("ann", "acme"))
			w.pool.Retire(acme.ID)
			if err := <-closed; err == nil {
				t.Error("a closed database's value was given out")
			}
		})
	}
}

// asksBack is an authenticator whose Revalidate calls what calls it.
type asksBack struct {
	tenantdb.Authenticator
	again func(context.Context) error
	depth int
}

func (a *asksBack) Revalidate(ctx context.Context, _ *tenantdb.Identity) error {
	if a.depth++; a.depth > 10 { // a fault ends the test, not the process
		return nil
	}
	return a.again(ctx)
}

func TestRevalidateMayNotCallWhatCallsIt(t *testing.T) {
	w := newWorld(t, "sqlite", tenantdb.PoolConfig{})
	w.tenant("acme", w.user("ann"))
	cfg := w.config()
	auth := &asksBack{Authenticator: cfg.Authenticator}
	cfg.Authenticator = auth
	do(w.middleware(cfg).Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		scope, _ := tenantdb.FromContext(r.Context())
		auth.again = scope.Check
		if err := scope.Check(r.Context()); !errors.Is(err, tenantdb.ErrAuthUnavailable) || auth.depth != 1 {
			t.Errorf("Check: %v after %d calls", err, auth.depth)
		}
	})), request("ann", "acme"))
	if auth.depth == 0 {
		t.Error("Revalidate was not called")
	}
}
