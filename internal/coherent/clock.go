package coherent

import "time"

// instant is a time on both clocks. The monotonic clock may stand still while the machine sleeps, and the
// wall clock may be set back.
type instant struct {
	mono time.Duration // since the process began
	wall int64         // nanoseconds of the Unix epoch
}

// start is the zero of the monotonic clock.
var start = time.Now()

func instantOf(t time.Time) instant {
	return instant{mono: t.Sub(start), wall: t.UnixNano()}
}

// since returns the longer of the times that have passed on the two clocks.
func (i instant) since(earlier instant) time.Duration {
	return max(i.mono-earlier.mono, time.Duration(i.wall-earlier.wall))
}
