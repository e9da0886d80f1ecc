package tenantdb

import "sync/atomic"

// claims counts the leases on a database, in two phases: while new ones count in one, those of the other end,
// and once they all have the phases may change places. So it is known when every lease that there was at some
// moment has ended, however many began since. One word holds both counts and the marks.
type claims struct{ word atomic.Int64 }

const (
	phaseCount = 1<<30 - 1                   // a phase's leases, in the phase's place
	anyLease   = phaseCount<<30 | phaseCount // those of both
	// turned marks that new leases count in the second phase.
	turned int64 = 1 << 60
	// retired marks a database that nobody gets any more. It closes with its last lease: whoever ends that
	// closes it.
	retired int64 = 1 << 62
)

// phase is where a lease counts, as one lease in a word.
type phase int32

const (
	firstPhase  phase = 1
	secondPhase phase = 1 << 30
)

// of returns a phase's leases in a word, in the phase's place.
func (p phase) of(word int64) int64 { return word & (int64(p) * phaseCount) }

// other returns the other phase.
func (p phase) other() phase { return firstPhase + secondPhase - p }

// index numbers the phases from 0.
func (p phase) index() int { return int(p >> 30) }

// phaseIn returns the phase of new leases in a word.
func phaseIn(word int64) phase {
	if word&turned != 0 {
		return secondPhase
	}
	return firstPhase
}

// countIn returns the leases of both phases in a word.
func countIn(word int64) int { return int(word&phaseCount + word>>30&phaseCount) }

// count returns how many leases there are.
func (c *claims) count() int { return countIn(c.word.Load()) }

// unused reports whether there is no lease, and may be one again.
func (c *claims) unused() bool {
	word := c.word.Load()
	return word < retired && word&anyLease == 0
}

// gone reports whether the database is retired and its last lease has ended.
func (c *claims) gone() bool {
	word := c.word.Load()
	return word >= retired && word&anyLease == 0
}

// hold counts one more lease, unless the database is retired.
func (c *claims) hold() (p phase, held bool) {
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

// again counts one more for a holder in a phase, retired or not; false where the database has gone, since
// that holder's lease has ended. It counts in the same phase, so that what is the holder's stays so.
func (c *claims) again(p phase) (phase, bool) {
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

// drop counts one less. It tells whether it was the last of its phase, and of both, and whether the database
// is retired.
func (c *claims) drop(p phase) (lastOfPhase, last, isRetired bool) {
	word := c.word.Add(-int64(p))
	return p.of(word) == 0, word&anyLease == 0, word >= retired
}

// retire marks the database, and reports whether no lease keeps it: then the caller closes it.
func (c *claims) retire() bool {
	return c.word.Or(retired)&anyLease == 0
}

// retireAt marks the database if n leases keep it.
func (c *claims) retireAt(n int) bool {
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

// turn has new leases count in the other phase, if there are some in this one, and none in the other.
func (c *claims) turn() bool {
	for {
		word := c.word.Load()
		now := phaseIn(word)
		if now.of(word) == 0 || now.other().of(word) != 0 {
			return false
		}
		if c.word.CompareAndSwap(word, word^turned) {
			return true
		}
	}
}

// phases returns the phase of new leases, and whether there are any in it and in the other.
func (c *claims) phases() (now phase, inIt, inOther bool) {
	word := c.word.Load()
	now = phaseIn(word)
	return now, now.of(word) != 0, now.other().of(word) != 0
}
