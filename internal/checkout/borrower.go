package checkout

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/tenantdb/tenantdb/internal/keyedpool"
)

// Borrower is a scope as a database knows it: it has the connections that were checked out with the scope's
// context.
type Borrower struct {
	// Owner stands for the scope in keyedpool, which finds an owner that waits for its own connection.
	Owner keyedpool.Owner

	tenant *Tenant      // nil: a scope without a tenant
	over   *atomic.Bool // the scope has ended

	mu   sync.Mutex // guards list
	list *Checkout
}

// NewBorrower returns the borrower of a scope, of a tenant or of none. over says when the scope has ended.
func NewBorrower(tenant *Tenant, over *atomic.Bool) *Borrower {
	return &Borrower{tenant: tenant, over: over}
}

// Key is the context key by which a scope's context answers with its *Borrower.
type Key struct{}

// borrowerOf returns the borrower of the innermost scope, nil outside any.
func borrowerOf(ctx context.Context) *Borrower {
	b, _ := ctx.Value(Key{}).(*Borrower)
	return b
}

// ErrScopeOver is why a connection isn't checked out: a goroutine has outlived its handler.
var ErrScopeOver = errors.New("the scope is over; call Scope.Detach before the handler returns")

// add keeps a checkout. It reports false if the scope is over.
func (b *Borrower) add(c *Checkout) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over.Load() { // ReclaimAll takes what is in the list by then
		return false
	}
	c.add(&b.mu, &b.list)
	return true
}

// ReclaimAll takes back the connections that weren't returned. It is called after the scope has ended.
func (b *Borrower) ReclaimAll() {
	b.mu.Lock()
	left := takeAll(&b.list, nil)
	b.mu.Unlock()
	reclaim(left)
}

// Count returns how many of the borrower's connections meet a condition. A nil Borrower has none.
func (b *Borrower) Count(meets func(Reclaimer) bool) (n int) {
	if b == nil {
		return 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := b.list; c != nil; c = c.next {
		if meets(c.conn) {
			n++
		}
	}
	return n
}
