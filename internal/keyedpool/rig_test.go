package keyedpool

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// rig is a pool of numbered fake connections in a bubble, with a server that a test can disturb. Targets are
// written server/database; a dial takes 4 ms and a close 1 ms.
type rig struct {
	t    *testing.T
	pool *Pool[string, int]

	mu     sync.Mutex
	fail   func(tenant, target string) error // what a dial does; nil: it succeeds
	dialed []string                          // tenants, in order
	closed []int                             // connections, in order
	open   int                               // sockets
}

// inBubble runs a test with a rig; configure may change its configuration. The pool is closed at the end,
// which shows that nothing of it is left.
func inBubble(t *testing.T, configure func(*Config[string, int]), test func(*rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &rig{t: t}
		cfg := Config[string, int]{Dial: r.dial, Close: r.close, Server: serverOf, Classify: classify}
		if configure != nil {
			configure(&cfg)
		}
		pool, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		r.pool = pool
		test(r)
		if err := pool.Close(t.Context()); err != nil {
			t.Errorf("Close: %v", err)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.open != 0 {
			t.Errorf("%d sockets are left", r.open)
		}
	})
}

// serverOf is the rig's Config.Server.
func serverOf(_, target string) (string, error) {
	server, _, ok := strings.Cut(target, "/")
	if !ok {
		return "", errInvalid
	}
	return server, nil
}

func (r *rig) dial(ctx context.Context, tenant, target string) (int, error) {
	r.mu.Lock()
	r.dialed = append(r.dialed, tenant)
	number, fail := len(r.dialed), r.fail
	r.open++
	r.mu.Unlock()
	time.Sleep(4 * time.Millisecond)
	if fail != nil {
		if err := fail(tenant, target); err != nil {
			if errors.Is(err, context.DeadlineExceeded) {
				<-ctx.Done()
			}
			r.mu.Lock()
			r.open--
			r.mu.Unlock()
			return 0, err
		}
	}
	return number, nil
}

func (r *rig) close(_ context.Context, conn int) error {
	time.Sleep(time.Millisecond)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = append(r.closed, conn)
	r.open--
	return nil
}

// failing makes dials fail, or succeed again.
func (r *rig) failing(fail func(tenant, target string) error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fail = fail
}

// always is a failure that every dial meets.
func always(err error) func(string, string) error {
	return func(string, string) error { return err }
}

// dials returns the tenants dialed for so far, in order.
func (r *rig) dials() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.dialed, " ")
}

// lease takes a lease on a tenant at server s.
func (r *rig) lease(tenant string) *Lease[string, int] {
	r.t.Helper()
	return r.leaseTo(tenant, "s/"+tenant)
}

// leaseTo takes a lease on a tenant with a target.
func (r *rig) leaseTo(tenant, target string) *Lease[string, int] {
	r.t.Helper()
	lease, err := r.pool.Lease(tenant, target)
	if err != nil {
		r.t.Fatalf("lease on %s: %v", tenant, err)
	}
	return &lease
}

// acquire acquires for an owner of its own and fails the test where that fails.
func (r *rig) acquire(lease *Lease[string, int]) Conn[string, int] {
	r.t.Helper()
	conn, err := lease.Acquire(r.t.Context(), nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return conn
}

// hold leases a tenant and acquires a connection.
func (r *rig) hold(tenant string) (*Lease[string, int], Conn[string, int]) {
	r.t.Helper()
	lease := r.lease(tenant)
	return lease, r.acquire(lease)
}

// use leases a tenant, acquires a connection, gives both back and returns the connection's number.
func (r *rig) use(tenant string) int {
	r.t.Helper()
	lease, conn := r.hold(tenant)
	conn.Release(Healthy)
	lease.Release()
	return conn.Value()
}

// pending is an Acquire on a goroutine of its own.
type pending struct {
	cancel context.CancelFunc
	done   chan struct{}
	conn   Conn[string, int]
	err    error
}

// start starts an Acquire and waits until it waits, or is through.
func (r *rig) start(lease *Lease[string, int], owner *Owner) *pending {
	ctx, cancel := context.WithCancel(r.t.Context())
	p := &pending{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		p.conn, p.err = lease.Acquire(ctx, owner)
	}()
	synctest.Wait()
	return p
}

// over tells whether the Acquire has returned.
func (p *pending) over() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// end waits for the Acquire and gives its connection back.
func (p *pending) end() {
	<-p.done
	p.cancel()
	if p.err == nil {
		p.conn.Release(Healthy)
	}
}

// reason checks that an error is an *Error with a reason, and returns it.
func (r *rig) reason(err, reason error) *Error {
	r.t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Reason != reason {
		r.t.Fatalf("got %v, want the reason %q", err, reason)
	}
	return e
}

// server returns the counters of server s.
func (r *rig) server() ServerStats {
	r.t.Helper()
	for _, st := range r.pool.Servers() {
		if st.Server == "s" {
			return st
		}
	}
	r.t.Fatal("no server s")
	return ServerStats{}
}
