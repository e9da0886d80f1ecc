package keyedpool

import "time"

// sweepChunk is how many connections a sweep checks before it releases the mutex.
const sweepChunk = 64

// sweep is the pool's background goroutine. It closes connections that were idle or open for too long, and
// forgets tenants whose backoff has ended.
func (p *Pool[T, C]) sweep() {
	ticker := time.NewTicker(p.cfg.sweepInterval())
	defer ticker.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-ticker.C:
		}
		for _, s := range p.all() {
			s.sweep()
		}
	}
}

// sweep does so for one server.
func (s *server[T, C]) sweep() {
	for i := s.sweepBelow(-1); i > 0; {
		i = s.sweepBelow(i)
	}
	for _, t := range s.lapsed() {
		s.pool.reap(t)
	}
}

// sweepBelow checks one chunk of connections, from the index downwards, and returns where the next chunk
// begins. The index -1 stands for the end of the list.
func (s *server[T, C]) sweepBelow(end int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.pool.now()
	if end < 0 || end > len(s.conns) {
		end = len(s.conns)
	}
	begin := max(end-sweepChunk, 0)
	for _, c := range s.conns[begin:end] {
		if c.state == idle && (now >= c.idleUntil || now >= c.expires) {
			s.shut(c)
		}
	}
	return begin
}

// lapsed removes and returns the tenants of s.lapsing whose backoff is over, or which have moved to another
// server, whose mutex now guards their backoff.
func (s *server[T, C]) lapsed() []*tenant[T, C] {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.pool.now()
	var over []*tenant[T, C]
	for t := range s.lapsing {
		if db := t.current.Load(); db == nil || db.server != s || !db.backoff.pausing(now) {
			over = append(over, t)
			delete(s.lapsing, t)
		}
	}
	return over
}
