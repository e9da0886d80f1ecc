package keyedpool

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// The reasons for which the pool refuses. Use errors.Is to compare, and errors.As with [*Error] for the
// details.
var (
	// ErrBusy means that the budget, or the tenant's share of it, was used up for longer than the wait.
	ErrBusy = errors.New("every connection is taken")
	// ErrTenantUnavailable means that the tenant is being drained, that its target is not valid, or that its
	// last dial failed by its own fault and its backoff has not ended.
	ErrTenantUnavailable = errors.New("the tenant is unavailable")
	// ErrServerUnavailable means that the tenant's server does not answer.
	ErrServerUnavailable = errors.New("the server is unavailable")
	// ErrNested means that the owner waits for a connection that can't come before it releases the one it
	// holds.
	ErrNested = errors.New("nested acquire: the owner holds the connection that it waits for")
	// ErrClosed means that the pool is closed.
	ErrClosed = errors.New("the pool is closed")
	// ErrReleased means that the lease was released before this use, which is a bug of the caller.
	ErrReleased = errors.New("the lease was released")
)

// errDraining is the cause if ErrTenantUnavailable comes from a Drain under way.
var errDraining = errors.New("it is being drained")

// errNoName is the cause if a lease names no tenant.
var errNoName = errors.New("the tenant has no name")

// errMoved wakes a waiter whose tenant has a new target. The waiter moves there with its place in line. No
// caller sees it.
var errMoved = errors.New("the tenant has a new target")

// Error is a refusal with its details. It never holds a target: targets may be secret.
type Error struct {
	// Reason is one of the Err values, or the context's error if the caller gave up.
	Reason error
	// Tenant is the tenant's id.
	Tenant string
	// Server is the server's key. It is empty if the tenant has none yet.
	Server string
	// Waited is how long the Acquire waited.
	Waited time.Duration
	// RetryAfter is when another attempt may succeed, or 0 if that is unknown.
	RetryAfter time.Duration
	// Cause is the error of Dial, Server or the context. It may be nil.
	Cause error
}

// Error implements error.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "keyedpool: tenant %q", e.Tenant)
	if e.Server != "" {
		b.WriteString(" on " + e.Server)
	}
	b.WriteString(": " + e.Reason.Error())
	if e.Waited > 0 {
		fmt.Fprintf(&b, " (waited %v)", e.Waited)
	}
	if e.Cause != nil {
		b.WriteString(": " + e.Cause.Error())
	}
	return b.String()
}

// Unwrap returns the reason first, then the cause.
func (e *Error) Unwrap() []error {
	if e.Cause == nil {
		return []error{e.Reason}
	}
	return []error{e.Reason, e.Cause}
}

// Holder is a tenant that was still in use when a Drain or a Close ran out of time.
type Holder struct {
	// Tenant is the tenant's id.
	Tenant string
	// Leases is how many of its leases were not released.
	Leases int
	// Conns is how many of its connections were still in use, being opened or being closed.
	Conns int
}

// HoldersError names the tenants that were still in use when the context of a Drain or a Close ended.
type HoldersError struct {
	// Holders are sorted by tenant.
	Holders []Holder
	// Cause is the context's error.
	Cause error
}

// Error implements error. It names the first ten holders.
func (e *HoldersError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "keyedpool: %v with %d tenants still held:", e.Cause, len(e.Holders))
	for i, h := range e.Holders {
		if i == 10 {
			b.WriteString(" …")
			break
		}
		fmt.Fprintf(&b, " %q (%d leases, %d connections)", h.Tenant, h.Leases, h.Conns)
	}
	return b.String()
}

// Unwrap returns the context's error.
func (e *HoldersError) Unwrap() error {
	return e.Cause
}
