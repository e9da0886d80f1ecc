package coherent

import (
	"sync/atomic"
	"time"
)

// instant is a time on both clocks: the monotonic one may stand still while a machine sleeps, the wall's may be set back.
type instant struct {
	mono time.Duration // since the process began
	wall int64         // nanoseconds of the Unix epoch
}

// start is when this process began, for the monotonic clock.
var start = time.Now()

func instantOf(t time.Time) instant {
	return instant{mono: t.Sub(start), wall: t.UnixNano()}
}

// since returns the larger of what the two clocks say has passed.
func (i instant) since(earlier instant) time.Duration {
	return max(i.mono-earlier.mono, time.Duration(i.wall-earlier.wall))
}

// clock tells the time for every hit. Reading both clocks is most of a hit's cost, so the wall's is read once in wallEach and reckoned
// from the other in between: a machine that wakes is noticed after at most that long.
type clock struct {
	read   atomic.Int64 // when the wall's clock was last read, on the monotonic one
	offset atomic.Int64 // by how much it was ahead; stored before read. Zero: it hasn't been read
}

const wallEach = time.Millisecond

func (c *clock) now() instant {
	mono := time.Since(start)
	passed := mono - time.Duration(c.read.Load())
	if offset := c.offset.Load(); offset != 0 && passed >= 0 && passed < wallEach {
		return instant{mono: mono, wall: offset + int64(mono)}
	}
	both := instantOf(time.Now())
	c.offset.Store(both.wall - int64(both.mono))
	c.read.Store(int64(both.mono))
	return both
}
