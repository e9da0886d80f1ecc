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

// cacheEntry is a verified token. It is never changed, so its identity may be handed out outside the lock.
// What a request reads fills two cache lines, of the three that it takes.
type cacheEntry struct {
	token string
	// key verified the token, and issuer had it: the entry dies with either.
	key    *verificationKey
	issuer *issuer
	// from is when the token was verified, and until when it ends, or when the entry is too old, in
	// nanoseconds of wall time: the monotonic clock may stand still while the machine sleeps.
	from, until int64
	// size is what the claims take beside the payload's text.
	size uint32
	// used is when the entry last moved to the young end of its shard, in seconds of wall time.
	used atomic.Uint32
	kept tenantdb.KeptIdentity
	_    [48]byte
}

// holds reports whether the entry's token would still be good. Before from, its nbf may not have passed: the
// clock was set back.
func (e *cacheEntry) holds(now time.Time) bool {
	wall := now.UnixNano()
	return wall < e.until && wall >= e.from && e.issuer.keys.trusts(e.key, now)
}

// cost estimates the bytes that an entry takes under its token: the token itself, the payload that the
// claims' strings share, the claims, and what is the same for all.
func (e *cacheEntry) cost(token string) int {
	return 2*len(token) + int(e.size) + 576
}

// tokenCache remembers verified tokens by their full text. Nil remembers nothing. One cache belongs to one
// Authenticator, since an entry stands for that one's whole configuration.
//
// The shards hold the entries and keep the bounds. The front leads to those that were used lately without a
// lock and without writing to memory that other cores read: a slot for each hash, in which the last comer
// displaces the one before. It grows with what is kept, since the collector goes through all of it each time;
// the next front begins empty, and the shards fill it.
type tokenCache struct {
	shards []cacheShard
	front  atomic.Pointer[[]atomic.Pointer[cacheEntry]]
	kept   atomic.Int64 // entries
	seed   maphash.Seed
}

// cacheShard is a part of the cache. mu guards entries and bytes; nothing slow is done under it.
type cacheShard struct {
	mu       sync.Mutex
	entries  *simplelru.LRU[string, *cacheEntry]
	bytes    int
	maxBytes int
	// The padding keeps two shards off one cache line.
	_ [96]byte
}

const (
	// shardEntries and shardBytes are what a shard has room for at least, unless it is the only one.
	shardEntries = 64
	shardBytes   = 256 << 10
	// maxShards is more than the cores that compete for them.
	maxShards = 64
	// minSlots and maxSlots are how many slots the front has.
	minSlots, maxSlots = 64, 1 << 17
)

// setDefaults checks and completes the bounds.
func (c *CacheConfig) setDefaults() error {
	if c.Entries < 0 || c.Bytes < 0 {
		return errors.New("Cache.Entries and Cache.Bytes must not be negative: set Cache.Disabled to verify every token anew")
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
	t.front.Store(newFront(minSlots))
	for i := range t.shards {
		s := &t.shards[i]
		s.maxBytes = c.Bytes / n
		// The size is positive, which is all that NewLRU asks for.
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

// slot returns a token's place in the front. Its end is a signature's, so a few bytes of it are as good as
// all.
func (t *tokenCache) slot(token string) *atomic.Pointer[cacheEntry] {
	h := maphash.String(t.seed, token[max(0, len(token)-16):])
	front := *t.front.Load()
	return &front[h&uint64(len(front)-1)]
}

// newFront makes an empty front.
func newFront(slots int) *[]atomic.Pointer[cacheEntry] {
	f := make([]atomic.Pointer[cacheEntry], slots)
	return &f
}

// count counts a new entry, and doubles the front where half of it is full.
func (t *tokenCache) count() {
	front := t.front.Load()
	if slots := len(*front); t.kept.Add(1) > int64(slots/2) && slots < maxSlots {
		t.front.CompareAndSwap(front, newFront(2*slots))
	}
}

// get returns the identity of a token that was verified before and would be good now, or nil. The shards
// learn of its use to the second.
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

// touch finds an entry in its shard, moves it to the young end, and puts it in the front.
func (t *tokenCache) touch(token string, now time.Time) *cacheEntry {
	s := t.shard(token)
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.entries.Get(token)
	if !ok {
		return nil
	}
	e.used.Store(uint32(now.Unix()))
	t.slot(token).Store(e) // under the lock, so that no evicted entry comes to stand there
	return e
}

// add keeps a verified token and returns its identity: that of an entry which another request made meanwhile,
// if it holds, so that all requests share one.
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
