// Package heartbeat keeps a lease in the host database while work goes on under it.
package heartbeat

import (
	"context"
	"errors"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// Lease is a lease that this process holds.
type Lease struct {
	Since    time.Time     // when it was taken or earlier
	Interval time.Duration // between renewals; one renewal may take as long
	Patience time.Duration // how long after the last renewal the lease counts as lost
	Lost     error         // the cause of the context's end then
	// Renew renews the lease. hostdb.ErrConflict says that another process has it. After other errors it is
	// renewed at the next interval.
	Renew func(context.Context) error
}

// Start renews a lease in the background. The context that it returns ends with l.Lost as soon as the lease
// is lost. stop ends the context and the renewals, waits for them, and reports whether the lease was lost.
func Start(ctx context.Context, l Lease) (held context.Context, stop func() (lost bool)) {
	held, lose := context.WithCancelCause(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		l.run(held, lose)
	}()
	return held, func() bool {
		lost := errors.Is(context.Cause(held), l.Lost)
		lose(nil)
		<-ended
		return lost
	}
}

// run renews the lease until ctx ends. A timer of its own ends the patience, since a renewal may hang.
func (l Lease) run(ctx context.Context, lose context.CancelCauseFunc) {
	expiry := time.AfterFunc(time.Until(l.Since.Add(l.Patience)), func() { lose(l.Lost) })
	defer expiry.Stop()
	tick := time.NewTicker(l.Interval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		began := time.Now() // the renewed lease begins no earlier
		renewal, cancel := context.WithTimeout(ctx, l.Interval)
		err := l.Renew(renewal)
		cancel()
		switch {
		case err == nil:
			expiry.Reset(time.Until(began.Add(l.Patience)))
		case errors.Is(err, hostdb.ErrConflict):
			lose(l.Lost)
			return
		}
	}
}
