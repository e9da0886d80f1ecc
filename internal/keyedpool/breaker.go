package keyedpool

import (
	"math/rand/v2"
	"time"
)

// backoff counts consecutive failures and tells when the next attempt may start.
type backoff struct {
	failures int
	until    time.Duration // on the pool's clock
	cause    error
	full     bool // of a tenant: it is worth waiting for its end
}

// fail counts a failure. The pause doubles from least to most and is jittered downwards by up to a half.
func (b *backoff) fail(now, least, most time.Duration, cause error) {
	pause := most
	if shift := b.failures; shift < 32 && least<<shift>>shift == least {
		pause = min(least<<shift, most)
	}
	b.failures++
	b.until = now + pause/2 + rand.N(pause/2+1)
	b.cause = cause
}

// pausing reports whether the next attempt must wait.
func (b *backoff) pausing(now time.Duration) bool {
	return b.failures > 0 && now < b.until
}

// BreakerState is the state of a server's breaker.
type BreakerState uint8

const (
	// BreakerClosed lets dials through.
	BreakerClosed BreakerState = iota
	// BreakerOpen lets no dial through.
	BreakerOpen
	// BreakerHalfOpen lets one dial through, to probe the server.
	BreakerHalfOpen
)

// String returns closed, open or half-open.
func (s BreakerState) String() string {
	return [...]string{"closed", "open", "half-open"}[s]
}

// breaker stops the dials of a server that does not answer.
type breaker struct {
	threshold int
	inRow     int     // failures in a row while closed
	trips     backoff // failures > 0: not closed
	probing   bool    // the half-open state's one dial is under way
}

// state returns the state at a time.
func (b *breaker) state(now time.Duration) BreakerState {
	switch {
	case b.trips.failures == 0:
		return BreakerClosed
	case b.trips.pausing(now):
		return BreakerOpen
	}
	return BreakerHalfOpen
}

// allows reports whether a dial may start.
func (b *breaker) allows(now time.Duration) bool {
	state := b.state(now)
	return state == BreakerClosed || state == BreakerHalfOpen && !b.probing
}

// start records that a dial starts, and reports whether it is the probe.
func (b *breaker) start(now time.Duration) (probe bool) {
	b.probing = b.state(now) == BreakerHalfOpen
	return b.probing
}

// answered records that the server answered, even if it refused.
func (b *breaker) answered() {
	b.inRow, b.trips, b.probing = 0, backoff{}, false
}

// failed records a failure of the server. Dials that began before the breaker opened and fail after it change
// nothing.
func (b *breaker) failed(probe bool, now, least, most time.Duration, cause error) {
	b.inRow++
	if probe || b.trips.failures == 0 && b.inRow >= b.threshold {
		b.probing = false
		b.trips.fail(now, least, most, cause)
	}
}
