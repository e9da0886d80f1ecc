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

func TestVictims_strangersDisplaceStrangersNotRegulars(t *testing.T) {
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

func TestScore_isRememberedOfAForgottenTenant(t *testing.T) {
	inBubble(t, func(c *Config[string, int]) { c.Budget, c.Reserve, c.IdleTimeout = 2, -1, time.Minute },
		func(r *rig) {
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

func TestVictims_secondConnectionsGoFirst(t *testing.T) {
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
func TestVictims_areInOrder(t *testing.T) {
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
			db.score += score(rapid.IntRange(0, 2).Draw(rt, "use"))
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
				return cmp.Or(cmp.Compare(min(b.live, 2), min(a.live, 2)), cmp.Compare(a.score, b.score),
					cmp.Compare(a.lastUse, b.lastUse))
			})
			if victim := v.first(); len(idle) == 0 && victim != nil || len(idle) > 0 && victim != idle[0] {
				rt.Fatalf("step %d: the victim is not the least valuable of %d", step, len(idle))
			}
		}
	})
}

// A score against a count that is halved with every half-life.
func TestScore_isADecayingCount(t *testing.T) {
	d := newDecay(2)
	var (
		own   score
		count float64 // in present acquires
	)
	for n := uint64(1); n <= 40*d.halfLife; n++ {
		if n%d.halfLife == 0 {
			count /= 2
		}
		if n%5 == 0 || n < d.halfLife {
			count++
			own = own.add(d.exponent(n))
		}
		got := math.Ldexp(1+float64(own&(1<<fraction-1))/(1<<fraction), int(own>>fraction)-int(d.exponent(n)))
		if math.Abs(got/count-1) > 1e-4 {
			t.Fatalf("after %d acquires the score is %v, want %v", n, got, count)
		}
	}
}

func TestScore_growsWithEveryUseHoweverOldTheServer(t *testing.T) {
	d := newDecay(10_000)
	for _, n := range []uint64{1, 1 << 32, 1 << 50} {
		var own score
		for range 10 * d.halfLife { // so many that it hardly grows any more
			n++
			next := own.add(d.exponent(n))
			if next <= own {
				t.Fatalf("acquire %d: %d became %d", n, own, next)
			}
			own = next
		}
	}
}

func TestScore_ofAGhostIsItsOwn(t *testing.T) {
	d := newDecay(1)
	d.bury(7<<32|5, 3)
	if got := d.recall(7<<32 | 5); got != 3 {
		t.Errorf("recalled %v, want 3", got)
	}
	if got := d.recall(8<<32 | 5); got != 0 {
		t.Errorf("another tenant of the same slot has the score %v", got)
	}
	if d.bury(8<<32|5, 0); d.recall(7<<32|5) != 3 {
		t.Error("a tenant that was never used took a slot")
	}
}
