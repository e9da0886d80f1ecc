package jwtauth

import (
	"errors"
	"hash/maphash"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/tenantdb/tenantdb"
)

// cacheEntry is a verified token. It is immutable but for used, so its identity may be handed out without the
// lock. It takes three cache lines, of which a request reads two.
type cacheEntry struct {
	token string
	// key verified the token, and issuer had the key. The entry ends with either.
	key    *verificationKey
	issuer *issuer
	// from is when the token was verified. until is when it ends, or when the entry is too old. Both are
	// nanoseconds of wall time: the monotonic clock may stand still while the machine sleeps.
	from, until int64
	// size is how many bytes the claims take beside the payload's text.
	size uint32
	// used is when the entry last became the youngest of its shard, in seconds of wall time.
	used atomic.Uint32
	kept tenantdb.KeptIdentity
	_    [48]byte
}

// holds reports whether the entry's token is still valid. Before from, when the clock was set back, its nbf
// may not have passed.
func (e *cacheEntry) holds(now time.Time) bool {
	wall := now.UnixNano()
	return wall < e.until && wall >= e.from && e.issuer.keys.trusts(e.key, now)
}

// cost estimates the bytes that an entry takes: the token, the payload that the claims' strings share, the
// claims, and a part that is the same for all.
func (e *cacheEntry) cost(token string) int {
	return 2*len(token) + int(e.size) + 576
}

// tokenCache caches verified tokens by their full text. A nil cache is empty. A cache belongs to one
// Authenticator, since an entry depends on its whole configuration.
//
// The shards hold the entries and keep the bounds. lookup finds entries that were used lately, without a lock
// and without a write. It has a slot for each hash, in which an entry displaces the one before. It grows with
// the cache, since the garbage collector scans all of it. The larger one begins empty and is filled by the
// shards.
type tokenCache struct {
	shards []cacheShard
	lookup atomic.Pointer[[]atomic.Pointer[cacheEntry]]
	kept   atomic.Int64 // entries
	seed   maphash.Seed
}

// cacheShard is a part of the cache. mu guards entries and bytes. Nothing slow happens under it.
type cacheShard struct {
	mu       sync.Mutex
	entries  *simplelru.LRU[string, *cacheEntry]
	bytes    int
	maxBytes int
	// The padding keeps two shards off one cache line.
	_ [96]byte
}

const (
	// shardEntries and shardBytes are the minimum room of a shard, unless it is the only one.
	shardEntries = 64
	shardBytes   = 256 << 10
	// maxShards is more than the cores that compete for them.
	maxShards = 64
	// minSlots and maxSlots bound the slots of lookup.
	minSlots, maxSlots = 64, 1 << 17
)

// setDefaults checks the bounds and sets their defaults.
func (c *CacheConfig) setDefaults() error {
	if c.Entries < 0 || c.Bytes < 0 {
		return errors.New("Cache.Entries and Cache.Bytes must not be negative: set Cache.Disabled to " +
			"verify " +
			"every token anew")
	}
	if c.MaxAge < 0 || c.MaxAge > time.Minute {
		return errors.New("Cache.MaxAge must be between 0, which stands for a minute, and a minute")
	}
	if c.Entries == 0 {
		c.Entries = 32_768
	}
	if c.Bytes == 0 {
		c.Bytes = 64 << 20
	}
	if c.MaxAge == 0 {
		c.MaxAge = time.Minute
	}
	return nil
}

func newTokenCache(c CacheConfig) *tokenCache {
	if c.Disabled {
		return nil
	}
	n := 1
	for n < maxShards && c.Entries/(2*n) >= shardEntries && c.Bytes/(2*n) >= shardBytes {
		n *= 2
	}
	t := &tokenCache{shards: make([]cacheShard, n), seed: maphash.MakeSeed()}
	t.lookup.Store(newLookup(minSlots))
	for i := range t.shards {
		s := &t.shards[i]
		s.maxBytes = c.Bytes / n
		// NewLRU fails only for a size that is not positive.
		s.entries, _ = simplelru.NewLRU(c.Entries/n, func(token string, e *cacheEntry) {
			s.bytes -= e.cost(token)
			t.kept.Add(-1)
			t.slot(token).CompareAndSwap(e, nil)
		})
	}
	return t
}

// shard picks a token's shard by the end of its signature, which is as good as random.
func (t *tokenCache) shard(token string) *cacheShard {
	h := uint32(2166136261) // FNV-1a over a few bytes
	for i := max(0, len(token)-9); i < len(token)-1; i++ {
		h = (h ^ uint32(token[i])) * 16777619
	}
	return &t.shards[(h^h>>16)&uint32(len(t.shards)-1)]
}

// slot returns a token's slot. A token ends with its signature, so its last bytes are as random as a hash of
// all.
func (t *tokenCache) slot(token string) *atomic.Pointer[cacheEntry] {
	h := maphash.String(t.seed, token[max(0, len(token)-16):])
	lookup := *t.lookup.Load()
	return &lookup[h&uint64(len(lookup)-1)]
}

// newLookup returns an empty lookup.
func newLookup(slots int) *[]atomic.Pointer[cacheEntry] {
	f := make([]atomic.Pointer[cacheEntry], slots)
	return &f
}

// count counts a new entry and doubles the lookup if half of it is full.
func (t *tokenCache) count() {
	lookup := t.lookup.Load()
	if slots := len(*lookup); t.kept.Add(1) > int64(slots/2) && slots < maxSlots {
		t.lookup.CompareAndSwap(lookup, newLookup(2*slots))
	}
}

// get returns the identity of a token that was verified before and is still valid, or nil. It updates the
// order of use at most once a second for a token.
func (t *tokenCache) get(token string, now time.Time) *tenantdb.Identity {
	if t == nil {
		return nil
	}
	e := t.slot(token).Load()
	if e == nil || e.token != token || uint32(now.Unix()) != e.used.Load() {
		if e = t.touch(token, now); e == nil {
			return nil
		}
	}
	if !e.holds(now) {
		return nil
	}
	return e.kept.Identity()
}

// touch finds an entry in its shard, makes it the youngest, and puts it in the lookup.
func (t *tokenCache) touch(token string, now time.Time) *cacheEntry {
	s := t.shard(token)
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.entries.Get(token)
	if !ok {
		return nil
	}
	e.used.Store(uint32(now.Unix()))
	t.slot(token).Store(e) // under the lock, so that no evicted entry is put there
	return e
}

// add caches a verified token and returns its identity. If another request has cached it meanwhile, all
// requests share that identity.
func (t *tokenCache) add(token string, e *cacheEntry, now time.Time) *tenantdb.Identity {
	if t == nil {
		return e.kept.Identity()
	}
	s := t.shard(token)
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.entries.Get(token); ok {
		if old.holds(now) {
			return old.kept.Identity()
		}
		s.entries.Remove(token)
	}
	cost := e.cost(token)
	if cost > s.maxBytes {
		return e.kept.Identity()
	}
	for s.bytes+cost > s.maxBytes {
		s.entries.RemoveOldest()
	}
	s.bytes += cost
	e.token = strings.Clone(token) // since the request's string keeps all headers of the request in memory
	s.entries.Add(e.token, e)
	t.count()
	return e.kept.Identity()
}
