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

// store keeps grants and denials, each up to a capacity of its own, in shards with one lock each. A key has
// at most one entry. Hash collisions evict each other; lookups compare the full key.
type store[K comparable, V any] struct {
	shards []shard[K, V]
	hits   [16]hits // spread over cache lines
}

// hits counts the entries found.
type hits struct {
	grants, denials atomic.Uint64
	_               [112]byte // fills two cache lines, which processors fetch in pairs
}

// shard is a part of a store.
type shard[K comparable, V any] struct {
	lookup atomic.Pointer[lookup[K, V]]
	_      [56]byte // keeps it off the cache line of the lock

	mu              sync.Mutex // guards the fields below and writes to lookup; held for a few map operations
	grants, denials lru[K, V]
	_               [24]byte
}

// lru evicts the oldest entry first, but spares one that was used since it was last considered.
type lru[K comparable, V any] struct {
	*simplelru.LRU[uint64, *Entry[K, V]]
	capacity int
}

// newStore returns a store of at most so many grants and denials.
func newStore[K comparable, V any](grants, denials int) *store[K, V] {
	n := 1
	for n < maxShards && min(grants, denials)/(2*n) >= minPerShard {
		n *= 2
	}
	s := &store[K, V]{shards: make([]shard[K, V], n)}
	for i := range s.shards {
		p := &s.shards[i]
		p.grants, p.denials = newLRU[K, V](grants/n), newLRU[K, V](denials/n)
		p.lookup.Store(newLookup[K, V](minBuckets))
	}
	return s
}

func newLRU[K comparable, V any](capacity int) lru[K, V] {
	capacity = max(1, capacity)
	entries, _ := simplelru.NewLRU[uint64, *Entry[K, V]](capacity, nil) // fails only for sizes below 1
	return lru[K, V]{entries, capacity}
}

// shard returns the shard of a hash. It is chosen by bits that choose nothing else.
func (s *store[K, V]) shard(hash uint64) *shard[K, V] {
	return &s.shards[hash>>16&uint64(len(s.shards)-1)]
}

// get returns the entry of a key and marks it as used. It returns nil if there is none.
func (s *store[K, V]) get(hash uint64, key *K) *Entry[K, V] {
	p := s.shard(hash)
	e := p.lookup.Load().find(hash, key)
	if e == nil {
		if e = p.search(hash, key); e == nil {
			return nil
		}
	}
	s.hit(e)
	return e
}

// hit marks an entry as used and counts the hit.
func (s *store[K, V]) hit(e *Entry[K, V]) {
	if !e.used.Load() { // a store would take the cache line from other processors
		e.used.Store(true)
	}
	h := &s.hits[(e.stamp.user^e.stamp.tenant)%uint16(len(s.hits))]
	if e.denied() {
		h.denials.Add(1)
	} else {
		h.grants.Add(1)
	}
}

// search finds an entry that is not in the lookup.
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
	p.lookup.Load().put(hash, e)
	return e
}

// put stores an entry and removes the one that its key had, whether grant or denial: a definite answer
// replaces the other kind at once.
func (s *store[K, V]) put(hash uint64, e *Entry[K, V]) {
	p := s.shard(hash)
	p.mu.Lock()
	defer p.mu.Unlock()
	to := &p.grants
	if e.denied() {
		to = &p.denials
	}
	for _, from := range []*lru[K, V]{&p.grants, &p.denials} {
		if old, found := from.Peek(hash); found {
			from.Remove(hash)
			p.forget(hash, old)
		}
	}
	if to.Len() == to.capacity {
		p.forget(to.evict())
	}
	to.Add(hash, e)
	l := p.lookup.Load()
	if p.grants.Len()+p.denials.Len() > l.room() {
		l = newLookup[K, V](2 * len(*l))
		p.lookup.Store(l)
	}
	l.put(hash, e)
}

// forget makes an entry that left its lru unusable. The caller holds p.mu.
func (p *shard[K, V]) forget(hash uint64, e *Entry[K, V]) {
	e.gone.Store(true)
	p.lookup.Load().drop(hash, e)
}

// evict removes an entry and returns it. Each one that it spares has been hit since, so this costs at most
// one step per hit.
func (l *lru[K, V]) evict() (hash uint64, evicted *Entry[K, V]) {
	for range l.Len() {
		hash, oldest, _ := l.GetOldest()
		if !oldest.used.Swap(false) {
			break
		}
		l.Get(hash) // makes it the youngest
	}
	hash, evicted, _ = l.RemoveOldest()
	return hash, evicted
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
