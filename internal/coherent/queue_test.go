package coherent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// trip is how long a batch of a queued cache takes.
const trip = 5 * time.Millisecond

// queued is a cache whose batches take a trip each, and are recorded.
func queued(t *testing.T, maxLoads, maxBatch int) (c *Cache[key, int], batches func() [][]key) {
	var mu sync.Mutex
	var asked [][]key
	running := make(map[string]int) // loads, by caller
	cfg := baseConfig(func(ctx context.Context, batch []Load[key, int]) {
		var keys []key
		mu.Lock()
		for i := range batch {
			keys = append(keys, batch[i].Key)
			batch[i].User = batch[i].Key.user
			if running[batch[i].User]++; running[batch[i].User] > perCaller {
				t.Errorf("%d loads of %s run at once", running[batch[i].User], batch[i].User)
			}
		}
		asked = append(asked, keys)
		mu.Unlock()
		pause(ctx, trip)
		mu.Lock()
		for _, k := range keys {
			running[k.user]--
		}
		mu.Unlock()
	})
	cfg.LoadTimeout, cfg.MaxLoads, cfg.MaxBatch = time.Second, maxLoads, maxBatch
	c = New(cfg)
	t.Cleanup(c.Close)
	return c, func() [][]key { mu.Lock(); defer mu.Unlock(); return slices.Clone(asked) }
}

// One caller asks for a thousand names at once. Others come after that.
func TestQueue_aFloodDelaysNobodysFirstLookup(t *testing.T) {
	for _, maxBatch := range []int{1, 4} {
		synctest.Test(t, func(t *testing.T) {
			c, batches := queued(t, 2, maxBatch)
			var all sync.WaitGroup
			for i := range 1000 {
				all.Go(func() { _, _ = c.Get(t.Context(), key{"eve", fmt.Sprint("no", i)}, time.Now()) })
			}
			synctest.Wait()
			began, before := time.Now(), len(batches())
			var members sync.WaitGroup
			for i := range 10 {
				members.Go(func() {
					if _, err := c.Get(t.Context(), key{fmt.Sprint("member", i), "acme"},
						time.Now()); err != nil {
						t.Error(err)
					}
				})
			}
			members.Wait()
			// Each turn is taken by a batch of the flood at first. Then all callers take turns.
			if took, most := time.Since(began),
				time.Duration(1+(10+2+maxBatch-1)/maxBatch)*trip; took > most {
				t.Errorf("batches of %d: the members waited %v, for %d batches; want at most %v",
					maxBatch, took, len(batches())-before, most)
			}
			all.Wait()
		})
	}
}

// A caller asks for more than may run at once. The loader counts them.
func TestQueue_aCallerWithManyLoadsWaitsBehindItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, batches := queued(t, 4, 64)
		var all sync.WaitGroup
		for i := range 100 {
			all.Go(func() {
				if _, err := c.Get(t.Context(), key{"eve", fmt.Sprint("no", i)}, time.Now()); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		time.Sleep(2*trip + trip/2) // the first ones have gone alone
		synctest.Wait()
		began := time.Now()
		if _, err := c.Get(t.Context(), key{"ann", "acme"}, time.Now()); err != nil ||
			time.Since(began) > 2*trip {
			t.Errorf("another caller: %v after %v", err, time.Since(began))
		}
		all.Wait()
		if took, least := time.Since(began), (100/perCaller-4)*trip; took < least {
			t.Errorf("the rest of 100 loads took %v, with %d batches; want at least %v", took,
				len(batches()), least)
		}
	})
}

// Callers are cancelled while their loads wait.
func TestQueue_dropsALoadThatNobodyWaitsFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, batches := queued(t, 1, 1)
		ask := func(ctx context.Context, slug string, want error) {
			if _, err := c.Get(ctx, key{"ann", slug}, time.Now()); !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", slug, err, want)
			}
		}
		gone, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() { ask(t.Context(), "first", nil) })
		synctest.Wait()
		for _, slug := range []string{"left", "kept"} {
			all.Go(func() { ask(gone, slug, context.Canceled) })
		}
		all.Go(func() { ask(t.Context(), "kept", nil) }) // another waits for the same
		synctest.Wait()
		cancel()
		all.Wait()
		var asked []string
		for _, b := range batches() {
			asked = append(asked, b[0].slug)
		}
		if !slices.Equal(asked, []string{"first", "kept"}) {
			t.Errorf("loads: %v", asked)
		}
		if n := len(c.flights) + len(c.queue.lines) + c.queue.order.Len(); n != 0 {
			t.Errorf("%d flights and lines are left", n)
		}
	})
}

// Loads that are alike go together, in batches of bounded size.
func TestQueue_startsALoneLoadAtOnceAndBatchesTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, batches := queued(t, 1, 16)
		began := time.Now()
		var all sync.WaitGroup
		ask := func(k key) {
			all.Go(func() {
				if _, err := c.Get(t.Context(), k, time.Now()); err != nil {
					t.Error(err)
				}
			})
		}
		ask(key{"first", "acme"})
		synctest.Wait()
		for i := range 20 {
			ask(key{fmt.Sprint("member", i), "acme"})
			ask(key{fmt.Sprint("alone", i), ""})
		}
		all.Wait()
		var sizes []int
		for _, b := range batches() {
			sizes = append(sizes, len(b))
			if slices.ContainsFunc(b, func(k key) bool { return !alike(k, b[0]) }) {
				t.Errorf("a batch of both kinds: %v", b)
			}
		}
		if took := time.Since(began); len(sizes) != 5 || sizes[0] != 1 || slices.Max(sizes) != 16 ||
			took != 5*trip {
			t.Errorf("batches of %v in %v", sizes, took)
		}
	})
}

// Close answers them and begins none of their loads.
func TestCache_Close_answersThoseWhoWaitForATurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, batches := queued(t, 1, 1)
		var all sync.WaitGroup
		for i := range 5 {
			all.Go(func() {
				_, err := c.Get(t.Context(), key{fmt.Sprint(i), "acme"}, time.Now())
				if err != nil && !errors.Is(err, ErrClosed) {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		c.Close()
		all.Wait()
		if n := len(batches()); n != 1 {
			t.Errorf("%d loads were begun", n)
		}
	})
}

// Everything changes but what an entry depends on.
func TestCache_changesOfOthersEndNoEntry(t *testing.T) {
	loads := 0
	c := New(baseConfig(each(func(_ context.Context, k key, _ *int) (Loaded, error) {
		loads++
		switch {
		case k.user == "nobody":
			return Loaded{Denied: true, AnyUser: true}, nil
		case k.slug == "nothing":
			return Loaded{Denied: true, User: k.user, AnyTenant: true}, nil
		case k.slug == "":
			return Loaded{User: k.user, Tenants: []string{"mine", "also mine"}}, nil
		}
		return Loaded{User: k.user, Tenant: k.slug}, nil
	})))
	defer c.Close()
	member, grant, user, tenant := key{"ann", ""}, key{"ann", "mine"}, key{"nobody", ""},
		key{"ann", "nothing"}
	for name, one := range map[string]struct {
		change func()
		ended  []key
	}{
		"another user":             {func() { c.UserChanged("bob") }, []key{user}},
		"another tenant":           {func() { c.TenantChanged("theirs") }, []key{tenant}},
		"another membership":       {func() { c.MembershipChanged("bob", "theirs") }, nil},
		"another subscription":     {func() { c.SubscriptionChanged("theirs") }, nil},
		"the user":                 {func() { c.UserChanged("ann") }, []key{member, grant, user, tenant}},
		"their tenant":             {func() { c.TenantChanged("mine") }, []key{member, grant, tenant}},
		"another of their tenants": {func() { c.TenantChanged("also mine") }, []key{member, tenant}},
		"their membership": {func() { c.MembershipChanged("ann", "theirs") },
			[]key{member, grant, tenant}},
		"their tenant's membership": {func() { c.MembershipChanged("bob", "also mine") }, []key{member}},
	} {
		for _, k := range []key{member, grant, user, tenant} {
			_, _ = c.Get(t.Context(), k, time.Now())
		}
		one.change()
		for _, k := range []key{member, grant, user, tenant} {
			before := loads
			_, _ = c.Get(t.Context(), k, time.Now())
			if ended := loads > before; ended != slices.Contains(one.ended, k) {
				t.Errorf("%s changed: the entry of %v ended: %v", name, k, ended)
			}
		}
	}
}
