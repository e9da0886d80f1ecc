package coherent

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"os"
	"os/exec"
	"slices"
	"strings"
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
	Keeps      bool // asks by what it kept
	Wait       time.Duration
}

// plan is a scenario, drawn before it is played, so that it can be shrunk.
type plan struct {
	Settled  bool // begins with every user a member of every tenant
	Stripes  int
	Batch    int
	Delay    time.Duration
	PollEach time.Duration
	Travel   time.Duration
	Steps    []step
}

var genStep = rapid.Custom(func(t *rapid.T) step {
	return step{
		What: rapid.SampledFrom([]string{"get", "get", "get", "get", "mutate", "mutate", "race", "race", "lag", "overtaken", "overtaken late", "cancelled get", "hint", "down", "up", "cut",
			"mend", "reset", "panic", "exit", "hang", "invalidate"}).Draw(t, "what"),
		Kind:  rapid.IntRange(0, 6).Draw(t, "kind"),
		User:  rapid.IntRange(0, 1).Draw(t, "user"),
		Slug:  rapid.IntRange(0, 2).Draw(t, "slug"),
		Keeps: rapid.Bool().Draw(t, "keeps"),
		Wait:  rapid.SampledFrom([]time.Duration{0, 0, time.Millisecond, 50 * time.Millisecond, 300 * time.Millisecond, time.Second, 4 * time.Second, 15 * time.Second}).Draw(t, "wait"),
	}
})

var genPlan = rapid.Custom(func(t *rapid.T) plan {
	return plan{
		Settled:  rapid.Bool().Draw(t, "settled"),
		Stripes:  rapid.SampledFrom([]int{1, 2, 64}).Draw(t, "stripes"),
		Batch:    rapid.SampledFrom([]int{1, 2, 16}).Draw(t, "batch"),
		Delay:    rapid.SampledFrom([]time.Duration{0, time.Millisecond, 40 * time.Millisecond, 300 * time.Millisecond}).Draw(t, "delay"),
		PollEach: rapid.SampledFrom([]time.Duration{200 * time.Millisecond, time.Second}).Draw(t, "poll"),
		Travel:   rapid.SampledFrom([]time.Duration{0, 30 * time.Millisecond, 900 * time.Millisecond}).Draw(t, "travel"),
		Steps:    rapid.SliceOfN(genStep, 5, 30).Draw(t, "steps"),
	}
})

func TestWhatIsServedIsNeverStalerThanPromised(t *testing.T) {
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

// run is a scenario being played.
type run struct {
	m     *model
	c     *Cache[key, fact]
	calm  bool // nothing happens that could make a load fail
	gets  sync.WaitGroup
	mu    sync.Mutex // guards what follows
	wrong string
	kept  map[key]*Entry[key, fact] // answers, as a caller keeps them
	seen  map[key]*seen
}

// seen is the newest version of each part of a key that was answered, and when first.
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
	r := &run{m: m, kept: make(map[key]*Entry[key, fact]), seen: make(map[key]*seen), c: newStriped(Config[key, fact]{Load: m.load, Hash: maphash.Comparable[key], Own: own, Caller: caller, Alike: alike, Capacity: 3, Denials: 2, MaxStaleness: maxStaleness,
		MaxStaleIfDown: maxStaleIfDown, MaxAge: 30 * time.Second, DenialAge: 2 * time.Second, LoadTimeout: loadTimeout, MaxLoads: maxLoads, MaxBatch: p.Batch}, p.Stripes)}
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
	if _, err := r.c.Get(context.Background(), key{"after", "close"}, time.Now()); !errors.Is(err, ErrClosed) {
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
	case "race": // a change while a load of the old rows is under way, told at once, and one who comes after
		r.gets.Go(func() { r.get(context.Background(), k, s.Keeps) })
		time.Sleep(m.delay + m.delay/2)
		m.mutate(s.Kind, k.user, slug)
		m.poll(r.c, 0)
		r.get(context.Background(), k, s.Keeps)
	case "lag": // a change while a look is under way, which misses it, and no look after that
		r.get(context.Background(), k, s.Keeps)
		r.gets.Go(func() { m.poll(r.c, 900*time.Millisecond) })
		time.Sleep(100 * time.Millisecond)
		m.mutate(s.Kind, k.user, slug)
		set(func() { m.cut = true })
		time.Sleep(maxStaleness + 300*time.Millisecond)
		r.get(context.Background(), k, s.Keeps)
		set(func() { m.cut = false })
	case "overtaken": // an entry that is kept, while others push it out and a load finds that it has changed before the feed tells
		r.get(context.Background(), k, true)
		m.mutate(s.Kind, k.user, slug)
		for i := range 4 {
			r.get(context.Background(), key{fmt.Sprintf("name%d", i%2), fmt.Sprintf("slug%d", i/2)}, false)
		}
		r.get(context.Background(), k, false)
		r.get(context.Background(), k, true)
	case "overtaken late": // the same while nothing is told for so long that a load is needed, and then a look that began before the change ends
		set(func() { m.cut = true })
		time.Sleep(time.Second) // looks that are under way end
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
	case "reset": // the log was pruned, or is another's: what it held is never told
		m.lose(r.c)
	case "panic", "exit", "hang":
		set(func() { m.fault = s.What })
	case "invalidate":
		set(func() {
			r.c.MembershipChanged(m.users[k.user], m.slugs[slug])
		})
	}
}

// get asks and judges the answer.
func (r *run) get(ctx context.Context, k key, keeps bool) {
	asked := time.Now()
	before := r.c.Stats()
	e, err := r.ask(ctx, k, asked, keeps)
	given := time.Now()
	switch {
	case err == nil:
		f := *e.Value()
		bound := maxStaleIfDown
		if after := r.c.Stats(); after.Failures == before.Failures && after.StaleServes == before.StaleServes {
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

// ask asks by the key, or, as one who keeps entries, first by the one that was kept.
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

// monotone notes an answer, and blames one that is older than an answer that was given before it was asked
// for: what replaces an entry counts at once, a denial above all, whether or not the change behind it has
// been reported.
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
	if wrong := r.c.held.wrong(); wrong != "" {
		r.blame(wrong)
	}
}

// TestPlantedBugsAreCaught builds this package with each of the planted bugs and wants the property test to
// fail.
func TestPlantedBugsAreCaught(t *testing.T) {
	if mutation != "" {
		t.Skip("this is the build with a planted bug")
	}
	binary := t.TempDir() + "/mutated.test"
	if out, err := exec.Command("go", "test", "-c", "-tags", "mutations", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	for _, bug := range []string{stampAfterLoad, flightIgnoresStamp, pollTimeAtEnd, ceilingIgnored, frontKeepsEvicted, frontKeepsReplaced, keptOutlivesEvicted,
		keptOutlivesReplaced, resetForgotten, othersForgotten, namesForgotten} {
		t.Run(bug, func(t *testing.T) {
			// Some bugs show in few scenarios: the test is run until it fails, ten times at most.
			cmd := exec.Command(binary, "-test.run", "^TestWhatIsServedIsNeverStalerThanPromised$", "-test.count", "10", "-test.failfast",
				"-rapid.nofailfile", "-rapid.shrinktime", "1ms")
			cmd.Env = append(os.Environ(), "TENANTDB_MUTATION="+bug)
			out, err := cmd.CombinedOutput()
			if err == nil {
				t.Fatalf("the property test passed with the bug planted:\n%s", out)
			}
			if !strings.Contains(string(out), "served") {
				t.Fatalf("it failed for another reason:\n%s", out)
			}
		})
	}
}
