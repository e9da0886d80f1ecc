package keyedpool

// victims is a heap of the databases with open connections. The first to lose an idle connection is on top.
// The heap is put in order only when a victim is needed, which keeps Acquire and Release out of it. Stale
// ranks are lower bounds, so lazy ordering is safe. A search costs O(log n) for each database used since the
// last one.
type victims[T comparable, C any] struct {
	heap []victim[T, C]
}

// victim is a database with its rank when it took its place in the heap.
type victim[T comparable, C any] struct {
	db   *database[T, C]
	rank rank
}

// rank is the order in which databases lose connections.
type rank struct {
	spare   bool // it would keep another
	score   score
	lastUse uint64
}

// rank returns the database's present rank.
func (db *database[T, C]) rank() rank {
	return rank{db.live > 1, db.score, db.lastUse}
}

// below reports whether a loses a connection before b: first those that would keep another, then the lower
// score, then the earlier use.
func (a rank) below(b rank) bool {
	if a.spare != b.spare {
		return a.spare
	}
	if a.score != b.score {
		return a.score < b.score
	}
	return a.lastUse < b.lastUse
}

// first returns the next victim, or nil.
func (v *victims[T, C]) first() *database[T, C] {
	for len(v.heap) > 0 {
		top := &v.heap[0]
		rank := top.db.rank()
		switch {
		case top.db.idle == nil:
			v.remove(top.db)
		case top.rank != rank:
			top.rank = rank
			v.down(0)
		default:
			return top.db
		}
	}
	return nil
}

// add adds a database if it is not in the heap. Outside the heap its place is -1.
func (v *victims[T, C]) add(db *database[T, C]) {
	if db.place < 0 {
		db.place = int32(len(v.heap))
		v.heap = append(v.heap, victim[T, C]{db, db.rank()})
		v.up(db.place)
	}
}

// sink updates a database whose rank may have fallen, as after one more connection.
func (v *victims[T, C]) sink(db *database[T, C]) {
	if db.place >= 0 {
		v.heap[db.place].rank = db.rank()
		if !v.down(db.place) {
			v.up(db.place)
		}
	}
}

// remove removes a database if it is in the heap.
func (v *victims[T, C]) remove(db *database[T, C]) {
	i, last := db.place, int32(len(v.heap)-1)
	if i < 0 {
		return
	}
	v.swap(i, last)
	v.heap[last] = victim[T, C]{}
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
		if !v.heap[i].rank.below(v.heap[parent].rank) {
			return
		}
		v.swap(i, parent)
		i = parent
	}
}

// down moves the database at i away from the top as far as it goes, and reports whether it moved.
func (v *victims[T, C]) down(i int32) bool {
	start, n := i, int32(len(v.heap))
	for {
		child := 2*i + 1
		if child >= n {
			break
		}
		if right := child + 1; right < n && v.heap[right].rank.below(v.heap[child].rank) {
			child = right
		}
		if !v.heap[child].rank.below(v.heap[i].rank) {
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
	v.heap[i].db.place, v.heap[j].db.place = i, j
}
