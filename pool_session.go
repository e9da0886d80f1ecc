package tenantdb

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// session watches what goes over one PostgreSQL connection, for what its borrower leaves behind. It reads the
// tags with which the server confirms each command, so no way to send one escapes it: pgx, database/sql, a
// batch, several statements in one string. Functions have no tags: two that are known to change a session are
// looked for in the statements' text (see callsSetter). Only the connection's user touches it.
type session struct {
	r io.Reader
	w io.Writer

	head [5]byte // kind and length of the message that comes in
	have int     // bytes of head
	left int     // bytes of its body yet to come
	tag  []byte  // its body, where that is a tag

	rows    bool // the command under way has returned rows
	shown   bool // it has columns
	bound   bool // it came by the extended protocol, which may leave out that it has columns, never that it has none
	none    bool // it has no columns
	local   bool // it is a SET whose effect ends by itself
	changed bool // a reset is due
	spoiled bool // what is left behind can't be reset, or pgx couldn't be told
	setter  bool // a statement that calls a setter is known to the connection by name: it may run unseen again
	late    bool // a query was cancelled: the cancellation may be on its way still
	unsure  bool // and nobody knows how far it came

	readOnly bool         // a statement failed since it can't write: the server may have become a standby
	pending  atomic.Int32 // what was sent and the server hasn't been ready after yet: there is something to cancel

	memory
}

// Write implements io.Writer. Each call brings whole messages.
func (s *session) Write(p []byte) (int, error) {
	if len(p) > 0 && p[0] != 'd' { // not COPY's data
		s.local = p[0] == 'Q' && len(p) > 6 && isLocalSet(p[5:len(p)-1])
		s.sent(p)
	}
	return s.w.Write(p)
}

// sent goes through the messages of a write for statements' texts.
func (s *session) sent(p []byte) {
	for len(p) >= len(s.head) {
		length := 1 + int(binary.BigEndian.Uint32(p[1:]))
		if length < len(s.head) { // the start of a connection, before messages have kinds
			return
		}
		message := p[:min(length, len(p))]
		p = p[len(message):]
		switch body := message[len(s.head):]; message[0] {
		case 'S', 'F': // Sync, FunctionCall
			s.pending.Add(1)
		case 'D': // Describe, of a statement or a portal
			s.described = s.described || len(body) > 0 && body[0] == 'S'
		case 'B': // Bind
			s.issued = true
		case 'Q': // Query
			s.issued, s.begun = true, true
			s.pending.Add(1)
			s.changed = s.changed || callsSetter(body)
		case 'P': // Parse: the statement's name, then its text
			if callsSetter(body) {
				s.changed = true
				s.setter = s.setter || body[0] != 0
			}
		}
	}
}

// isLocalSet reports whether a text is one SET whose effect ends with its transaction, or at once outside
// any.
func isLocalSet(query []byte) bool {
	query = bytes.TrimSpace(query)
	if len(query) < 3 || len(query) > 1<<10 || !bytes.EqualFold(query[:3], []byte("set")) {
		return false
	}
	if end := bytes.IndexByte(query, ';'); end >= 0 && end != len(query)-1 {
		return false // perhaps another statement
	}
	words := strings.Fields(strings.ToLower(string(query)))
	return len(words) > 2 && words[0] == "set" && (words[1] == "local" || words[1] == "transaction")
}

// Read implements io.Reader.
func (s *session) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.watch(p[:n])
	if err == io.EOF { // the server's end, not that of something which the handler reads
		err = &net.OpError{Op: "read", Net: "tcp", Err: io.ErrUnexpectedEOF}
	}
	return n, err
}

// watch goes from message to message (PostgreSQL documentation, "Message Formats").
func (s *session) watch(p []byte) {
	for len(p) > 0 {
		if s.have < len(s.head) {
			n := copy(s.head[s.have:], p)
			s.have, p = s.have+n, p[n:]
			if s.have < len(s.head) {
				return
			}
			s.left = max(0, int(binary.BigEndian.Uint32(s.head[1:]))-4)
		}
		n := min(s.left, len(p))
		if s.head[0] == 'C' && len(s.tag) < 64 {
			s.tag = append(s.tag, p[:n]...)
		}
		s.left, p = s.left-n, p[n:]
		if s.left == 0 {
			s.have = 0
			s.message()
		}
	}
}

// message takes note of one that is complete.
func (s *session) message() {
	switch s.head[0] {
	case 'D': // DataRow
		s.rows = true
	case 'T': // RowDescription
		s.shown = true
	case 'n': // NoData
		s.none = true
	case 'E': // ErrorResponse
		s.failed, s.early = true, !s.begun
	case '2': // BindComplete: what was described before is another matter
		s.begun = true
		s.rows, s.shown, s.none, s.bound = false, false, false, true
	case 'C': // CommandComplete
		s.completed(bytes.TrimRight(s.tag, "\x00"))
		s.tag, s.rows, s.shown, s.none, s.bound = s.tag[:0], false, false, false, false
	case 'Z': // ReadyForQuery
		if s.pending.Load() > 0 { // it is ready once more, after the sign-in
			s.pending.Add(-1)
		}
		s.local, s.rows, s.shown, s.none, s.bound = false, false, false, false, false
		s.begun = false
	}
}

// completed judges a command by its tag.
func (s *session) completed(tag []byte) {
	verb, rest, _ := bytes.Cut(tag, []byte(" "))
	switch string(verb) {
	case "SELECT": // what has no columns, or rows that nobody was sent, went into a new table, a temporary one perhaps
		s.changed = s.changed || s.none || !s.shown && !s.bound || !s.rows && string(rest) != "0"
	case "SET":
		s.changed = s.changed || !s.local && len(rest) == 0
	case "CREATE", "DECLARE", "DO", "CALL", "EXPLAIN": // the last three may have done anything, by commands without tags
		s.changed = true
	case "LISTEN", "LOAD", "PREPARE", "DEALLOCATE", "DISCARD":
		s.spoiled = true
	}
}

// resetSession is what DISCARD ALL does, in one round trip, but for prepared statements, which pgx counts on.
const resetSession = "CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ROLE; RESET ALL; UNLISTEN *; " +
	"SELECT pg_catalog.pg_advisory_unlock_all(); DISCARD SEQUENCES; DISCARD TEMP"

// clean makes a connection fit for its next borrower; false where it isn't.
func (c *pooledConn) clean() bool {
	pg, s := c.Conn.Conn().PgConn(), c.session
	if !c.ready() || pg.IsBusy() || s.spoiled || s.unsure {
		return false
	}
	if s.readOnly && c.onStandby() {
		return false
	}
	if c.guard.shared && (s.changed || s.setter) {
		return false // the session isn't this connection's, but it may be, where the pooler keeps sessions
	}
	if !s.late && !s.changed && !s.setter && !c.resetAlways {
		return true
	}
	ctx, cancel := context.WithTimeout(context.Background(), serverPatience)
	defer cancel()
	return c.settle(ctx) && c.reset(ctx)
}

// settle waits for a cancellation that may still be on its way.
func (c *pooledConn) settle(ctx context.Context) bool {
	if !c.session.late {
		return true
	}
	c.session.late = false
	var pgErr *pgconn.PgError
	err := c.Conn.Conn().PgConn().Ping(ctx) // what comes late hits this empty query
	return err == nil || errors.As(err, &pgErr)
}

// reset takes back what the last borrower did to the session.
func (c *pooledConn) reset(ctx context.Context) bool {
	s := c.session
	if c.guard.shared || !s.changed && !s.setter && !c.resetAlways {
		return true
	}
	if c.Conn.Conn().PgConn().Exec(ctx, resetSession).Close() != nil {
		return false
	}
	s.changed, s.spoiled = false, false // its own tags
	return true
}

// canceller has the server cancel a query whose context has ended, so that the connection lives on. Unlike
// pgx's own it always waits until the server has taken the request in: after that, the next query can't be
// hit. Where no query runs, as while somebody waits for a notification, nothing would answer: the wait just
// ends.
type canceller struct {
	conn *pgconn.PgConn
	of   *pooledConn
	done chan error
}

// HandleCancel implements ctxwatch.Handler.
func (h *canceller) HandleCancel(context.Context) {
	h.done = nil
	if h.of.session.pending.Load() == 0 {
		_ = h.conn.Conn().SetDeadline(time.Now())
		return
	}
	deadline := time.Now().Add(h.of.patience())
	_ = h.conn.Conn().SetDeadline(deadline)
	h.done = make(chan error, 1)
	go func() {
		ctx, cancel := context.WithDeadline(context.Background(), deadline)
		defer cancel()
		h.done <- errors.Join(h.conn.CancelRequest(ctx), ctx.Err()) // the request doesn't say that it timed out
	}()
}

// HandleUnwatchAfterCancel implements ctxwatch.Handler.
func (h *canceller) HandleUnwatchAfterCancel() {
	if h.done != nil {
		h.of.session.late = true
		h.of.session.unsure = <-h.done != nil || h.of.session.unsure
	}
	_ = h.conn.Conn().SetDeadline(time.Time{})
}
