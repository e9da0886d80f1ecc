package tenantdb

import (
	"context"
	"errors"
	"runtime/debug"
	"sync"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// logins runs Config.FirstLogin, one call at a time for each user.
type logins struct {
	hook    func(context.Context, *Identity) error       // nil: there is none
	look    func(context.Context, UserKey) (bool, error) // asks the host database, not the cache, whether the user exists
	timeout time.Duration
	log     *reporter
	life    context.Context
	end     context.CancelFunc

	mu     sync.Mutex // guards what follows; not held while the hook runs
	calls  map[UserKey]*loginCall
	closed bool

	running sync.WaitGroup
}

// loginCall is one call of the hook.
type loginCall struct {
	ctx    context.Context // ends with the call, or with the time for it
	cancel context.CancelFunc
	done   chan struct{}
	err    error // set before done closes
}

var (
	// errLoginGone is a call's error until the hook returns: one that panics leaves it.
	errLoginGone = errors.New("the first-login hook did not return")
	errLoginLate = errors.New("the first-login hook has not returned within Cache.LoadTimeout")
)

func (l *logins) open(cfg *Config, log *reporter, look func(context.Context, UserKey) (bool, error)) {
	l.hook, l.look, l.timeout, l.log, l.calls = cfg.FirstLogin, look, cfg.Cache.LoadTimeout, log, make(map[UserKey]*loginCall)
	l.life, l.end = context.WithCancel(context.Background())
}

// run calls the hook for a user, or waits for the call under way. The caller's cancel ends its own wait only.
// Nobody waits for longer than the hook may take: one that sends a request as its own user waits for itself.
func (l *logins) run(ctx context.Context, key UserKey, id *Identity) error {
	call, err := l.join(key, id)
	if err != nil {
		return err
	}
	select {
	case <-call.done:
		return call.err
	case <-ctx.Done():
		return ctx.Err()
	case <-call.ctx.Done():
	}
	select {
	case <-call.done:
		return call.err
	default:
		return errLoginLate
	}
}

// join returns a user's call, which it starts where there is none.
func (l *logins) join(key UserKey, id *Identity) (*loginCall, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, errClosed
	}
	call := l.calls[key]
	if call == nil {
		call = &loginCall{done: make(chan struct{}), err: errLoginGone}
		call.ctx, call.cancel = context.WithTimeout(l.life, l.timeout)
		l.calls[key] = call
		l.running.Add(1)
		go l.call(key, id, call)
	}
	return call, nil
}

// call runs the hook on its own goroutine and deadline.
func (l *logins) call(key UserKey, id *Identity, call *loginCall) {
	defer l.running.Done()
	defer func() {
		p := recover() // or it would end the process
		l.mu.Lock()
		delete(l.calls, key)
		l.mu.Unlock()
		close(call.done)
		call.cancel()
		if p != nil {
			l.log.panicked("Config.FirstLogin panicked", id, p, debug.Stack())
		}
	}()
	call.err = l.create(call.ctx, key, id)
}

// create calls the hook, unless the user has come to exist since it was looked for: by a call that ended just
// now, or elsewhere.
func (l *logins) create(ctx context.Context, key UserKey, id *Identity) error {
	if exists, err := l.look(ctx, key); err != nil || exists {
		return err
	}
	failure := l.hook(ctx, id.Clone())
	switch {
	case errors.Is(failure, hostdb.ErrInvalid):
		return permanent(failure)
	case failure != nil && !errors.Is(failure, hostdb.ErrConflict):
		return failure
	}
	exists, err := l.look(ctx, key) // before the call is over, so that whoever comes next finds the user
	if err != nil || exists {       // a conflict was another process, which was faster
		return err
	}
	return permanent(failure)
}

// permanent turns a failure that trying again doesn't mend into a refusal that doesn't ask for it.
func permanent(failure error) error {
	if failure == nil {
		return nil
	}
	return because(why(ErrForbidden, ReasonFirstLogin, "Config.FirstLogin could not create the user"), failure)
}

// close refuses further calls, cancels those under way and waits for them.
func (l *logins) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.end()
	l.running.Wait()
}

// find returns the facts about a caller, after the first-login hook where they have no user yet.
// at is when the clock was read, just now, or zero.
func (m *Middleware) find(ctx context.Context, id *Identity, key accessKey, at time.Time) (*entry, error) {
	found, err := m.resolver.find(ctx, id, key, at)
	if err != nil || m.logins.hook == nil || found.Value().User != nil {
		return found, err
	}
	if err := m.firstLogin(ctx, id, key.userKey()); err != nil {
		return nil, err
	}
	return m.resolver.find(ctx, id, key, time.Time{})
}

// firstLogin has the user created.
func (m *Middleware) firstLogin(ctx context.Context, id *Identity, key UserKey) error {
	err := m.logins.run(ctx, key, id)
	if err != nil && refusalOf(err) == unknown {
		return because(ErrHostUnavailable, err)
	}
	return err
}
