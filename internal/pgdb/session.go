package pgdb

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenantdb/tenantdb/internal/refusal"
	"github.com/tenantdb/tenantdb/internal/sqlstate"
)

// session watches the messages on one connection (PostgreSQL documentation, "Message Formats"), to know
// what a borrower leaves behind. It reads the tags by which the server confirms each command, so that no
// way to send one escapes it: pgx, database/sql, a batch, several statements in one string. Functions have
// no tags; those that are known to change a session are looked for in the statements' text, by callsSetter.
// Only the connection's user touches it; pending is also read by the goroutine that cancels a query.
type session struct {
	r io.Reader
	w io.Writer

	head     [5]byte // kind and length of the message that comes in
	headRead int     // bytes of head that have come
	bodyLeft int     // bytes of its body that have yet to come
	tag      []byte  // its body, if that is a tag

	// Of the command under way:
	rowsSent  bool // the server has sent rows
	described bool // the server has said that it has columns
	extended  bool // it came by the extended protocol: RowDescription may be missing then, NoData never is
	noColumns bool // the server has said that it has none
	localSet  bool // it is a SET whose effect ends by itself

	hooked            bool // Config.AfterConnect has set the session up
	changed           bool // a reset is due
	mustClose         bool // a reset can't take back what was done, or pgx wouldn't know of it
	preparedSetter    bool // a statement that changes the session has a name: it may run again unseen
	cancelSent        bool // a query was cancelled: the cancellation may still be on its way
	cancelUnconfirmed bool // it isn't known whether the server has taken a cancellation in

	readOnly bool         // a statement failed since it can't write: the server may have become a standby
	outdated bool         // an error has told that the connection remembers what has changed
	pending  atomic.Int32 // requests whose ReadyForQuery hasn't come: there is something to cancel

	progress progress
}

// Write implements io.Writer. Each call has whole messages.
func (s *session) Write(p []byte) (int, error) {
	if len(p) > 0 && p[0] != 'd' { // not COPY's data
		s.localSet = p[0] == 'Q' && len(p) > 6 && isLocalSet(p[5:len(p)-1])
		s.noteSent(p)
	}
	return s.w.Write(p)
}

// noteSent takes note of the messages of a write.
func (s *session) noteSent(p []byte) {
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
			s.progress.described = s.progress.described || len(body) > 0 && body[0] == 'S'
		case 'B': // Bind
			s.progress.sent = true
		case 'Q': // Query
			s.progress.sent, s.progress.begun = true, true
			s.pending.Add(1)
			s.changed = s.changed || callsSetter(body)
		case 'P': // Parse: the statement's name, then its text
			if callsSetter(body) {
				s.changed = true
				s.preparedSetter = s.preparedSetter || body[0] != 0
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
	s.noteReceived(p[:n])
	if err == io.EOF { // the server's end, not that of something which the handler reads
		err = &net.OpError{Op: "read", Net: "tcp", Err: io.ErrUnexpectedEOF}
	}
	return n, err
}

// noteReceived takes note of the messages that a read brings, in whole or in part.
func (s *session) noteReceived(p []byte) {
	for len(p) > 0 {
		if s.headRead < len(s.head) {
			n := copy(s.head[s.headRead:], p)
			s.headRead, p = s.headRead+n, p[n:]
			if s.headRead < len(s.head) {
				return
			}
			s.bodyLeft = max(0, int(binary.BigEndian.Uint32(s.head[1:]))-4)
		}
		n := min(s.bodyLeft, len(p))
		if s.head[0] == 'C' && len(s.tag) < 64 {
			s.tag = append(s.tag, p[:n]...)
		}
		s.bodyLeft, p = s.bodyLeft-n, p[n:]
		if s.bodyLeft == 0 {
			s.headRead = 0
			s.noteMessage()
		}
	}
}

// noteMessage takes note of a message that has come in whole.
func (s *session) noteMessage() {
	switch s.head[0] {
	case 'D': // DataRow
		s.rowsSent = true
	case 'T': // RowDescription
		s.described = true
	case 'n': // NoData
		s.noColumns = true
	case 'E': // ErrorResponse
		s.progress.failed, s.progress.failedEarly = true, !s.progress.begun
	case '2': // BindComplete: an earlier description belongs to another command
		s.progress.begun = true
		s.forgetCommand()
		s.extended = true
	case 'C': // CommandComplete
		s.noteCompleted(bytes.TrimRight(s.tag, "\x00"))
		s.tag = s.tag[:0]
		s.forgetCommand()
	case 'Z': // ReadyForQuery
		if s.pending.Load() > 0 { // it is ready once more, after the sign-in
			s.pending.Add(-1)
		}
		s.forgetCommand()
		s.localSet, s.progress.begun = false, false
	}
}

// forgetCommand forgets what the server has said of the last command.
func (s *session) forgetCommand() {
	s.rowsSent, s.described, s.noColumns, s.extended = false, false, false, false
}

// noteCompleted judges a command by its tag.
func (s *session) noteCompleted(tag []byte) {
	verb, rest, _ := bytes.Cut(tag, []byte(" "))
	switch string(verb) {
	case "SELECT":
		// Without columns, or without the rows that it counts, it has filled a new table, perhaps a
		// temporary one.
		s.changed = s.changed || s.noColumns || !s.described && !s.extended ||
			!s.rowsSent && string(rest) != "0"
	case "SET":
		s.changed = s.changed || !s.localSet && len(rest) == 0
	case "CREATE", "DECLARE", "DO", "CALL", "EXPLAIN": // the last three run commands that have no tags
		s.changed = true
	case "LISTEN", "LOAD", "PREPARE", "DEALLOCATE", "DISCARD":
		s.mustClose = true
	case "RESET", "UNLISTEN", "DROP", "CLOSE": // they may undo what a hook did
		s.changed = s.changed || s.hooked
	}
}

// noteError takes note of what an error tells of the server, before whoever sent the statement has it.
func (s *session) noteError(err *pgconn.PgError) {
	s.readOnly = s.readOnly || err.Code == sqlstate.ReadOnlyTransaction
	s.outdated = s.outdated || refusal.IsOutdated(err)
}
