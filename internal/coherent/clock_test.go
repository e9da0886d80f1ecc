package coherent

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestTheLargerOfBothClocksCounts(t *testing.T) {
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

func TestTheClockNoticesThatTheWallsWasSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c clock
		for range 3 {
			if got, want := c.now(), instantOf(time.Now()); got != want {
				t.Fatalf("now = %v, want %v", got, want)
			}
			time.Sleep(wallEach / 3)
		}
		c.offset.Add(-int64(time.Hour)) // as if the wall's clock had gone on while the other stood still
		time.Sleep(wallEach)
		if got, want := c.now(), instantOf(time.Now()); got != want {
			t.Fatalf("a clock that ran ahead: now = %v, want %v", got, want)
		}
	})
}
