package app

import (
	"net/http"
	"sync/atomic"
	"time"
)

// clock is a clock that can be stepped. All processes share the machine's clock, so a single one is stepped
// through the clocks that the library is given.
type clock struct{ ahead atomic.Int64 }

// Now returns the clock's time.
func (c *clock) Now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

// step sets how far the clock is ahead of the machine's.
func (c *clock) step(w http.ResponseWriter, r *http.Request) {
	ahead, err := time.ParseDuration(r.FormValue("ahead"))
	if c == nil || err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	c.ahead.Store(int64(ahead))
}
