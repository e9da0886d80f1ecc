package coherent

import (
	"math/bits"
	"sync/atomic"
)

const (
	ways       = 7  // entries of a bucket, which with their tags fill one cache line
	perBucket  = 3  // entries for each bucket on average: hardly one in 200 finds its bucket full
	minBuckets = 16 // of a lookup
	everyTag   = 0x0101010101010101
)

// lookup is a lock-free table over a shard. A hit reads two cache lines and usually writes none. On a miss
// use the locked map: an entry that finds its bucket full displaces another one. It saves a hit 41 ns of 115,
// beside what callers would wait for each other's locks.
//
// Only the holder of the shard's lock writes. A lookup grows with its shard, since the garbage collector
// scans all of it. The larger one begins empty and is filled by misses.
type lookup[K comparable, V any] []bucket[K, V]

// bucket holds the entries whose hashes choose it. tags has one byte of each slot's hash, which spares
// readers most other entries.
type bucket[K comparable, V any] struct {
	tags  atomic.Uint64
	slots [ways]atomic.Pointer[Entry[K, V]]
}

// newLookup returns an empty lookup.
func newLookup[K comparable, V any](buckets int) *lookup[K, V] {
	l := make(lookup[K, V], buckets)
	return &l
}

// room is how many entries the lookup is made for.
func (l lookup[K, V]) room() int { return perBucket * len(l) }

// bucket returns the bucket of a hash. The upper half of the hash chooses it, the lowest byte is the tag.
func (l lookup[K, V]) bucket(hash uint64) *bucket[K, V] {
	return &l[hash>>32*uint64(len(l))>>32]
}

// find returns the entry of a key, or nil. A reader may see a slot and its tag at different times, so the
// entry's own key decides.
func (l lookup[K, V]) find(hash uint64, key *K) *Entry[K, V] {
	b := l.bucket(hash)
	for set := b.candidates(hash); set != 0; set &= set - 1 {
		if e := b.slots[bits.TrailingZeros64(set)/8].Load(); e != nil && e.key == *key {
			return e
		}
	}
	return nil
}

// candidates returns a set of slots: one bit in the byte of each slot that has the hash's tag, and perhaps of
// some others.
func (b *bucket[K, V]) candidates(hash uint64) uint64 {
	x := b.tags.Load() ^ hash&0xff*everyTag
	return (x - everyTag) & ^x & (everyTag << 7) & (1<<(8*ways) - 1)
}

// put adds an entry.
func (l lookup[K, V]) put(hash uint64, e *Entry[K, V]) {
	b := l.bucket(hash)
	at := int(hash >> 8 % ways)
	for i := range b.slots {
		switch b.slots[i].Load() {
		case e:
			return
		case nil:
			at = i
		}
	}
	b.slots[at].Store(e)
	b.tags.Store(b.tags.Load()&^(0xff<<(8*at)) | hash&0xff<<(8*at))
}

// drop removes an entry, if it is there.
func (l lookup[K, V]) drop(hash uint64, e *Entry[K, V]) {
	b := l.bucket(hash)
	for i := range b.slots {
		if b.slots[i].Load() == e {
			b.slots[i].Store(nil)
		}
	}
}
