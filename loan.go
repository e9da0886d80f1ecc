package tenantdb

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/tenantdb/tenantdb/internal/keyedpool"
)

// loan is a connection in the hands of somebody's code. What that forgets to give back, as when it panics
// between Begin and Commit, is taken back: at the end of the scope in whose context it was taken; without
// one, once the leases have ended that there were, and at the latest those that began while one of them
// lasted.
type loan struct {
	conn lent
	of   *tenantDB   // whose scopes' contexts alone it serves; nil: any
	back atomic.Bool // given or taken back: what happens to the connection is up to whoever set it

	mu   *sync.Mutex // that of its list, if it is in one: guards what follows
	at   **loan      // what points to it; nil outside any list
	next *loan
}

// lent is a connection that can be taken from its borrower, who may be using it. back is set by then.
type lent interface{ seize() }

// errScopeOver: a goroutine outlived its handler.
var errScopeOver = errors.New("the scope is over; call Scope.Detach before the handler returns")

// file puts a loan into a list. The caller holds its mutex.
func (l *loan) file(mu *sync.Mutex, list **loan) {
	l.mu, l.at, l.next = mu, list, *list
	if l.next != nil {
		l.next.at = &l.next
	}
	*list = l
}

// unfile takes a loan out of its list, if it is in one. The caller holds its mutex.
func (l *loan) unfile() {
	if l.at == nil {
		return
	}
	if *l.at = l.next; l.next != nil {
		l.next.at = l.at
	}
	l.at, l.next = nil, nil
}

// giveBack ends the loan, once: it reports whether this call did.
func (l *loan) giveBack() bool {
	if l.back.Swap(true) {
		return false
	}
	if l.mu != nil {
		l.mu.Lock()
		l.unfile()
		l.mu.Unlock()
	}
	return true
}

// empty takes all loans out of a list. The caller holds its mutex.
func empty(list **loan, to []*loan) []*loan {
	for *list != nil {
		l := *list
		l.unfile()
		to = append(to, l)
	}
	return to
}

// takeBack takes the connections that are still out.
func takeBack(loans []*loan) {
	for _, l := range loans {
		if !l.back.Swap(true) {
			l.conn.seize()
		}
	}
}

// loans are those of a scope.
type loans struct {
	lease *Lease          // the scope's
	owner keyedpool.Owner // for whom the pool counts the connections

	mu   sync.Mutex // guards what follows
	list *loan
}

// file puts a loan into the list; false where the scope is over.
func (s *loans) file(l *loan) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lease.over.Load() { // the end takes back what is in the list by then
		return false
	}
	l.file(&s.mu, &s.list)
	return true
}

// takeBack takes the scope's connections.
func (s *loans) takeBack() {
	s.mu.Lock()
	left := empty(&s.list, nil)
	s.mu.Unlock()
	takeBack(left)
}

// strays are the loans of a database that were taken outside any scope, by the phase in which new leases
// counted then.
type strays struct {
	mu    sync.Mutex // guards what follows
	lists [2]*loan
	shut  bool // the database has closed
}

// file puts a loan into the list; false where there is no lease, nor a closer of Cached at work, so that it
// would be nobody's.
func (s *strays) file(l *loan, leases *claims) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shut || leases.unused() {
		return false
	}
	now, _, _ := leases.phases() // turned only under s.mu
	l.file(&s.mu, &s.lists[now.index()])
	leases.turn()
	return true
}

// close takes back what is left, and refuses what comes.
func (s *strays) close() {
	s.mu.Lock()
	s.shut = true
	left := empty(&s.lists[1], empty(&s.lists[0], nil))
	s.mu.Unlock()
	takeBack(left)
}

// settle takes back what can be nobody's any more, after the last lease of a phase has ended: what was taken
// in a phase that has no leases and gets none, since new ones count in the other.
func (s *strays) settle(leases *claims) {
	s.mu.Lock()
	left := s.over(leases)
	s.mu.Unlock()
	takeBack(left)
}

// over takes the loans out that are nobody's. The caller holds s.mu.
func (s *strays) over(leases *claims) (left []*loan) {
	for {
		now, inIt, inOther := leases.phases()
		if inOther {
			return left
		}
		left = empty(&s.lists[now.other().index()], left)
		if !inIt {
			return empty(&s.lists[now.index()], left)
		}
		if s.lists[now.index()] == nil || !leases.turn() {
			return left
		}
	}
}

// borrower returns the list of the context's scope, nil without one, unless the context may not be used with
// a handle of this tenant.
func (t *tenantDB) borrower(ctx context.Context, to use) (*loans, error) {
	c, ok := scopeOf(ctx)
	switch {
	case to == forRequests && !ok && t.pool.cfg.RequireScope:
		return nil, errNoScope
	case !ok:
		return nil, nil
	case to == forRequests:
		if err := t.admits(c); err != nil {
			return nil, err
		}
	}
	return c.borrows(), nil
}

// admits refuses a scope of another tenant or of none. Generations don't matter: a tenant may have moved
// while it is served.
func (t *tenantDB) admits(c *scopeContext) error {
	other := c.lease.tenant
	switch {
	case other == t:
		return nil
	case other == nil:
		return fmt.Errorf("%w: it is of tenant %s, and the context has a scope without a tenant; %s", ErrWrongTenant, t.id, wrongTenantMend)
	case other.id != t.id || other.pool != t.pool && !sameHost(other.pool.host.Load(), t.pool.host.Load()):
		return fmt.Errorf("%w: it is of tenant %s, and the context of tenant %s; %s", ErrWrongTenant, t.id, other.id, wrongTenantMend)
	}
	return nil
}

// check refuses the context of another tenant's scope for a connection that is on loan to a request.
func (l *loan) check(ctx context.Context) error {
	if l.of == nil {
		return nil
	}
	if c, ok := scopeOf(ctx); ok {
		return l.of.admits(c)
	}
	return nil
}

// lend files a loan under its borrower; false where the borrower's scope, or any lease, is over.
func (t *tenantDB) lend(l *loan, to *loans, on use) bool {
	if on == forRequests {
		l.of = t
	}
	if to != nil {
		return to.file(l)
	}
	return t.outsideScopes().file(l, &t.leases)
}

// outsideScopes returns the list of the loans outside any scope, which it makes when first asked.
func (t *tenantDB) outsideScopes() *strays {
	if t.strays.Load() == nil {
		t.strays.CompareAndSwap(nil, new(strays))
	}
	return t.strays.Load()
}
