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

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

const (
	maxLoads       = 3
	maxStaleness   = 3 * time.Second
	maxStaleIfDown = 20 * time.Second
	loadTimeout    = time.Second
	scenarios      = 20_000
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// step is one thing that happens in a scenario.
type step struct {
	What       string
	Kind       int
	User, Slug int
	Keeps      bool // the caller keeps entries
	Wait       time.Duration
}

// plan is a scenario. It is drawn before it is played, so that rapid can shrink it.
type plan struct {
	Settled  bool // every user is a member of every tenant from the start
	Stripes  int
	Batch    int
	Delay    time.Duration
	PollEach time.Duration
	Travel   time.Duration
	Steps    []step
}

func sampledTime(times ...time.Duration) *rapid.Generator[time.Duration] {
	return rapid.SampledFrom(times)
}

var genStep = rapid.Custom(func(t *rapid.T) step {
	return step{
		What: rapid.SampledFrom([]string{
			"get", "get", "get", "get", "mutate", "mutate", "race", "race", "lag", "overtaken",
			"overtaken late",
			"cancelled get", "hint", "down", "up", "cut", "mend", "reset", "panic", "exit", "hang",
			"invalidate",
		}).Draw(t, "what"),
		Kind:  rapid.IntRange(0, 6).Draw(t, "kind"),
		User:  rapid.IntRange(0, 1).Draw(t, "user"),
		Slug:  rapid.IntRange(0, 2).Draw(t, "slug"),
		Keeps: rapid.Bool().Draw(t, "keeps"),
		Wait: sampledTime(0, 0, time.Millisecond, 50*time.Millisecond, 300*time.Millisecond,
			time.Second, 4*time.Second, 15*time.Second).Draw(t, "wait"),
	}
})

var genPlan = rapid.Custom(func(t *rapid.T) plan {
	return plan{
		Settled: rapid.Bool().Draw(t, "settled"),
		Stripes: rapid.SampledFrom([]int{1, 2, 64}).Draw(t, "stripes"),
		Batch:   rapid.SampledFrom([]int{1, 2, 16}).Draw(t, "batch"),
		Delay: sampledTime(0, time.Millisecond, 40*time.Millisecond, 300*time.Millisecond).
			Draw(t, "delay"),
		PollEach: sampledTime(200*time.Millisecond, time.Second).Draw(t, "poll"),
		Travel:   sampledTime(0, 30*time.Millisecond, 900*time.Millisecond).Draw(t, "travel"),
		Steps:    rapid.SliceOfN(genStep, 5, 30).Draw(t, "steps"),
	}
})

func TestCache_servesNothingStalerThanPromised(t *testing.T) {
	played := 0
	for played < scenarios {
		rapid.Check(t, func(rt *rapid.T) {
			p := genPlan.Draw(rt, "plan")
			played++
			var wrong string
			synctest.Test(t, func(*testing.T) { wrong = play(p) })
			if wrong != "" {
				rt.Fatal(wrong)
			}
		})
		if t.Failed() {
			return
		}
	}
	t.Logf("%d scenarios", played)
}

// run is a scenario under way.
type run struct {
	m     *model
	c     *Cache[key, fact]
	calm  bool // nothing can make a load fail
	gets  sync.WaitGroup
	mu    sync.Mutex // guards what follows
	wrong string
	kept  map[key]*Entry[key, fact] // answers, as a caller keeps them
	seen  map[key]*seen
}

// seen is the newest version of each part of a key that was answered, and when it was first given.
type seen struct {
	versions map[string]int
	given    map[string]time.Time
}

func (r *run) blame(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.wrong == "" {
		r.wrong = text
	}
}

// play runs a scenario and returns what went wrong.
func play(p plan) string {
	m := newModel()
	m.delay, m.batch = p.Delay, p.Batch
	cfg := baseConfig[fact](m.load)
	cfg.Capacity, cfg.Denials = 3, 2
	cfg.MaxStaleness, cfg.MaxStaleIfDown = maxStaleness, maxStaleIfDown
	cfg.MaxAge, cfg.DenialAge = 30*time.Second, 2*time.Second
	cfg.LoadTimeout, cfg.MaxLoads, cfg.MaxBatch = loadTimeout, maxLoads, p.Batch
	r := &run{m: m, kept: make(map[key]*Entry[key, fact]), seen: make(map[key]*seen),
		c: newStriped(cfg, p.Stripes)}
	r.calm = p.Delay <= 40*time.Millisecond && !slices.ContainsFunc(p.Steps, func(s step) bool {
		return slices.Contains([]string{"down", "panic", "exit", "hang"}, s.What)
	})
	ctx, stop := context.WithCancel(context.Background())
	var feed sync.WaitGroup
	feed.Go(func() {
		for pause(ctx, p.PollEach) {
			m.poll(r.c, p.Travel)
		}
	})
	if p.Settled {
		m.settle()
	}
	for _, s := range p.Steps {
		r.step(s)
		time.Sleep(s.Wait)
		r.invariants()
	}
	r.gets.Wait()
	stop()
	feed.Wait()
	r.c.Close()
	if _, err := r.c.Get(ctx, key{"after", "close"}, time.Now()); !errors.Is(err, ErrClosed) {
		r.blame(fmt.Sprintf("Get after Close: %v", err))
	}
	if len(m.broken) > 0 {
		r.blame(m.broken[0])
	}
	return r.wrong
}

// step makes one thing happen.
func (r *run) step(s step) {
	k := key{fmt.Sprintf("name%d", s.User), fmt.Sprintf("slug%d", s.Slug)}
	slug := k.slug
	if s.Slug == 2 { // the user alone
		k.slug, slug = "", "slug0"
	}
	m := r.m
	set := func(change func()) { m.mu.Lock(); change(); m.mu.Unlock() }
	switch s.What {
	case "get":
		r.gets.Go(func() { r.get(context.Background(), k, s.Keeps) })
	case "cancelled get":
		r.gets.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), s.Wait/2)
			defer cancel()
			r.get(ctx, k, s.Keeps)
		})
	case "mutate":
		m.mutate(s.Kind, k.user, slug)
	// A change during a load of the old rows, which is told at once, and a caller who comes after it.
	case "race":
		r.gets.Go(func() { r.get(context.Background(), k, s.Keeps) })
		time.Sleep(m.delay + m.delay/2)
		m.mutate(s.Kind, k.user, slug)
		m.poll(r.c, 0)
		r.get(context.Background(), k, s.Keeps)
	// A change during a poll, which misses it, and no poll after that.
	case "lag":
		r.get(context.Background(), k, s.Keeps)
		r.gets.Go(func() { m.poll(r.c, 900*time.Millisecond) })
		time.Sleep(100 * time.Millisecond)
		m.mutate(s.Kind, k.user, slug)
		set(func() { m.cut = true })
		time.Sleep(maxStaleness + 300*time.Millisecond)
		r.get(context.Background(), k, s.Keeps)
		set(func() { m.cut = false })
	// A caller keeps an entry. Others evict it, and a load finds that it has changed before the feed tells.
	case "overtaken":
		r.get(context.Background(), k, true)
		m.mutate(s.Kind, k.user, slug)
		for i := range 4 {
			r.get(context.Background(), key{fmt.Sprintf("name%d", i%2), fmt.Sprintf("slug%d", i/2)}, false)
		}
		r.get(context.Background(), k, false)
		r.get(context.Background(), k, true)
	// The same while nothing is told for so long that a load is needed. Then a poll that began before the
	// change ends.
	case "overtaken late":
		set(func() { m.cut = true })
		time.Sleep(time.Second) // polls under way end
		set(func() { m.cut = false })
		m.poll(r.c, 0) // so that it is known how old the last one is
		set(func() { m.cut = true })
		r.get(context.Background(), k, true)
		time.Sleep(maxStaleness - 500*time.Millisecond)
		set(func() { m.cut = false })
		r.gets.Go(func() { m.poll(r.c, 900*time.Millisecond) })
		synctest.Wait()
		set(func() { m.cut = true })
		m.mutate(s.Kind, k.user, slug)
		time.Sleep(600 * time.Millisecond)
		r.get(context.Background(), k, false)
		time.Sleep(400 * time.Millisecond)
		r.get(context.Background(), k, true)
		set(func() { m.cut = false })
	case "hint":
		r.gets.Go(func() { m.poll(r.c, 0) })
	case "down":
		set(func() { m.down = true })
	case "up":
		set(func() { m.down = false })
	case "cut":
		set(func() { m.cut = true })
	case "mend":
		set(func() { m.cut = false })
	// The log was pruned, or is another database's: its changes are never told.
	case "reset":
		m.lose(r.c)
	case "panic", "exit", "hang":
		set(func() { m.fault = s.What })
	case "invalidate":
		set(func() {
			r.c.MembershipChanged(m.users[k.user], m.slugs[slug])
		})
	}
}

// get asks and checks the answer.
func (r *run) get(ctx context.Context, k key, keeps bool) {
	asked := time.Now()
	before := r.c.Stats()
	e, err := r.ask(ctx, k, asked, keeps)
	given := time.Now()
	switch {
	case err == nil:
		f := *e.Value()
		bound := maxStaleIfDown
		if after := r.c.Stats(); after.Failures == before.Failures &&
			after.StaleServes == before.StaleServes {
			bound = maxStaleness // which is more than a load may take
		}
		if wrong := r.m.judge(k, f, asked, given, bound); wrong != "" {
			r.blame(wrong)
		}
		r.monotone(k, f, asked, given)
	case ctx.Err() == nil && r.calm:
		r.blame(fmt.Sprintf("an error without a cause: %v", err))
	}
}

// ask calls Get. A caller who keeps entries tries the one it kept first.
func (r *run) ask(ctx context.Context, k key, at time.Time, keeps bool) (*Entry[key, fact], error) {
	if !keeps {
		return r.c.Get(ctx, k, at)
	}
	r.mu.Lock()
	e := r.kept[k]
	r.mu.Unlock()
	if e != nil && r.c.Again(e, at) {
		return e, nil
	}
	e, err := r.c.Get(ctx, k, at)
	if err == nil {
		r.mu.Lock()
		r.kept[k] = e
		r.mu.Unlock()
	}
	return e, err
}

// monotone records an answer, and fails if an answer given before this one was asked for was newer: what
// replaces an entry counts at once, a denial above all, even if the change has not been reported yet.
func (r *run) monotone(k key, f fact, asked, given time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.seen[k]
	if s == nil {
		s = &seen{map[string]int{}, map[string]time.Time{}}
		r.seen[k] = s
	}
	for part, version := range f.parts {
		newest, known := s.versions[part]
		switch {
		case !known || version > newest:
			s.versions[part], s.given[part] = version, given
		case version < newest && s.given[part].Before(asked) && r.wrong == "":
			r.wrong = fmt.Sprintf("%v: version %d of %q served after version %d", k, version, part, newest)
		}
	}
}

// invariants looks inside the cache.
func (r *run) invariants() {
	s := r.c.Stats()
	if s.Entries > 3 || s.Denials > 2 {
		r.blame(fmt.Sprintf("%d entries and %d denials exceed the capacity", s.Entries, s.Denials))
	}
	if wrong := r.c.store.wrong(); wrong != "" {
		r.blame(wrong)
	}
}
