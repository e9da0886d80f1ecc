package pgdb

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/checkout"
	"github.com/tenantdb/tenantdb/internal/keyedpool"
	"github.com/tenantdb/tenantdb/internal/pghosts"
	"github.com/tenantdb/tenantdb/internal/refusal"
)

// Conn is a connection that is checked out of the budget. It must be released.
type Conn struct {
	checkout checkout.Checkout
	held     heldConn
	pooled   *pooledConn
}

// heldConn is a connection that the pool has handed out.
type heldConn = keyedpool.Conn[hostdb.Secret, *pooledConn]

// Conn returns pgx's connection, for use until Release.
func (c *Conn) Conn() *pgx.Conn { return c.pooled.std.Conn() }

// Release gives the connection back. A connection that is broken, busy, in a transaction, or that can't be
// reset is closed. Further calls do nothing.
func (c *Conn) Release() {
	if !c.checkout.Return() {
		return
	}
	verdict := keyedpool.Destroy
	switch {
	case c.pooled.session.outdated:
		verdict = keyedpool.Outdated
	case c.pooled.clean():
		verdict = keyedpool.Healthy
	}
	c.held.Release(verdict)
}

// reclaimer is a Conn as its Checkout knows it.
type reclaimer Conn

// Reclaim implements checkout.Reclaimer: the connection closes, whatever it does.
func (r *reclaimer) Reclaim() {
	r.pooled.abandoned.Store(true)
	r.held.Release(keyedpool.Destroy)
}

// Acquire checks a connection out that answers, on behalf of the context's scope.
func (d *DB) Acquire(ctx context.Context, use checkout.Use) (*Conn, error) {
	borrower, err := d.tenant.Borrower(ctx, use)
	if err != nil {
		return nil, err
	}
	var owner *keyedpool.Owner
	if borrower != nil {
		owner = &borrower.Owner
	}
	held, err := d.lease.Acquire(ctx, owner)
	if err != nil {
		return nil, refused(err)
	}
	now := time.Since(start)
	if c := held.Value(); now-c.answered <= peekAfter && c.usable() { // as between queries of a busy tenant
		c.answered = now
	} else if held, err = d.answering(ctx, owner, held, now); err != nil {
		return nil, err
	}
	c := &Conn{held: held, pooled: held.Value()}
	c.checkout.Init((*reclaimer)(c))
	if !d.tenant.CheckOut(&c.checkout, borrower, use) {
		held.Release(keyedpool.Healthy)
		return nil, refusal.WithCause(refusal.TenantUnavailable, checkout.ErrScopeOver)
	}
	c.pooled.guard.checkout, c.pooled.guard.limit = &c.checkout, d.pool.cfg.QueryTimeout
	if use == checkout.ForSessions {
		c.pooled.guard.limit = 0
	}
	return c, nil
}

// answering returns a connection if it answers, else another one: a dead one makes way for the next.
// AcquireTimeout bounds all of it, the wait for the first included.
func (d *DB) answering(
	ctx context.Context, owner *keyedpool.Owner, held heldConn, now time.Duration,
) (heldConn, error) {
	until := start.Add(now - held.Waited() + d.pool.cfg.AcquireTimeout)
	if sooner, ok := ctx.Deadline(); ok && sooner.Before(until) {
		until = sooner
	}
	patience := answerTimeout
	if held.Value().standing.Several() { // leave the time to reach another
		patience = pghosts.Patience
	}
	if held.Value().answers(now, until, patience) {
		return held, nil
	}
	bounded, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	for {
		held.Release(keyedpool.Destroy)
		if ctx.Err() != nil {
			return held, ctx.Err()
		}
		next, err := d.lease.Acquire(bounded, owner)
		if err != nil {
			return next, refused(err)
		}
		// Where a network has forgotten one connection, it has forgotten those that were used before it.
		if next.Value().answers(time.Since(start), until, answerTimeout/20) {
			return next, nil
		}
		held = next
	}
}

// refused returns the refusal that a reason of the pool's amounts to.
func refused(err error) error {
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, keyedpool.ErrBusy), errors.Is(err, keyedpool.ErrNested):
		return refusal.WithCause(refusal.Busy, err)
	}
	return refusal.WithCause(refusal.TenantUnavailable, err)
}
