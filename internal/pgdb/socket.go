package pgdb

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// awaitedConn is a socket whose Close waits until the other side has closed too. A server that hasn't noticed
// the end yet still counts the connection against its limit.
type awaitedConn struct {
	net.Conn
	peeker       *peeker
	once         sync.Once
	closed       chan struct{}
	unconfirmed  error        // why the other side's end isn't known; set before closed closes
	closeTimeout atomic.Int64 // in nanoseconds

	mu      sync.Mutex // held while a deadline is set
	closing atomic.Bool
}

// newAwaitedConn returns a socket on a connection.
func newAwaitedConn(conn net.Conn) *awaitedConn {
	c := &awaitedConn{Conn: conn, closed: make(chan struct{}), peeker: newPeeker(conn)}
	c.closeTimeout.Store(int64(answerTimeout))
	return c
}

// Read implements net.Conn. It returns nothing once Close has begun: Close reads too, so that a reader could
// miss a part.
func (c *awaitedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.closing.Load() {
		return 0, net.ErrClosed
	}
	return n, err
}

// SetDeadline implements net.Conn.
func (c *awaitedConn) SetDeadline(t time.Time) error { return c.setDeadline(c.Conn.SetDeadline, t) }

// SetReadDeadline implements net.Conn.
func (c *awaitedConn) SetReadDeadline(t time.Time) error {
	return c.setDeadline(c.Conn.SetReadDeadline, t)
}

// SetWriteDeadline implements net.Conn.
func (c *awaitedConn) SetWriteDeadline(t time.Time) error {
	return c.setDeadline(c.Conn.SetWriteDeadline, t)
}

// setDeadline sets a deadline, unless Close has set its own.
func (c *awaitedConn) setDeadline(set func(time.Time) error, t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing.Load() {
		return net.ErrClosed
	}
	return set(t)
}

// Close implements net.Conn.
func (c *awaitedConn) Close() error {
	var err error
	c.once.Do(func() {
		defer close(c.closed)
		c.mu.Lock()
		c.closing.Store(true)
		_ = c.Conn.SetDeadline(time.Now().Add(time.Duration(c.closeTimeout.Load())))
		c.mu.Unlock()
		if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
		c.unconfirmed = awaitEnd(c.Conn)
		err = c.Conn.Close()
	})
	return err
}

// awaitEnd reads what the other side still sends until it ends.
func awaitEnd(conn net.Conn) error {
	var scrap [512]byte
	for {
		switch _, err := conn.Read(scrap[:]); {
		case err == nil:
		case errors.Is(err, context.DeadlineExceeded), isTimeout(err):
			return errors.New("the server did not close its side")
		default: // end of file, or a reset: gone either way
			return nil
		}
	}
}

// isTimeout reports whether an error is of a socket's deadline.
func isTimeout(err error) bool {
	var netErr net.Error
	return errors.As(err, &netErr) && netErr.Timeout()
}

// socketState is what there is to read from an idle connection's socket.
type socketState uint8

const (
	socketSilent socketState = iota // nothing, as it should be
	socketSpeaks                    // something: a notice, a changed parameter, or the server's last words
	socketEnded                     // its end
)
