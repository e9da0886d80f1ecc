package coherent

import (
	"math/bits"
	"sync/atomic"
)

const (
	ways      = 7  // entries of a bucket, which with their tags fill one cache line
	perBucket = 3  // entries for each bucket on average: hardly one in 200 finds its bucket full
	fewest    = 16 // buckets
	everyTag  = 0x0101010101010101
)

// front finds the entries of a shard without its lock: a hit reads two cache lines and, as a rule, writes
// none. An entry that finds its bucket full displaces another, which is then found with the lock. Only the
// lock's holder writes. A front grows with its shard, since the collector goes through all of it each time:
// the next one begins empty, and fills as entries are found with the lock.
type front[K comparable, V any] []bucket[K, V]

// bucket holds entries whose hashes choose it. A byte of tags, of a slot's hash, spares readers a look at
// most other entries.
type bucket[K comparable, V any] struct {
	tags  atomic.Uint64
	slots [ways]atomic.Pointer[Entry[K, V]]
}

// newFront makes an empty front.
func newFront[K comparable, V any](buckets int) *front[K, V] {
	f := make(front[K, V], buckets)
	return &f
}

// room is how many entries a front is made for.
func (f front[K, V]) room() int { return perBucket * len(f) }

// bucket returns where a hash's entries are. The hash's upper half chooses it, its lowest byte is the tag.
func (f front[K, V]) bucket(hash uint64) *bucket[K, V] {
	return &f[hash>>32*uint64(len(f))>>32]
}

// find returns a key's entry. A reader may see a slot and its tag at different times, so the entry's own key
// decides.
func (f front[K, V]) find(hash uint64, key *K) *Entry[K, V] {
	b := f.bucket(hash)
	for set := b.candidates(hash); set != 0; set &= set - 1 {
		if e := b.slots[bits.TrailingZeros64(set)/8].Load(); e != nil && e.key == *key {
			return e
		}
	}
	return nil
}

// candidates returns a bit in the byte of each slot whose tag may be the hash's, and maybe of others.
func (b *bucket[K, V]) candidates(hash uint64) uint64 {
	x := b.tags.Load() ^ hash&0xff*everyTag
	return (x - everyTag) & ^x & (everyTag << 7) & (1<<(8*ways) - 1)
}

// put has an entry found.
func (f front[K, V]) put(hash uint64, e *Entry[K, V]) {
	b := f.bucket(hash)
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

// drop has an entry found no longer.
func (f front[K, V]) drop(hash uint64, e *Entry[K, V]) {
	b := f.bucket(hash)
	for i := range b.slots {
		if b.slots[i].Load() == e {
			b.slots[i].Store(nil)
		}
	}
}
