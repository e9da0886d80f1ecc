package pghosts

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenantdb/tenantdb/internal/sqlstate"
)

// ErrUnfit matches the error of a host that answers but doesn't serve: target_session_attrs asks for another
// kind of server, or a standby has taken over from it.
var ErrUnfit = errors.New("the host doesn't serve")

// unfit is an error that matches ErrUnfit.
type unfit struct{ error }

// Is implements the method that errors.Is calls.
func (unfit) Is(target error) bool { return target == ErrUnfit }

// Unwrap returns the reason.
func (u unfit) Unwrap() error { return u.error }

// Connect opens a connection to the host that serves. open connects with a config that names one host. It is
// called from several goroutines at once, but for the same host only after its last call for it has
// returned. close ends a connection that came too late. The config's ConnectTimeout limits the attempt at
// each host, and ctx limits all of them.
//
// Of several hosts only a primary serves, unless the config has a ValidateConnect, which then decides alone.
//
// While a host doesn't answer, those that have failed are tried again, because one may be promoted
// meanwhile.
//
// When Connect fails, every call has returned. When it succeeds, attempts at other hosts may still be
// ending: see [Standing.Alone].
func Connect[C any](ctx context.Context, h *Hosts, cfg *pgx.ConnConfig,
	open func(context.Context, *pgx.ConnConfig) (C, error), close func(C)) (C, Standing, error) {
	hosts := split(cfg)
	if len(hosts) > 1 && cfg.ValidateConnect == nil { // otherwise a standby might answer first
		for _, host := range hosts {
			host.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsPrimary
		}
	}
	r := &race[C]{hosts: hosts, set: h.of(hosts), open: open, close: close,
		notPreferred: make([]bool, len(hosts)), errs: make([]error, len(hosts)),
		outcomes: make(chan outcome[C])}
	if len(hosts) == 1 {
		return r.markServing(r.attempt(ctx, 0, true))
	}
	ctx, cancel := context.WithCancel(ctx)
	conn, standing, err := r.run(ctx)
	cancel()
	if err != nil {
		r.attempts.Wait()
		return conn, standing, err
	}
	if r.running > 0 {
		ended := make(chan struct{})
		standing.alone = ended
		h.running.Go(func() { r.wait(ended) })
	}
	return conn, standing, nil
}

// race is a Connect in progress.
type race[C any] struct {
	hosts        []*pgx.ConnConfig
	set          *set
	open         func(context.Context, *pgx.ConnConfig) (C, error)
	close        func(C)
	queue        []int   // hosts that aren't being tried, the next one first
	tried        int     // how many hosts have been tried
	running      int     // attempts in progress
	notPreferred []bool  // hosts that target_session_attrs accepts only if there is no better one
	errs         []error // each host's last error
	outcomes     chan outcome[C]
	attempts     sync.WaitGroup
}

// outcome is the result of an attempt.
type outcome[C any] struct {
	host int
	conn C
	as   served
	err  error
}

// wait closes ended when all attempts have ended.
func (r *race[C]) wait(ended chan<- struct{}) {
	r.attempts.Wait()
	close(ended)
}

// run tries the hosts until one serves or all have failed.
func (r *race[C]) run(ctx context.Context) (none C, _ Standing, _ error) {
	tick := time.NewTicker(nextHostDelay)
	defer tick.Stop()
	r.queue = r.set.hosts()
	r.tryNext(ctx)
	for {
		select {
		case <-ctx.Done():
			return none, Standing{}, errors.Join(append(r.errs, ctx.Err())...)
		case <-tick.C:
			r.tryNext(ctx)
		case o := <-r.outcomes:
			r.running--
			conn, standing, err := r.markServing(o)
			if err == nil {
				return conn, standing, nil
			}
			r.noteFailure(ctx, o.host, err)
			switch {
			case isFinal(err):
				return none, Standing{}, err
			case r.tried < len(r.hosts):
				r.tryNext(ctx)
				tick.Reset(nextHostDelay)
			case r.running == 0 && !r.tryNotPreferred(ctx):
				return none, Standing{}, errors.Join(r.errs...)
			}
		}
	}
}

// tryNext starts an attempt at the next host in the queue, if there is one.
func (r *race[C]) tryNext(ctx context.Context) {
	if len(r.queue) == 0 {
		return
	}
	host := r.queue[0]
	r.queue = r.queue[1:]
	r.tried, r.running = r.tried+1, r.running+1
	accept := r.notPreferred[host]
	r.attempts.Go(func() {
		o := r.attempt(ctx, host, accept)
		select {
		case r.outcomes <- o:
		case <-ctx.Done():
			if o.err == nil {
				r.close(o.conn)
			}
		}
	})
}

// noteFailure records a host's error.
func (r *race[C]) noteFailure(ctx context.Context, host int, err error) {
	r.errs[host] = err
	r.queue = append(r.queue, host)
	r.notPreferred[host] = errors.Is(err, errNotPreferred)
	if ctx.Err() == nil {
		r.set.failed(host)
	}
}

// markServing makes the host of the first successful outcome the one that serves.
func (r *race[C]) markServing(o outcome[C]) (none C, _ Standing, _ error) {
	if o.err != nil {
		return none, Standing{}, o.err
	}
	standing, err := r.set.serves(o.as)
	if err != nil {
		r.close(o.conn)
		return none, Standing{}, err
	}
	return o.conn, standing, nil
}

// tryNotPreferred tries a host that target_session_attrs accepts only if there is no better one.
func (r *race[C]) tryNotPreferred(ctx context.Context) bool {
	i := slices.IndexFunc(r.queue, func(host int) bool { return r.notPreferred[host] })
	if i < 0 {
		return false
	}
	host := r.queue[i]
	r.queue = slices.Insert(slices.Delete(r.queue, i, i+1), 0, host)
	r.tryNext(ctx)
	return true
}

// errNotPreferred replaces pgx's NotPreferredError, after which pgx would accept the host at once.
var errNotPreferred = errors.New("another server is preferred")

// attempt connects to a host. accept says whether one that isn't preferred will do.
func (r *race[C]) attempt(ctx context.Context, host int, accept bool) outcome[C] {
	cfg := r.hosts[host].Copy()
	wanted := cfg.ValidateConnect
	o := outcome[C]{host: host}
	cfg.ValidateConnect = func(ctx context.Context, conn *pgconn.PgConn) (err error) {
		if wanted != nil {
			err = wanted(ctx, conn)
		}
		var other *pgconn.NotPreferredError
		switch {
		case errors.As(err, &other) && !accept:
			return errNotPreferred
		case err != nil && other == nil:
			return validateError(ctx, conn, err)
		}
		if o.as, err = identify(ctx, conn, host); err != nil {
			return err
		}
		return r.set.admit(o.as)
	}
	o.conn, o.err = r.open(ctx, cfg)
	return o
}

// validateError returns an error of a config's ValidateConnect. It is ErrUnfit if the host answered and
// ValidateConnect rejected the answer.
func validateError(ctx context.Context, conn *pgconn.PgConn, err error) error {
	var refused *pgconn.PgError
	if errors.As(err, &refused) || ctx.Err() != nil || conn.IsClosed() {
		return err
	}
	return unfit{err}
}

// isFinal reports whether a server refused what no other host will accept, as in pgx: a wrong password, an
// unknown database, or no right to connect to it.
func isFinal(err error) bool {
	switch sqlstate.Of(err) {
	case sqlstate.InvalidPassword, sqlstate.InvalidCatalogName, sqlstate.InsufficientPrivilege:
		return true
	}
	return false
}
