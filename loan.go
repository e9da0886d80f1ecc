package tenantdb

import (
	"errors"
	"sync"
	"sync/atomic"

	"github.com/tenantdb/tenantdb/internal/keyedpool"
)

// loan is a PostgreSQL connection in the hands of a scope's code.
type loan struct {
	conn       pgConn
	of         *loans // nil: outside any scope
	prev, next *loan  // in of's list; guarded by of.mu
	back       atomic.Bool
}

// loans are the connections that a scope holds. What its code forgets to give back, as when it panics between Begin and Commit, is
// taken back at the scope's end, which is its lease's.
type loans struct {
	lease *Lease          // the scope's
	owner keyedpool.Owner // for whom the pool counts the connections

	mu    sync.Mutex // guards what follows
	first *loan
}

// errScopeOver: a goroutine outlived its handler.
var errScopeOver = errors.New("the scope is over; call Scope.Detach before the handler returns")

// note files a connection under its scope.
func (s *loans) note(conn pgConn) (*loan, error) {
	l := &loan{conn: conn, of: s}
	if s == nil {
		return l, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lease.over.Load() { // the end takes back what is in the list by then
		conn.Release(keyedpool.Healthy)
		return nil, because(ErrTenantUnavailable, errScopeOver)
	}
	if l.next = s.first; l.next != nil {
		l.next.prev = l
	}
	s.first = l
	return l, nil
}

// forget takes a loan off the scope's list.
func (s *loans) forget(l *loan) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.next != nil {
		l.next.prev = l.prev
	}
	if l.prev != nil {
		l.prev.next = l.next
	} else if s.first == l {
		s.first = l.next
	}
}

// takeBack closes the connections that are out: somebody may still be using them.
func (s *loans) takeBack() {
	s.mu.Lock()
	var left []*loan
	for l := s.first; l != nil; l = l.next {
		left = append(left, l)
	}
	s.mu.Unlock()
	for _, l := range left {
		if !l.back.Swap(true) {
			l.conn.Value().abandoned.Store(true)
			l.conn.Release(keyedpool.Destroy)
		}
	}
}

// giveBack ends the loan. A connection that is broken, busy, in a transaction, or that can't be reset isn't used again. Further
// calls do nothing.
func (l *loan) giveBack() {
	if l.back.Swap(true) {
		return
	}
	if l.of != nil {
		l.of.forget(l)
	}
	verdict := keyedpool.Destroy
	if l.conn.Value().clean() {
		verdict = keyedpool.Healthy
	}
	l.conn.Release(verdict)
}
