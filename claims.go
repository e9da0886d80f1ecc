package tenantdb

import "sync/atomic"

// claims counts the leases on a database, in two phases: while new ones count in one, those of the other end, and once they all have
// the phases may change places. So it is known when every lease that there was at some moment has ended, however many began since.
type claims struct{ word atomic.Int64 }

// phase is where a lease counts: 0 or 1.
type phase uint8

const (
	phaseWidth       = 30
	phaseCount       = 1<<phaseWidth - 1
	turned     int64 = 1 << 60 // new leases count in phase 1
	// retired marks a database that nobody gets any more. It closes with its last lease: whoever ends that closes it.
	retired int64 = 1 << 62
)

// one is a lease of a phase.
func one(p phase) int64 { return 1 << (phaseWidth * p) }

// of returns a phase's leases in a word.
func (p phase) of(word int64) int { return int(word >> (phaseWidth * p) & phaseCount) }

// other returns the other phase.
func (p phase) other() phase { return 1 - p }

// phaseIn returns the phase of new leases in a word.
func phaseIn(word int64) phase {
	if word&turned != 0 {
		return 1
	}
	return 0
}

// all returns the leases of both phases in a word.
func all(word int64) int { return phase(0).of(word) + phase(1).of(word) }

// count returns how many leases there are.
func (c *claims) count() int { return all(c.word.Load()) }

// unused reports whether there is no lease, and may be one again.
func (c *claims) unused() bool {
	word := c.word.Load()
	return word < retired && all(word) == 0
}

// gone reports whether the database is retired and its last lease has ended.
func (c *claims) gone() bool {
	word := c.word.Load()
	return word >= retired && all(word) == 0
}

// hold counts one more lease, unless the database is retired.
func (c *claims) hold() (p phase, held bool) {
	for {
		word := c.word.Load()
		if word >= retired {
			return 0, false
		}
		p = phaseIn(word)
		if c.word.CompareAndSwap(word, word+one(p)) {
			return p, true
		}
	}
}

// again counts one more for a holder in a phase, retired or not; false where the database has gone, since that holder's lease has ended.
// It counts in the same phase, so that what is the holder's stays so.
func (c *claims) again(p phase) (phase, bool) {
	for {
		word := c.word.Load()
		switch {
		case word >= retired && all(word) == 0:
			return 0, false
		case p.of(word) == 0:
			p = phaseIn(word)
		}
		if c.word.CompareAndSwap(word, word+one(p)) {
			return p, true
		}
	}
}

// drop counts one less. It tells how many are left, in its phase and in both, and whether the database is retired.
func (c *claims) drop(p phase) (ofPhase, left int, isRetired bool) {
	word := c.word.Add(-one(p))
	return p.of(word), all(word), word >= retired
}

// retire marks the database, and reports whether no lease keeps it: then the caller closes it.
func (c *claims) retire() bool {
	return all(c.word.Or(retired)) == 0
}

// retireAt marks the database if n leases keep it.
func (c *claims) retireAt(n int) bool {
	for {
		word := c.word.Load()
		if word >= retired || all(word) != n {
			return false
		}
		if c.word.CompareAndSwap(word, word|retired) {
			return true
		}
	}
}

// turn has new leases count in the other phase, if there are some in this one, and none in the other.
func (c *claims) turn() bool {
	for {
		word := c.word.Load()
		now := phaseIn(word)
		if now.of(word) == 0 || now.other().of(word) > 0 {
			return false
		}
		if c.word.CompareAndSwap(word, word^turned) {
			return true
		}
	}
}

// phases returns the phase of new leases, and how many there are in it and in the other.
func (c *claims) phases() (now phase, inIt, inOther int) {
	word := c.word.Load()
	now = phaseIn(word)
	return now, now.of(word), now.other().of(word)
}
