package coherent

import (
	"context"
	"errors"
	"hash/maphash"
	"testing"
	"testing/synctest"
	"time"
)

// aged is a cache whose feed looks every second and never finds a change, and whose loads are counted and
// take a while.
func aged(t *testing.T, loads *int, takes *time.Duration) *Cache[key, int] {
	c := New(Config[key, int]{
		Load: each(func(ctx context.Context, _ key, value *int) (Loaded, error) {
			*loads++
			if !pause(ctx, *takes) {
				return Loaded{}, ctx.Err()
			}
			*value = *loads
			return Loaded{User: "u"}, nil
		}),
		Hash: maphash.Comparable[key], Own: own, Caller: caller, Alike: alike, Capacity: 64, Denials: 64, MaxStaleness: 3 * time.Second,
		MaxStaleIfDown: 20 * time.Second, MaxAge: 100 * time.Second, DenialAge: time.Second, LoadTimeout: 10 * time.Second, MaxLoads: 1, MaxBatch: 1,
	})
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

// value is what a Get now returns.
func value(t *testing.T, c *Cache[key, int]) int {
	t.Helper()
	e, err := c.Get(t.Context(), key{"u", "t"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return *e.Value()
}

// TestAnEntryIsLoadedAnewBeforeItIsTooOld: in the background, by whom it is asked for in the last fifth of
// its life.
func TestAnEntryIsLoadedAnewBeforeItIsTooOld(t *testing.T) {
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

// TestAnEntryPastItsAgeIsNotServed, neither by its key nor to who kept it; who asks waits for the load.
func TestAnEntryPastItsAgeIsNotServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		loads, takes := 0, time.Second
		c := aged(t, &loads, &takes)
		e, err := c.Get(t.Context(), key{"u", "t"}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Second)
		if c.Again(e, time.Now()) {
			t.Error("an entry of 100 s serves who kept it")
		}
		began := time.Now()
		if got := value(t, c); got != 2 || time.Since(began) != time.Second {
			t.Errorf("%d after a wait of %v", got, time.Since(began))
		}
	})
}

// TestALoadThatTakesLongerThanMaxStalenessIsNoAnswer: a change may have come while it travelled.
func TestALoadThatTakesLongerThanMaxStalenessIsNoAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		loads, takes := 0, 4*time.Second
		c := aged(t, &loads, &takes)
		if _, err := c.Get(t.Context(), key{"u", "t"}, time.Now()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error = %v", err)
		}
		// Waiting for a turn is another matter: the question hasn't been asked yet.
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
