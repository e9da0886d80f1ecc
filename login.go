package tenantdb

import (
	"context"
	"errors"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/refusal"
)

// logins runs Config.FirstLogin, one call at a time for each user.
type logins struct {
	hook func(context.Context, *Identity) error // nil: there is none
	// exists asks the host database, not the cache, whether a user exists.
	exists  func(context.Context, UserKey) (bool, error)
	timeout time.Duration
	log     *reporter
	life    context.Context
	end     context.CancelFunc
	calls   singleflight.Group

	mu      sync.Mutex // guards closed, and has running only grow before it
	closed  bool
	running sync.WaitGroup
}

var (
	errLoginPanicked = errors.New("the first-login hook panicked")
	errLoginLate     = errors.New("the first-login hook has not returned within Cache.LoadTimeout")
)

func (l *logins) open(cfg *Config, log *reporter, exists func(context.Context, UserKey) (bool, error)) {
	l.hook, l.exists, l.timeout, l.log = cfg.FirstLogin, exists, cfg.Cache.LoadTimeout, log
	l.life, l.end = context.WithCancel(context.Background())
}

// run calls the hook for a user, or waits for the call under way. The end of ctx ends this wait only.
// Nobody waits for longer than a call may take: a hook that sends a request as its own user waits for
// itself. An error that is none of this package's becomes ErrHostUnavailable.
func (l *logins) run(ctx context.Context, key UserKey, id *Identity) error {
	late := time.NewTimer(l.timeout)
	defer late.Stop()
	name := "id " + key.ID + " oauth " + key.OAuthID
	var err error
	select {
	case call := <-l.calls.DoChan(name, func() (any, error) { return nil, l.call(key, id) }):
		err = call.Err
	case <-late.C:
		err = errLoginLate
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil && refusal.Of(err) == refusal.Unknown {
		return refusal.WithCause(ErrHostUnavailable, err)
	}
	return err
}

// call has the hook create a user, within the time for it. It returns an error if the hook panics.
func (l *logins) call(key UserKey, id *Identity) (err error) {
	l.mu.Lock()
	closed := l.closed
	if !closed {
		l.running.Add(1)
	}
	l.mu.Unlock()
	if closed {
		return errClosed
	}
	defer l.running.Done()
	ctx, cancel := context.WithTimeout(l.life, l.timeout)
	defer cancel()
	defer func() {
		if p := recover(); p != nil { // or it would end the process
			err = errLoginPanicked
			l.log.panicked("Config.FirstLogin panicked", id, p, debug.Stack())
		}
	}()
	return l.create(ctx, key, id)
}

// create calls the hook, unless the user has come to exist since it was looked for: by a call that ended just
// now, or by another process.
func (l *logins) create(ctx context.Context, key UserKey, id *Identity) error {
	if exists, err := l.exists(ctx, key); err != nil || exists {
		return err
	}
	failure := l.hook(ctx, id.Clone())
	switch {
	case errors.Is(failure, hostdb.ErrInvalid):
		return permanent(failure)
	case failure != nil && !errors.Is(failure, hostdb.ErrConflict):
		return failure
	}
	exists, err := l.exists(ctx, key) // before the call is over, so that whoever comes next finds the user
	if err != nil || exists {         // a conflict was with another process, which was faster
		return err
	}
	return permanent(failure)
}

// permanent turns a failure that another try would meet too into a refusal that doesn't ask for one.
func permanent(failure error) error {
	if failure == nil {
		return nil
	}
	refused := why(ErrForbidden, ReasonFirstLogin, "Config.FirstLogin could not create the user")
	return refusal.WithCause(refused, failure)
}

// close refuses further calls, cancels those under way and waits for them.
func (l *logins) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.end()
	l.running.Wait()
}
