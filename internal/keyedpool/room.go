package keyedpool

import "time"

// room is what is known of the places that a server has for this pool. Others may fill it too, so that it can
// have fewer than the budget.
type room struct {
	ceiling int     // the budget, or how many places there were when the server refused one more
	above   backoff // until then no dial goes above the ceiling
	full    backoff // until then no dial starts at all: one below the ceiling was refused
}

// limit is how many places may be taken now: one above the ceiling at a time is tried, to see whether there
// is room again.
func (s *server[T, C]) limit() int {
	if s.ceiling < s.budget && !s.above.pausing(s.pool.now()) {
		return s.ceiling + 1
	}
	return s.ceiling
}

// noRoom notes that the server had no place for a dial, which has given its place back.
func (s *server[T, C]) noRoom(now time.Duration, cause error) {
	most := s.pool.cfg.ServerRetry
	s.above.fail(now, most, most, cause)
	s.full.cause = cause
	if s.used >= s.ceiling {
		return
	}
	s.ceiling = max(s.used, 1)
	if !s.full.pausing(now) { // those that were under way together count once
		s.full.fail(now, s.pool.cfg.BackoffMin, most, cause)
	}
}

// roomSeen notes that the server had a place for a dial, which still has it. The ceiling doubles with each
// that was above it.
func (s *server[T, C]) roomSeen() {
	s.full = backoff{}
	if s.used > s.ceiling {
		s.ceiling = min(2*s.used, s.budget)
		s.above = backoff{}
	}
}
