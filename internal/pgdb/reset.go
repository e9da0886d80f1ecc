package pgdb

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5/pgconn"
)

// resetSession is what DISCARD ALL does, in one round trip, but for prepared statements, which pgx relies on.
// UNLISTEN is for a LISTEN inside a function, whose command tag the session doesn't see.
const resetSession = "CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ROLE; RESET ALL; UNLISTEN *; " +
	"SELECT pg_catalog.pg_advisory_unlock_all(); DISCARD SEQUENCES; DISCARD TEMP"

// clean makes a connection that is given back fit for its next borrower. It reports false where the
// connection isn't.
func (c *pooledConn) clean() bool {
	s := c.session
	if !c.usable() || c.pg().IsBusy() || s.mustClose || s.cancelUnconfirmed {
		return false
	}
	if s.readOnly && c.onStandby() {
		return false
	}
	dirty := s.changed || s.preparedSetter
	if c.guard.shared && dirty {
		return false // where the pooler keeps sessions after all, the change is this connection's
	}
	if !s.cancelSent && !dirty && !c.resetAlways {
		return true
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
	defer cancel()
	return c.awaitCancellation(ctx) && (c.guard.shared || !dirty && !c.resetAlways || c.reset(ctx))
}

// awaitCancellation waits for a cancellation that may still be on its way.
func (c *pooledConn) awaitCancellation(ctx context.Context) bool {
	if !c.session.cancelSent {
		return true
	}
	c.session.cancelSent = false
	var pgErr *pgconn.PgError
	err := c.pg().Ping(ctx) // a cancellation that comes late hits this empty query
	return err == nil || errors.As(err, &pgErr)
}

// reset takes back what the last borrower did to the session, and has the connection set up anew.
func (c *pooledConn) reset(ctx context.Context) bool {
	if c.pg().Exec(ctx, resetSession).Close() != nil {
		return false
	}
	c.session.changed, c.session.mustClose = false, false // the reset's own command tags set them
	return c.setUp == nil || c.setUp() == nil && !c.session.mustClose
}
