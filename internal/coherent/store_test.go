package coherent

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
)

// wrong names an entry that is found although it is not kept, or is both a grant and a denial. It returns ""
// if there is none.
func (s *store[K, V]) wrong() string {
	for i := range s.shards {
		if wrong := s.shards[i].wrong(); wrong != "" {
			return wrong
		}
	}
	return ""
}

func (p *shard[K, V]) wrong() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, hash := range p.grants.Keys() {
		if e, both := p.denials.Peek(hash); both {
			return fmt.Sprintf("%v is both granted and denied", e.key)
		}
	}
	for i := range *p.lookup.Load() {
		slots := &(*p.lookup.Load())[i].slots
		for j := range slots {
			found := slots[j].Load()
			if found != nil && !slices.Contains(p.grants.Values(), found) &&
				!slices.Contains(p.denials.Values(), found) {
				return fmt.Sprintf("%v is served from the lookup, but no longer kept", found.key)
			}
		}
	}
	return ""
}

func answer(k, value int, denied bool) *Entry[int, int] {
	e := &Entry[int, int]{key: k, value: value}
	if denied {
		e.stamp.flags = denies
	}
	return e
}

func TestLookup_growsWithTheStore(t *testing.T) {
	const keys = 10_000
	s := newStore[int, int](100_000, 10_000)
	buckets := func() (n int) {
		for i := range s.shards {
			n += len(*s.shards[i].lookup.Load())
		}
		return n
	}
	if n := buckets(); n > keys/perBucket/10 {
		t.Errorf("an empty store has %d buckets", n)
	}
	random := rand.New(rand.NewPCG(1, 2))
	hashes := make([]uint64, keys)
	for k := range hashes {
		hashes[k] = random.Uint64()
		s.put(hashes[k], answer(k, k, false))
	}
	without := 0 // the lock
	for k, hash := range hashes {
		if s.get(hash, &k) == nil {
			t.Fatalf("key %d isn't found", k)
		}
		if s.shard(hash).lookup.Load().find(hash, &k) != nil {
			without++
		}
	}
	if without < keys*97/100 {
		t.Errorf("%d of %d keys are found without the lock", without, keys)
	}
	if n := buckets(); n < keys/perBucket || n > 4*keys/perBucket {
		t.Errorf("%d buckets for %d keys", n, keys)
	}
}

func TestStore_findsWhatItKeepsAndNothingElse(t *testing.T) {
	const keys, capacity = 3000, 2000
	s := newStore[int, int](capacity, capacity)
	random := rand.New(rand.NewPCG(1, 2))
	hashes := make([]uint64, keys)
	for i := range hashes {
		hashes[i] = random.Uint64()
	}
	current := make([]int, keys) // the value filed last
	found := 0
	for n := range 100_000 {
		k := random.IntN(keys)
		if n%3 == 0 {
			current[k] = n + 1
			s.put(hashes[k], answer(k, n+1, random.IntN(8) == 0))
		}
		e := s.get(hashes[k], &k)
		if n%3 == 0 && e == nil {
			t.Fatal("what was just stored isn't found")
		}
		if e != nil {
			found++
			if e.key != k || e.value != current[k] {
				t.Fatalf("key %d: found %d of key %d, want %d", k, e.value, e.key, current[k])
			}
		}
	}
	if wrong := s.wrong(); wrong != "" {
		t.Fatal(wrong)
	}
	if stats := s.totals(); stats.Entries > capacity || stats.Denials > capacity ||
		stats.Hits+stats.DenialHits != uint64(found) {
		t.Errorf("found %d: %+v", found, stats)
	}
}

func TestStore_findsAllEntriesOfAFullBucket(t *testing.T) {
	s := newStore[int, int](100, 1)
	for k := range 3 * ways { // hashes of one bucket and one tag
		s.put(uint64(k)<<8, answer(k, k, false))
	}
	for range 2 {
		for k := range 3 * ways {
			if e := s.get(uint64(k)<<8, &k); e == nil || e.key != k {
				t.Fatalf("key %d: found %+v", k, e)
			}
		}
	}
}

func TestStore_tellsKeysOfOneHashApart(t *testing.T) {
	s := newStore[int, int](100, 100)
	for k := range 2 {
		s.put(7, answer(k, k, k == 1))
		other := 1 - k
		if s.get(7, &other) != nil || s.get(7, &k) == nil {
			t.Fatalf("key %d's entry was taken for another's", k)
		}
	}
}

func TestStore_keepsWhatIsUsedThroughAFlood(t *testing.T) {
	s := newStore[int, int](1024, 64)
	random := rand.New(rand.NewPCG(3, 4))
	hashes := make([]uint64, 200)
	for k := range hashes {
		hashes[k] = random.Uint64()
		s.put(hashes[k], answer(k, k, false))
	}
	for n := range 100_000 {
		s.put(random.Uint64(), answer(1000+n, n, false))
		if k := n % len(hashes); s.get(hashes[k], &k) == nil {
			t.Fatalf("key %d was pushed out after %d others", k, n)
		}
	}
}

func TestStore_readersSeeWholeEntries(t *testing.T) {
	s := newStore[int, int](64, 64)
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for n := range 20_000 {
				k := n % 100
				if e := s.get(uint64(k)<<32, &k); e != nil && e.value != k {
					t.Errorf("key %d: found %d", k, e.value)
					return
				}
			}
		})
	}
	for n := range 20_000 {
		k := n * 7 % 100
		s.put(uint64(k)<<32, answer(k, k, n%5 == 0))
	}
	readers.Wait()
}
