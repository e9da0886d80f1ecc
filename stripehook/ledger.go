package stripehook

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// ledger applies events to the host database and records what became of them.
type ledger struct {
	host       *hostdb.DB
	fetcher    Fetcher // nil: events are taken at their word
	denyPaused bool
	parkedFor  time.Duration
	logger     *slog.Logger
}

// read returns what an event says under the configuration. Its only error is errMalformed.
func (l *ledger) read(e *event) (*change, error) {
	c, err := e.change()
	if err == nil {
		l.holdPaused(c)
	}
	return c, err
}

// holdPaused changes the status of a subscription whose payments are not collected to paused, if the
// configuration says so.
func (l *ledger) holdPaused(c *change) {
	if l.denyPaused && c.state != nil && c.state.paused && !final(c.state.status) {
		c.state.status = hostdb.SubscriptionPaused
	}
}

// The reasons why an event is parked or has failed, for its row.
const (
	noTenant       = "it names no tenant, and its subscription isn't there"
	noSubscription = "its subscription isn't there"
	tenantMissing  = "the tenant that it names isn't there"
	malformed      = "a member that is needed is missing or malformed"
	notApplied     = "the host database or the Fetcher didn't answer"
	neverCame      = "what it waited for did not come within Config.ParkedFor"
)

// Replay applies an event from its stored payload, and then the events that were parked for want of it. It
// returns the event's status. eventID is Stripe's ("evt_…"). Replay uses no [Fetcher] and ignores
// [Config.DenyPaused]. It may be repeated: an event that was applied changes nothing, except that its plan is
// looked up again if the row still shows the event, as the price list may have lacked the plan. The errors
// are [hostdb.ErrNotFound], [hostdb.ErrInvalid] and [hostdb.ErrUnavailable].
func Replay(ctx context.Context, host *hostdb.DB, eventID string) (string, error) {
	l := &ledger{host: host, logger: slog.New(slog.DiscardHandler)}
	row, err := host.WebhookEvents.ByEventID(ctx, eventID)
	if err != nil {
		return "", err
	}
	return l.deliver(ctx, stored(row), true)
}

// stored returns the event of a row. An event whose payload can't be read has no object, and will fail.
func stored(row *hostdb.StripeWebhookEvent) *event {
	e, err := parseEvent([]byte(row.PayloadJSON))
	if err != nil || e.id != row.EventID {
		return &event{id: row.EventID, kind: row.EventType, body: []byte(row.PayloadJSON)}
	}
	return e
}

// deliver applies an event, and then the events that were parked for want of it. It returns the event's
// status, or duplicate. again is set for a stored event, and applies it even if it was applied before. If the
// status is "" or parked, the error is this event's, and another delivery may help. With any other status the
// error is that of a parked event, which follow will retry.
func (l *ledger) deliver(ctx context.Context, e *event, again bool) (string, error) {
	c, err := l.read(e)
	if err != nil {
		return l.fail(ctx, e, &change{})
	}
	status, err := l.process(ctx, e, c, again)
	if err == nil && (c.stripeSub != "" || c.tenant != "") {
		// Also after a duplicate: the delivery before may have ended here. Also after a parked event: what it
		// waits for may have appeared while its transaction could not see it.
		err = l.unpark(ctx, c.stripeSub, c.tenant)
	}
	if err != nil {
		l.log(ctx, slog.LevelWarn, "webhook not applied, or not what waited for it", e, "cause", err.Error())
	}
	return status, err
}

// process applies and records one event in one transaction and returns its status. An event that can never be
// applied is recorded as failed, which is no error. Any other failure undoes everything. It is recorded
// separately, which does not prevent the next delivery.
func (l *ledger) process(ctx context.Context, e *event, c *change, again bool) (status string, err error) {
	ctx = hostdb.WithActor(ctx, "stripe:"+e.id)
	reason := ""
	err = l.host.InTx(ctx, func(tx *hostdb.Tx) error {
		row, err := l.take(ctx, tx, e, c, again)
		if err != nil || row == nil {
			status = duplicate
			return err
		}
		before := row.Status
		w := work{ledger: l, tx: tx, event: e, change: c, repeated: again && dealtWith(before)}
		if status, reason, err = w.apply(ctx); err != nil {
			return err
		}
		if w.repeated && status == hostdb.WebhookSkipped {
			status = before // it was in order when it was applied
		}
		if status == before && reason == row.Reason {
			return nil
		}
		row.Status, row.Reason, row.StripeSubID, row.TenantID = status, reason, c.stripeSub, c.tenant
		return tx.WebhookEvents.Update(ctx, row)
	})
	switch {
	case errors.Is(err, hostdb.ErrInvalid): // a value that no column takes
		return l.fail(ctx, e, c)
	case err != nil:
		l.recordFailure(ctx, e, c)
		return "", err
	case status == hostdb.WebhookParked:
		l.log(ctx, slog.LevelWarn, "webhook parked", e, "reason", reason)
	default:
		l.log(ctx, slog.LevelInfo, "webhook "+status, e)
	}
	return status, nil
}

// dealtWith reports whether an event of this status was applied, or was skipped as out of order.
func dealtWith(status string) bool {
	return status == hostdb.WebhookProcessed || status == hostdb.WebhookSkipped
}

// take returns the event's stored row, locked, or nil if the event was dealt with before.
func (l *ledger) take(ctx context.Context, tx *hostdb.Tx, e *event, c *change,
	again bool) (*hostdb.StripeWebhookEvent, error) {
	if again {
		found, err := tx.WebhookEvents.ByEventID(ctx, e.id)
		if err != nil {
			return nil, err
		}
		return tx.WebhookEvents.Lock(ctx, found.ID)
	}
	row := rowOf(e, c, hostdb.WebhookProcessed, "")
	if claimed, err := tx.WebhookEvents.Claim(ctx, row); err != nil || !claimed {
		return nil, err
	}
	return row, nil
}

// rowOf returns the row of an event.
func rowOf(e *event, c *change, status, reason string) *hostdb.StripeWebhookEvent {
	return &hostdb.StripeWebhookEvent{EventID: e.id, EventType: e.kind, PayloadJSON: string(e.body),
		Status: status, Reason: reason,
		StripeSubID: c.stripeSub, TenantID: c.tenant}
}

// fail records an event that can never be applied, unless it was dealt with before, and returns its status.
func (l *ledger) fail(ctx context.Context, e *event, c *change) (string, error) {
	row := rowOf(e, c, hostdb.WebhookFailed, malformed)
	if _, err := l.host.WebhookEvents.Claim(ctx, row); err != nil {
		return "", err
	}
	l.log(ctx, slog.LevelWarn, "webhook failed for good", e, "reason", malformed)
	return hostdb.WebhookFailed, nil
}

// recordFailure records a failure, if possible. A parked event stays parked.
func (l *ledger) recordFailure(ctx context.Context, e *event, c *change) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if _, err := l.host.WebhookEvents.Record(ctx, rowOf(e, c, hostdb.WebhookFailed, notApplied)); err != nil {
		l.log(ctx, slog.LevelWarn, "webhook's failure not recorded", e, "cause", err.Error())
	}
}

// log logs what became of an event.
func (l *ledger) log(ctx context.Context, level slog.Level, what string, e *event, rest ...any) {
	l.logger.Log(ctx, level, what, append([]any{"event", e.id, "type", e.kind}, rest...)...)
}
