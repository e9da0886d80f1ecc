package pgdb

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// canceller has the server cancel a query whose context has ended, so that the connection lives on. Unlike
// pgx's own it always waits until the server has received the request. The cancellation itself may come
// later still: awaitCancellation lets it hit an empty query. If no query runs, as while somebody waits for
// a notification, there is nothing to cancel, and the wait just ends.
type canceller struct {
	pg   *pgconn.PgConn
	conn *pooledConn
	done chan error // nil: nothing was cancelled
}

// HandleCancel implements ctxwatch.Handler.
func (h *canceller) HandleCancel(context.Context) {
	h.done = nil
	if h.conn.session.pending.Load() == 0 {
		_ = h.pg.Conn().SetDeadline(time.Now())
		return
	}
	deadline := time.Now().Add(h.conn.timeout())
	_ = h.pg.Conn().SetDeadline(deadline)
	h.done = make(chan error, 1)
	go func() {
		ctx, cancel := context.WithDeadline(context.Background(), deadline)
		defer cancel()
		h.done <- errors.Join(h.pg.CancelRequest(ctx), ctx.Err()) // the request doesn't say that it timed out
	}()
}

// HandleUnwatchAfterCancel implements ctxwatch.Handler.
func (h *canceller) HandleUnwatchAfterCancel() {
	if h.done != nil {
		s := h.conn.session
		s.cancelSent = true
		s.cancelUnconfirmed = <-h.done != nil || s.cancelUnconfirmed
	}
	_ = h.pg.Conn().SetDeadline(time.Time{})
}
