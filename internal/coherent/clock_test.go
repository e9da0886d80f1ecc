package coherent

import (
	"testing"
	"time"
)

func TestInstant_sinceIsTheLongerTime(t *testing.T) {
	earlier := instant{mono: time.Minute, wall: int64(time.Hour)}
	for _, c := range []struct{ mono, wall, want time.Duration }{
		{time.Second, time.Second, time.Second},
		{time.Second, time.Hour, time.Hour},    // the machine slept
		{time.Second, -time.Hour, time.Second}, // the wall's clock was set back
	} {
		now := instant{mono: earlier.mono + c.mono, wall: earlier.wall + int64(c.wall)}
		if got := now.since(earlier); got != c.want {
			t.Errorf("after %v and %v: %v, want %v", c.mono, c.wall, got, c.want)
		}
	}
}
