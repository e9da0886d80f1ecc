package coherent

import "time"

// instant is a time on both clocks: the monotonic one may stand still while a machine sleeps, the wall's may
// be set back.
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
