package coherent

import (
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

const (
	maxShards   = 16
	minPerShard = 64
)

// shards is an LRU in parts, each with a lock of its own. An LRU moves an entry at every hit, so hits write; the parts and their
// padding keep two processors from writing the same cache line.
type shards[K comparable, E any] struct {
	parts []shard[K, E]
	mask  uint64
}

type shard[K comparable, E any] struct {
	mu   sync.Mutex // guards what follows; held for one map operation
	lru  *simplelru.LRU[K, *E]
	hits uint64
	_    [104]byte // fills two cache lines, which processors fetch in pairs
}

// newShards makes an LRU of at most capacity entries.
func newShards[K comparable, E any](capacity int) *shards[K, E] {
	n := 1
	for n < maxShards && capacity/(2*n) >= minPerShard {
		n *= 2
	}
	s := &shards[K, E]{parts: make([]shard[K, E], n), mask: uint64(n - 1)}
	for i := range s.parts {
		s.parts[i].lru, _ = simplelru.NewLRU[K, *E](max(1, capacity/n), nil) // fails only for sizes below 1
	}
	return s
}

// part returns a key's shard. The hash's high bits choose it.
func (s *shards[K, E]) part(hash uint64) *shard[K, E] {
	return &s.parts[hash>>48&s.mask]
}

// get returns a key's entry, nil where there is none, and marks it as used.
func (s *shards[K, E]) get(hash uint64, key K) *E {
	p := s.part(hash)
	p.mu.Lock()
	e, ok := p.lru.Get(key)
	if ok {
		p.hits++
	}
	p.mu.Unlock()
	return e
}

func (s *shards[K, E]) add(hash uint64, key K, e *E) {
	p := s.part(hash)
	p.mu.Lock()
	p.lru.Add(key, e)
	p.mu.Unlock()
}

func (s *shards[K, E]) remove(hash uint64, key K) {
	p := s.part(hash)
	p.mu.Lock()
	p.lru.Remove(key)
	p.mu.Unlock()
}

// totals returns how many entries there are and how often one was found.
func (s *shards[K, E]) totals() (entries int, hits uint64) {
	for i := range s.parts {
		p := &s.parts[i]
		p.mu.Lock()
		entries += p.lru.Len()
		hits += p.hits
		p.mu.Unlock()
	}
	return entries, hits
}
