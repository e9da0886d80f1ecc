package keyedpool

import (
	"math"
	"math/bits"
)

// Worth is an exponentially decaying count of a tenant's acquires: the halfLife-th acquire on the server back counts half.
// Instead of shrinking every count as time goes by, newer acquires weigh more: the order is the same, and an idle tenant's
// number never changes. So the tenants with idle connections stand in a heap that only their own use moves.
const (
	// halfLives × the budget acquires make a half-life: long beside a lap through the budget, so that a burst of strangers
	// does not outweigh a regular; short enough that yesterday's regulars leave.
	halfLives = 16
	// eraBits is how far an acquire's weight grows, in powers of two, before all weights are scaled back.
	eraBits = 500
	// ghostsPerConn × the budget is how many forgotten tenants' worth is remembered, 8 bytes each.
	ghostsPerConn = 32
)

// gauge is a server's measure of worth.
type gauge struct {
	unit     float64 // what one acquire weighs now
	era      int     // how often unit was scaled back
	count    int     // acquires since unit last doubled
	halfLife int
	ghosts   []ghost
}

// ghost is what is remembered of a forgotten tenant: log2 of its worth, in the measure of era 0, and which tenant it was.
type ghost struct {
	tag   uint32
	level float32
}

// newGauge returns the measure for a budget.
func newGauge(budget int) gauge {
	slots := 1 << bits.Len(uint(budget*ghostsPerConn-1))
	return gauge{unit: 1, halfLife: budget * halfLives, ghosts: make([]ghost, slots)}
}

// tick counts an acquire and tells whether a new era has begun.
func (g *gauge) tick() bool {
	if g.count++; g.count < g.halfLife {
		return false
	}
	g.count = 0
	if g.unit *= 2; g.unit < 1<<(eraBits-1)*2 {
		return false
	}
	g.unit = 1
	g.era++
	return true
}

// at converts a worth measured in an earlier era to the present one.
func (g *gauge) at(worth float64, era int) float64 {
	if era == g.era {
		return worth
	}
	return math.Ldexp(worth, -eraBits*(g.era-era))
}

// bury remembers the worth of a tenant that is being forgotten.
func (g *gauge) bury(hash uint64, worth float64) {
	if worth > 0 {
		g.ghosts[hash%uint64(len(g.ghosts))] = ghost{uint32(hash >> 32), float32(math.Log2(worth) + float64(eraBits*g.era))}
	}
}

// recall returns what a tenant was worth when it was forgotten.
func (g *gauge) recall(hash uint64) float64 {
	if m := g.ghosts[hash%uint64(len(g.ghosts))]; m.tag == uint32(hash>>32) {
		return math.Exp2(float64(m.level) - float64(eraBits*g.era))
	}
	return 0
}

// victims is a heap of the databases with idle connections, the one that loses its connection first on top.
type victims[T comparable, C any] struct {
	heap []*database[T, C]
}

// before tells whether a loses a connection before b: one that would keep another first, then the one worth less, then
// the one used longer ago.
func before[T comparable, C any](a, b *database[T, C]) bool {
	if spare := a.live > 1; spare != (b.live > 1) {
		return spare
	}
	if a.worth != b.worth {
		return a.worth < b.worth
	}
	return a.lastUse < b.lastUse
}

// first returns the next victim, or nil.
func (v *victims[T, C]) first() *database[T, C] {
	if len(v.heap) == 0 {
		return nil
	}
	return v.heap[0]
}

// place puts a database where it belongs, after any change: into the heap iff it has an idle connection. A database
// outside the heap has position -1.
func (v *victims[T, C]) place(db *database[T, C]) {
	in := db.place >= 0
	switch {
	case db.idle != nil && in:
		if !v.down(db.place) {
			v.up(db.place)
		}
	case db.idle != nil:
		db.place = int32(len(v.heap))
		v.heap = append(v.heap, db)
		v.up(db.place)
	case in:
		v.remove(db)
	}
}

// remove takes a database out.
func (v *victims[T, C]) remove(db *database[T, C]) {
	i, last := db.place, int32(len(v.heap)-1)
	v.swap(i, last)
	v.heap[last] = nil
	v.heap = v.heap[:last]
	db.place = -1
	if i < last && !v.down(i) {
		v.up(i)
	}
}

// up moves the database at i towards the top as far as it goes.
func (v *victims[T, C]) up(i int32) {
	for i > 0 {
		parent := (i - 1) / 2
		if !before(v.heap[i], v.heap[parent]) {
			return
		}
		v.swap(i, parent)
		i = parent
	}
}

// down moves the database at i away from the top as far as it goes, and tells whether it moved.
func (v *victims[T, C]) down(i int32) bool {
	start := i
	for {
		child := 2*i + 1
		if child >= int32(len(v.heap)) {
			break
		}
		if right := child + 1; right < int32(len(v.heap)) && before(v.heap[right], v.heap[child]) {
			child = right
		}
		if !before(v.heap[child], v.heap[i]) {
			break
		}
		v.swap(i, child)
		i = child
	}
	return i > start
}

// swap exchanges two places.
func (v *victims[T, C]) swap(i, j int32) {
	v.heap[i], v.heap[j] = v.heap[j], v.heap[i]
	v.heap[i].place, v.heap[j].place = i, j
}
