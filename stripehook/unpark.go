package stripehook

import (
	"context"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// unpark applies the parked events that are ready: those about a subscription or a tenant, or all. It
// continues after an error and returns the first.
func (l *ledger) unpark(ctx context.Context, stripeSub, tenant string) error {
	p := pass{ledger: l, stripeSub: stripeSub, tenant: tenant, tried: map[string]bool{}}
	for {
		before := len(p.tried)
		if err := p.run(ctx); err != nil {
			return err
		}
		if len(p.tried) == before { // what was applied made nothing else ready
			return p.failure
		}
	}
}

// pass is one pass over the parked events that are ready.
type pass struct {
	*ledger
	stripeSub, tenant string
	tried             map[string]bool // by id of the row
	failure           error           // the first one
}

// run tries every event that is ready and was not tried. It continues after events that fail, however many
// there are.
func (p *pass) run(ctx context.Context) error {
	for after := ""; ; {
		ready, err := p.host.WebhookEvents.ListReady(ctx, p.stripeSub, p.tenant, after)
		if err != nil || len(ready) == 0 {
			return err
		}
		for _, row := range ready {
			after = row.ID
			if p.tried[row.ID] {
				continue
			}
			p.tried[row.ID] = true
			err := p.apply(ctx, row, p.stripeSub)
			if ctx.Err() != nil { // every other one would fail too
				return err
			}
			if p.failure == nil {
				p.failure = err
			}
		}
	}
}

// apply applies a parked event, and the events that waited for the subscription that it brings, unless the
// caller is about to do that.
func (l *ledger) apply(ctx context.Context, row *hostdb.StripeWebhookEvent, known string) error {
	e := stored(row)
	c, err := l.read(e)
	if err != nil {
		_, err := l.fail(ctx, e, &change{})
		return err
	}
	if _, err := l.process(ctx, e, c, false); err != nil || c.stripeSub == "" || c.stripeSub == known {
		return err
	}
	return l.unpark(ctx, c.stripeSub, "")
}

// follow applies parked events when what they wait for appears in the host database otherwise than by an
// event. It ends when the database is closed. Its first pass also applies what a crash left.
func (l *ledger) follow() {
	f := follower{ledger: l}
	for delivery, err := range l.host.Changes(context.Background()) {
		if err == nil {
			f.hear(context.Background(), delivery)
			f.expire(context.Background())
		}
	}
}

// follower receives the changes of the host database.
type follower struct {
	*ledger
	waiting bool          // an event may have become ready
	pause   time.Duration // after a failure; doubles
	next    time.Time     // when all are tried again
	swept   time.Time     // when expired events were last looked for
}

// sweepEvery is how often events that were parked for too long are searched.
const sweepEvery = time.Hour

// expire records the events that were parked for too long as failed.
func (f *follower) expire(ctx context.Context) {
	if time.Since(f.swept) < sweepEvery {
		return
	}
	f.swept = time.Now()
	n, err := f.host.WebhookEvents.ExpireParked(ctx, f.parkedFor, neverCame)
	if err != nil {
		f.logger.WarnContext(ctx, "parked webhooks not looked through", "cause", err.Error())
	} else if n > 0 {
		f.logger.WarnContext(ctx, "parked webhooks given up", "count", n, "reason", neverCame)
	}
}

// hear applies the events that a delivery may have made ready. After a failure all are retried later. Events
// that wait for a tenant which appears meanwhile are tried at once: the failure may be another event's, and
// may last.
func (f *follower) hear(ctx context.Context, delivery hostdb.Delivery) {
	var tenants []string
	f.waiting = f.waiting || delivery.Reset
	for _, change := range delivery.Changes {
		f.waiting = f.waiting || change.Kind == hostdb.ChangeTenant ||
			change.Kind == hostdb.ChangeSubscription
		if change.Kind == hostdb.ChangeTenant {
			tenants = append(tenants, change.TenantID)
		}
	}
	switch {
	case !f.waiting:
	case time.Now().Before(f.next):
		for _, tenant := range tenants {
			_ = f.unpark(ctx, "", tenant) // it is tried again with all the others
		}
	case f.unpark(ctx, "", "") == nil:
		f.waiting, f.pause = false, 0
	default:
		f.pause = min(max(2*f.pause, time.Second), 5*time.Minute)
		f.next = time.Now().Add(f.pause)
	}
}
