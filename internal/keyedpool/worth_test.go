package keyedpool

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestStrangersDisplaceStrangersNotRegulars(t *testing.T) {
	inBubble(t, budget(3), func(r *rig) {
		for range 10 {
			r.use("hot")
		}
		r.use("warm")
		r.use("warm")
		for i := range 20 {
			r.use(fmt.Sprintf("stranger%d", i))
		}
		time.Sleep(2 * time.Millisecond)
		for tenant, want := range map[string]int{"hot": 1, "warm": 1, "stranger19": 1} {
			if st, _ := r.pool.Tenant(tenant); st.Idle != want {
				t.Errorf("%s has %d idle connections, want %d", tenant, st.Idle, want)
			}
		}
	})
}

func TestForgottenTenantsWorthIsRemembered(t *testing.T) {
	inBubble(t, func(c *Config[string, int]) { c.Budget, c.Reserve, c.IdleTimeout = 2, -1, time.Minute }, func(r *rig) {
		for range 5 {
			r.use("regular")
		}
		time.Sleep(2 * time.Minute)
		if len(r.pool.Tenants()) != 0 {
			t.Error("not forgotten")
		}
		r.use("regular")
		r.use("once")
		r.use("once")
		r.use("new")
		time.Sleep(2 * time.Millisecond)
		if st, ok := r.pool.Tenant("regular"); !ok || st.Idle != 1 {
			t.Errorf("the regular lost its connection to a stranger: %+v", st)
		}
	})
}

func TestSecondConnectionsGoFirst(t *testing.T) {
	inBubble(t, budget(3), func(r *rig) {
		r.use("cold")
		lease := r.lease("hot")
		first, second := r.acquire(lease), r.acquire(lease)
		first.Release(Healthy)
		second.Release(Healthy)
		for range 10 {
			r.use("hot")
		}
		r.use("new")
		if st, _ := r.pool.Tenant("hot"); st.Idle != 1 || st.Stolen != 1 {
			t.Errorf("%+v, want the second connection gone", st)
		}
		lease.Release()
	})
}

// The heap against a sorted list of the same databases.
func TestVictimsAreInOrder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var v victims[string, int]
		all := make([]*database[string, int], rapid.IntRange(1, 12).Draw(rt, "databases"))
		for i := range all {
			all[i] = &database[string, int]{place: -1}
		}
		for step := range rapid.IntRange(1, 60).Draw(rt, "steps") {
			db := all[rapid.IntRange(0, len(all)-1).Draw(rt, "database")]
			db.idle = nil
			if db.live = int32(rapid.IntRange(0, 3).Draw(rt, "live")); db.live == 0 {
				v.remove(db)
			} else {
				v.sink(db)
			}
			db.worth += float64(rapid.IntRange(0, 2).Draw(rt, "use"))
			db.lastUse = uint64(step)
			if db.live > 0 && rapid.Bool().Draw(rt, "idle") {
				db.idle = &conn[string, int]{}
				v.add(db)
			}
			if rapid.Bool().Draw(rt, "nobody looks") {
				continue
			}
			var idle []*database[string, int]
			for _, db := range all {
				if db.idle != nil {
					idle = append(idle, db)
				}
			}
			slices.SortFunc(idle, func(a, b *database[string, int]) int {
				return cmp.Or(cmp.Compare(min(b.live, 2), min(a.live, 2)), cmp.Compare(a.worth, b.worth), cmp.Compare(a.lastUse, b.lastUse))
			})
			if victim := v.first(); len(idle) == 0 && victim != nil || len(idle) > 0 && victim != idle[0] {
				rt.Fatalf("step %d: the victim is not the least valuable of %d", step, len(idle))
			}
		}
	})
}

func TestWorthHalvesWithEveryHalfLife(t *testing.T) {
	g := newGauge(2)
	worth := g.unit
	for range 3 * g.halfLife {
		g.tick()
	}
	if got := worth / g.unit; got != 1.0/8 {
		t.Errorf("after three half-lives an acquire weighs %v of a new one", got)
	}
}

func TestWorthSurvivesTheScalingBack(t *testing.T) {
	g := newGauge(1)
	old := g.unit
	for !g.tick() {
		if g.unit <= 1<<10 {
			old = g.unit
		}
	}
	late := math.Ldexp(1, eraBits-1)
	if g.era != 1 || g.unit != 1 {
		t.Fatalf("era %d, unit %v", g.era, g.unit)
	}
	if got := g.at(late, 0); got != 0.5 {
		t.Errorf("the last half-life's acquire weighs %v, want a half", got)
	}
	if got := g.at(old, 0); got <= 0 || got >= g.at(late, 0) {
		t.Errorf("an early acquire weighs %v", got)
	}
	if got := g.at(3, 1); got != 3 {
		t.Errorf("this era's worth became %v", got)
	}
	g.bury(7<<32|5, 3)
	for range eraBits * g.halfLife {
		g.tick()
	}
	if got, want := g.recall(7<<32|5), math.Ldexp(3, -eraBits); math.Abs(got/want-1) > 0.01 {
		t.Errorf("recalled %v in the next era, want %v", got, want)
	}
	if got := g.recall(8<<32 | 5); got != 0 {
		t.Errorf("a stranger in the same slot is worth %v", got)
	}
}

// The whole pool, over enough acquires for a new era: the order of what is idle must not change with it.
func TestNewEraKeepsTheOrder(t *testing.T) {
	inBubble(t, budget(2), func(r *rig) {
		r.use("cold")
		s := r.pool.all()[0]
		s.mu.Lock()
		s.gauge.unit, s.gauge.count = math.Ldexp(1, eraBits-1), s.gauge.halfLife-1
		s.mu.Unlock()
		r.use("hot")
		r.use("hot")
		if s.gauge.era != 1 {
			r.t.Fatalf("era %d", s.gauge.era)
		}
		r.use("new")
		if st, ok := r.pool.Tenant("hot"); !ok || st.Idle != 1 {
			t.Errorf("the hot one lost its connection: %+v", st)
		}
	})
}
