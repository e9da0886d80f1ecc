package keyedpool

import "time"

// room is what is known of a server's places for this pool. There may be fewer than the budget, since other
// clients take some.
type room struct {
	ceiling int     // the budget, or how many places there were when the server refused one more
	above   backoff // until then no dial goes above the ceiling
	full    backoff // until then no dial starts at all: one below the ceiling was refused
}

// limit returns how many places may be taken now. One place above the ceiling is tried at a time, to see
// whether there is room again.
func (s *server[T, C]) limit() int {
	if s.ceiling < s.budget && !s.above.pausing(s.pool.now()) {
		return s.ceiling + 1
	}
	return s.ceiling
}

// noRoom records that the server had no place for a dial. The dial has already returned its place.
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

// roomSeen records that the server had a place for a dial. The dial still has its place. Each success above
// the ceiling doubles the ceiling.
func (s *server[T, C]) roomSeen() {
	s.full = backoff{}
	if s.used > s.ceiling {
		s.ceiling = min(2*s.used, s.budget)
		s.above = backoff{}
	}
}
