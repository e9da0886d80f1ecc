package pgdb

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/tenantdb/tenantdb/internal/pghosts"
)

// pooledConn is a connection and the socket under it. It is pgx's connection for database/sql, which has a
// native one inside: both kinds of callers draw on one budget.
type pooledConn struct {
	std         *stdlib.Conn
	socket      *awaitedConn
	session     *session
	standing    pghosts.Standing
	guard       *guard
	resetAlways bool
	answered    time.Duration // when it was last known to answer, since start
	onClose     func()
	setUp       func() error // calls Config.AfterConnect again; nil: there is none
	abandoned   atomic.Bool  // somebody may still be using it: nothing but the socket may be touched
}

// start is when the process began, for clock readings that need no wall time.
var start = time.Now()

const (
	// answerTimeout is how long a server may take to cancel a query, to reset a session or to close a
	// connection before the connection is given up.
	answerTimeout = 2 * time.Second
	// peekAfter is how long after its last use a connection's socket is looked at before it serves again. A
	// look is one system call. It takes 0.5 µs, a query 60 µs. Without it the next borrower of a connection
	// that the server has ended (a restart, a failover, pg_terminate_backend) is refused, since a query
	// that was sent can't safely be sent again. Connections that are used again sooner don't pay for the
	// look. When those end, they end under queries.
	peekAfter = time.Millisecond
	// pingAfter is how long after its last use a connection is pinged before it serves again. It may have
	// ended without a packet that a look would find, as when a firewall has forgotten it.
	pingAfter = time.Second
)

// pg returns the connection at pgx's lower level.
func (c *pooledConn) pg() *pgconn.PgConn { return c.std.Conn().PgConn() }

// timeout is how long the server may take to answer. It is short for a server that another one has
// replaced: that server may hang, and until then its connections keep their places in the budget.
func (c *pooledConn) timeout() time.Duration {
	if c.standing.Outdated() {
		return pghosts.Patience
	}
	return answerTimeout
}

// usable reports whether the connection can serve, without asking anybody.
func (c *pooledConn) usable() bool {
	pg := c.pg()
	return !pg.IsClosed() && pg.TxStatus() == 'I' && !c.standing.Outdated()
}

// answers reports whether the server still answers. It looks at the socket, and asks the server where that
// isn't enough: until a time, and no longer than patience. now is the time since start.
func (c *pooledConn) answers(now time.Duration, until time.Time, patience time.Duration) bool {
	if !c.usable() {
		return false
	}
	if unused := now - c.answered; unused > peekAfter {
		seen := c.socket.peeker.peek()
		if seen == socketEnded || (seen == socketSpeaks || unused > pingAfter) && !c.ping(until, patience) {
			return false
		}
	}
	c.answered = now
	return true
}

// ping asks the server. The socket's own deadline bounds it: at a context's end pgx would have the question
// cancelled, by another connection that may hang as well.
func (c *pooledConn) ping(until time.Time, patience time.Duration) bool {
	if sooner := time.Now().Add(patience); sooner.Before(until) {
		until = sooner
	}
	_ = c.socket.SetDeadline(until)
	if c.pg().Ping(context.Background()) != nil {
		c.abandoned.Store(true) // pgx may be closing it in the background
		return false
	}
	return c.socket.SetDeadline(time.Time{}) == nil
}
