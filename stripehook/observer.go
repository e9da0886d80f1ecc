package stripehook

import (
	"context"
	"time"

	"github.com/tenantdb/tenantdb/internal/observe"
)

// Observer is told what an endpoint does, for metrics and traces. Its functions are optional. They may be
// called concurrently, and none is called while the endpoint holds a lock or a transaction. A panic is
// recovered and changes nothing. The first one is logged to [Config.Logger], at level Error.
type Observer struct {
	// Delivered is called after each POST request, before it is answered.
	Delivered func(context.Context, DeliveryInfo)
}

// The results of deliveries besides the statuses of events, such as [hostdb.WebhookProcessed].
const (
	ResultDuplicate = duplicate // it was dealt with before
	ResultIgnored   = ignored   // it isn't for this endpoint
	ResultRefused   = "refused" // Stripe didn't send it, or it can't be read
	ResultRetry     = "retry"   // it is answered 503, so that Stripe delivers it again
)

// DeliveryInfo is about a delivery.
type DeliveryInfo struct {
	// EventID and EventType are Stripe's; "" if the delivery was refused.
	EventID, EventType string
	// Result is the event's status, such as [hostdb.WebhookProcessed], or one of the constants above.
	Result string
	// Duration is how long the work took, with reading the body.
	Duration time.Duration
}

// delivered tells the observer, if there is one, of a delivery.
func (h *hook) delivered(ctx context.Context, e *event, result string, began time.Time) {
	if h.cfg.Observer == nil {
		return
	}
	info := DeliveryInfo{Result: result, Duration: time.Since(began)}
	if e != nil {
		info.EventID, info.EventType = e.id, e.kind
	}
	observe.Tell(&h.panics, h.cfg.Observer.Delivered, ctx, info)
}
