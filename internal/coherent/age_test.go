package coherent

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// aged is a cache whose feed polls every second and never finds a change. Its loads are counted and take a
// while.
func aged(t *testing.T, loads *int, takes *time.Duration) *Cache[key, int] {
	cfg := baseConfig(each(func(ctx context.Context, _ key, value *int) (Loaded, error) {
		*loads++
		if !pause(ctx, *takes) {
			return Loaded{}, ctx.Err()
		}
		*value = *loads
		return Loaded{User: "u"}, nil
	}))
	cfg.MaxStaleness, cfg.MaxAge, cfg.LoadTimeout = 3*time.Second, 100*time.Second, 10*time.Second
	cfg.MaxLoads, cfg.MaxBatch = 1, 1
	c := New(cfg)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c.Polled(time.Now())
			if !pause(ctx, time.Second) {
				return
			}
		}
	}()
	t.Cleanup(func() { stop(); <-ended; c.Close() })
	return c
}

// value returns what Get returns now.
func value(t *testing.T, c *Cache[key, int]) int {
	t.Helper()
	e, err := c.Get(t.Context(), key{"u", "t"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return *e.Value()
}

// Whoever asks for an entry in the last fifth of its life refreshes it in the background.
func TestCache_refreshesAnEntryBeforeItIsTooOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		loads, takes := 0, time.Second
		c := aged(t, &loads, &takes)
		if got := value(t, c); got != 1 || loads != 1 {
			t.Fatalf("the first answer is %d, %d loads", got, loads)
		}
		time.Sleep(70 * time.Second) // its MaxAge is 90 s to 100 s
		if got := value(t, c); got != 1 || loads != 1 {
			t.Errorf("in the middle of its life: %d, %d loads", got, loads)
		}
		time.Sleep(13 * time.Second)
		began := time.Now()
		if got := value(t, c); got != 1 || time.Since(began) != 0 {
			t.Errorf("in the last fifth: %d, after a wait of %v", got, time.Since(began))
		}
		time.Sleep(2 * time.Second)
		if got := value(t, c); got != 2 || loads != 2 || c.Stats().Refreshes != 1 {
			t.Errorf("after the refresh: %d, %d loads, %+v", got, loads, c.Stats())
		}
	})
}

// An entry past its age is served neither by its key nor to a caller who kept it.
func TestCache_doesNotServeAnEntryPastItsAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		loads, takes := 0, time.Second
		c := aged(t, &loads, &takes)
		e, err := c.Get(t.Context(), key{"u", "t"}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Second)
		if c.Again(e, time.Now()) {
			t.Error("an entry of 100 s serves a caller who kept it")
		}
		began := time.Now()
		if got := value(t, c); got != 2 || time.Since(began) != time.Second {
			t.Errorf("%d after a wait of %v", got, time.Since(began))
		}
	})
}

// A change may have come while the answer travelled.
func TestCache_refusesALoadLongerThanMaxStaleness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		loads, takes := 0, 4*time.Second
		c := aged(t, &loads, &takes)
		_, err := c.Get(t.Context(), key{"u", "t"}, time.Now())
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error = %v", err)
		}
		// Waiting for a turn does not count: the load has not read anything yet.
		takes = 2 * time.Second
		for i := range 3 {
			go c.Get(t.Context(), key{"u", string(rune('a' + i))}, time.Now())
		}
		synctest.Wait()
		began := time.Now()
		if got := value(t, c); got == 0 || time.Since(began) != 8*time.Second {
			t.Errorf("%d after a wait of %v", got, time.Since(began))
		}
	})
}
