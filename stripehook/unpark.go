package stripehook

import (
	"context"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// unpark applies the parked events that can be by now: those about a subscription or a tenant, or all of
// them. It returns the first error; the other events don't wait for the one that it is about.
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

// pass goes through the parked events that are ready.
type pass struct {
	*ledger
	stripeSub, tenant string
	tried             map[string]bool // by id of the row
	failure           error           // the first one
}

// run tries every event that is ready and hasn't been tried. It goes on behind those that fail, however many
// they are.
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

// apply applies a parked event, and what waited for the subscription that it brings, unless the caller is
// about to.
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

// follow applies what was parked when what it waits for appears in the host database by other ways than an
// event, until the database is closed. The first delivery makes good what a crash left.
func (l *ledger) follow() {
	f := follower{ledger: l}
	for delivery, err := range l.host.Changes(context.Background()) {
		if err == nil {
			f.hear(context.Background(), delivery)
			f.expire(context.Background())
		}
	}
}

// follower is told what changes in the host database.
type follower struct {
	*ledger
	waiting bool          // an event may have become ready
	pause   time.Duration // after a failure; doubles
	next    time.Time     // when all are tried again
	swept   time.Time     // when expired events were last looked for
}

// sweepEvery is how often events that have been parked for too long are looked for.
const sweepEvery = time.Hour

// expire gives up the events that have been parked for too long.
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

// hear applies what a delivery may have made ready. After a failure all are tried again later; what waits for
// a tenant that appears meanwhile is tried at once, since the failure may be another's and last.
func (f *follower) hear(ctx context.Context, delivery hostdb.Delivery) {
	var tenants []string
	f.waiting = f.waiting || delivery.Reset
	for _, change := range delivery.Changes {
		f.waiting = f.waiting || change.Kind == hostdb.ChangeTenant || change.Kind == hostdb.ChangeSubscription
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
