package coherent

import (
	"sync"
	"sync/atomic"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

const (
	maxShards   = 16
	minPerShard = 64
)

// store holds grants and denials, each bounded by a capacity of its own, in shards with a lock each. A key
// has one entry at most. Entries are held by their hash, and two keys of one hash take each other's place;
// what is found is what the whole key names.
type store[K comparable, V any] struct {
	shards []shard[K, V]
	hits   [16]hits // by stripes
}

// hits counts the entries found.
type hits struct {
	grants, denials atomic.Uint64
	_               [112]byte // fills two cache lines, which processors fetch in pairs
}

// shard is a part of a store.
type shard[K comparable, V any] struct {
	front atomic.Pointer[front[K, V]]
	_     [56]byte // keeps it off the cache line of the lock

	mu              sync.Mutex // guards what follows and writes to the front; held for a few map operations
	grants, denials held[K, V]
	_               [24]byte
}

// held are entries in the order in which they go: oldest first, but those that have been used since they were
// last passed over stay.
type held[K comparable, V any] struct {
	*simplelru.LRU[uint64, *Entry[K, V]]
	capacity int
}

// newStore makes a store of at most so many grants and denials.
func newStore[K comparable, V any](grants, denials int) *store[K, V] {
	n := 1
	for n < maxShards && min(grants, denials)/(2*n) >= minPerShard {
		n *= 2
	}
	s := &store[K, V]{shards: make([]shard[K, V], n)}
	for i := range s.shards {
		p := &s.shards[i]
		p.grants, p.denials = newHeld[K, V](grants/n), newHeld[K, V](denials/n)
		p.front.Store(newFront[K, V](fewest))
	}
	return s
}

func newHeld[K comparable, V any](capacity int) held[K, V] {
	capacity = max(1, capacity)
	lru, _ := simplelru.NewLRU[uint64, *Entry[K, V]](capacity, nil) // fails only for sizes below 1
	return held[K, V]{lru, capacity}
}

// part returns a hash's shard, by bits that choose nothing else.
func (s *store[K, V]) part(hash uint64) *shard[K, V] {
	return &s.shards[hash>>16&uint64(len(s.shards)-1)]
}

// get returns a key's entry, nil where there is none, and marks it as used.
func (s *store[K, V]) get(hash uint64, key *K) *Entry[K, V] {
	p := s.part(hash)
	e := p.front.Load().find(hash, key)
	if e == nil {
		if e = p.search(hash, key); e == nil {
			return nil
		}
	}
	s.hit(e)
	return e
}

// hit marks an entry as used and counts.
func (s *store[K, V]) hit(e *Entry[K, V]) {
	if !e.used.Load() { // else the line stays unwritten
		e.used.Store(true)
	}
	h := &s.hits[(e.stamp.user^e.stamp.tenant)%uint16(len(s.hits))]
	if e.denied() {
		h.denials.Add(1)
	} else {
		h.grants.Add(1)
	}
}

// search finds an entry that the front may have had no room for.
func (p *shard[K, V]) search(hash uint64, key *K) *Entry[K, V] {
	p.mu.Lock()
	defer p.mu.Unlock()
	e, found := p.grants.Peek(hash)
	if !found {
		e, found = p.denials.Peek(hash)
	}
	if !found || e.key != *key {
		return nil
	}
	p.front.Load().put(hash, e)
	return e
}

// file stores an entry in place of the one that its key had, grant or denial: a definite answer replaces the
// other one at once.
func (s *store[K, V]) file(hash uint64, e *Entry[K, V]) {
	p := s.part(hash)
	p.mu.Lock()
	defer p.mu.Unlock()
	to := &p.grants
	if e.denied() {
		to = &p.denials
	}
	for _, from := range []*held[K, V]{&p.grants, &p.denials} {
		if old, found := from.Peek(hash); found {
			from.Remove(hash)
			old.gone.Store(mutation != keptOutlivesReplaced)
			if mutation != frontKeepsReplaced {
				p.front.Load().drop(hash, old)
			}
		}
	}
	if to.Len() == to.capacity {
		hash, gone := to.evict()
		gone.gone.Store(mutation != keptOutlivesEvicted)
		if mutation != frontKeepsEvicted {
			p.front.Load().drop(hash, gone)
		}
	}
	to.Add(hash, e)
	front := p.front.Load()
	if p.grants.Len()+p.denials.Len() > front.room() {
		front = newFront[K, V](2 * len(*front))
		p.front.Store(front)
	}
	front.put(hash, e)
}

// evict removes an entry and returns it. Each that it passes over has been hit since, so this costs a hit one
// step at most.
func (h *held[K, V]) evict() (hash uint64, gone *Entry[K, V]) {
	for range h.Len() {
		hash, oldest, _ := h.GetOldest()
		if !oldest.used.Swap(false) {
			break
		}
		h.Get(hash) // now the youngest
	}
	hash, gone, _ = h.RemoveOldest()
	return hash, gone
}

// totals returns how many entries there are and how often one was found.
func (s *store[K, V]) totals() (t Stats) {
	for i := range s.shards {
		p := &s.shards[i]
		p.mu.Lock()
		t.Entries += p.grants.Len()
		t.Denials += p.denials.Len()
		p.mu.Unlock()
	}
	for i := range s.hits {
		t.Hits += s.hits[i].grants.Load()
		t.DenialHits += s.hits[i].denials.Load()
	}
	return t
}
