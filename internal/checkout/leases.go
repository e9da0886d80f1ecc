package checkout

import "sync/atomic"

// LeaseCount counts the leases on a database in two phases. New leases count in the current phase. Once the
// other phase has none left, the two may swap. So it is known when all leases open at a given moment have
// ended, although others have begun since. One word holds both counts and the marks.
//
// One count that is waited for to reach zero would be simpler. But a busy tenant always has a lease: a
// connection that was forgotten there, and belongs to no scope, would never be reclaimed.
type LeaseCount struct{ word atomic.Int64 }

const (
	phaseCount = 1<<30 - 1                   // masks the count of the first phase
	anyLease   = phaseCount<<30 | phaseCount // masks both counts
	// swapped marks that the second phase is the current one.
	swapped int64 = 1 << 60
	// retired marks a database that nobody gets any more. Whoever ends its last lease closes it.
	retired int64 = 1 << 62
)

// Phase is one of the two in which a lease counts. Its value is what one lease adds to the word.
type Phase int32

const (
	firstPhase  Phase = 1
	secondPhase Phase = 1 << 30
)

// of returns the phase's count in a word, shifted as it is there.
func (p Phase) of(word int64) int64 { return word & (int64(p) * phaseCount) }

// other returns the other phase.
func (p Phase) other() Phase { return firstPhase + secondPhase - p }

// index is 0 for the first phase and 1 for the second.
func (p Phase) index() int { return int(p >> 30) }

// phaseIn returns the current phase in a word.
func phaseIn(word int64) Phase {
	if word&swapped != 0 {
		return secondPhase
	}
	return firstPhase
}

// countIn returns the leases of both phases in a word.
func countIn(word int64) int { return int(word&phaseCount + word>>30&phaseCount) }

// Count returns how many leases there are.
func (c *LeaseCount) Count() int { return countIn(c.word.Load()) }

// unused reports whether there is no lease, and the database isn't retired.
func (c *LeaseCount) unused() bool {
	word := c.word.Load()
	return word < retired && word&anyLease == 0
}

// Gone reports whether the database is retired and its last lease has ended.
func (c *LeaseCount) Gone() bool {
	word := c.word.Load()
	return word >= retired && word&anyLease == 0
}

// Retain counts one more lease, unless the database is retired.
func (c *LeaseCount) Retain() (p Phase, retained bool) {
	for {
		word := c.word.Load()
		if word >= retired {
			return 0, false
		}
		p = phaseIn(word)
		if c.word.CompareAndSwap(word, word+int64(p)) {
			return p, true
		}
	}
}

// RetainBeside counts one more lease for the holder of one that counts in the given phase, also if the
// database is retired. It counts in the same phase, so that what was checked out in it stays. It reports
// false if the database has gone, since that lease has ended.
func (c *LeaseCount) RetainBeside(p Phase) (Phase, bool) {
	for {
		word := c.word.Load()
		switch {
		case word >= retired && word&anyLease == 0:
			return 0, false
		case p.of(word) == 0:
			p = phaseIn(word)
		}
		if c.word.CompareAndSwap(word, word+int64(p)) {
			return p, true
		}
	}
}

// release counts one lease less. It reports whether it was the last of its phase and of both, and whether the
// database is retired.
func (c *LeaseCount) release(p Phase) (lastOfPhase, last, isRetired bool) {
	word := c.word.Add(-int64(p))
	return p.of(word) == 0, word&anyLease == 0, word >= retired
}

// Retire marks the database. It reports whether there is no lease: then the caller closes the database.
func (c *LeaseCount) Retire() bool {
	return c.word.Or(retired)&anyLease == 0
}

// RetireAt marks the database if there are exactly n leases and it isn't marked yet.
func (c *LeaseCount) RetireAt(n int) bool {
	for {
		word := c.word.Load()
		if word >= retired || countIn(word) != n {
			return false
		}
		if c.word.CompareAndSwap(word, word|retired) {
			return true
		}
	}
}

// swap makes the other phase the current one, if the current one has leases and the other has none.
func (c *LeaseCount) swap() bool {
	for {
		word := c.word.Load()
		now := phaseIn(word)
		if now.of(word) == 0 || now.other().of(word) != 0 {
			return false
		}
		if c.word.CompareAndSwap(word, word^swapped) {
			return true
		}
	}
}

// phases returns the current phase, and whether there are leases in it and in the other.
func (c *LeaseCount) phases() (now Phase, inIt, inOther bool) {
	word := c.word.Load()
	now = phaseIn(word)
	return now, now.of(word) != 0, now.other().of(word) != 0
}
