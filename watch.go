package tenantdb

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/keyedpool"
	"github.com/tenantdb/tenantdb/internal/observe"
	"github.com/tenantdb/tenantdb/internal/refusal"
)

// watch tells a Middleware's observer. The methods of a nil watch do nothing.
type watch struct {
	Observer
	panics observe.Panics
}

// newWatch returns nil without an observer.
func newWatch(cfg *Config) *watch {
	if cfg.Observer == nil {
		return nil
	}
	return &watch{Observer: *cfg.Observer, panics: observe.Panics{Logger: cfg.Logger}}
}

// decision is the context of a decision that is observed.
type decision struct {
	context.Context
	loaded bool // it has waited for a lookup
}

// decisionKey is the key of a decision in itself.
type decisionKey struct{}

// Value implements [context.Context].
func (d *decision) Value(key any) any {
	if key == (decisionKey{}) {
		return d
	}
	return d.Context.Value(key)
}

// decide makes a decision. The scope keeps the caller's context.
func (w *watch) decide(
	ctx context.Context, op Operation, enter func(context.Context) (*scopeContext, error),
) (scope *scopeContext, err error) {
	if w == nil {
		return enter(ctx)
	}
	began := time.Now()
	d := &decision{Context: observe.Start(&w.panics, w.DecisionStart, ctx, DecisionStartInfo{op})}
	decided := false
	defer func() { // also if the Authenticator panics
		info := DecisionEndInfo{Operation: op, Duration: time.Since(began), Loaded: d.loaded}
		switch {
		case !decided:
			info.Code, info.Status = refusal.Unknown.Code, refusal.Unknown.Status
		case err != nil:
			e := explain(err, "")
			info.Code, info.Reason, info.Status = e.Code, e.Reason, StatusCode(e)
			info.TenantID, info.UserID = e.ids()
		default:
			info.TenantID = scope.tenantID()
			if scope.access != nil && scope.access.User != nil {
				info.UserID = scope.access.User.ID
			}
		}
		observe.Tell(&w.panics, w.DecisionEnd, d.Context, info)
	}()
	scope, err = enter(d)
	if scope != nil {
		scope.Context = ctx
	}
	decided = true
	return scope, err
}

// ids returns the ids of the tenant and the user that the error is about.
func (e *Error) ids() (tenantID, userID string) {
	tenantID = e.about.tenantID
	if tenantID == "" && hostdb.ValidID(e.TenantID) {
		tenantID = e.TenantID
	}
	return tenantID, e.about.userID
}

// lookup is called before a lookup in the host database, and ended after it.
func (w *watch) lookup(ctx context.Context) (ended func(error)) {
	if w == nil {
		return func(error) {}
	}
	if d, ok := ctx.Value(decisionKey{}).(*decision); ok {
		d.loaded = true
	}
	began := time.Now()
	ctx = observe.Start(&w.panics, w.LookupStart, ctx, LookupStartInfo{})
	return func(err error) {
		observe.Tell(&w.panics, w.LookupEnd, ctx, LookupEndInfo{Duration: time.Since(began), Err: err})
	}
}

// waits is the cache's Waits.
func (w *watch) waits() func(context.Context, accessKey) func(error) {
	if w == nil {
		return nil
	}
	return func(ctx context.Context, _ accessKey) func(error) { return w.lookup(ctx) }
}

// refused tells of a request that was let in and is answered with an error.
func (w *watch) refused(ctx context.Context, e *Error) {
	if w == nil {
		return
	}
	info := RefusalInfo{Code: e.Code, Reason: e.Reason, Status: StatusCode(e)}
	info.TenantID, info.UserID = e.ids()
	observe.Tell(&w.panics, w.Refused, ctx, info)
}

// maxReports is how many deliveries of the feed may wait for an observer.
const maxReports = 64

// feed returns what tells the observer of the feed's deliveries. A goroutine calls the observer, since the
// feed must not wait for it. It ends with ctx, and running waits for it.
func (w *watch) feed(ctx context.Context, running *sync.WaitGroup) func(*hostdb.Delivery, error) {
	if w == nil {
		return func(*hostdb.Delivery, error) {}
	}
	type report struct {
		poll  PollInfo
		reset bool
	}
	reports := make(chan report, maxReports)
	running.Go(func() {
		for {
			select {
			case r := <-reports:
				if r.reset {
					observe.Tell(&w.panics, w.Reset, ctx, ResetInfo{})
				}
				observe.Tell(&w.panics, w.Polled, ctx, r.poll)
			case <-ctx.Done():
				return
			}
		}
	})
	return func(d *hostdb.Delivery, err error) {
		r := report{PollInfo{Changes: len(d.Changes), Err: err}, d.Reset}
		if !d.PolledAt.IsZero() {
			r.poll.Lag = time.Since(d.PolledAt)
		}
		select {
		case reports <- r:
		default: // the observer is behind
		}
	}
}

// poolWatch tells a Pool's observer. The methods of a nil poolWatch do nothing.
type poolWatch struct {
	PoolObserver
	panics observe.Panics
}

// newPoolWatch returns nil without an observer.
func newPoolWatch(o *PoolObserver) *poolWatch {
	if o == nil {
		return nil
	}
	return &poolWatch{PoolObserver: *o}
}

// retired tells of a tenant's database that was retired and has closed.
func (w *poolWatch) retired(tenantID string) {
	if w != nil {
		observe.Tell(&w.panics, w.Retired, context.Background(), RetirementInfo{tenantID})
	}
}

// conns returns the observer of the engines' connections.
func (w *poolWatch) conns() *keyedpool.Observer {
	if w == nil {
		return nil
	}
	return &keyedpool.Observer{
		Wait: w.wait,
		Open: w.open,
		Closed: func(tenant, server string, err error) {
			observe.Tell(&w.panics, w.Closed, context.Background(), CloseInfo{tenant, server, err})
		},
		Evicted: func(tenant, server string) {
			observe.Tell(&w.panics, w.Evicted, context.Background(), EvictionInfo{tenant, server})
		},
		BreakerChanged: func(server string, from, to keyedpool.BreakerState, cause error) {
			observe.Tell(&w.panics, w.BreakerChanged, context.Background(),
				BreakerInfo{server, from.String(), to.String(), cause})
		},
	}
}

// wait tells of a query that waits for a connection.
func (w *poolWatch) wait(ctx context.Context, tenant, server string) (context.Context, func(error)) {
	began := time.Now()
	ctx = observe.Start(&w.panics, w.WaitStart, ctx, WaitStartInfo{tenant, server})
	return ctx, func(err error) {
		info := WaitEndInfo{TenantID: tenant, Server: server, Duration: time.Since(began), Err: err}
		switch {
		case err == nil:
		case errors.Is(err, context.Canceled):
			info.Code = "canceled"
		default:
			info.Code = refusal.Of(refusal.OfQuery(ctx, err)).Code
		}
		observe.Tell(&w.panics, w.WaitEnd, ctx, info)
	}
}

// open tells of a connection that is being opened.
func (w *poolWatch) open(ctx context.Context, tenant, server string) func(error) {
	began := time.Now()
	ctx = observe.Start(&w.panics, w.OpenStart, ctx, OpenStartInfo{tenant, server})
	return func(err error) {
		observe.Tell(&w.panics, w.OpenEnd, ctx,
			OpenEndInfo{TenantID: tenant, Server: server, Duration: time.Since(began), Err: err})
	}
}
