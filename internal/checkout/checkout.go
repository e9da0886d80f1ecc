// Package checkout keeps account of the connections that a program has checked out of tenants' databases, and
// reclaims those that it forgets to return. It knows neither PostgreSQL nor SQLite.
//
// A connection is checked out by a [Borrower], the scope of the query's context, and is reclaimed at the
// scope's end. Without a scope it is reclaimed once all leases have ended that were open at its checkout.
// Leases that began while one of those was open may delay this until they have ended, too.
package checkout

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
)

// Use is what a handle is for. It decides which contexts the handle serves.
type Use uint8

// The uses.
const (
	// ForRequests serves the contexts of its tenant's scopes, and those without a scope unless
	// [Pool.RequireScope] is set.
	ForRequests Use = iota
	// ForLeases serves any context: whoever has a lease has named the tenant.
	ForLeases
	// ForSessions serves any context, and keeps its connection until the handle is closed.
	ForSessions
)

// Checkout is one connection that is checked out. An engine embeds it in what it hands out.
type Checkout struct {
	conn     Reclaimer
	tenant   *Tenant     // whose scopes' contexts alone it serves; nil: any context
	returned atomic.Bool // returned or reclaimed: whoever set it decides what happens to the connection
	taken    *taken      // where it was checked out; nil unless Pool.Forgotten is set

	mu   *sync.Mutex // of the list that it is in, if any; guards what follows
	at   **Checkout  // what points to it; nil outside any list
	next *Checkout
}

// Reclaimer takes a connection from its borrower, who may be using it.
type Reclaimer interface{ Reclaim() }

// Init says which connection is checked out. It comes before anything else.
func (c *Checkout) Init(conn Reclaimer) { c.conn = conn }

// Return ends the checkout. It reports whether this call did so: then the caller has the connection back.
func (c *Checkout) Return() bool {
	if c.returned.Swap(true) {
		return false
	}
	if c.mu != nil {
		c.mu.Lock()
		c.remove()
		c.mu.Unlock()
	}
	return true
}

// Returned reports whether the connection was returned or reclaimed.
func (c *Checkout) Returned() bool { return c.returned.Load() }

// Check refuses the context of another tenant's scope for a connection that a request has checked out.
func (c *Checkout) Check(ctx context.Context) error {
	if c.tenant == nil {
		return nil
	}
	if b := borrowerOf(ctx); b != nil {
		return c.tenant.admits(b)
	}
	return nil
}

// add puts the checkout into a list. The caller holds its mutex.
func (c *Checkout) add(mu *sync.Mutex, list **Checkout) {
	c.mu, c.at, c.next = mu, list, *list
	if c.next != nil {
		c.next.at = &c.next
	}
	*list = c
}

// remove takes the checkout out of its list, if it is in one. The caller holds the list's mutex.
func (c *Checkout) remove() {
	if c.at == nil {
		return
	}
	if *c.at = c.next; c.next != nil {
		c.next.at = c.at
	}
	c.at, c.next = nil, nil
}

// takeAll moves all checkouts of a list to a slice. The caller holds the list's mutex.
func takeAll(list **Checkout, to []*Checkout) []*Checkout {
	for *list != nil {
		c := *list
		c.remove()
		to = append(to, c)
	}
	return to
}

// reclaim takes back the connections that weren't returned. The caller holds no mutex.
func reclaim(left []*Checkout) {
	for _, c := range left {
		if !c.returned.Swap(true) {
			c.taken.report()
			c.conn.Reclaim()
		}
	}
}

// taken is where a connection was checked out.
type taken struct {
	by     *Tenant
	frames []uintptr
}

// maxFrames bounds how many calls are kept of a stack.
const maxFrames = 64

// takenHere returns where its caller's callers check a connection out, nil if nobody wants to know.
func takenHere(by *Tenant) *taken {
	if by.Pool == nil || by.Pool.Forgotten == nil {
		return nil
	}
	frames := make([]uintptr, maxFrames)
	return &taken{by, frames[:runtime.Callers(3, frames)]}
}

// report tells that the connection was forgotten.
func (t *taken) report() {
	if t != nil {
		t.by.Pool.Forgotten(t.by.ID, t.frames)
	}
}
